"""Tables of sounds and texts -> rows of a manifest; what has no text or no sound is left out and named."""

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni.audio.read import AudioError, named, read_header
from omni.corpora.listed_clips import LeftOut, Row, measure
from omni.corpora.speech_tables import Columns, Sounding, folder_rows, parquet_rows
from omni.corpora.transfer import Report


@dataclass(frozen=True)
class Gathered:
    """A data set that lies here: its folder; its tables, paths from there on; and the split of each parquet table or,
    in a folder of audio, of each sound; None for one that is not wanted."""

    source: Path
    tables: list[str]
    split_of: dict[str, str | None]

    @property
    def in_parquet(self) -> bool:
        """Whether the sounds lie in the tables; all are of one kind."""
        return self.tables[0].endswith(".parquet")


def read_rows(gathered: Gathered, columns: Columns, *, into: Path, left_out: LeftOut, report: Report) -> Iterator[Row]:
    """The rows of all tables that can be used, for a manifest in the folder `into`.

    Raises OmniError for a table that cannot be read, OSError for the disk.
    """
    read = rows_of_parquet if gathered.in_parquet else rows_of_folder
    return read(gathered, columns, into, left_out, report)


def rows_of_parquet(
    gathered: Gathered, columns: Columns, into: Path, left_out: LeftOut, report: Report
) -> Iterator[Row]:
    """See `read_rows`; the sounds are written below `into`."""
    for table in gathered.tables:
        report(f"reading {gathered.source / table}")
        for row in parquet_rows(gathered.source, table, columns):
            if not is_text(row.text):
                left_out.add(f"{row.where}: has no text")
            elif not row.audio:
                left_out.add(f"{row.where}: has no sound in it")
            else:
                try:
                    yield told(row, gathered.split_of[table]) | write_sound(into, row.id, row.audio)
                except AudioError as error:
                    left_out.add(f"{row.where}: {error}")


def rows_of_folder(
    gathered: Gathered, columns: Columns, into: Path, left_out: LeftOut, report: Report
) -> Iterator[Row]:
    """See `read_rows`; the sounds stay where they are."""
    # A path from `into` on, so that both can be moved together; the real one, since `..` leads out of what a link
    # leads to, not back to where the link lies.
    at = Path(os.path.relpath(gathered.source.resolve(), into.resolve()))

    def rows() -> Iterator[Row]:
        seen: set[str] = set()  # of all tables: metadata.csv and metadata.jsonl may lie side by side
        for table in gathered.tables:
            report(f"reading {gathered.source / table}")
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
    """Write a sound file below `folder`; the fields of a manifest's row that it tells. Raises AudioError."""
    with named(name):
        kind, seconds = read_header(io.BytesIO(content))
    path = folder / "audio" / f"{name}.{kind}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    audio = path.relative_to(folder).as_posix()
    return {"audio": audio, "seconds": seconds, "sha256": hashlib.sha256(content).hexdigest()}
