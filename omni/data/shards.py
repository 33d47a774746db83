"""Encoder states on disk, computed once for all runs: tar shards as webdataset writes and reads them.

A state's name is the SHA-256 of the sound it came from, and its folder is named by what heard it: the encoder's
weights, layers, context and arithmetic. So nothing is ever computed twice or taken for something else. Beside each
shard lies an index of where its states are and how long, which is what makes them readable in any order, without a
buffer to shuffle in and without a state to keep beyond the number of the batch.

    FOLDER/3f2a9c.../encoder.json     the signature
    FOLDER/3f2a9c.../8b1d....tar      KEY.npy: states (layers, frames, width) in fp16, or in fp32 where that overflows
    FOLDER/3f2a9c.../8b1d....json     the shard's size; for each key where its file begins, its bytes, frames, seconds

A shard is written aside and renamed, so it is whole or not there: an extraction that was killed goes on where it was.
Several processes may fill one folder; each takes the next shard that nobody holds. What could not be read is tried
again by each run: it may have been too long for that run's limits, and what is damaged is soon found out.

Shape letters: K encoder layers kept, T encoder frames, D encoder width.
"""

import fcntl
import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import webdataset
from torch import Tensor

from omni.atomic import replace_text, replacing
from omni.audio import SAMPLE_RATE
from omni.data.fingerprint import fingerprint
from omni.errors import OmniError

CLIPS = 128
"""A shard: some 30 MB of whisper-base's states, and what a killed extraction loses."""
SIGNATURE = "encoder.json"
WAIT = 1.0
"""Seconds between looks at a shard that another process is making."""


class Place(NamedTuple):
    """Where a clip's states are, how many frames, and how long it sounds; None where the index is an older one."""

    shard: Path
    offset: int
    size: int
    frames: int
    seconds: float | None = None


class Wanted(NamedTuple):
    """A clip whose states are wanted: the SHA-256 of its sound, how to get its waveform (samples,), and its id."""

    key: str
    load: Callable[[], Tensor]
    id: str = ""


