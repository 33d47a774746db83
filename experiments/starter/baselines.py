"""Bits per byte of the held-out text: of gzip, of xz, of a trigram over the same tokens, and of the starter.

python experiments/starter/baselines.py

The trigram is interpolated (Witten & Bell, 1991): P(w|uv) = (c(uvw) + n(uv) P(w|v)) / (c(uv) + n(uv)), n(uv) being how
many different tokens have followed uv; and so on down to one token among all.
"""

import gzip
import lzma

import numpy as np
import pyarrow.parquet as pq
import torch

from omni.config.trained import load_trained
from omni.corpora.debian_text import DebianText
from omni.evaluation.language import bits_per_byte

TEXT, STARTER = "data/debian_text", "data/starter"


def stream(texts: list[str], tokenizer) -> np.ndarray:
    """All documents as one row of ids, each behind two BOS."""
    return np.array([i for ids in tokenizer.encode_batch(texts) for i in [tokenizer.bos] * 2 + ids], dtype=np.int64)


class Counts:
    """How often each of `keys` occurs, and how many different ones begin with the same context."""

    def __init__(self, keys: np.ndarray, size: int):
        self.keys, self.counts = np.unique(keys, return_counts=True)
        self.contexts, first = np.unique(self.keys // size, return_index=True)
        self.kinds = np.diff(np.append(first, len(self.keys)))
        self.sums = np.add.reduceat(self.counts, first)

    def look_up(self, wanted: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Count of each key, and count and kinds of its context; 0 for what was never seen."""
        context = wanted // size
        return (
            find(self.keys, self.counts, wanted),
            find(self.contexts, self.sums, context),
            find(self.contexts, self.kinds, context),
        )


def find(table: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values of the wanted entries of a sorted table, 0 where there is none."""
    place = np.searchsorted(table, wanted).clip(max=len(table) - 1)
    return np.where(table[place] == wanted, values[place], 0)


def orders(ids: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each id alone, behind the one before it, and behind the two before it, as one number each."""
    pairs = ids[:-1] * size + ids[1:]
    return ids[2:], pairs[1:], pairs[:-1] * size + ids[2:]


def trigram_bits(train: np.ndarray, test: np.ndarray, size: int, bos: int) -> float:
    """Bits of the test ids that are no BOS."""
    probability = np.full(len(test) - 2, 1 / size)
    for seen, wanted in zip(orders(train, size), orders(test, size), strict=True):
        count, total, kinds = Counts(seen, size).look_up(wanted, size)
        probability = np.where(total > 0, (count + kinds * probability) / np.maximum(total + kinds, 1), probability)
    return float(-np.log2(probability[test[2:] != bos]).sum())


def main() -> None:
    starter = load_trained(STARTER, precision="fp32")
    tokenizer, model = starter.tokenizer, starter.model.backbone
    train, test = (
        pq.read_table(f"{TEXT}/{name}.parquet").column("text").to_pylist() for name in ("documents", "held_out")
    )
    raw = "\n\n".join(test).encode()
    size = sum(len(text.encode()) for text in test)
    print(f"held out: {len(test)} documents, {size:,} bytes")
    print(f"gzip -9     {8 * len(gzip.compress(raw, 9)) / len(raw):.3f} bits per byte")
    print(f"xz -9e      {8 * len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)) / len(raw):.3f}")
    bits = trigram_bits(stream(train, tokenizer), stream(test, tokenizer), tokenizer.vocab_size, tokenizer.bos)
    print(f"trigram     {bits / size:.3f}")
    device = model.lm_head.weight.device
    rows = {"batch_size": 8, "row_tokens": model.sequence_len, "tokens": size, "device": device}  # all of them
    batches = DebianText(folder=TEXT).held_out(tokenizer=tokenizer, **rows)
    print(f"starter     {bits_per_byte(model, batches, torch.tensor(tokenizer.token_bytes(), device=device)):.3f}")


if __name__ == "__main__":
    main()
