"""Which files of text are meant, and their lines."""

import gzip
import zlib
from collections import Counter
from pathlib import Path

import pyarrow as pa

from omni.errors import OmniError

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".txt")

DAMAGE = (
    *(OSError, EOFError, zlib.error, pa.ArrowException),
    *(LookupError, ValueError, TypeError, AttributeError, RecursionError),
)
"""What reading a damaged file or line may raise."""


def find(path: str | list[str], suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """The files meant, sorted unless listed. Raises OmniError when there is none, or one twice."""
    if not isinstance(path, str | Path):
        files = [Path(file).expanduser() for file in path]
    elif "*" in str(path := Path(path).expanduser()):
        root = path.anchor or "."
        files = sorted(Path(root).glob(str(path.relative_to(root) if path.anchor else path)))
    elif path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith(suffixes) and file.name[0] != ".")
    else:
        files = [path]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise OmniError(f"{', '.join(missing[:5])}: no such text file. Check path, or prepare the data set first.")
    strange = [str(file) for file in files if not file.name.endswith(suffixes)]
    if strange:
        raise OmniError(f"{', '.join(strange[:5])}: is none of {', '.join(suffixes)}")
    if not files:
        raise OmniError(f"{path}: holds no {', '.join(suffixes)} file. Check path, or prepare the data set first.")
    times = Counter(file.resolve() for file in files)
    twice = [str(file) for file in files if times[file.resolve()] > 1]
    if twice:
        raise OmniError(f"{', '.join(twice[:5])}: is one file, which would be trained on and held out. Name it once.")
    return files


def read_lines(file: Path, start: int = 0, size: int = -1, first: int = 1) -> list[tuple[int, bytes]]:
    """The lines of a file, plain or .gz, that are not blank, and their numbers; or those of `size` bytes from `start`
    on, where line `first` begins."""
    with gzip.open(file) if file.name.endswith(".gz") else file.open("rb") as content:
        content.seek(start)
        lines = content.read(size).split(b"\n")
    return [(number, line) for number, line in enumerate(lines, start=first) if line.strip()]