class Shards:
    """The states that one encoder has made.

    Args:
        folder: of all encoders' states; or one encoder's, copied from elsewhere.
        signature: of the encoder; any JSON.

    Attributes:
        places: where the states of each key are.
        skipped: keys whose clip could not be read by this process, and why.

    Raises:
        OmniError: the folder holds another encoder's states, or a shard that has been cut short, or cannot be made.
    """

    def __init__(self, folder: str | Path, signature: Mapping[str, Any]):
        folder = Path(folder).expanduser()
        own = (folder / SIGNATURE).exists()
        self.folder = folder if own else folder / fingerprint([json.dumps(signature, sort_keys=True)])[:12]
        if (self.folder / SIGNATURE).exists():
            self._compare(signature)
        else:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                replace_text(self.folder / SIGNATURE, json.dumps(signature, indent=2) + "\n")
        self.places: dict[str, Place] = {}
        self.skipped: dict[str, str] = {}
        self.known: set[Path] = set()
        self.refresh()

    def _compare(self, signature: Mapping[str, Any]) -> None:
        there = json.loads((self.folder / SIGNATURE).read_text())
        if there != signature:
            differ = sorted(key for key in {*there, *signature} if there.get(key) != signature.get(key))
            told = "".join(f"\n  {key}: there {there.get(key)}, here {signature.get(key)}" for key in differ)
            raise OmniError(
                f"features: {self.folder} holds the states of another encoder; name another folder, or the encoder "
                f"that made them.{told}"
            )

    def refresh(self) -> None:
        """Take in what other processes have written meanwhile."""
        for index in sorted(set(self.folder.glob("*.json")) - self.known - {self.folder / SIGNATURE}):
            told, shard = json.loads(index.read_text()), index.with_suffix(".tar")
            size = shard.stat().st_size if shard.exists() else 0
            if size != told["bytes"]:
                raise OmniError(
                    f"features: {shard} has {size:,} bytes and should have {told['bytes']:,}; delete it and "
                    f"{index.name}, and its clips are encoded again"
                )
            self.places |= {key: Place(shard, *place) for key, place in told["clips"].items()}
            self.known.add(index)

    def __contains__(self, key: str) -> bool:
        return key in self.places

    def read(self, key: str) -> Tensor:
        """States (K, T, D) of a clip, in the type they are kept in."""
        place = self.places[key]
        with place.shard.open("rb") as file:
            file.seek(place.offset)
            return torch.from_numpy(np.load(io.BytesIO(file.read(place.size))))

    def fill(self, wanted: Sequence[Wanted], encode: Callable[[list[Tensor]], list[Tensor]]) -> Iterator[int]:
        """Compute what is missing of `wanted`; yields how many of them are there, after each shard.

        A clip that cannot be read is left out; `skipped` says why by its key.

        Args:
            wanted: best in the order of their length, since neighbours are encoded together.
            encode: waveforms to states (K, T, D) each.

        Raises:
            OmniError: states that are not finite; the disk is full, or the folder may not be written.
        """
        chunks = [wanted[first : first + CLIPS] for first in range(0, len(wanted), CLIPS)]
        there = 0
        while there < len(chunks):
            if not self._missing(chunks[there]):
                there += 1
                yield min(there * CLIPS, len(wanted))
            elif not any(self._take(chunk, encode) for chunk in chunks[there:]):
                time.sleep(WAIT)  # others are at all that is missing
                self.refresh()

    def _missing(self, chunk: Sequence[Wanted]) -> list[Wanted]:
        return [clip for clip in chunk if clip.key not in self.places and clip.key not in self.skipped]

    def _take(self, chunk: Sequence[Wanted], encode: Callable[[list[Tensor]], list[Tensor]]) -> bool:
        """Compute what is missing of a chunk; False when nothing is, or another process is at it."""
        if not self._missing(chunk):
            return False
        with held(self.folder / f".{fingerprint(clip.key for clip in chunk)}.lock") as ours:
            if ours:
                self.refresh()
                if missing := self._missing(chunk):
                    self._write(missing, encode)
                    self.refresh()
        return ours

    def _write(self, clips: Sequence[Wanted], encode: Callable[[list[Tensor]], list[Tensor]]) -> None:
        """One shard and its index, of those that can be read."""
        sounds = {}
        for clip in clips:
            try:
                sounds[clip.key] = clip.load()
            except OmniError as error:
                self.skipped[clip.key] = str(error)
        if not sounds:
            return
        heard = dict(zip(sounds, encode(list(sounds.values())), strict=True))
        shard = self.folder / f"{fingerprint(clip.key for clip in clips)}.tar"
        with writing(self.folder):
            for left in self.folder.glob(f".{shard.stem}.*.tmp"):  # by an extraction that was killed
                left.unlink()
            with replacing(shard) as temporary, temporary.open("wb") as file, webdataset.TarWriter(file) as tar:
                for clip in clips:
                    if (states_KTD := heard.pop(clip.key, None)) is not None:
                        tar.write({"__key__": clip.key, "npy": kept(clip, states_KTD).cpu().numpy()})
            places = {key: [*place, len(sounds[key]) / SAMPLE_RATE] for key, place in members(shard)}
            told = {"bytes": shard.stat().st_size, "clips": places}
            try:
                replace_text(shard.with_suffix(".json"), json.dumps(told))
            except OSError:
                shard.unlink()
                raise


def kept(clip: Wanted, states_KTD: Tensor) -> Tensor:
    """States in fp16, or in fp32 where one is beyond its 65,504. Raises OmniError for one that is not finite."""
    half = states_KTD.to(torch.float16)
    if half.isfinite().all():
        return half
    if not states_KTD.isfinite().all():
        raise OmniError(
            f"features: the encoder's states of clip {clip.id or clip.key!r} are not finite: its arithmetic overflows; "
            "use encoder.dtype=fp32, or leave the clip out"
        )
    return states_KTD.float()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Says of an OSError what it means for a folder of states."""
    try:
        yield
    except OSError as error:
        raise OmniError(
            f"features: {folder} cannot be written ({error.strerror or error}); make room, or name another folder. "
            "What is done so far is kept"
        ) from error


def members(shard: Path) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Key of each state in a shard, where its file begins, its bytes and frames."""
    with tarfile.open(shard) as tar:
        for member in tar:
            shape, _, _ = np.lib.format.read_array_header_1_0(header(tar.extractfile(member)))
            yield member.name.removesuffix(".npy"), (member.offset_data, member.size, shape[1])


def header(file: Any) -> Any:
    """An .npy file behind its magic number."""
    np.lib.format.read_magic(file)
    return file


@contextmanager
def held(lock: Path) -> Iterator[bool]:
    """Whether nobody else holds `lock`, which is then held to the end of the block, or of this process."""
    with writing(lock.parent):
        lock.touch()
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
        lock.unlink(missing_ok=True)
