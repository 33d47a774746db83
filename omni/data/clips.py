"""Datasets: sequences of clips, each a waveform and what is said or heard in it.

A dataset is anything with a length whose items are `Sample`s; to add one, write such a class in a file of your own
and name it in a YAML (see the README).
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from omni.audio.read import AudioError, check_audible, opened, read
from omni.audio.tones import write_smoke_clips
from omni.data.fingerprint import fingerprint
from omni.data.manifest import Clip, ManifestError, read_manifest, select_split


@dataclass(frozen=True)
class Sample:
    """One clip: its id, float32 waveform (samples,) at 16 kHz, and text; perhaps a question about it (see `Clip`)."""

    id: str
    waveform: Tensor
    text: str
    question: str | None = None
    choices: tuple[str, ...] | None = None
    answer: str | None = None


class Recording(NamedTuple):
    """Something somebody recorded: what it is of (a character, an animal), what is said in it, how to read it."""

    name: str
    text: str
    read: Callable[[], Tensor]


class Clips:
    """Clips of a manifest, read when asked for.

    Args:
        clips: which.
        source: the manifest, for errors.
        min_seconds, max_seconds: shorter and longer clips are refused.

    Raises:
        AudioError: from an item, when its file cannot be read or holds nothing audible.
    """

    def __init__(self, clips: Iterable[Clip], *, source: Path, min_seconds: float, max_seconds: float):
        self.clips, self.source = list(clips), source
        self.min_seconds, self.max_seconds = min_seconds, max_seconds
        self.fingerprint = fingerprint(clip.id for clip in self.clips)

    def __len__(self) -> int:
        return len(self.clips)

    def key(self, index: int) -> str:
        """The SHA-256 of a clip's file, or of its part of one. Raises AudioError when it cannot be read."""
        clip = self.clips[index]
        if clip.sha256 is None:
            with opened(clip.audio, offset=clip.offset, bytes=clip.bytes) as source:
                clip = replace(clip, sha256=hashlib.file_digest(source, "sha256").hexdigest())
            self.clips[index] = clip  # so that nothing that is read later passes for it
        return clip.sha256

    def lasts(self, index: int, seconds: float) -> bool:
        """Whether a clip that sounds so long is neither too short nor too long."""
        return self.min_seconds <= seconds <= self.max_seconds

    def __getitem__(self, index: int) -> Sample:
        clip = self.clips[index]
        try:
            where = {"offset": clip.offset, "bytes": clip.bytes, "sha256": clip.sha256}
            waveform = read(clip.audio, max_seconds=self.max_seconds, **where)
            check_audible(waveform, min_seconds=self.min_seconds, what=str(clip.audio))
        except AudioError as error:
            raise AudioError(f"{self.source}: clip {clip.id!r}: {error}") from error
        return Sample(clip.id, waveform, clip.text, clip.question, clip.choices, clip.answer)


class ManifestClips(Clips):
    """The clips of one split of a manifest.

    Args:
        path: the manifest, JSON lines.
        split: the split to take; None for all rows.
        min_seconds, max_seconds: see `Clips`.

    Raises:
        ManifestError: a bad row, an unknown split, an audio file that does not exist.
    """

    def __init__(self, *, path: str, split: str | None = "train", min_seconds: float = 0.1, max_seconds: float = 120.0):
        clips = select_split(read_manifest(path), split)
        super().__init__(clips, source=Path(path).expanduser(), min_seconds=min_seconds, max_seconds=max_seconds)
        missing = [clip for clip in self.clips if not exists(clip.audio)]
        if missing:
            shown = "".join(f"\n  {clip.id}: {clip.audio}" for clip in missing[:10])
            raise ManifestError(
                f"{path}: {len(missing)} of {len(self.clips)} audio files do not exist (field 'audio'; a relative "
                f"path starts at the manifest's folder):{shown}"
            )

    def of(self, split: str) -> "ManifestClips":
        """The clips of another split."""
        limits = {"min_seconds": self.min_seconds, "max_seconds": self.max_seconds}
        return ManifestClips(path=str(self.source), split=split, **limits)


def exists(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long, a folder that may not be entered
        return False


def audio_smoke(*, folder: str) -> ManifestClips:
    """Five synthetic clips of 5 s; whatever of them is not in `folder` yet is written first."""
    write_smoke_clips(folder)
    return ManifestClips(path=str(Path(folder) / "manifest.jsonl"))
