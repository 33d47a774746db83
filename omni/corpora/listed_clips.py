"""Clips by lists that `prepare` writes once: what each file holds, how long it is, and its SHA-256.

With the hash in the list, a run need not read every file (6 GB of LibriSpeech) before its first step.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omni.atomic import replace_text, replacing
from omni.audio.read import AudioError, opened, read_header
from omni.corpora.transfer import Report
from omni.data.clips import Clips, Sample
from omni.data.fingerprint import fingerprint
from omni.data.manifest import Clip, ManifestError, read_manifest
from omni.errors import OmniError

SHOWN = 5  # of what is left out
THREADS = 8  # reading and hashing both wait for the disk, or work beside the interpreter

Row = dict[str, Any]


class UnpreparedError(OmniError):
    """A list that is not there, is damaged or was made otherwise: `prepare` makes it anew."""


class ListedClips(Clips):
    """Clips that cannot be used before they are prepared, but can be built, so that they can prepare themselves.

    Args:
        find: gives them; its UnpreparedError is kept for whoever uses them too early.
        source: the list, for errors.
        min_seconds, max_seconds: shorter and longer clips are left out, by what the list says of them.
    """

    def __init__(self, find: Callable[[], list[Clip]], *, source: Path, min_seconds: float, max_seconds: float):
        self.unprepared: str | None = None
        clips: list[Clip] = []
        try:
            clips = find()
        except UnpreparedError as error:
            self.unprepared = str(error)
        lasting = [clip for clip in clips if min_seconds <= (clip.seconds or min_seconds) <= max_seconds]
        super().__init__(lasting, source=source, min_seconds=min_seconds, max_seconds=max_seconds)

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
            raise UnpreparedError(self.unprepared)


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
            with opened(path) as file:
                _, seconds = read_header(file)
                file.seek(0)
                return row | {"seconds": seconds, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
        except AudioError as error:
            return str(error)

    with ThreadPoolExecutor(THREADS) as pool:
        for row in pool.map(measured, rows):
            if isinstance(row, str):
                left_out.add(row)
            else:
                yield row


def read_list(path: Path, remedy: str) -> list[Clip]:
    """The clips of a list that `prepare` made. Raises UnpreparedError, with the way out, when it cannot be used."""
    if not path.is_file():
        raise UnpreparedError(f"{path}: is not there. {remedy}")
    try:
        return read_manifest(path)
    except ManifestError as error:
        raise UnpreparedError(f"{path}: is damaged ({str(error).splitlines()[0]}). {remedy}") from error


def stamp(folder: Path, paths: Iterable[str], told: object = None) -> str:
    """What stands for some files below a folder as they are now, by their names, sizes and times, and for what is told
    besides. Raises OSError."""
    files = ((path, (folder / path).stat()) for path in sorted(set(paths)) if (folder / path).exists())
    return fingerprint([told, *((path, found.st_size, found.st_mtime_ns) for path, found in files)])


def stamp_of(path: Path) -> Path:
    """Where the stamp lies of what a list was made of: beside it. It is written last, so a kill leaves an older one."""
    return path.with_name(f".{path.name}.made_from")


def is_made_from(path: Path, now: str) -> bool:
    """Whether a list was made of what is here now."""
    return stamp_of(path).is_file() and stamp_of(path).read_text().strip() == now


def write_list(path: Path, rows: Iterable[Row], made_from: str | None = None) -> int:
    """Write a manifest in one step, and the stamp of what it was made from; returns its rows. Raises OmniError when
    there is none, OSError for the disk."""
    count = 0
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, start=1):  # noqa: B007
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if not count:
            raise OmniError(f"{path}: no clip is left for it. Look at what was left out, or fetch the data again.")
    if made_from:
        replace_text(stamp_of(path), f"{made_from}\n")
    return count
