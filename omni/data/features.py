"""Clips as a model sees them: encoder states and token ids, each computed once.

Shape letters: K encoder layers kept, T encoder frames, D encoder width, L text tokens.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from omni.data.clips import Sample
from omni.data.fingerprint import fingerprint
from omni.data.script import scripts
from omni.errors import OmniError
from omni.text.tokenizer import Tokenizer

MEMORY_LIMIT = 4 * 2**30
"""Bytes of states kept; clips beyond it are encoded again at each use."""


@dataclass(frozen=True)
class Example:
    """One clip: its id, states (K, T, D), token ids (L,); and of its `Script` the rest, which is that of a transcript
    unless it is said. end: None for BOS."""

    id: str
    states_KTD: Tensor
    ids_L: Tensor
    place: int = 0
    start: int = 1
    end: int | None = None


class Measured(NamedTuple):
    """A clip's id, its frames, and its text's tokens."""

    id: str
    frames: int
    tokens: int


class EncodedClips:
    """A dataset seen through a frozen encoder.

    Each clip is encoded alone: its states are then the same numbers, to the bit, whatever batch it lands in, which
    is what lets a resumed run repeat an uninterrupted one.

    Args:
        dataset: the clips; where it has a `fingerprint`, a run is not resumed on others.
        encoder: waveforms to states and lengths; frames beyond a length are dropped.
        tokenizer: text to ids.
        device: where the encoder lives; the states are kept on the CPU.
        limit: use only this many clips, the first ones.
    """

    def __init__(
        self,
        dataset: Sequence[Sample],
        *,
        encoder: Callable[[list[Tensor]], tuple[Tensor, Tensor]],
        tokenizer: Tokenizer,
        device: torch.device,
        limit: int | None = None,
    ):
        self.dataset, self.encoder, self.tokenizer = dataset, encoder, tokenizer
        self.device = device
        if not len(dataset):
            raise OmniError("dataset: holds no clip; check its path, split and filters")
        self.length = len(dataset) if limit is None else min(limit, len(dataset))
        self.fingerprint = fingerprint([getattr(dataset, "fingerprint", None), self.length])
        self.kept: dict[int, Example] = {}
        self.bytes_kept = 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        if index in self.kept:
            return self.kept[index]
        example = self.encode(self.dataset[index])
        size = example.states_KTD.nbytes
        if self.bytes_kept + size <= MEMORY_LIMIT:
            self.kept[index] = example
            self.bytes_kept += size
        return example

    @torch.no_grad()
    def encode(self, sample: Sample) -> Example:
        (script,) = scripts([sample], self.tokenizer)
        states_BKTD, lengths_B = self.encoder([sample.waveform.to(self.device)])
        if states_BKTD.ndim != 4:
            raise OmniError(
                f"encoder: gave states of shape {tuple(states_BKTD.shape)}; wanted (clips, layers, frames, width)"
            )
        # As a copy: a view would keep what is cut off in memory.
        states_KTD = states_BKTD[0, :, : int(lengths_B[0])].to("cpu", copy=True)
        ids_L = torch.tensor(script.ids)
        return Example(sample.id, states_KTD, ids_L, script.place, script.start, script.end)

    def encode_ahead(self, needed: Callable[[], Iterable[int]], known: Collection[str] = ()) -> Iterator[Measured]:
        """As `CachedClips.encode_ahead`, as far as memory goes; none is left out."""
        for index in dict.fromkeys(needed()):
            example = self[index]
            yield Measured(example.id, example.states_KTD.size(1), len(example.ids_L))
            if index not in self.kept:  # the memory is full: from here on clips are encoded when they are used
                return
