"""`audiobench`: the data sets of AudioBench (Wang et al., NAACL 2025), from Hugging Face or a folder of one's own.

Looked at, in stored copies, to know their layout: the README files of AudioLLMs/gigaspeech_test,
iemocap_emotion_recognition, covost2_zh_en_test_v1, MMAU-mini-do-not-use and lmms-lab/muchomusic, which declare
`context` (audio), `instruction` and `answer` (strings), where there are any `choices` (a string in MuChoMusic, a list
in MMAU-mini) and `other_attributes` (a struct); and src/dataset.py and src/dataset_src of the GitHub repository
AudioLLMs/AudioBench, which read these columns and no others but `speech_instruction`. No file of theirs was fetched.

They are tests: all files that are named make up the split "test".
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from omni.atomic import locked
from omni.audio.read import AudioError
from omni.corpora.hub_files import LIST, Repository
from omni.corpora.hub_speech import files_in
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
from omni.corpora.question_rows import parquet_questions, question_fields
from omni.corpora.speech_rows import write_sound
from omni.corpora.transfer import Report
from omni.data.fingerprint import fingerprint
from omni.data.manifest import Clip, select_split
from omni.errors import OmniError

RUN = "Run, with the same overrides: python -m omni.prepare dataset=audiobench"


class AudioBench(ListedClips):
    """The questions of one data set.

    Args:
        repo: OWNER/NAME on a hub; or `path`, not both.
        path: a folder of parquet files, or one such file.
        hub: "huggingface" or "modelscope".
        revision: branch, tag or commit; None the hub's newest.
        files: which of its files count, a pattern over their paths, in which * spans folders too.
        folder: what is fetched and made is kept below it.
        split: "test"; there is no other.
        audio_column, question_column: the columns to take; the others are `answer`, and where there are any `choices`.
        max_seconds: leave out longer clips.

    Raises:
        OmniError: keys that cannot be.
        NoSplitError: another split.
    """

    splits = ("test",)

    def __init__(
        self,
        *,
        repo: str | None = None,
        path: str | None = None,
        hub: str = "huggingface",
        revision: str | None = None,
        files: str = "*",
        folder: str = "data/audiobench",
        split: str = "test",
        audio_column: str = "context",
        question_column: str = "instruction",
        max_seconds: float = 60.0,
    ):
        given = locals()  # before anything else is: all keys, for `of`
        self.keys: dict[str, Any] = {key: given[key] for key in given if key not in ("self", "__class__")}
        if (repo is None) == (path is None):
            raise OmniError(
                "dataset: name either dataset.repo=OWNER/NAME, on a hub, or dataset.path=FOLDER, of your own"
            )
        if hub not in LIST:
            raise OmniError(f"dataset.hub: {hub!r} is none of {', '.join(LIST)}")
        self.repository = None if repo is None else Repository(hub, repo, revision)
        self.own = None if path is None else Path(path).expanduser()
        self.folder = Path(folder) / self.name()
        self.manifest = self.folder / "manifest.jsonl"
        super().__init__(
            lambda: select_split(self.listed(), split), source=self.manifest, min_seconds=0.1, max_seconds=max_seconds
        )

    def name(self) -> str:
        """Of the folder of what is made: for all that it depends on its own, and the same when moved with `path`."""
        if self.own is not None:
            own = self.own.resolve()
            parts = [own.name, os.path.relpath(own, Path(self.keys["folder"]).resolve())]
        else:
            parts = [self.keys["repo"].replace("/", "--"), self.keys["hub"], self.keys["revision"]]
        parts += [self.keys["files"], self.keys["audio_column"], self.keys["question_column"]]
        return f"{parts[0]}-{fingerprint(parts)[:8]}"

    def listed(self) -> list[Clip]:
        """The clips. Raises UnpreparedError when the manifest cannot be used."""
        return read_list(self.manifest, RUN)

    def of(self, split: str) -> "AudioBench":
        """The clips of another split."""
        return AudioBench(**self.keys | {"split": split})

    def prepare(self, report: Report) -> None:
        """Fetch the data set where it is on a hub, and make the manifest, unless it is there; of a folder of one's own,
        unless it was made of what is there now.

        Raises:
            OmniError: what cannot be had or read, a column that is not there, no question left, a full disk.
        """
        left_out = LeftOut()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / ".lock"):
                gathered = made_from = None
                if self.own is not None and self.own.exists():
                    gathered = self.gather(report)
                    source, tables = gathered
                    made_from = stamp(source, files_in(source) if self.own.is_dir() else tables)
                with suppress(UnpreparedError):
                    self.listed()
                    if made_from is None or is_made_from(self.manifest, made_from):
                        report(f"{self.manifest} is there")
                        return
                source, tables = gathered or self.gather(report)
                try:
                    count = write_list(self.manifest, self.rows(source, tables, left_out, report), made_from)
                finally:
                    left_out.tell(report, str(source))
        except OSError as error:
            raise OmniError(
                f"{error.filename or self.folder}: cannot be written or read ({error.strerror}). Make room, mend its "
                "rights, or name another dataset.folder"
            ) from error
        report(f"{self.manifest}: {count:,} questions")
        if self.repository:
            report(f"{source} is no longer needed")

    def gather(self, report: Report) -> tuple[Path, list[str]]:
        """The folder of the parquet files and their paths from there on; fetched if need be. Raises OmniError."""
        if self.own is not None and not self.own.exists():
            raise OmniError(f"dataset.path: {self.own} is not there")
        listed = {file.path: file for file in self.repository.files()} if self.repository else {}
        source = self.own or self.folder / "source"
        names = listed or ([source.name] if source.is_file() else files_in(source))
        source = source.parent if source.is_file() else source
        tables = sorted(path for path in names if path.endswith(".parquet") and fnmatchcase(path, self.keys["files"]))
        if not tables:
            raise OmniError(
                f"dataset.{'repo' if self.repository else 'path'}: among what matches dataset.files="
                f"{self.keys['files']!r} are no .parquet files; it holds {', '.join(sorted(names)[:5]) or 'nothing'}"
            )
        if self.repository:
            self.repository.fetch([listed[path] for path in tables], source, report)
        return source, tables

    def rows(self, source: Path, tables: list[str], left_out: LeftOut, report: Report) -> Iterator[Row]:
        """The rows of the manifest; their sounds are written beside it."""
        columns = {"audio": self.keys["audio_column"], "question": self.keys["question_column"]}
        for table in tables:
            report(f"reading {source / table}")
            for row in parquet_questions(source, table, **columns):
                fields = question_fields(row.where, row.given, left_out)
                if fields and not row.audio:
                    left_out.add(f"{row.where}: has no sound in it")
                elif fields:
                    try:
                        yield {"id": row.id, "split": "test"} | fields | write_sound(self.folder, row.id, row.audio)
                    except AudioError as error:
                        left_out.add(f"{row.where}: {error}")
