"""curve.png: how the loss fell, with its first and last value, the learning rate and the gate's verdict."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from omni.record.gate import Verdict, in_words
from omni.record.metrics import Metrics, read_metrics
from omni.record.style import (
    BLUE,
    DASHES,
    FAINT,
    FEW_POINTS,
    GREEN,
    INK,
    ORANGE,
    PINK,
    PURPLE,
    RED,
    TEAL,
    Points,
    canvas,
    drawable,
    label_ends,
    save,
    scale,
    short,
    smooth,
    tidy,
    xy,
)

INCHES = (8.0, 4.7)
LEFT, RIGHT = 0.1, 0.915
OTHERS = (ORANGE, PURPLE, TEAL, FAINT, PINK)
RATE_NAMES = ("lr", "learning_rate")


def draw_curve(metrics_csv: Path, png: Path, *, title: str, gate: Sequence[Verdict]) -> None:
    """Draw the loss over steps, raw and smoothed, above a thin panel with the learning rate.

    Without a loss the first metric is drawn; steps where it is NaN or infinite are marked in red. `gate`
    holds its verdicts. Raises OmniError when metrics_csv cannot be read, OSError when
    the picture cannot be written; an earlier picture then stays.
    """
    metrics = {name: points for name, points in read_metrics(metrics_csv).items() if points}
    rate = next((metrics.pop(name) for name in list(metrics) if name.split("/")[-1] in RATE_NAMES), None)
    figure = canvas(INCHES, title if len(title) <= 60 else f"{title[:59]}…", left=LEFT)
    top = 0.85 if gate else 0.89
    shape = {"left": LEFT, "right": RIGHT, "top": top, "bottom": 0.105, "hspace": 0.12}
    if rate and metrics:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[6, 1], gridspec_kw=shape)
        _draw_rate(lower, rate)
    else:
        upper = lower = figure.subplots(1, 1, gridspec_kw=shape)
    _draw_metrics(upper, metrics, gate)
    for axes in {upper, lower}:
        tidy(axes)
    lower.set_xlabel("step", color=FAINT, fontsize=9.5)
    figure.align_ylabels()
    _draw_verdict(figure, gate)
    save(figure, png)


def _draw_metrics(axes: Any, metrics: Metrics, gate: Sequence[Verdict]) -> None:
    name = _main(metrics)
    if name is None:
        axes.text(0.5, 0.5, "nothing was logged", transform=axes.transAxes, ha="center", color=FAINT)
        return
    points = metrics[name]
    finite = [(step, value) for step, value in points if drawable(value)]
    _draw_line(axes, finite)
    lines = {name: (finite, BLUE)}
    for other, color in zip(_others(metrics), cycle(OTHERS), strict=False):
        lines[other] = ([(step, value) for step, value in metrics[other] if drawable(value)], color)
        _draw_line(axes, *lines[other], width=1.6)
    shown = [point for line, _ in lines.values() for point in line]
    _mark_broken(axes, [step for step, value in points if not drawable(value)])
    for threshold in (each.get("threshold") for each in gate if each.get("metric") == name):
        axes.axhline(threshold, color=GREEN, lw=1, ls=(0, (4, 3)), label=f"gate {short(threshold)}")
        shown = [*shown, (0, threshold)]
    scale(axes, [value for _, value in shown])
    _label_ends(axes, finite, last=len(lines) == 1)
    axes.set_ylabel(name, color=FAINT, fontsize=9.5, parse_math=False)
    if len(lines) > 1:
        ends = [(line[-1][1], f"{told} {short(line[-1][1])}", color) for told, (line, color) in lines.items() if line]
        label_ends(axes, ends)
    if axes.get_legend_handles_labels()[0]:
        # Above the axes, where no line can be.
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "borderpad": 0}
        axes.legend(ncols=2, fontsize=9, labelcolor=INK, frameon=False, **place)


def _main(metrics: Metrics) -> str | None:
    """The training loss by whatever name; without any loss the first metric."""
    losses = [name for name in metrics if "loss" in name.lower()]
    train = [name for name in losses if not any(word in name.lower() for word in ("val", "eval", "test"))]
    return next(iter([name for name in train if name == "loss"] + train + losses + list(metrics)), None)


def _others(metrics: Metrics) -> list[str]:
    """What is drawn beside the main metric: other losses."""
    return [name for name in metrics if name != _main(metrics) and "loss" in name.lower()]


def _draw_line(axes: Any, points: Points, color: str = BLUE, *, width: float = 2.2) -> None:
    steps, values = xy(points)
    if len(points) < FEW_POINTS:
        axes.plot(steps, values, color=color, ls=DASHES.get(color, "-"), lw=width - 0.2, marker="o", ms=4, zorder=3)
        return
    axes.plot(steps, values, color=color, lw=0.9, alpha=0.28, zorder=2)
    axes.plot(steps, smooth(values), color=color, ls=DASHES.get(color, "-"), lw=width, solid_capstyle="round", zorder=3)


def _label_ends(axes: Any, points: Points, *, last: bool) -> None:
    """Mark both ends and write the first value beside it, and the last one if it is not named elsewhere."""
    if not points:
        return
    (first_step, first), (last_step, end) = points[0], points[-1]
    if first_step == last_step:
        axes.set_xlim(first_step - 1, first_step + 1)
    # Away from the line: above where it falls, below where it rises.
    above = first >= end
    ends = [(first_step, first, (8, 4 if above else -4), "bottom" if above else "top")]
    ends += [(last_step, end, (9, 0), "center")] if last_step > first_step else []
    for step, value, offset, side in ends:
        axes.plot([step], [value], "o", color=BLUE, ms=6.5, mec="white", mew=1.2, zorder=4, clip_on=False)
        if step == last_step != first_step and not last:
            continue
        style = {"color": INK, "fontsize": 10, "fontweight": "bold", "va": side, "annotation_clip": False}
        style["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
        axes.annotate(short(value), (step, value), offset, textcoords="offset points", **style)


def _mark_broken(axes: Any, steps: list[int]) -> None:
    if steps:
        label = f"{len(steps)} step{'s' * (len(steps) > 1)} not finite"
        at = axes.get_xaxis_transform()
        axes.plot(steps, [0.02] * len(steps), "|", color=RED, ms=9, mew=1.4, transform=at, label=label)


def _draw_rate(axes: Any, rate: list[tuple[int, float]]) -> None:
    points = [(step, value) for step, value in rate if drawable(value)]
    steps, values = xy(points)
    axes.fill_between(steps, values, color=FAINT, alpha=0.18, lw=0)
    axes.plot(steps, values, color=FAINT, lw=1.4)
    top = max(values, default=0.0)
    axes.set_ylim(0, top * 1.15 or 1.0)
    axes.set_yticks([top], [short(top)])
    axes.set_ylabel("lr", color=FAINT, fontsize=9.5)


def _draw_verdict(figure: Any, gate: Sequence[Verdict]) -> None:
    if not gate:
        return
    verdict, color = ("PASS", GREEN) if all(each.get("passed") for each in gate) else ("FAIL", RED)
    kwargs = {"ha": "right", "va": "center", "parse_math": False}
    figure.text(RIGHT, 0.945, verdict, fontsize=13, fontweight="bold", color=color, **kwargs)
    figure.text(RIGHT, 0.893, "; ".join(map(in_words, gate)), fontsize=9, color=FAINT, **kwargs)
