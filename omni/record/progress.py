"""What a person sees while a run trains: a bar on a terminal, a handful of plain lines in a log."""

import math
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Self

from rich import box
from rich import progress as bars
from rich.console import Console
from rich.table import Table
from rich.text import Text

LINES = 15


class Progress:
    """Shows how far a run is, as a context manager: steps, loss, steps a second, time left.

    On a terminal it is a bar. Without one it is about `LINES` plain lines over the whole run, the first
    and the last step always among them, without control codes.
    """

    def __init__(self, total: int, start: int, title: str, console: Console | None = None, unit: str = "step") -> None:
        """`total` steps (or clips: the `unit`) in all, of which `start` are done already when a run is resumed."""
        self.unit = unit
        self.total, self.start, self.title = total, start, title
        self.console = console or Console()
        self._stride = max(1, math.ceil((total - start) / LINES))
        self._loss = ""
        self._shown = self._seen = start
        self._bar: bars.Progress | None = None

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._bar = bars.Progress(
                bars.TextColumn("{task.description}", markup=False, style="bold"),
                bars.BarColumn(bar_width=None),
                bars.MofNCompleteColumn(),
                bars.TextColumn("{task.fields[loss]}", markup=False, style="cyan"),
                bars.TextColumn("{task.fields[speed]}", markup=False, style="dim"),
                bars.TimeRemainingColumn(),
                console=self.console,
                expand=True,
            )
            self._bar.start()
            fields = {"completed": self.start, "loss": "", "speed": ""}
            self._task = self._bar.add_task(self.title, total=self.total, **fields)
        return self

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """`step` steps are done, the last with these values; a value whose name holds loss is shown."""
        loss = next((value for name, value in values.items() if "loss" in name), None)
        if loss is not None:
            self._loss = f"loss {float(loss):.4f}"
        first = self._seen == self.start
        self._seen = step
        if self._bar is not None:
            self._bar.update(self._task, completed=step, loss=self._loss, speed=self._speed())
        elif first or step == self.total or step - self._shown >= self._stride:
            self._print()

    def __exit__(self, *error: Any) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._seen != self._shown:
            # A run that ends early: the last step it reached is the one to know.
            self._print()

    def _rate(self) -> float:
        return (self._seen - self.start) / max(time.monotonic() - self._began, 1e-9)

    def _speed(self) -> str:
        rate = self._rate()
        return f"{rate:.1f} {self.unit}s/s" if rate >= 1 else f"{1 / rate:.1f} s/{self.unit}" if rate > 0 else ""

    def _print(self) -> None:
        self._shown = self._seen
        width = len(str(self.total))
        left = (self.total - self._seen) / rate if (rate := self._rate()) > 0 else 0
        parts = [self.title, f"{self.unit} {self._seen:>{width}}/{self.total}", self._loss, self._speed()]
        parts.append(f"{_clock(left)} left" if self._seen < self.total else f"{_clock(self._elapsed())} in all")
        # Never wrapped at the 80 columns that rich assumes of a file.
        line = "  ".join(part for part in parts if part)
        with suppress(OSError, SystemExit):  # a pipe that closes, which rich answers with SystemExit, stops no run
            self.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _elapsed(self) -> float:
        return time.monotonic() - self._began


def parameter_table(rows: Iterable[tuple[str, int, int]]) -> Table:
    """A table of (part, parameters, trainable) with a sum below; print it with a rich console."""
    rows = list(rows)
    table = Table(box=box.SIMPLE_HEAD, show_footer=True, pad_edge=False)
    sums = [sum(row[1] for row in rows), sum(row[2] for row in rows)]
    table.add_column("part", footer="all", overflow="fold")
    table.add_column("parameters", footer=f"{sums[0]:,}", justify="right", no_wrap=True)
    table.add_column("trainable", footer=_trainable(sums[1]), justify="right", no_wrap=True)
    for name, total, trainable in rows:
        # Plain text: a part may be called [lora].
        table.add_row(Text(name), f"{total:,}", _trainable(trainable), style=None if trainable else "dim")
    return table


def _trainable(count: int) -> str:
    return f"{count:,}" if count else "frozen"


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
