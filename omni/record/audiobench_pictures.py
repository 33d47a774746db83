"""The pictures of a score on questions with choices: right answers by category, and which were taken for which."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from omni.record.audiobench_text import CONTROLS
from omni.record.hearing_text import percent
from omni.record.style import BLUE, FAINT, GREEN, INK, ORANGE, PINK, PURPLE, RED, TEAL, canvas, save, tidy

COLORS = {"shuffled": PURPLE, "silence": TEAL, "text_only": FAINT, "transcript": PINK, "probe": BLUE}
"""Of the controls; as in the hearing report where it has them."""
PALE = "#e6b27b"
MARKS = {"shuffled": "D", "silence": "X", "text_only": "o", "transcript": "^", "probe": "v"}
LEFT, RIGHT, TOP, BOTTOM = 0.065, 0.785, 0.84, 0.1
INCHES = (10.4, 4.9)
ACROSS = 4
"""Confusions in a row."""
LONGEST = 14
"""Characters in a line of a label."""


def draw_categories(figures: Mapping[str, Any], png: Path) -> None:
    """A bar for each category and for all, with its 95 % interval, and the controls beside it."""
    rows = {"all": figures, **figures["categories"]}
    note = "bar: with its own sound, and its 95 % interval; beside it the controls; dashed: chance"
    if len({row["chance"] for row in rows.values()}) == 1:
        note += f", {100 * figures['chance']:.0f} %"
    figure = canvas(INCHES, f"{figures['name']}: right answers", note, left=LEFT)
    axes = figure.subplots(1, 1, gridspec_kw={"left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM})
    for place, row in enumerate(rows.values()):
        own = row["matched"]
        axes.bar(place - 0.19, own["value"], width=0.36, color=ORANGE if place == 0 else PALE, zorder=2)
        axes.plot([place - 0.19] * 2, [own["low"], own["high"]], color=INK, lw=1.3, zorder=3)
        axes.plot([place - 0.55, place + 0.55], [row["chance"]] * 2, color=RED, lw=1.1, ls=(0, (4, 3)), zorder=2.5)
        for number, (name, color) in enumerate(COLORS.items()):
            if (value := row["controls"][name]) is not None:
                axes.plot(place + 0.07 + 0.085 * number, value, MARKS[name], color=color, ms=5, mew=0, zorder=4)
    tidy(axes)
    axes.set_ylim(0, 1)
    axes.set_xlim(-0.55, len(rows) - 0.45)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])
    axes.set_xticks(range(len(rows)), [_wrap(name) for name in rows], color=INK)
    _name_controls(figure, figures)
    save(figure, png)


def _name_controls(figure: Any, figures: Mapping[str, Any]) -> None:
    """To the right, in their colours, with their shares over all questions."""
    from matplotlib.lines import Line2D

    own = figures["matched"]["value"]
    marks = [(ORANGE, "s", f"its own sound {percent(own)}")]
    shown = [name for name in COLORS if figures["controls"][name] is not None]
    marks += [(COLORS[name], MARKS[name], f"{CONTROLS[name]} {percent(figures['controls'][name])}") for name in shown]
    handles = [Line2D([], [], color=color, marker=mark, ls="", ms=6, mew=0, label=text) for color, mark, text in marks]
    style = {"frameon": False, "labelcolor": "linecolor", "handletextpad": 0.1, "labelspacing": 0.9}
    style |= {"prop": {"size": 9, "weight": "bold"}, "loc": "upper left", "bbox_to_anchor": (RIGHT + 0.003, TOP + 0.02)}
    figure.legend(handles=handles, **style)


def draw_confusions(figures: Mapping[str, Any], png: Path) -> None:
    """A square for each category: rows are what was right, columns what was answered; the darker, the more often."""
    confusions = {name: found["confusion"] for name, found in figures["categories"].items()}
    down = -(-len(confusions) // ACROSS)
    inches = (10.4, 0.75 + 2.7 * down)
    note = "rows: what was right; columns: what was answered; green: where the two are one"
    figure = canvas(inches, f"{figures['name']}: what was taken for what", note, left=0.02)
    figure.set_layout_engine("constrained", rect=(0.01, 0, 0.98, 1 - 0.75 / inches[1]), wspace=0.05, hspace=0.07)
    grid = figure.subplots(down, ACROSS, squeeze=False)
    for axes in grid.flat[len(confusions) :]:
        axes.set_axis_off()
    for axes, (name, found) in zip(grid.flat, confusions.items(), strict=False):
        _draw_confusion(axes, name, found["labels"], found["counts"])
    save(figure, png)


def _draw_confusion(axes: Any, name: str, labels: Sequence[str], counts: Sequence[Sequence[int]]) -> None:
    from matplotlib.colors import to_rgb

    for row, line in enumerate(counts):
        for column, count in enumerate(line):
            share = count / max(1, sum(line))
            rgb = to_rgb(GREEN if row == column else BLUE)
            color = [1 - (1 - part) * (0.04 + 0.96 * share) for part in rgb]
            axes.add_patch(_square(column, row, color))
            ink = {"color": "white" if share > 0.75 else INK if count else FAINT, "fontsize": 9}
            axes.text(column, row, str(count), ha="center", va="center", **ink)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.spines[:].set_visible(False)
    told = [fill(label, LONGEST) for label in labels]
    tilted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, told)) > 3 else {}
    axes.set_xticks(range(len(labels)), told, fontsize=8, color=FAINT, parse_math=False, **tilted)
    axes.set_yticks(range(len(labels)), told, fontsize=8, color=FAINT, parse_math=False)
    axes.tick_params(length=0, pad=3)
    axes.set_title(name, fontsize=9.5, color=INK, fontweight="bold", loc="left", pad=5, parse_math=False)


def _square(column: int, row: int, color: Sequence[float]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, color=color, lw=0)


def _wrap(name: str) -> str:
    """A category's name in lines short enough to stand side by side."""
    return name.replace(" and ", "\nand ").replace("_and_", "\nand ").replace("_", " ")
