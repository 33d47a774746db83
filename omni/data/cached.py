"""Clips whose encoder states lie on disk: read when asked for, so that memory does not grow with the data set.

Shape letters: K encoder layers kept, T encoder frames, D encoder width, L text tokens.
"""

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from omni.data.clips import Clips
from omni.data.features import Example, Measured
from omni.data.fingerprint import fingerprint
from omni.data.manifest import Clip
from omni.data.script import scripts
from omni.data.shards import Shards, Wanted
from omni.errors import OmniError
from omni.text.tokenizer import Tokenizer

MOST_SKIPPED = 0.01
"""Of a data set's clips; with more it is not the clips that are damaged."""
TEXTS_AT_ONCE = 4096


class CachedClips:
    """A dataset seen through a frozen encoder, by way of `Shards`. `encode_ahead` comes first.

    Args:
        dataset: the clips.
        shards: the states that are there, and where others go.
        encoder: waveforms to states and lengths.
        tokenizer: text to ids.
        device: where the encoder lives.
        limit: use only this many clips, the first ones.
        only: use only the clips whose row it says so of.

    Attributes:
        most_skipped: what share of the clips may be left out.
        skipped: clips that could not be read, or are beyond the data set's limits, by their id, and why.
        lengths: how long each clip is: in seconds where every row says it, else in frames, once all are encoded.
    """

    def __init__(
        self,
        dataset: Clips,
        *,
        shards: Shards,
        encoder: Callable[[list[Tensor]], tuple[Tensor, Tensor]],
        tokenizer: Tokenizer,
        device: torch.device,
        limit: int | None = None,
        only: Callable[[Clip], bool] | None = None,
    ):
        if not len(dataset):
            raise OmniError("dataset: holds no clip; check its path, split and filters")
        self.dataset, self.shards, self.encoder = dataset, shards, encoder
        self.device = device
        self.clips = [clip for clip in range(len(dataset)) if only is None or only(dataset.clips[clip])][:limit]
        self.keys = {clip: dataset.key(clip) for clip in self.clips}
        # As arrays, and not all texts at once: there may be millions, and a list takes ten times as much.
        parts = (self.clips[i : i + TEXTS_AT_ONCE] for i in range(0, len(self.clips), TEXTS_AT_ONCE))
        self.scripts = {
            clip: script._replace(ids=array("i", script.ids))
            for part in parts
            for clip, script in zip(part, scripts([dataset.clips[clip] for clip in part], tokenizer), strict=True)
        }
        self.most_skipped, self.skipped = MOST_SKIPPED, {}
        self.lengths = self.measure()
        # Of questions it is the words too that a resumed run must find as they were; a transcript stays as it is.
        asked = [list(script.ids) for script in self.scripts.values() if script.place]
        self.fingerprint = fingerprint([*self.keys.values(), *asked])

    def __len__(self) -> int:
        return len(self.clips)

    def measure(self) -> tuple[float, ...] | None:
        seconds = tuple(self.dataset.clips[clip].seconds for clip in self.clips)
        if None not in seconds:
            return seconds
        there = all(self.keys[clip] in self.shards for clip in self.clips)
        return tuple(self.measured(clip).frames for clip in self.clips) if there else None

    def encode_ahead(
        self, needed: Callable[[], Iterable[int]] | None = None, known: Collection[str] = ()
    ) -> Iterator["Measured"]:
        """Encode what is needed and is not on disk yet, and leave out what cannot be read; yields each clip.

        Args:
            needed: gives the places that are wanted; all unless it is said. It is asked again after some clips were
                left out, which moves the others up.
            known: ids of clips that were left out before, which are then tried first.

        Raises:
            OmniError: too many clips cannot be read.
        """
        seen: set[int] = set()
        wanted = {clip for clip in self.clips if self.dataset.clips[clip].id in known} or self.wanted(needed)
        while wanted:
            yield from self.encode_clips(wanted)
            seen |= wanted
            wanted = self.wanted(needed) - seen

    def wanted(self, needed: Callable[[], Iterable[int]] | None) -> set[int]:
        return {*self.clips} if needed is None else {self.clips[place] for place in needed()}

    def encode_clips(self, clips: Collection[int]) -> Iterator["Measured"]:
        """See `encode_ahead`."""
        order = sorted(clips, key=lambda clip: (self.dataset.clips[clip].seconds or 0.0, clip))
        sounds: dict[str, list[int]] = {}  # several rows may ask about one
        for clip in order:
            sounds.setdefault(self.keys[clip], []).append(clip)
        wanted = [
            Wanted(key, lambda clip=rows[0]: self.dataset[clip].waveform, self.dataset.clips[rows[0]].id)
            for key, rows in sounds.items()
        ]
        done, refused, rows = 0, {}, list(sounds.values())
        for there in self.shards.fill(wanted, self.encode):
            for clip in (clip for group in rows[done:there] for clip in group):
                if (reason := self.refusal(clip)) is None:
                    yield self.measured(clip)
                else:
                    refused[clip] = reason
            done = there
        self.leave_out(refused)
        if len(self.skipped) > self.most_skipped * len(self.keys):
            shown = "".join(f"\n  {reason}" for reason in list(self.skipped.values())[:10])
            raise OmniError(f"dataset: {len(self.skipped)} of {len(self.keys)} clips cannot be read:{shown}")

    def leave_out(self, refused: Mapping[int, str]) -> None:
        """Go on without some clips, each for a reason."""
        self.skipped |= {self.dataset.clips[clip].id: refused[clip] for clip in sorted(refused)}
        self.clips = [clip for clip in self.clips if clip not in refused]
        self.lengths = self.measure()

    def refusal(self, clip: int) -> str | None:
        """Why a clip is left out: it cannot be read, or its states were made for a run with other limits."""
        if self.keys[clip] not in self.shards:
            return self.shards.skipped[self.keys[clip]]
        seconds = self.shards.places[self.keys[clip]].seconds
        lasts = getattr(self.dataset, "lasts", None)  # a data set of one's own may have no limits
        if seconds is not None and lasts is not None and not lasts(clip, seconds):
            try:
                self.dataset[clip]  # which says what is wrong with it
            except OmniError as error:
                return str(error)
        return None

    @torch.no_grad()
    def encode(self, waveforms: list[Tensor]) -> list[Tensor]:
        """States (K, T, D) of each waveform."""
        states_BKTD, lengths_B = self.encoder([waveform.to(self.device) for waveform in waveforms])
        return [states[:, :length] for states, length in zip(states_BKTD, lengths_B.tolist(), strict=True)]

    def measured(self, clip: int) -> "Measured":
        frames = self.shards.places[self.keys[clip]].frames
        return Measured(self.dataset.clips[clip].id, frames, len(self.scripts[clip].ids))

    def __getitem__(self, index: int) -> Example:
        clip = self.clips[index]
        states_KTD = self.shards.read(self.keys[clip])
        script = self.scripts[clip]
        ids_L = torch.tensor(script.ids, dtype=torch.long)
        return Example(self.dataset.clips[clip].id, states_KTD, ids_L, script.place, script.start, script.end)
