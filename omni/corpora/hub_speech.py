"""`hub_speech`: a data set of sounds with a text column, from Hugging Face, ModelScope or a folder of one's own.

`prepare` turns it into audio files and a manifest.jsonl, which any `dataset=manifest` reads too.
"""

import json
import os
import posixpath
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from omni.atomic import locked, replace_text
from omni.corpora.hub_files import LIST, Repository
from omni.corpora.listed_clips import (
    LeftOut,
    ListedClips,
    Row,
    UnpreparedError,
    is_made_from,
    read_list,
    stamp,
    write_list,
)
from omni.corpora.speech_rows import Gathered, read_rows
from omni.corpora.speech_tables import AUDIO, METADATA, Columns, sort_by_split
from omni.corpora.transfer import Report
from omni.data.fingerprint import fingerprint
from omni.data.manifest import Clip, select_split
from omni.errors import OmniError

HELD_OUT = 50  # of train, one in so many clips is val where the data set has none
USED_LATER = ("folder", "split", "min_seconds", "max_seconds")
"""Keys that a manifest does not depend on."""
RUN = "Run, with the same overrides: python -m omni.prepare dataset=hub_speech"


class HubSpeech(ListedClips):
    """The clips of one split.

    Args:
        repo: OWNER/NAME on a hub; or `path`, not both.
        path: a folder of parquet files or of audio with a metadata.csv or .jsonl; or one parquet file.
        hub: "huggingface" or "modelscope".
        revision: branch, tag or commit; None the hub's newest.
        files: which of its files count, a pattern over their paths, in which * spans folders too.
        folder: what is fetched and made is kept below it.
        split: "train", "val" or "test".
        train, val, test: what the data set calls them; None for one that it has not: val is then held out of train.
        audio_column, text_column: the columns to take; in a folder of audio only the latter counts.
        min_seconds, max_seconds: leave out shorter and longer clips.

    Raises:
        OmniError: keys that cannot be.
        ManifestError: a split without clips.
    """

    def __init__(
        self,
        *,
        repo: str | None = None,
        path: str | None = None,
        hub: str = "huggingface",
        revision: str | None = None,
        files: str = "*",
        folder: str = "data/hub_speech",
        split: str = "train",
        train: str = "train",
        val: str | None = "validation",
        test: str | None = "test",
        audio_column: str = "audio",
        text_column: str = "text",
        min_seconds: float = 0.1,
        max_seconds: float = 60.0,
    ):
        given = locals()  # before anything else is: all keys, for `of` and for the record
        self.keys: dict[str, Any] = {key: given[key] for key in given if key not in ("self", "__class__")}
        if (repo is None) == (path is None):
            raise OmniError(
                "dataset: name either dataset.repo=OWNER/NAME, on a hub, or dataset.path=FOLDER, of your own"
            )
        if hub not in LIST:
            raise OmniError(f"dataset.hub: {hub!r} is none of {', '.join(LIST)}")
        self.repository = None if repo is None else Repository(hub, repo, revision)
        self.own = Path(path or "").expanduser()
        self.folder = Path(folder) / (repo.replace("/", "--") if repo else name_of(self.own, Path(folder)))
        self.manifest, self.record = self.folder / "manifest.jsonl", self.folder / "made_from.json"
        self.splits = {"train": train, "val": val, "test": test}
        self.columns = Columns(audio=audio_column, text=text_column)
        self.made_from = {name: value for name, value in self.keys.items() if name not in USED_LATER}
        limits = {"min_seconds": min_seconds, "max_seconds": max_seconds}
        super().__init__(lambda: select_split(self.listed(), split), source=self.manifest, **limits)

    def listed(self) -> list[Clip]:
        """The clips of all splits. Raises UnpreparedError when the manifest cannot be used."""
        made_from: dict[str, Any] = {}
        with suppress(OSError, ValueError, TypeError):  # it is not there, or damaged
            made_from = dict(json.loads(self.record.read_text()))
        if not (made_from and self.manifest.is_file()):
            raise UnpreparedError(f"{self.manifest}: is not there. {RUN}")
        other = [key for key, value in self.made_from.items() if made_from.get(key) != value]
        if other:
            shown = (f"dataset.{key} was {made_from.get(key)!r}, is {self.made_from[key]!r}" for key in other)
            raise UnpreparedError(f"{self.manifest}: was made otherwise ({', '.join(shown)}). {RUN}")
        return read_list(self.manifest, RUN)

    def of(self, split: str) -> "HubSpeech":
        """The clips of another split."""
        return HubSpeech(**self.keys | {"split": split})

    def prepare(self, report: Report) -> None:
        """Fetch the data set where it is on a hub, and make the manifest, unless it is there; of a folder of one's own,
        unless it was made of what is there now.

        Raises:
            OmniError: what cannot be had or read, a split or column that is not there, no clip left, a full disk.
        """
        left_out = LeftOut()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / ".lock"):
                gathered = made_from = None
                if not self.repository and Path(self.keys["path"]).exists():
                    gathered = self.gather(report)
                    made_from = stamp(gathered.source, [*gathered.tables, *gathered.split_of])
                try:
                    self.listed()
                    if made_from is None or is_made_from(self.manifest, made_from):
                        report(f"{self.manifest} is there")
                        return
                except UnpreparedError:
                    for old in (self.record, self.manifest):  # or a kill would leave a record beside the wrong manifest
                        old.unlink(missing_ok=True)
                gathered = gathered or self.gather(report)
                try:
                    count = write_list(self.manifest, self.rows(gathered, left_out, report), made_from)
                finally:
                    left_out.tell(report, str(gathered.source))
                replace_text(self.record, json.dumps(self.made_from, indent=2) + "\n")
        except OSError as error:
            raise OmniError(
                f"{error.filename or self.folder}: cannot be written or read ({error.strerror}). Make room, mend its "
                "rights, or name another dataset.folder"
            ) from error
        report(f"{self.manifest}: {count:,} clips")
        if self.repository and gathered.in_parquet:
            report(f"{gathered.source} is no longer needed")

    def rows(self, gathered: Gathered, left_out: LeftOut, report: Report) -> Iterator[Row]:
        """The rows of the manifest; every HELD_OUT-th of train goes to val where the data set has none."""
        taken = 0
        for row in read_rows(gathered, self.columns, into=self.folder, left_out=left_out, report=report):
            if row["split"] == "train":
                taken += 1
                if self.splits["val"] is None and taken % HELD_OUT == 2:
                    row["split"] = "val"
            yield row

    def gather(self, report: Report) -> Gathered:
        """Find the tables and sounds that are wanted, and fetch them if need be. Raises OmniError."""
        listed = {file.path: file for file in self.repository.files()} if self.repository else {}
        source = self.folder / "source" / self.repository.version if self.repository else self.own
        if not self.repository and not source.exists():
            raise OmniError(f"dataset.path: {source} is not there")
        names = listed or ([source.name] if source.is_file() else files_in(source))
        source = source.parent if source.is_file() else source
        paths = sorted(path for path in names if fnmatchcase(path, self.keys["files"]))
        parquet = [path for path in paths if path.endswith(".parquet")]
        sounds = [path for path in paths if path.lower().endswith(AUDIO)]
        lists = [path for path in paths if posixpath.basename(path) in METADATA]
        if not parquet and not (lists and sounds):
            raise OmniError(
                f"dataset.{'repo' if self.repository else 'path'}: among what matches dataset.files="
                f"{self.keys['files']!r} are neither .parquet files nor audio with a {' or '.join(METADATA)}; it holds "
                f"{', '.join(sorted(names)[:5]) or 'nothing'}"
            )
        sorted_out = sort_by_split(parquet or sounds, self.splits)
        split_of = dict.fromkeys(parquet or sounds) | {
            path: split for split, found in sorted_out.items() for path in found
        }
        wanted = [path for path, split in split_of.items() if split]
        if self.repository:
            self.repository.fetch([listed[path] for path in ([] if parquet else lists) + wanted], source, report)
        return Gathered(source, wanted if parquet else lists, split_of)


def name_of(path: Path, folder: Path) -> str:
    """The name, in `folder`, of what is made of a data set of one's own: for each its own, also where two are called
    alike, and the same when both are moved together."""
    path = path.resolve()
    return f"{path.name}-{fingerprint([os.path.relpath(path, folder.resolve())])[:8]}"


def files_in(folder: Path) -> list[str]:
    """Paths of all files below a folder, from there on, but for hidden ones."""
    found = []
    for at, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name[0] != "."]
        found += [(Path(at) / name).relative_to(folder).as_posix() for name in names if name[0] != "."]
    return found
