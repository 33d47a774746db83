"""What the starter makes of worn copies of sentences it has not read: its loss with the right copy, with another
sentence's, with none; and what it writes down.

python experiments/starter/copying.py
"""

import torch

from omni.config.trained import load_trained
from omni.corpora.debian_text import DebianText
from omni.data.copies import Copies, Wear, split_sentences
from omni.generation.engine import Engine
from omni.generation.sampling import Settings

LEVELS = {
    "clean": Wear(rate=(3.5, 3.5), blanks=0.0, spelled=0.0, spoken=0.0, confusion=0.0, lost=0.0, noise=0.0),
    "as trained": Wear(),
    "spelled, no capitals": Wear(spelled=1.0, spoken=1.0),
}
BATCHES, SENTENCES, SHOWN = 4, 64, 6


def main() -> None:
    starter = load_trained("data/starter", precision="fp32")
    model, tokenizer = starter.model.backbone, starter.tokenizer
    documents = DebianText(folder="data/debian_text").documents("val")
    sentences = [sentence for text in documents for sentence in split_sentences(text)]
    print(f"{len(sentences)} held-out sentences; nats a token")
    print(f"{'copies':22} right  another's  none")
    for name, wear in LEVELS.items():
        feed = Copies(
            sentences,
            tokenizer=tokenizer,
            embeddings=lambda: model.transformer.wte.weight,
            batch_size=SENTENCES,
            soft=True,
            seed=7,
            wear=wear,
        )
        batches = [next(feed).inputs for _ in range(BATCHES)]
        losses = (loss(model, batches, shift=shift) for shift in (0, 1, None))
        print(f"{name:22} {next(losses):.3f}  {next(losses):.3f}      {next(losses):.3f}")
    inputs = batches[0]
    engine = Engine(model, tokenizer)
    soft = [row[:length] for row, length in zip(inputs["audio_features"], inputs["audio_lengths"], strict=True)]
    prompts = [[row, [tokenizer.bos]] for row in soft[:SHOWN]]
    for row, targets in zip(
        engine.complete(prompts, Settings(temperature=0.0, max_tokens=64)), inputs["targets_BL"], strict=False
    ):
        print(f"\nsaid   {tokenizer.decode([t for t in targets.tolist() if t >= 0])}\nheard  {row.text}")


@torch.no_grad()
def loss(model, batches: list[dict], *, shift: int | None) -> float:
    """Nats a token, each sentence behind the copy of the one `shift` places on, or behind none."""
    nats = graded = 0.0
    for batch in batches:
        names = () if shift is None else ("audio_features", "audio_lengths")
        heard = {name: batch[name].roll(shift, 0) for name in names}
        nats += model(batch["idx_BL"], batch["targets_BL"], **heard, reduction="sum").item()
        graded += int((batch["targets_BL"] >= 0).sum())
    return nats / graded


if __name__ == "__main__":
    main()
