"""Which clips make a batch, and how ragged clips become tensors.

Shape letters: B batch, K encoder layers kept, T encoder frames, D encoder width, L text tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omni.data.features import Example
from omni.text.tokenizer import IGNORE

POOL = 32
"""Batches whose clips are sorted by length together: padding falls, and order stays random enough."""


@dataclass(frozen=True)
class Batch:
    """What one forward pass takes; the training loop moves it to its device.

    inputs: keyword arguments of `Omni.forward`: always idx_BL and targets_BL (-1 is not graded), padded to the right.
    graded: how many targets are graded. names: of the clips or rows, for an error to name. kind: of a batch among
    others, whose loss is told apart.
    """

    inputs: dict[str, Tensor]
    graded: int
    names: list[str]
    kind: str | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and positions a row: text, and soft tokens that are there already."""
        soft = self.inputs["audio_features"].size(1) if "audio_features" in self.inputs else 0
        rows, letters = self.inputs["idx_BL"].shape
        return rows, soft + letters


def draw(number: int, *, size: int, clips: int, seed: int) -> list[int]:
    """The clips of batch `number`: `size` indices out of an endless run of shuffled epochs.

    A function of its arguments alone, so a resumed run needs no data state to go on with the same order.
    """
    positions = range(number * size, (number + 1) * size)
    orders = {epoch: shuffled(clips, seed, epoch) for epoch in {position // clips for position in positions}}
    return [orders[position // clips][position % clips] for position in positions]


def draw_alike(number: int, *, size: int, lengths: tuple[float, ...], seed: int) -> list[int]:
    """As `draw`, of clips of like length: each epoch is cut into pieces of `POOL` batches, sorted, and its batches
    shuffled. One batch of an epoch may be smaller."""
    epoch, place = divmod(number, -(-len(lengths) // size))
    return list(alike(size, lengths, seed, epoch)[place])


@lru_cache(maxsize=2)
def alike(size: int, lengths: tuple[float, ...], seed: int, epoch: int) -> list[tuple[int, ...]]:
    order, batches = shuffled(len(lengths), seed, epoch), []
    together = min(POOL, max(1, len(order) // size // 4)) * size  # of few clips, or each epoch had the same batches
    for first in range(0, len(order), together):
        pool = sorted(order[first : first + together], key=lambda clip: lengths[clip])
        batches += [tuple(pool[i : i + size]) for i in range(0, len(pool), size)]
    return [batches[i] for i in shuffled(len(batches), seed, -1 - epoch)]


@lru_cache(maxsize=4)  # an epoch is asked for once a batch
def shuffled(clips: int, seed: int, epoch: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return tuple(torch.randperm(clips, generator=generator).tolist())


def collate(examples: Sequence[Example], *, bos: int) -> Batch:
    """Stack ragged clips: states (B, K, T, D), frames (B,), ids and targets (B, L), and where the sounds stand (B,)
    unless all of them stand in front.

    A model is to write a script's tokens from its start on, and then the one that ends it.
    """
    ids = [example.ids_L for example in examples]
    targets = [targets_of(example, bos) for example in examples]
    places = [example.place for example in examples]
    # Of clips whose states are kept in fp16 and in fp32, or those of the first would decide.
    kind = reduce(torch.promote_types, (example.states_KTD.dtype for example in examples))
    states = [example.states_KTD.to(kind).transpose(0, 1) for example in examples]
    states_BKTD = pad_sequence(states, batch_first=True)
    return Batch(
        inputs={
            "idx_BL": pad_sequence(ids, batch_first=True),
            "targets_BL": pad_sequence(targets, batch_first=True, padding_value=IGNORE),
            "states_BKTD": states_BKTD.transpose(1, 2),
            "frames_B": torch.tensor([example.states_KTD.size(1) for example in examples]),
            **({"places_B": torch.tensor(places)} if any(places) else {}),
        },
        graded=sum(1 + len(example.ids_L) - example.start for example in examples),
        names=[example.id for example in examples],
    )


def targets_of(example: Example, bos: int) -> Tensor:
    """What each of a script's tokens (L,) is to be followed by."""
    end = bos if example.end is None else example.end
    targets_L = torch.cat([example.ids_L[1:], example.ids_L.new_tensor([end])])
    targets_L[: example.start - 1] = IGNORE
    return targets_L
