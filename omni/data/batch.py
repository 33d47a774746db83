"""Which clips make a batch, and how ragged clips become tensors.

Shape letters: B batch, K encoder layers kept, T encoder frames, D encoder width, L text tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omni.data.features import Example
from omni.text.tokenizer import IGNORE


@dataclass(frozen=True)
class Batch:
    """Padded to the right: states (B, K, T, D), frames (B,), ids (B, L), targets (B, L; -1 is not graded),
    and how many targets are graded."""

    clip_ids: list[str]
    states_BKTD: Tensor
    frames_B: Tensor
    idx_BL: Tensor
    targets_BL: Tensor
    graded: int


def draw(step: int, *, size: int, clips: int, seed: int) -> list[int]:
    """The clips of batch number `step`: `size` indices out of an endless run of shuffled epochs.

    A function of its arguments alone, so a resumed run needs no data state to go on with the same order.
    """
    positions = range(step * size, (step + 1) * size)
    orders = {epoch: shuffled(clips, seed, epoch) for epoch in {position // clips for position in positions}}
    return [orders[position // clips][position % clips] for position in positions]


@lru_cache(maxsize=2)  # an epoch is asked for once a batch
def shuffled(clips: int, seed: int, epoch: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return tuple(torch.randperm(clips, generator=generator).tolist())


def collate(examples: Sequence[Example], *, bos: int) -> Batch:
    """Stack ragged clips. A text is asked to predict its next token and, at its end, BOS: the document is over."""
    ids = [example.ids_L for example in examples]
    targets = [torch.cat([row[1:], row.new_tensor([bos])]) for row in ids]
    states_BTKD = pad_sequence([example.states_KTD.transpose(0, 1) for example in examples], batch_first=True)
    return Batch(
        clip_ids=[example.id for example in examples],
        states_BKTD=states_BTKD.transpose(1, 2),
        frames_B=torch.tensor([example.states_KTD.size(1) for example in examples], device=ids[0].device),
        idx_BL=pad_sequence(ids, batch_first=True),
        targets_BL=pad_sequence(targets, batch_first=True, padding_value=IGNORE),
        graded=sum(len(row) for row in ids),
    )
