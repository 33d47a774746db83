"""Text to train on: files of documents, read as one endless stream that can be entered anywhere.

The stream is a run of epochs, each a new order of the same documents, and a document's place in it is one number.
So how far a run has come is a number too, whatever the number of processes.
"""

import gzip
import hashlib
import json
import random
import re
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from omni.errors import OmniError

T = TypeVar("T")
SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".txt")
DOCUMENT = 2000
"""Characters of a document made of paragraphs: about 500 tokens, so that few are longer than a row."""
HELD_OUT = 100
"""One document in so many is held out of a corpus that is one file."""

DAMAGE = (OSError, EOFError, zlib.error, pa.ArrowException, LookupError, ValueError, TypeError, AttributeError)


class Group(NamedTuple):
    """The documents read at once: a row group of a parquet file, else a whole file; and which of them count."""

    file: Path
    part: int
    rows: Sequence[int]


class TextFiles:
    """Documents out of parquet, JSON lines (.jsonl, .jsonl.gz) and plain text files (paragraphs, grouped).

    Validation is the last file where there are several, as in nanochat, else every hundredth document. What cannot
    be read is left out, and `skipped` says why by file, row group or line; its places in the stream stay empty.

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
        self.skipped: dict[str, str] = {}
        files = find(path)
        several = len(files) > 1
        chosen = files if not several else files[-1:] if split == "val" else files[:-1]
        self.groups: list[Group] = []
        for file in chosen:
            first = 0
            for part, count in enumerate(self._counts(file)):
                rows = range(count) if several else _share(first, count, split)
                first += count
                if rows:
                    self.groups.append(Group(file, part, rows))
        self.length = sum(len(group.rows) for group in self.groups)
        if not self.length:
            raise OmniError(self._why_empty(files, split))
        sizes = [(group.file.name, group.part, len(group.rows)) for group in self.groups]
        self.fingerprint = hashlib.sha256(repr((sizes, seed)).encode()).hexdigest()[:16]
        self._epoch = (-1, [], [])
        self._loaded = ((-1, -1), [])

    def __len__(self) -> int:
        """Documents an epoch, those that cannot be read included."""
        return self.length

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

    def _counts(self, file: Path) -> list[int]:
        """How many documents each part of a file holds; none when the file is damaged."""
        if file.name.endswith(".parquet"):
            return self._try(str(file), lambda: _row_counts(file, self.text_field)) or []
        return [len(self._load(Group(file, 0, ())))]

    def _load(self, group: Group) -> list[str | None]:
        file = group.file
        if file.name.endswith(".parquet"):
            name = f"{file} row group {group.part}"
            return self._try(name, lambda: _row_group(file, group.part, self.text_field)) or []
        if file.name.endswith(".txt"):
            return self._try(str(file), lambda: _paragraph_groups(file)) or []
        lines = self._try(str(file), lambda: read_lines(file)) or []
        return [self._try(f"{file}:{number}", lambda line=line: self._text(line)) for number, line in lines]

    def _text(self, line: bytes) -> str:
        text = json.loads(line)[self.text_field]
        text.encode()  # JSON can spell half of a surrogate pair, which no tokenizer can turn into bytes
        return text

    def _try(self, name: str, get: Callable[[], T]) -> T | None:
        try:
            return get()
        except DAMAGE as e:
            self.skipped[name] = " ".join(f"{type(e).__name__}: {e}".split())[:200]
            return None

    def _why_empty(self, files: list[Path], split: str) -> str:
        what = ", ".join(map(str, files[:3])) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
        if self.skipped:
            reasons = "".join(f"\n  {name}: {reason}" for name, reason in list(self.skipped.items())[:5])
            return f"{what}: no document can be read. Fetch the files again, or set text_field.{reasons}"
        few = f", which takes a second file or {HELD_OUT} documents" if split == "val" else ""
        return f"{what}: holds no document for split {split!r}{few}. Check path."


def find(path: str | list[str]) -> list[Path]:
    """The files meant, sorted unless listed. Raises OmniError when there is none."""
    if not isinstance(path, str | Path):
        files = [Path(file) for file in path]
    elif "*" in str(path):
        root = Path(path).anchor or "."
        files = sorted(Path(root).glob(str(Path(path).relative_to(root) if Path(path).anchor else path)))
    elif Path(path).is_dir():
        files = sorted(file for file in Path(path).iterdir() if file.name.endswith(SUFFIXES) and file.name[0] != ".")
    else:
        files = [Path(path)]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise OmniError(f"{', '.join(missing[:5])}: no such text file. Check path, or prepare the data set first.")
    strange = [str(file) for file in files if not file.name.endswith(SUFFIXES)]
    if strange:
        raise OmniError(f"{', '.join(strange[:5])}: is none of {', '.join(SUFFIXES)}")
    if not files:
        raise OmniError(f"{path}: holds no {', '.join(SUFFIXES)} file. Check path, or prepare the data set first.")
    return files


def group_paragraphs(pieces: Iterable[str], *, separator: str = "\n\n", limit: int = DOCUMENT) -> Iterator[str]:
    """Documents of successive pieces, each closed before it would pass `limit` characters.

    A piece that is longer is cut, between lines or sentences where it can be.
    """
    document = ""
    for piece in pieces:
        if len(document) + len(piece) > limit:
            if document:
                yield document
            *whole, document = group_lines(piece, limit) if len(piece) > limit else [piece]
            yield from whole
        else:
            document += separator * bool(document) + piece
    if document:
        yield document


def group_lines(piece: str, limit: int) -> list[str]:
    sentences = re.findall(r".*?(?:\n|[.!?][\"')]*\s|$)", piece, flags=re.DOTALL)
    documents = [""]
    for sentence in sentences:
        if documents[-1] and len(documents[-1]) + len(sentence) > limit:
            documents.append("")
        documents[-1] += sentence
    return [document.strip() for document in documents]


def read_lines(file: Path) -> list[tuple[int, bytes]]:
    """The lines of a file, plain or .gz, that are not blank, and their numbers."""
    with gzip.open(file) if file.name.endswith(".gz") else file.open("rb") as lines:
        return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def permutation(count: int, key: str) -> list[int]:
    """0 ... count - 1 in the order that `key` stands for, the same everywhere."""
    order = list(range(count))
    random.Random(key).shuffle(order)
    return order


def _share(first: int, count: int, split: str) -> list[int]:
    held_out = range((HELD_OUT - 1 - first) % HELD_OUT, count, HELD_OUT)
    return list(held_out) if split == "val" else [row for row in range(count) if row not in held_out]


def _row_counts(file: Path, field: str) -> list[int]:
    with pq.ParquetFile(file) as parquet:
        if field not in parquet.schema_arrow.names:
            raise LookupError(f"no column {field!r}; there are: {', '.join(parquet.schema_arrow.names)}")
        return [parquet.metadata.row_group(part).num_rows for part in range(parquet.num_row_groups)]


def _row_group(file: Path, part: int, field: str) -> list[str | None]:
    with pq.ParquetFile(file) as parquet:
        return parquet.read_row_group(part, columns=[field]).column(field).cast(pa.string()).to_pylist()


def _paragraph_groups(file: Path) -> list[str]:
    # A book is one file: as one document, all but its first page would be cropped away.
    paragraphs = (paragraph.strip() for paragraph in file.read_text(encoding="utf-8").split("\n\n"))
    return list(group_paragraphs(filter(None, paragraphs)))
