"""Tables of sounds and texts as the `datasets` library writes and reads them: parquet files that hold the audio, and
folders of audio with a metadata.csv or metadata.jsonl ("audiofolder").
"""

import csv
import io
import json
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from omni.data.files import DAMAGE
from omni.errors import OmniError

METADATA = ("metadata.csv", "metadata.jsonl")
AUDIO = (
    *(".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".3gp", ".webm", ".mka", ".wma", ".aac"),
    *(".amr", ".mp2", ".aif", ".aiff", ".au", ".caf", ".sph", ".w64", ".wv"),
)
SPLITS = ("train", "validation", "valid", "val", "dev", "test", "eval")  # what data sets call theirs
BATCH = 32  # rows of parquet in memory


@dataclass(frozen=True)
class Columns:
    """Those of the sound and of its text; a folder of audio has a file_name instead of the former."""

    audio: str
    text: str


@dataclass(frozen=True)
class Sounding:
    """A row: where it stands, for errors; its id, which in a folder of audio is the sound's path; its text, if it has
    one; and the bytes of its sound, if they stand in the table."""

    where: str
    id: str
    text: str | None
    audio: bytes | None


def split_in(path: str, names: Iterable[str]) -> str | None:
    """The name that stands in a path as a word of its own, as in data/train-00000-of-00002.parquet; the last one."""
    found = [
        (match.end(), name)
        for name in names
        for match in re.finditer(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", path)
    ]
    return max(found)[1] if found else None


def sort_by_split(paths: list[str], splits: dict[str, str | None]) -> dict[str, list[str]]:
    """Paths by split. splits: the name of each in `paths`; None for one that is not wanted.

    A parquet file's whole path may name its split, but of audio only the folders: eval_3.wav may be any recording's
    name. Where no path names any split, all are "train".
    Raises OmniError, which lists what there is, for a split that has no path.
    """
    wanted = {key: name for key, name in splits.items() if name is not None}
    names = {*SPLITS, *wanted.values()}
    named = {path: split_in(path if path.endswith(".parquet") else posixpath.dirname(path), names) for path in paths}
    if not any(named.values()):
        named = dict.fromkeys(paths, wanted.get("train"))
    chosen = {key: [path for path in paths if named[path] == name] for key, name in wanted.items()}
    for key, found in chosen.items():
        if not found:
            there = Counter(name or "(none)" for name in named.values())
            listed = ", ".join(f"{name} ({count} files)" for name, count in sorted(there.items()))
            held_out = {"val": "null to hold some of train out", "test": "null to do without"}.get(key, "another")
            raise OmniError(f"dataset.{key}: no file is of {wanted[key]!r}. There are: {listed}; or {held_out}.")
    return chosen


def parquet_rows(source: Path, table: str, columns: Columns) -> Iterator[Sounding]:
    """The rows of one parquet file, `table` in `source`.

    Raises OmniError for a damaged file, a column that is not there or of another kind.
    """
    path, stem = source / table, table.removesuffix(".parquet")
    try:
        with pq.ParquetFile(path) as file:
            check_columns(path, file.schema_arrow, columns)
            number = 0
            for batch in file.iter_batches(batch_size=BATCH, columns=[columns.audio, columns.text]):
                for row in batch.to_pylist():
                    where, content = f"{path}, row {number}", row[columns.audio]
                    if isinstance(content, dict):
                        content = content["bytes"]
                    yield Sounding(where, f"{stem}/{number:06d}", row[columns.text], content)
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise OmniError(f"{path}: is no whole parquet file ({error}). Delete it and fetch it again.") from error


def check_columns(path: Path, schema: pa.Schema, columns: Columns) -> None:
    audio, text = columns.audio, columns.text
    there = ", ".join(schema.names)
    for key, name in (("audio_column", audio), ("text_column", text)):
        if name not in schema.names:
            raise OmniError(f"dataset.{key}: {path} has no column {name!r}. There are: {there}")
    kind = schema.field(audio).type
    if pa.types.is_struct(kind) and "bytes" in {field.name for field in kind}:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise OmniError(
            f"dataset.audio_column: {audio!r} of {path} is {kind}, and sound is {{bytes, path}} or bytes. There are: "
            f"{there}"
        )
    kind = schema.field(text).type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise OmniError(f"dataset.text_column: {text!r} of {path} is {kind}, no text. There are: {there}")


def folder_rows(source: Path, table: str, text: str) -> Iterator[Sounding]:
    """The rows of a metadata file, `table` in `source`; its `file_name` starts at its own folder.

    Raises OmniError for a damaged file, a row without `file_name` or the text's key.
    """
    path = source / table
    for number, row in metadata(path):
        where = f"{path}:{number}"
        for key, name in (("file_name", "file_name"), ("dataset.text_column", text)):
            if name not in row:
                raise OmniError(f"{key}: {where} has no {name!r}. There are: {', '.join(map(str, row))}")
        name = row["file_name"]
        if not isinstance(name, str) or not name.strip():
            raise OmniError(f"{where}: file_name is {name!r}, needs the path of an audio file")
        yield Sounding(where, posixpath.normpath(posixpath.join(posixpath.dirname(table), name)), row[text], None)


def metadata(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a .csv or .jsonl file and their lines. Raises OmniError when it is damaged."""
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except DAMAGE as error:
        raise OmniError(f"{path}: cannot be read ({error}). Save it as UTF-8, or fetch it again.") from error
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(content, newline=""))
        for row in reader:
            yield reader.line_num, row
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            try:
                row = dict(json.loads(line))
            except (ValueError, TypeError, RecursionError) as error:
                raise OmniError(f"{path}:{number}: is not a JSON object ({error}). Fix the line.") from error
            yield number, row
