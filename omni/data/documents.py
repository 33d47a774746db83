"""Text to train on: files of documents, read as one endless stream that can be entered anywhere.

The stream is a run of epochs, each a new order of the same documents, and a document's place in it is one number.
So how far a run has come is a number too, whatever the number of processes.
"""

import json
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from omni.data.files import DAMAGE, find, read_lines
from omni.data.fingerprint import fingerprint
from omni.data.paragraphs import group_paragraphs
from omni.errors import OmniError

T = TypeVar("T")
HELD_OUT = 100
"""One document in so many is held out of a corpus that is one file."""
LINES = 1000
"""Lines of a .jsonl file that are read at once."""


class Group(NamedTuple):
    """The documents read at once: a row group of a parquet file, LINES lines of a .jsonl, else a whole file.

    count: of documents. size: bytes. part: its number in the file. start, line: byte and number of its first line.
    rows: which documents are of the split.
    """

    file: Path
    count: int
    size: int
    part: int = 0
    start: int = 0
    line: int = 1
    rows: Sequence[int] = ()


class TextFiles:
    """Documents out of parquet, JSON lines (.jsonl, .jsonl.gz) and plain text files (paragraphs, grouped).

    Validation is the last file where there are several, as in nanochat, else every hundredth document. What cannot
    be read is left out, and `skipped` says why by file or row group; its places in the stream stay empty. Beyond an
    index, nothing is held but the group that is being read.

    Args:
        path: a file, a folder, a pattern with `*`, or a list of files, whose order then counts.
        split: "train" or "val".
        text_field: the column or key that holds the text.
        seed: of the order, which changes by epoch: row groups are shuffled, and the documents in each.

    Raises:
        OmniError: no such file, or nothing in the split.
    """

    def __init__(self, *, path: str | list[str], split: str = "train", text_field: str = "text", seed: int = 0):
        if split not in ("train", "val"):
            raise OmniError(f"split: is {split!r}; a corpus of text has train and val")
        self.text_field, self.seed = text_field, seed
        self._damaged: dict[str, str] = {}
        self._bad_lines: dict[str, tuple[str, set[int]]] = {}
        files = find(path)
        several = len(files) > 1
        chosen = files if not several else files[-1:] if split == "val" else files[:-1]
        self.groups: list[Group] = []
        for file in chosen:
            first = 0
            for group in self._groups(file):
                rows = range(group.count) if several else _share(first, group.count, split)
                first += group.count
                if rows:
                    self.groups.append(group._replace(rows=rows))
        self.length = sum(len(group.rows) for group in self.groups)
        if not self.length:
            raise OmniError(self._why_empty(files, split))
        self.fingerprint = fingerprint(
            [seed, *((group.file.name, group.part, len(group.rows), group.size) for group in self.groups)]
        )
        self._epoch = (-1, [], [])
        self._loaded = ((-1, -1), [])

    def __len__(self) -> int:
        """Documents an epoch, those that cannot be read included."""
        return self.length

    def __iter__(self) -> Iterator[str]:
        """The documents of the first epoch that can be read and are not empty."""
        return filter(None, (self._document(0, offset) for offset in range(self.length)))

    @property
    def skipped(self) -> dict[str, str]:
        """What could not be read so far, and why."""
        return self._damaged | {
            file: f"{len(numbers):,} lines so far, the first met is {first}"
            for file, (first, numbers) in self._bad_lines.items()
        }

    def read(self, places: Iterable[int]) -> list[str | None]:
        """The documents at these places of the stream; None for one that cannot be read. Fast where they are near."""
        return [self._document(*divmod(place, self.length)) for place in places]

    def _document(self, epoch: int, offset: int) -> str | None:
        if self._epoch[0] != epoch:
            order = permutation(len(self.groups), f"{self.seed}/{epoch}")
            self._epoch = (epoch, order, [0, *accumulate(len(self.groups[index].rows) for index in order)])
        _, order, starts = self._epoch
        turn = bisect_right(starts, offset) - 1
        if self._loaded[0] != (epoch, turn):
            self._loaded = ((epoch, turn), self._texts(order[turn], epoch))
        return self._loaded[1][offset - starts[turn]]

    def _texts(self, index: int, epoch: int) -> list[str | None]:
        """One group in this epoch's order."""
        group = self.groups[index]
        texts = self._load(group)
        order = permutation(len(group.rows), f"{self.seed}/{epoch}/{index}")
        return [texts[group.rows[i]] if group.rows[i] < len(texts) else None for i in order]

    def _groups(self, file: Path) -> list[Group]:
        """What a file is read in; nothing when it is damaged."""
        if file.name.endswith(".parquet"):
            return self._try(str(file), lambda: _row_groups(file, self.text_field)) or []
        if file.name.endswith(".jsonl"):
            groups = self._try(str(file), lambda: _line_groups(file)) or []
            # A file without a good line among its first thousand has none, or not the key: no need to read it all.
            return groups if groups and any(self._load(groups[0])) else []
        whole = Group(file, count=0, size=file.stat().st_size)
        return [whole._replace(count=len(self._load(whole)))]

    def _load(self, group: Group) -> list[str | None]:
        file = group.file
        if file.name.endswith(".parquet"):
            name = f"{file} row group {group.part}"
            return self._try(name, lambda: _row_group(file, group.part, self.text_field)) or []
        if file.name.endswith(".txt"):
            return self._try(str(file), lambda: _paragraph_groups(file)) or []
        part = () if file.name.endswith(".gz") else (group.start, group.size, group.line)
        lines = self._try(str(file), lambda: read_lines(file, *part)) or []
        return [self._text(str(file), number, line) for number, line in lines]

    def _text(self, file: str, number: int, line: bytes) -> str | None:
        try:
            text = json.loads(line)[self.text_field]
            text.encode()  # JSON can spell half of a surrogate pair, which no tokenizer can turn into bytes
            return text
        except DAMAGE as error:
            self._bad_lines.setdefault(file, (f"{number}: {_reason(error)}", set()))[1].add(number)
            return None

    def _try(self, name: str, get: Callable[[], T]) -> T | None:
        try:
            return get()
        except DAMAGE as error:
            self._damaged[name] = _reason(error)
            return None

    def _why_empty(self, files: list[Path], split: str) -> str:
        what = ", ".join(map(str, files[:3])) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
        if self.skipped:
            reasons = "".join(f"\n  {name}: {reason}" for name, reason in list(self.skipped.items())[:5])
            return f"{what}: no document can be read. Fetch the files again, or set text_field.{reasons}"
        few = f", which takes a second file or {HELD_OUT} documents" if split == "val" else ""
        return f"{what}: holds no document for split {split!r}{few}. Check path."


