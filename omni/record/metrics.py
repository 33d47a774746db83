"""metrics.csv, the truth about a run, and the small protocol that lets others mirror it."""

import csv
import io
import logging
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from omni.atomic import replace_bytes
from omni.errors import OmniError

log = logging.getLogger(__name__)

NAME = "metrics.csv"
LOWER, HIGHER = "lower", "higher"
DIRECTIONS = {
    "loss shuffled": HIGHER,  # of a text behind another clip's sound
    "loss silence": None,  # what a text costs a model that hears nothing says nothing of its hearing
    "loss none": None,
    **dict.fromkeys(("loss", "error", "wer", "cer", "perplexity", "ppl", "bpb", "bpc", "nll"), LOWER),
    "grad norm": None,
    "lr": None,
    "layer": None,
}
"""Which way a metric is better, None for neither: by the first of these that is among its name's words, else higher.
Whole words, so that "power" is no word error rate."""

Metrics = dict[str, list[tuple[int, float]]]


class Logger(Protocol):
    """What the training loop speaks to: numbers at a step, the configuration once, the end once."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of one optimizer step."""

    def config(self, values: Mapping[str, Any]) -> None:
        """Record the resolved configuration."""

    def finish(self, status: str) -> None:
        """Close; status is passed, failed or interrupted."""


class CsvLogger:
    """Writes metrics.csv: a row a call, flushed at once, floats that read back bit for bit.

    A metric that first appears in the middle becomes a new last column; earlier rows leave it empty.
    An existing file is continued. Raises OmniError when the file cannot be read or written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / NAME
        try:
            content = _whole_lines(self.path.read_bytes()) if self.path.exists() else b""
            self._columns = _header(self.path, content) if content else ["step"]
            # The half line of a killed run would otherwise grow into our first row.
            replace_bytes(self.path, content or _line(self._columns))
            self._file = self.path.open("ab")
        except OSError as error:
            raise self._failed(error) from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row. Raises ValueError for a name no column can have."""
        new = [name for name in values if name not in self._columns]
        if "step" in values or any(not name or "\n" in name or "\r" in name for name in new):
            raise ValueError(f"not a metric's name: one of {list(values)}")
        row = {name: repr(float(value)) for name, value in values.items()}
        try:
            if new:
                self._widen(new)
            self._file.write(_line([str(int(step)), *(row.get(name, "") for name in self._columns[1:])]))
            self._file.flush()
        except OSError as error:
            raise self._failed(error) from error

    def config(self, values: Mapping[str, Any]) -> None:
        """Nothing to do: config.yaml lies beside the file."""

    def finish(self, status: str) -> None:
        """Close the file."""
        self._file.close()

    def _widen(self, names: list[str]) -> None:
        self._file.close()
        _, _, rows = self.path.read_bytes().partition(b"\n")
        columns = self._columns + names
        replace_bytes(self.path, _line(columns) + rows.replace(b"\n", b"," * len(names) + b"\n"))
        self._columns = columns
        self._file = self.path.open("ab")

    def _failed(self, error: OSError) -> OmniError:
        return OmniError(f"{self.path} cannot be written: {error}. Make room, then resume the run.")


class Loggers:
    """Several loggers as one. metrics.csv must succeed; a mirror that raises is dropped with a warning."""

    def __init__(self, loggers: Iterable[Logger]) -> None:
        self._loggers = list(loggers)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record in each. Raises what metrics.csv raises."""
        self._each("log", step, values)

    def config(self, values: Mapping[str, Any]) -> None:
        """Record in each. Raises what metrics.csv raises."""
        self._each("config", values)

    def finish(self, status: str) -> None:
        """Close each, the last even when the first fails."""
        self._each("finish", status)

    def _each(self, method: str, *arguments: Any) -> None:
        failure = None
        for logger in list(self._loggers):
            try:
                getattr(logger, method)(*arguments)
            except Exception as error:
                if isinstance(logger, CsvLogger):
                    failure = error
                    continue
                self._loggers.remove(logger)
                log.warning("%s stopped (%s); metrics.csv goes on", type(logger).__name__, error)
        if failure is not None:
            raise failure


def cut_metrics(folder: str | Path, step: int) -> None:
    """Drop the rows beyond `step` and a half-written last line, before a run goes on from a checkpoint.

    Every row that stays keeps its exact bytes. No file is fine. Raises OmniError for a broken row.
    """
    path = Path(folder) / NAME
    if not path.exists():
        return
    header, *rows = _whole_lines(path.read_bytes()).splitlines(keepends=True) or [b""]
    kept = [row for number, row in enumerate(rows, 2) if _step(path, number, row.split(b",")[0]) <= step]
    replace_bytes(path, b"".join([header, *kept]))


def read_metrics(path: str | Path) -> Metrics:
    """metrics.csv as {name: [(step, value), ...]}, names in order of appearance, empty cells left out.

    A half-written last line is ignored: the run may be writing it. Raises OmniError for a missing or
    broken file, naming the line.
    """
    path = Path(path)
    try:
        content = _whole_lines(path.read_bytes())
    except OSError as error:
        raise OmniError(f"{path} cannot be read: {error}. Did the run log anything yet?") from error
    names = _header(path, content)[1:] if content else []
    metrics: Metrics = {name: [] for name in names}
    for number, line in enumerate(content.splitlines()[1:], 2):
        step, *cells = line.decode(errors="replace").split(",")
        at = _step(path, number, step)
        try:
            for name, cell in zip(names, cells, strict=True):
                if cell:
                    metrics[name].append((at, float(cell)))
        except ValueError as error:
            raise OmniError(f"{path}, line {number}: {error}. Remove the line to read the rest.") from error
    return metrics


def better(name: str) -> str | None:
    """Whether the LOWER or the HIGHER value of this metric is the better one; None where that cannot be said."""
    words = f" {' '.join(re.findall('[a-z]+', name.lower()))} "
    return next((which for part, which in DIRECTIONS.items() if f" {part} " in words), HIGHER)


def best_of(name: str, values: Iterable[float]) -> float | None:
    """The best of some values of this metric; None of none, or where none is better than another."""
    choose = {LOWER: min, HIGHER: max}.get(better(name))
    return choose(values, default=None) if choose else None


def summarise(metrics: Metrics) -> dict[str, dict[str, float | None]]:
    """{name: {first, last, best}}; best is the best finite value, see `best_of`.

    A NaN or infinite value becomes None, which JSON can hold. A metric without a value is left out.
    """
    summary = {}
    for name, points in metrics.items():
        values = [value if math.isfinite(value) else None for _, value in points]
        finite = [value for value in values if value is not None]
        if values:
            summary[name] = {"first": values[0], "last": values[-1], "best": best_of(name, finite)}
    return summary


def _whole_lines(content: bytes) -> bytes:
    """Without what follows the last newline: kill -9 falls in the middle of a line."""
    return content[: content.rfind(b"\n") + 1]


def _line(cells: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _header(path: Path, content: bytes) -> list[str]:
    columns = next(csv.reader([content.partition(b"\n")[0].decode(errors="replace")]), [])
    if not columns or columns[0] != "step":
        raise OmniError(f"{path}, line 1: expected a header that begins with step, not {columns}")
    return columns


def _step(path: Path, number: int, cell: str | bytes) -> int:
    try:
        return int(cell)
    except ValueError:
        raise OmniError(f"{path}, line {number}: {cell!r} is no step. Remove the line to go on.") from None
