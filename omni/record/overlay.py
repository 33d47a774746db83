"""compare.png: the curves of many runs laid over each other, smoothed over faint raw, with a band over seeds."""

from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from omni.errors import OmniError
from omni.record.columns import header
from omni.record.metrics import NAME, better, read_metrics
from omni.record.outcome import Outcome
from omni.record.style import (
    BLUE,
    FAINT,
    FEW_POINTS,
    GREEN,
    INK,
    ORANGE,
    PURPLE,
    RED,
    TEAL,
    Points,
    canvas,
    drawable,
    save,
    scale,
    smooth,
    tidy,
    xy,
)
from omni.record.table import COMMIT, Row, Table, plus_minus

INCHES = (10.4, 4.9)
LEFT, RIGHT, TOP, BOTTOM = 0.065, 0.78, 0.86, 0.105
NBSP = "\xa0"
COLORS = (BLUE, ORANGE, GREEN, PURPLE, RED, TEAL, "#b5548e", "#8c6d46", "#5b6b7d", "#a3a332")
GREY = "#c4c9cf"
# Beyond the coloured rows: so many of the rest stand for all of them, drawn at so many steps.
GREY_ROWS, GREY_POINTS = 30, 150
LINE_POINTS = 600
THIN, WIDE = 1.6, 4.0
LABEL_CHARS, LABEL_LINES = 36, 3


@dataclass(frozen=True)
class Curve:
    """One row's lines: each run's raw points, the mean over its runs and the deviation at each step."""

    raw: list[Points]
    steps: list[int]
    mean: list[float]
    deviation: list[float]


