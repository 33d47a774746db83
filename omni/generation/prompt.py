"""A prompt: text and audio in any order, cut into pieces a model can read one after another.

Shape letters: L text tokens, S soft audio tokens, C width.
"""

from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor

from omni.errors import OmniError
from omni.text.chat import AUDIO

Segment = Sequence[int] | Tensor
"""Token ids, as a list or a tensor (L,), or audio as soft tokens (S, C) that are projected already."""


class Prompt:
    """The segments of a prompt as one stream.

    Raises:
        OmniError: a segment that is neither text nor audio, or a prompt that does not end in text: what follows
            audio directly is nothing a model has learned.
    """

    def __init__(self, segments: Sequence[Segment], *, width: int, vocab_size: int, device: torch.device):
        self.order: list[int] = []  # token ids, and AUDIO for each soft token
        ids, audio = [], [torch.zeros(0, width, device=device)]
        for number, segment in enumerate(segments):
            segment = segment if isinstance(segment, Tensor) else as_ids(segment, number)
            if segment.ndim == 1 and not segment.is_floating_point():
                ids += segment.tolist()
                self.order += segment.tolist()
            elif segment.ndim == 2 and segment.size(1) == width:
                self.order += [AUDIO] * len(segment)
                audio.append(segment.to(device, torch.float32))
            else:
                raise OmniError(
                    f"prompt: segment {number} has shape {tuple(segment.shape)} and type {segment.dtype}, but text is "
                    f"whole numbers (tokens,) and audio is (soft tokens, {width})"
                )
        self.length, self.audio_SC = len(self.order), torch.cat(audio)
        self.places = [place for place, token in enumerate(self.order) if token == AUDIO]
        if not ids or self.order[-1] == AUDIO:
            raise OmniError("prompt: it has to end in text; the token that opens a document or a turn is enough")
        if not 0 <= min(ids) <= max(ids) < vocab_size:
            raise OmniError(f"prompt: token ids {min(ids)} to {max(ids)} are not within the vocabulary of {vocab_size}")
        self.ids_L = torch.tensor(ids, device=device)

    def piece(self, start: int, stop: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The positions from `start` to `stop` as `GPT.states` takes them: ids, and the audio as keywords."""
        first, last = bisect_left(self.places, start), bisect_left(self.places, stop)
        places = torch.tensor(self.places[first:last], dtype=torch.long, device=self.ids_L.device) - start
        audio = {"audio_features": self.audio_SC[None, first:last], "audio_positions": places[None]}
        return self.ids_L[None, start - first : stop - last], audio

    def shared(self, other: "Prompt") -> int:
        """How many positions both begin with."""
        pairs = enumerate(zip(self.order, other.order, strict=False))
        alike = next((place for place, (own, its) in pairs if own != its), min(self.length, other.length))
        heard = bisect_left(self.places, alike)
        same_S = (self.audio_SC[:heard] == other.audio_SC[:heard]).all(dim=1)
        return alike if same_S.all() else self.places[int(same_S.int().argmin())]


def segments(ids: Sequence[int], sounds: Sequence[Tensor]) -> list[Segment]:
    """The ids of a conversation (see `omni.text.chat`) and its sounds (S, C) in the order in which they are read.

    Raises:
        OmniError: more sounds than stand in it, or fewer.
    """
    found: list[Segment] = [[]]
    left = list(sounds)
    for token in ids:
        if token != AUDIO:
            found[-1].append(token)
        elif left:
            found += [left.pop(0), []]
        else:
            raise OmniError(f"prompt: a sound is missing, {len(sounds)} are there")
    if left:
        raise OmniError(f"prompt: {len(left)} of {len(sounds)} sounds have no place in it")
    return found


def as_ids(segment: object, number: int) -> Tensor:
    if isinstance(segment, Sequence) and all(isinstance(token, int) for token in segment):
        return torch.tensor(segment, dtype=torch.long)
    raise OmniError(f"prompt: segment {number} must be a list of token ids or a tensor, not {segment!r:.60}")