def permutation(count: int, key: str) -> list[int]:
    """0 ... count - 1 in the order that `key` stands for, the same everywhere."""
    order = list(range(count))
    random.Random(key).shuffle(order)
    return order


def _share(first: int, count: int, split: str) -> list[int]:
    held_out = range((HELD_OUT - 1 - first) % HELD_OUT, count, HELD_OUT)
    return list(held_out) if split == "val" else [row for row in range(count) if row not in held_out]


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _row_groups(file: Path, field: str) -> list[Group]:
    with pq.ParquetFile(file) as parquet:
        if field not in parquet.schema_arrow.names:
            raise LookupError(f"no column {field!r}; there are: {', '.join(parquet.schema_arrow.names)}")
        parts = [parquet.metadata.row_group(part) for part in range(parquet.num_row_groups)]
    return [Group(file, part.num_rows, part.total_byte_size, number) for number, part in enumerate(parts)]


def _line_groups(file: Path) -> list[Group]:
    counts, starts, firsts, at = [], [], [], 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not counts or counts[-1] == LINES:
                counts.append(0)
                starts.append(at)
                firsts.append(number)
            counts[-1] += bool(line.strip())
            at += len(line)
    sizes = [end - start for start, end in pairwise([*starts, at])]
    return [Group(file, *group) for group in zip(counts, sizes, range(len(counts)), starts, firsts, strict=True)]


def _row_group(file: Path, part: int, field: str) -> list[str | None]:
    with pq.ParquetFile(file) as parquet:
        return parquet.read_row_group(part, columns=[field]).column(field).cast(pa.string()).to_pylist()


def _paragraph_groups(file: Path) -> list[str]:
    # A book is one file: as one document, all but its first page would be cropped away.
    paragraphs = (paragraph.strip() for paragraph in file.read_text(encoding="utf-8-sig").split("\n\n"))
    return list(group_paragraphs(filter(None, paragraphs)))
