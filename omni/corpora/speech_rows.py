"""Tables of sounds and texts -> rows of a manifest; what has no text or no sound is left out and named."""

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from omni.corpora.listed_clips import LeftOut, Row, measure
from omni.corpora.speech_tables import Columns, Sounding, folder_rows, parquet_rows
from omni.download import one_line


@dataclass(frozen=True)
class Gathered:
    """A data set that lies here: its folder; its tables, paths from there on; and the split of each parquet table or,
    in a folder of audio, of each sound; None for one that is not wanted."""

    source: Path
    tables: list[str]
    split_of: dict[str, str | None]


def read_rows(gathered: Gathered, table: str, columns: Columns, *, into: Path, left_out: LeftOut) -> Iterator[Row]:
    """The rows of one table that can be used, for a manifest in the folder `into`.

    Raises OmniError for a table that cannot be read, OSError for the disk.
    """
    read = rows_of_parquet if table.endswith(".parquet") else rows_of_folder
    return read(gathered, table, columns, into, left_out)


def rows_of_parquet(gathered: Gathered, table: str, columns: Columns, into: Path, left_out: LeftOut) -> Iterator[Row]:
    """See `read_rows`; the sounds are written below `into`."""
    for row in parquet_rows(gathered.source, table, columns):
        if not is_text(row.text):
            left_out.add(f"{row.where}: has no text")
        elif not row.audio:
            left_out.add(f"{row.where}: has no sound in it")
        else:
            try:
                yield told(row, gathered.split_of[table]) | write_sound(into, row.id, row.audio)
            except (soundfile.SoundFileError, ZeroDivisionError) as error:
                left_out.add(f"{row.where}: is no sound that can be read ({one_line(error)})")


def rows_of_folder(gathered: Gathered, table: str, columns: Columns, into: Path, left_out: LeftOut) -> Iterator[Row]:
    """See `read_rows`; the sounds stay where they are."""
    at = Path(os.path.relpath(gathered.source, into))  # so that both can be moved together

    def rows() -> Iterator[Row]:
        seen: set[str] = set()
        for row in folder_rows(gathered.source, table, columns.text):
            split = gathered.split_of.get(row.id)
            if row.id not in gathered.split_of:
                left_out.add(f"{row.where}: {row.id} is not there")
            elif row.id in seen:
                left_out.add(f"{row.where}: {row.id} is named twice")
            elif split and not is_text(row.text):
                left_out.add(f"{row.where}: has no text")
            elif split:
                yield told(row, split) | {"audio": (at / row.id).as_posix()}
            seen.add(row.id)

    yield from measure(rows(), into, left_out)


def is_text(text: Any) -> bool:
    return isinstance(text, str) and bool(text.strip()) and text.encode(errors="ignore").decode() == text


def told(row: Sounding, split: str) -> Row:
    """The fields of a manifest's row that a table tells; the text on one line."""
    return {"id": row.id, "text": " ".join(row.text.split()), "split": split}


def write_sound(folder: Path, name: str, content: bytes) -> Row:
    """Write a sound file below `folder`; the fields of a manifest's row that it tells. Raises SoundFileError."""
    info = soundfile.info(io.BytesIO(content))
    path = folder / "audio" / f"{name}.{info.format.lower()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    audio = path.relative_to(folder).as_posix()
    seconds = round(info.frames / info.samplerate, 3)
    if not seconds:
        raise ZeroDivisionError("it lasts 0 s")
    return {"audio": audio, "seconds": seconds, "sha256": hashlib.sha256(content).hexdigest()}
