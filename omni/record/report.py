"""A comparison as files: compare.csv, compare.md, compare.png and compare.html, kept whole while many refresh them."""

import csv
import fcntl
import io
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from omni.atomic import replace_bytes
from omni.errors import OmniError
from omni.record.columns import header
from omni.record.outcome import Outcome
from omni.record.overlay import draw_overlay
from omni.record.page import render_page
from omni.record.table import Table, duration, figure, plus_minus, read_table

log = logging.getLogger(__name__)

LOCK = ".compare.lock"
# A pull request's text ends at 65,536 characters.
MARKDOWN_ROWS, MARKDOWN_NOTES = 100, 20
NUMERIC = ("best", "n", "seconds")


def write_report(
    folder: str | Path,
    paths: Iterable[str | Path] | None = None,
    *,
    metric: str | None = None,
    html: bool = True,
    show: Callable[[Table], None] | None = None,
) -> tuple[Table, list[Path]]:
    """Compare the runs below the paths (below `folder` without any) and write the report into `folder`.

    Returns the table and the files. Several processes may do so at once: each reads the runs while it holds the
    folder's lock, so whoever writes last has seen every run that was finished before. `show` is called with the
    table before anything is written. Without `html` a compare.html that is there already is brought up to date.

    Raises OmniError for what `read_table` refuses, and when the folder cannot be written.
    """
    folder = Path(folder)
    if paths is not None:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        table = read_table([folder] if paths is None else paths, metric)
        if show is not None:
            show(table)
        names = ["compare.csv", "compare.md", "compare.png"]
        if html or (folder / "compare.html").exists():
            names.append("compare.html")
        files = [folder / name for name in names]
        try:
            _write(files[0], render_csv(table))
            _write(files[1], render_markdown(table))
            draw_overlay(table, files[2])
            if len(files) > 3:
                _write(files[3], render_page(table, files[2].read_bytes()))
        except OSError as error:
            raise OmniError(f"{folder} cannot be written: {error}. Choose another folder with --out.") from error
    return table, files


def render_csv(table: Table) -> str:
    """A line for every single run, unrounded: each key that differs, then each metric's first, last and best."""
    metrics = list(dict.fromkeys([table.metric, *(name for run in table.runs for name in run.summary)]))
    ends = [(name, which) for name in metrics for which in ("first", "last", "best")]
    keys = ["seed", *table.differing]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    head = ["run", "stage", "status", "gate", "seconds", "commit", *keys, *(f"{name}_{which}" for name, which in ends)]
    lines.writerow([*head, "error"])
    for run in table.runs:
        about = [table.name(run.folder), run.stage, run.status, _verdict(run), run.seconds, run.commit]
        config = [run.config.get(key) for key in keys]
        lines.writerow([*about, *config, *(run.value(name, which) for name, which in ends), run.error])
    return text.getvalue()


def _verdict(run: Outcome) -> str:
    return {True: "pass", False: "fail", None: ""}[run.gate_passed]


def render_markdown(table: Table) -> str:
    """The table to paste into a pull request, the best row in bold, what a reader must know below it."""
    names = ["run", *map(header, table.keys), table.metric, "best", "n", "seconds", "gate", "status"]
    rule = ["---:" if name in NUMERIC or place == len(table.keys) + 1 else "---" for place, name in enumerate(names)]
    lines = [[_escape(name) for name in names], rule]
    for row in table.rows[:MARKDOWN_ROWS]:
        cells = [table.row_name(row), *(row.values[key] for key in table.keys), plus_minus(row), figure(row.best)]
        cells = [_escape(cell) for cell in (*cells, row.count, duration(row.seconds), row.gate, row.status)]
        lines.append([f"**{cell}**" for cell in cells] if row is table.best else cells)
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    notes = [_escape(note) for note in table.notes]
    if len(table.rows) > MARKDOWN_ROWS:
        notes.insert(0, f"{len(table.rows) - MARKDOWN_ROWS:,} more rows are in compare.csv.")
    notes += _some([f"{_escape(name)}: {_escape(what)}" for name, what in table.troubles])
    notes += _some([f"skipped {_escape(table.name(skip.folder))}: {_escape(skip.reason)}" for skip in table.skipped])
    return text + ("\n" + "".join(f"- {note}\n" for note in notes) if notes else "")


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - MARKDOWN_NOTES
    return lines if more <= 0 else [*lines[:MARKDOWN_NOTES], f"… and {more:,} more"]


def _escape(text: str) -> str:
    """Text that markdown shows as it is: no cell ends early, nothing turns bold, mentions a person or an issue."""
    for char, entity in (("&", "&amp;"), ("#", "&#35;"), ("<", "&lt;"), ("@", "&#64;")):
        text = text.replace(char, entity)
    # Inside a word an underscore is only an underscore, and reads better without a backslash.
    return re.sub(r"([\\`*|~$\[\]]|(?<!\w)_|_(?!\w))", r"\\\1", text)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's report lock, waiting for whoever has it; without one where none can be had."""
    try:
        lock = _acquire(folder / LOCK)
    except OSError as error:
        # A folder we may not write says so when the first file is written.
        log.debug("%s: no lock: %s", folder, error)
        yield
        return
    try:
        yield
    finally:
        # Still ours: whoever waits for this file finds it gone and makes a new one.
        (folder / LOCK).unlink(missing_ok=True)
        os.close(lock)


def _acquire(path: Path) -> int:
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _write(path: Path, text: str) -> None:
    # A lone surrogate, from a file name or JSON, would stop the whole report.
    replace_bytes(path, text.encode("utf-8", "replace"))
