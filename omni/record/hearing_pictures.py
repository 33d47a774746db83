"""The pictures of a hearing report, each from numbers: losses over training, the plane, loudness through a clip."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from omni.record.metrics import Metrics
from omni.record.style import (
    BLUE,
    DASHES,
    FAINT,
    FEW_POINTS,
    GREEN,
    ORANGE,
    PINK,
    PURPLE,
    TEAL,
    canvas,
    drawable,
    label_ends,
    save,
    tidy,
    xy,
)

INCHES = (8.0, 4.7)
LEFT, RIGHT, TOP, BOTTOM = 0.085, 0.825, 0.82, 0.115
COLORS = {"matched": ORANGE, "shuffled": PURPLE, "silence": TEAL, "none": FAINT, "transcript": PINK}


@contextmanager
def picture(png: Path, title: str, note: str, *, right: float = RIGHT) -> Iterator[Any]:
    """Axes to draw on; the file is written at the end. Raises OSError when it cannot be."""
    figure = canvas(INCHES, title, note, left=LEFT)
    axes = figure.subplots(1, 1, gridspec_kw={"left": LEFT, "right": right, "top": TOP, "bottom": BOTTOM})
    yield axes
    save(figure, png)


def name_axes(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x, color=FAINT, fontsize=9.5)
    axes.set_ylabel(y, color=FAINT, fontsize=9.5)


def draw_conditions(looks: Metrics, png: Path, *, emergence: int | None) -> None:
    """The losses of the conditions over steps, between own and another's audio the gain, and where it leaves zero."""
    note = "shaded: the audio gain, what hearing its own clip is worth to a text"
    with picture(png, "Loss on held-out clips, by what is heard", note) as axes:
        lines = {name: [p for p in looks.get(f"loss_{name}", []) if drawable(p[1])] for name in COLORS}
        lines = {name: points for name, points in lines.items() if points}
        for name, points in lines.items():
            style = {"color": COLORS[name], "ls": DASHES.get(COLORS[name], "-"), "solid_capstyle": "round"}
            style |= {"marker": "o", "ms": 4} if len(points) < FEW_POINTS else {}
            # Its own audio below the others, and wide: a model that does not hear has it where they are.
            axes.plot(*xy(points), lw=3.2 if name == "matched" else 1.8, zorder=3, **style)
        own, others = dict(lines.get("matched", [])), dict(lines.get("shuffled", []))
        steps = sorted(own.keys() & others.keys())
        axes.fill_between(steps, [own[s] for s in steps], [others[s] for s in steps], color=ORANGE, alpha=0.07, lw=0)
        tidy(axes)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        if emergence is not None:
            axes.axvline(emergence, color=GREEN, lw=1.2, ls=(0, (4, 3)), zorder=2)
            _name_emergence(axes, emergence)
        name_axes(axes, "step", "nats a token")
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
    note = "of the same clips, as the first layer reads them: each row normed"
    with picture(png, "Soft tokens among text embeddings", note, right=0.96) as axes:
        for name, points, color, marker in (("text embeddings", text, ORANGE, "o"), ("soft tokens", soft, BLUE, "D")):
            style = {"color": color, "marker": marker, "label": f"{len(points)} {name}"}
            axes.scatter(*points.T, s=15, alpha=0.55, lw=0, zorder=3, **style)
        tidy(axes)
        axes.grid(axis="x", color="#eceef1", lw=0.9)
        axes.margins(0.05)
        shares = [
            f"{'first' if i == 0 else 'second'} component, {share:.0%} of the variance"
            for i, share in enumerate(explained)
        ]
        name_axes(axes, *shares)
        look = {"frameon": False, "labelcolor": [ORANGE, BLUE], "handletextpad": 0.1, "labelspacing": 0.3}
        look |= {"loc": "upper right", "bbox_to_anchor": (0.97, 0.99), "prop": {"size": 9.5, "weight": "bold"}}
        for handle in axes.figure.legend(**look).legend_handles:
            handle.set_alpha(1)


def draw_rms(shares: Sequence[float], kinds: Mapping[str, np.ndarray], png: Path) -> None:
    """Mean and middle 80 % (BINS, 3) of each kind's RMS, by how far into the clip."""
    note = "in front of the backbone's norm, which brings each row to 1; band: the middle 80 %"
    with picture(png, "How loud soft tokens and text embeddings are", note) as axes:
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
        name_axes(axes, "through the clip, %", "RMS")
        label_ends(axes, ends)
