"""Clips by lists that `prepare` writes once: what each file holds, how long it is, and its SHA-256.

With the hash in the list, a run need not read every file (6 GB of LibriSpeech) before its first step.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile

from omni.atomic import replacing
from omni.data.clips import Clips, Sample
from omni.data.fingerprint import sha256_of
from omni.data.manifest import Clip
from omni.errors import OmniError

SHOWN = 5  # of what is left out
THREADS = 8  # reading and hashing both wait for the disk, or work beside the interpreter

Report = Callable[[str], None]
Row = dict[str, Any]


class ListedClips(Clips):
    """Clips that cannot be used before they are prepared, but can be built, so that they can prepare themselves.

    Args:
        clips: which; None before they are prepared.
        source: the list, for errors.
        unprepared: what to tell whoever uses them too early.
        min_seconds, max_seconds: shorter and longer clips are left out, by what the list says of them.
    """

    def __init__(
        self, clips: list[Clip] | None, *, source: Path, unprepared: str, min_seconds: float, max_seconds: float
    ):
        lasting = [clip for clip in clips or [] if min_seconds <= (clip.seconds or min_seconds) <= max_seconds]
        super().__init__(lasting, source=source, min_seconds=min_seconds, max_seconds=max_seconds)
        self.unprepared = unprepared if clips is None else None

    def __len__(self) -> int:
        self.refuse_unprepared()
        return super().__len__()

    def key(self, index: int) -> str:
        self.refuse_unprepared()
        return super().key(index)

    def __getitem__(self, index: int) -> Sample:
        self.refuse_unprepared()
        return super().__getitem__(index)

    def refuse_unprepared(self) -> None:
        if self.unprepared:
            raise OmniError(self.unprepared)


@dataclass
class LeftOut:
    """What cannot be used, and why."""

    reasons: list[str] = field(default_factory=list)

    def add(self, reason: str) -> None:
        self.reasons.append(reason)

    def tell(self, report: Report, of: str) -> None:
        """Report how many there are, and the first ones; nothing when there is none."""
        if self.reasons:
            report("\n  ".join([f"{of}: {len(self.reasons):,} left out", *self.reasons[:SHOWN]]))


def measure(rows: Iterable[Row], folder: Path, left_out: LeftOut) -> Iterator[Row]:
    """Rows, whose `audio` is a path from `folder` on, with `seconds` and `sha256`; what is no sound is left out."""

    def measured(row: Row) -> Row | str:
        path = folder / row["audio"]
        try:
            info = soundfile.info(str(path))
            return row | {"seconds": round(info.frames / info.samplerate, 3), "sha256": sha256_of(path)}
        except (OSError, soundfile.SoundFileError, ZeroDivisionError) as error:
            return f"{path}: is no sound file that can be read ({' '.join(str(error).split())[-80:]})"

    with ThreadPoolExecutor(THREADS) as pool:
        for row in pool.map(measured, rows):
            if isinstance(row, str):
                left_out.add(row)
            elif row["seconds"] <= 0:
                left_out.add(f"{folder / row['audio']}: holds no sound")
            else:
                yield row


def write_list(path: Path, rows: Iterable[Row]) -> int:
    """Write a manifest in one step; returns its rows. Raises OmniError when there is none, OSError for the disk."""
    count = 0
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, start=1):  # noqa: B007
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if not count:
            raise OmniError(f"{path}: no clip is left for it. Look at what was left out, or fetch the data again.")
    return count