def draw_overlay(table: Table, png: Path) -> None:
    """Draw the metric over steps, a colour for each of the best rows and grey for those that follow.

    Runs without a readable metrics.csv are left out. Raises OSError when the picture cannot be written; an earlier
    one then stays.
    """
    figure = canvas(INCHES, table.metric[:60], _about(table), left=LEFT)
    axes = figure.subplots(1, 1, gridspec_kw={"left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM})
    drawn = [(row, curve) for row in table.rows[: len(COLORS)] if (curve := read_curve(row, table.metric))]
    rest = _draw_rest(axes, table)
    # The best is the lowest and the widest, so that none hides another that it lies on.
    widths = [THIN + (WIDE - THIN) * place / max(1, len(drawn) - 1) for place in reversed(range(len(drawn)))]
    lines = [(row, color, width) for (row, _), color, width in zip(drawn, COLORS, widths, strict=False)]
    for (_, color, width), (_, curve) in zip(lines, drawn, strict=True):
        _draw_row(axes, curve, color, width)
    scale(axes, means := [value for _, curve in drawn for value in curve.mean])
    tidy(axes)
    _limit(axes, means, rest)
    axes.set_xlabel("step", color=FAINT, fontsize=9.5)
    if not drawn and not rest:
        axes.text(0.5, 0.5, "nothing was logged", transform=axes.transAxes, ha="center", color=FAINT)
    _draw_legend(axes, table, lines, len(rest))
    save(figure, png)


def read_curve(row: Row, metric: str) -> Curve | None:
    """A row's curve from metrics.csv, over the runs that finished (all, when none did); None without a point.

    The mean ends where the shortest of them ends: beyond it, it would jump.
    """
    counted = [run for run in row.runs if run.finished] or row.runs
    raw = [points for run in counted if (points := _read_points(run, metric))]
    if not raw:
        return None
    lines = []
    for points in raw:
        steps, values = xy(points)
        lines.append(dict(zip(steps, smooth(values) if len(values) >= FEW_POINTS else values, strict=True)))
    # Runs that were logged at different steps have no common mean; the first then speaks for the row.
    steps = sorted(set.intersection(*map(set, lines))) or sorted(lines[0])
    lines = [line for line in lines if line.keys() >= set(steps)]
    steps = _thin(steps, LINE_POINTS)
    mean, deviation = [], []
    for step in steps:
        values = [line[step] for line in lines]
        middle = sum(values) / len(values)
        mean.append(middle)
        deviation.append((sum((value - middle) ** 2 for value in values) / max(1, len(values) - 1)) ** 0.5)
    return Curve([_thin(points, LINE_POINTS) for points in raw], steps, mean, deviation)


def _read_points(run: Outcome, metric: str) -> Points:
    try:
        points = read_metrics(run.folder / NAME).get(metric, [])
    except OmniError:
        return []  # The table says so already.
    return [(step, value) for step, value in points if drawable(value)]


def _thin(items: list, limit: int) -> list:
    """Every so manieth item, the last among them."""
    stride = -(-len(items) // limit) or 1
    return items[::-stride][::-1]


def _draw_row(axes: Any, curve: Curve, color: str, width: float) -> None:
    if len(curve.steps) >= FEW_POINTS or len(curve.raw) > 1:
        for points in curve.raw:
            axes.plot(*xy(points), color=color, lw=0.7, alpha=0.16, zorder=2)
    if len(curve.raw) > 1:
        edges = [[mean + sign * dev for mean, dev in zip(curve.mean, curve.deviation, strict=True)] for sign in (-1, 1)]
        axes.fill_between(curve.steps, *edges, color=color, alpha=0.18, lw=0, zorder=2)
    axes.plot(curve.steps, curve.mean, color=color, lw=width, solid_capstyle="round", zorder=3)
    end = {"marker": "o", "color": color, "ms": width + 3, "mec": "white", "mew": 1.1, "clip_on": False}
    axes.plot(curve.steps[-1:], curve.mean[-1:], zorder=5, **end)


def _draw_rest(axes: Any, table: Table) -> list[Points]:
    """Draw and return the rows without a colour, a first run each, every so manieth of them."""
    from matplotlib.collections import LineCollection

    rows = _thin(table.rows[len(COLORS) :], GREY_ROWS)
    lines = [points for row in rows if len(points := _thin(_read_points(row.runs[0], table.metric), GREY_POINTS)) > 1]
    smoothed = [list(zip(xy(points)[0], smooth(xy(points)[1]), strict=True)) for points in lines]
    if smoothed:
        axes.add_collection(LineCollection(smoothed, colors=GREY, linewidths=0.8, alpha=0.55, zorder=1))
    return smoothed


def _limit(axes: Any, means: list[float], rest: list[Points]) -> None:
    """Show the coloured lines whole and of the grey ones as much again: a spike must not flatten all the others."""
    if not means:
        return
    flat, curved = axes.yaxis.get_transform(), axes.yaxis.get_transform().inverted()
    low, high = flat.transform([min(means), max(means)])
    span = high - low or abs(high) or 1.0
    grey = [value for points in rest for _, value in points]
    if grey and (axes.get_yscale() == "linear" or min(grey) > 0):
        least, most = flat.transform([min(grey), max(grey)])
        low, high = max(min(low, least), low - span), min(max(high, most), high + span)
    axes.set_ylim(*curved.transform([low - 0.08 * span, high + 0.08 * span]))


def _about(table: Table) -> str:
    runs, rows = len(table.runs), len(table.rows)
    about = f"{runs} run{'s' * (runs != 1)}"
    if which := better(table.metric):
        about = f"{which} is better · {about}"
    if rows != runs:
        about += f" in {rows} row{'s' * (rows != 1)}, band: ±1 deviation over seeds"
    return about


def _draw_legend(axes: Any, table: Table, lines: list[tuple[Row, str, float]], grey: int) -> None:
    from matplotlib.lines import Line2D

    rows = [row for row, _, _ in lines]
    handles = [Line2D([], [], color=color, lw=width) for _, color, width in lines]
    labels = [
        f"{told}\n{plus_minus(row)}{_remark(row, table)}" for row, told in zip(rows, _tell(table, rows), strict=True)
    ]
    if others := len(table.rows) - len(rows):
        handles.append(Line2D([], [], color=GREY, lw=1.5 if grey else 0))
        drawn = "" if grey == others else f", {grey} of them drawn" if grey else " without a curve"
        labels.append(f"{others:,} more{drawn}")
    if not handles:
        return
    place = {"loc": "upper left", "bbox_to_anchor": (1.035, 1.02), "borderaxespad": 0, "borderpad": 0}
    look = {"frameon": False, "fontsize": 8.5, "labelcolor": INK, "handlelength": 1.4, "labelspacing": 0.62}
    legend = axes.legend(handles, labels, **place, **look)
    for number, text in enumerate(legend.get_texts()):
        text.set_parse_math(False)
        text.set_linespacing(1.25)
        if number < len(rows) and rows[number] is table.best:
            text.set_fontweight("bold")


def _tell(table: Table, rows: list[Row]) -> list[str]:
    """What tells the rows apart, in at most `LABEL_LINES` lines; the runs' names where that says too little."""
    names = _short_keys([key for key in table.keys if len({row.values[key] for row in rows}) > 1])
    labels = []
    for row in rows:
        # A dash is for a key that the row does not have.
        pairs = [f"{name} {row.values[key]}" for key, name in names.items() if row.values[key] != "–"]
        # A name and its value stay in one line.
        whole = "  ".join(pair.replace(" ", NBSP) for pair in pairs)
        labels.append(fill(whole, LABEL_CHARS, max_lines=LABEL_LINES, placeholder="…").replace(NBSP, " "))
    if len(set(labels)) == len(labels) and all(labels):
        return labels
    # Too much differs to say it here: the names lead to the table. Their ends tell them apart.
    names = [table.row_name(row) for row in rows]
    return [name if len(name) <= LABEL_CHARS else f"…{name[1 - LABEL_CHARS :]}" for name in names]


def _remark(row: Row, table: Table) -> str:
    return "  best" if row is table.best else "" if row.status == "passed" else f"  {row.status}"


def _short_keys(keys: list[str]) -> dict[str, str]:
    """{key: its last word, or all of it where two keys end alike}."""
    last = [header(key).rpartition(".")[2] for key in keys]
    names = {key: word if last.count(word) == 1 else header(key) for key, word in zip(keys, last, strict=True)}
    return names | ({COMMIT: COMMIT} if COMMIT in names else {})
