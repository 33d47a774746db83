"""The pictures of a hearing report, each from numbers: losses over training, the plane, loudness through a clip."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from omni.atomic import replacing
from omni.record.metrics import Metrics
from omni.record.style import (
    BLUE,
    DPI,
    FAINT,
    FEW_POINTS,
    GREEN,
    INK,
    ORANGE,
    PINK,
    PURPLE,
    TEAL,
    drawable,
    label_ends,
    tidy,
    xy,
)

INCHES = (8.0, 4.7)
LEFT, RIGHT, TOP, BOTTOM = 0.085, 0.825, 0.82, 0.115
COLORS = {"matched": ORANGE, "shuffled": PURPLE, "silence": TEAL, "none": FAINT, "transcript": PINK}


@contextmanager
def picture(png: Path, title: str, *, right: float = RIGHT) -> Iterator[Any]:
    """Axes to draw on; the file is written at the end. Raises OSError when it cannot be."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 1, gridspec_kw={"left": LEFT, "right": right, "top": TOP, "bottom": BOTTOM})
    style = {"ha": "left", "va": "center", "fontweight": "bold", "parse_math": False}
    figure.text(LEFT, 0.945, title, fontsize=13, color=INK, **style)
    yield axes
    with replacing(png) as temporary:
        figure.savefig(temporary, format="png")


def say(axes: Any, x: str, y: str, note: str = "") -> None:
    """What the axes mean, and a line below the title."""
    axes.set_xlabel(x, color=FAINT, fontsize=9.5)
    axes.set_ylabel(y, color=FAINT, fontsize=9.5)
    axes.figure.text(LEFT, 0.893, note, fontsize=9, color=FAINT, ha="left", va="center", parse_math=False)


def draw_conditions(looks: Metrics, png: Path, *, emergence: int | None) -> None:
    """The losses of the conditions over steps, between own and another's audio the gain, and where it leaves zero."""
    with picture(png, "Loss on held-out clips, by what is heard") as axes:
        lines = {name: [p for p in looks.get(f"loss_{name}", []) if drawable(p[1])] for name in COLORS}
        lines = {name: points for name, points in lines.items() if points}
        for name, points in reversed(lines.items()):  # its own audio on top
            marker = "o" if len(points) < FEW_POINTS else None
            axes.plot(*xy(points), color=COLORS[name], lw=2, marker=marker, ms=4, solid_capstyle="round", zorder=3)
        own, others = dict(lines.get("matched", [])), dict(lines.get("shuffled", []))
        steps = sorted(own.keys() & others.keys())
        axes.fill_between(steps, [own[s] for s in steps], [others[s] for s in steps], color=ORANGE, alpha=0.07, lw=0)
        tidy(axes)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        if emergence is not None:
            axes.axvline(emergence, color=GREEN, lw=1.2, ls=(0, (4, 3)), zorder=2)
            _name_emergence(axes, emergence)
        say(axes, "step", "nats a token", "shaded: the audio gain, what hearing its own clip is worth to a text")
        label_ends(
            axes, [(points[-1][1], f"{name} {points[-1][1]:.2f}", COLORS[name]) for name, points in lines.items()]
        )


def _name_emergence(axes: Any, step: int) -> None:
    first, last = axes.get_xlim()
    right = step > (first + last) / 2
    style = {"color": GREEN, "fontsize": 9, "fontweight": "bold", "va": "bottom", "ha": "right" if right else "left"}
    at = axes.get_xaxis_transform()
    axes.annotate(f"gain above 0 from step {step}", (step, 1), (0, 3), xycoords=at, textcoords="offset points", **style)


def draw_plane(soft: np.ndarray, text: np.ndarray, explained: Sequence[float], png: Path) -> None:
    """Points (P, 2) of soft tokens and text embeddings in the plane of their first two principal components."""
    with picture(png, "Soft tokens among text embeddings", right=0.96) as axes:
        kinds = {"text embeddings": (text, ORANGE, "o"), "soft tokens": (soft, BLUE, "D")}
        for points, color, marker in kinds.values():
            axes.scatter(*points.T, s=15, color=color, alpha=0.55, lw=0, marker=marker, zorder=3)
        tidy(axes)
        axes.grid(axis="x", color="#eceef1", lw=0.9)
        axes.margins(0.05)
        shares = [
            f"{'first' if i == 0 else 'second'} component, {share:.0%} of the variance"
            for i, share in enumerate(explained)
        ]
        say(axes, *shares, "of the same clips, as the first layer reads them: each row normed")
        for place, (name, (points, color, _)) in enumerate(kinds.items()):
            style = {"color": color, "fontsize": 9.5, "fontweight": "bold", "ha": "right", "va": "center"}
            axes.figure.text(0.96, 0.945 - 0.05 * place, f"● {len(points)} {name}", **style)


def draw_rms(shares: Sequence[float], kinds: Mapping[str, np.ndarray], png: Path) -> None:
    """Mean and middle 80 % (BINS, 3) of each kind's RMS, by how far into the clip."""
    with picture(png, "How loud soft tokens and text embeddings are") as axes:
        ends = []
        for (name, rows), color in zip(kinds.items(), (BLUE, ORANGE), strict=True):
            there = ~np.isnan(rows[:, 0])
            x, (mean, low, high) = np.asarray(shares)[there], rows[there].T
            axes.fill_between(x, low, high, color=color, alpha=0.15, lw=0)
            axes.plot(x, mean, color=color, lw=2.2, solid_capstyle="round", zorder=3)
            ends += [(mean[-1], f"{name} {mean[-1]:.2f}", color)] if there.any() else []
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, 100)
        tidy(axes)
        axes.margins(x=0)
        say(
            axes,
            "through the clip, %",
            "RMS",
            "in front of the backbone's norm, which brings each row to 1; band: the middle 80 %",
        )
        label_ends(axes, ends)
