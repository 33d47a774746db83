"""python -m omni.compare: run folders -> a table, curves laid over each other, a page. Reads files only.

python -m omni.compare outputs/sweeps/w1_smoke/TIME    a sweep; its report is written into its folder
python -m omni.compare outputs --metric val_loss       all runs, by another metric
python -m omni.compare RUN RUN --html --out report     two runs, with a page, into a folder of your own
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from omni.errors import OmniError
from omni.record.columns import header
from omni.record.report import write_report
from omni.record.table import Row, Table, duration, figure, plus_minus

# A terminal is scrolled, not searched: the rest is in the files.
ROWS, NOTES = 40, 10
# The columns a narrow terminal can do without, the first to go first.
EXTRAS = ["best", "seconds", "gate", "n"]
COLORS = {
    "passed": "green",
    "pass": "green",
    "failed": "red",
    "fail": "red",
    "running": "cyan",
    "interrupted": "yellow",
}

Column = tuple[str, str, Callable[[Row], str]]


def main(arguments: list[str] | None = None) -> None:
    """The command: prints the table, writes the report, says where it is; an error is one line and exit 1."""
    asked = parse(arguments)
    sweep = (asked.paths[0] / "multirun.yaml").exists()
    out = asked.out or default_folder(asked.paths)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that knows no ± gets a question mark, not a traceback.
        stream.reconfigure(errors="replace")
    console = Console(highlight=False)
    try:
        _, files = write_report(
            out,
            asked.paths,
            metric=asked.metric,
            html=asked.html or (sweep and out == asked.paths[0]),
            show=lambda table: show(table, console),
        )
    except OmniError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"{', '.join(file.name for file in files)} in {out}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m omni.compare",
        description="Compare runs: a row a configuration, seeds folded, the best first. Reads run folders only.",
        epilog="One PATH that is not itself a run gets the report into it; otherwise it goes where you are.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a run, a sweep, outputs, or any folder")
    parser.add_argument("--metric", help="what to compare by its last value (default: the loss)")
    parser.add_argument("--html", action="store_true", help="also write compare.html; a sweep always gets one")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write the report")
    return parser.parse_args(arguments)


def default_folder(paths: list[Path]) -> Path:
    """The one folder that holds all the runs, else the current one: a run keeps only what is its own."""
    if len(paths) == 1 and paths[0].is_dir() and not (paths[0] / "run.json").exists():
        return paths[0]
    return Path()


def show(table: Table, console: Console) -> None:
    """Print the table, its notes, what went wrong and what was skipped."""
    grid, hidden = fit(table, console)
    console.print(grid)
    notes = []
    if len(table.rows) > ROWS:
        notes.append(f"{len(table.rows) - ROWS:,} more rows are in compare.csv.")
    if hidden:
        notes.append(f"Too narrow for {', '.join(hidden)}; compare.md has all columns.")
    notes += table.notes
    notes += _some([f"{name}: {what}" for name, what in table.troubles])
    notes += _some([f"skipped {table.name(skip.folder)}: {skip.reason}" for skip in table.skipped])
    for note in notes:
        console.print(Text(note, style="dim"), soft_wrap=not console.is_terminal)


def _some(lines: list[str]) -> list[str]:
    more = len(lines) - NOTES
    return lines if more <= 0 else [*lines[:NOTES], f"… and {more:,} more"]


def fit(table: Table, console: Console) -> tuple[Grid, list[str]]:
    """The widest grid that fits the terminal, and the titles of the columns it had to leave out.

    A pipe has no width: it gets everything, a row a line.
    """
    columns = list_columns(table)
    keys = [header(key) for key in reversed(table.keys)]
    less = [EXTRAS[:count] for count in range(len(EXTRAS) + 1)]
    # The keys say what a run is; only where they do not all fit does its name have to.
    less += [[*EXTRAS, "run"]] + [[*EXTRAS, *keys[:count]] for count in range(1, len(keys) + 1)]
    unbounded = console.options.update(max_width=100_000)
    for hidden in less:
        grid = _grid(table, [column for column in columns if column[0] not in hidden])
        width = console.measure(grid, options=unbounded).maximum
        if not console.is_terminal:
            console.width = max(console.width, width)
        if width <= console.width:
            break
    return grid, hidden


def list_columns(table: Table) -> list[Column]:
    """(title, alignment, cell of a row), in order."""
    keys = [(header(key), "left", lambda row, key=key: row.values[key]) for key in table.keys]
    return [
        ("run", "left", table.row_name),
        *keys,
        (table.metric, "right", plus_minus),
        ("best", "right", lambda row: figure(row.best)),
        ("n", "right", lambda row: row.count),
        ("seconds", "right", lambda row: duration(row.seconds)),
        ("gate", "left", lambda row: row.gate),
        ("status", "left", lambda row: row.status),
    ]


def _grid(table: Table, columns: list[Column]) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1))
    grid.add_column("")
    for title, side, _ in columns:
        grid.add_column(Text(title), justify=side, overflow="fold")
    for row in table.rows[:ROWS]:
        best = row is table.best
        cells = [Text(cell := read(row), style=COLORS.get(cell, "")) for _, _, read in columns]
        grid.add_row("★" if best else "", *cells, style="bold green" if best else "")
    return grid


if __name__ == "__main__":
    main()
