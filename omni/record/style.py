"""How every picture of a run looks: its title, its colours, its axes, its numbers, its smoothing."""

import math
import warnings
from pathlib import Path
from typing import Any

from omni.atomic import replacing

DPI = 150
INK, FAINT, BLUE, GREEN, RED = "#22262b", "#8a9099", "#2f6fb3", "#2a8a4a", "#c23b32"
ORANGE, PURPLE, TEAL, PINK = "#d98324", "#7a5fa8", "#4d9a94", "#b5548e"
# A grey line is dashed: often it lies on another.
DASHES = {FAINT: (0, (3, 2))}
# Below it a smoothed line would only repeat the raw one.
FEW_POINTS = 30

LABEL_POINTS = 13
"""From one label at a line's end to the next, in points."""

Points = list[tuple[int, float]]


def canvas(inches: tuple[float, float], title: str, note: str = "", *, left: float) -> Any:
    """A figure with its title and a line below it, which start at `left` of its width."""
    # Late, and without pyplot: 0.3 s that a run pays at its end and a reader of tables never does.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    style = {"ha": "left", "va": "center", "parse_math": False}
    size = 13 if len(title) < 5.6 * inches[0] else 10.5
    figure.text(left, 1 - 0.26 / inches[1], title, fontsize=size, color=INK, fontweight="bold", **style)
    figure.text(left, 1 - 0.51 / inches[1], note, fontsize=9, color=FAINT, **style)
    return figure


def save(figure: Any, png: Path) -> None:
    """Write the picture, larger than the figure where something reaches over its edge.

    Raises OSError when it cannot be written; an earlier picture then stays.
    """
    from matplotlib.transforms import Bbox

    with replacing(png) as temporary, warnings.catch_warnings():
        # A text in a script the font lacks is drawn as boxes; the files beside the picture have it.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        if layout := figure.get_layout_engine():
            layout.execute(figure)
            figure.set_layout_engine(None)
        box = Bbox.union([figure.bbox_inches, figure.get_tightbbox().padded(0.03)])
        figure.savefig(temporary, format="png", bbox_inches=box)


def smooth(values: list[float]) -> list[float]:
    """A moving average, a fortieth of the run to either side: unlike a trailing one it never lags."""
    reach = max(2, len(values) // 40)
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    smoothed = []
    for middle in range(len(values)):
        # At the steep start the window stays symmetric; at the flat end one noisy step must not decide.
        side = min(reach, middle)
        end = min(middle + side + 1, len(values))
        smoothed.append((sums[end] - sums[middle - side]) / (end - middle + side))
    return smoothed


def scale(axes: Any, values: list[float]) -> None:
    """Logarithmic once the values span more than two decades, where a line would hug the axis."""
    if values and min(values) > 1e-12 and max(values) / min(values) > 100:
        axes.set_yscale("log")
    else:
        axes.margins(y=0.1)


def tidy(axes: Any) -> None:
    """Take away what is no data: the frame, the ticks, all but the horizontal lines of the grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#d4d8dd")
    axes.tick_params(colors=FAINT, labelsize=9, length=0, pad=5, which="both")
    axes.grid(axis="y", color="#eceef1", lw=0.9)
    axes.set_axisbelow(True)
    axes.margins(x=0.015)
    axes.xaxis.get_major_locator().set_params(integer=True)


def label_ends(axes: Any, ends: list[tuple[float, str, str]]) -> None:
    """Write a text, in its colour, to the right of the axes where a line ends; texts that would touch move apart.
    Comes last: it goes by the limits of the axes."""
    axes.get_ylim()  # settles them
    height = axes.get_position().height * axes.figure.get_figheight() * 72
    flat = axes.transScale + axes.transLimits
    places = spread([flat.transform((0, value))[1] for value, _, _ in ends], LABEL_POINTS / height)
    for place, (_, text, color) in zip(places, ends, strict=True):
        style = {"color": color, "fontsize": 9, "fontweight": "bold", "va": "center", "parse_math": False}
        axes.annotate(text, (1, place), (9, 0), xycoords="axes fraction", textcoords="offset points", **style)


def spread(places: list[float], gap: float) -> list[float]:
    """The nearest places, in the same order, that are `gap` apart: those too near stand around their middle."""
    blocks: list[list[int]] = []

    def bottom(block: list[int]) -> float:
        return sum(places[i] for i in block) / len(block) - gap * (len(block) - 1) / 2

    for i in sorted(range(len(places)), key=lambda i: places[i]):
        blocks.append([i])
        while len(blocks) > 1 and bottom(blocks[-1]) < bottom(blocks[-2]) + gap * len(blocks[-2]):
            last = blocks.pop()
            blocks[-1] += last
    apart = dict.fromkeys(range(len(places)), 0.0)
    for block in blocks:
        apart |= {i: bottom(block) + gap * number for number, i in enumerate(block)}
    return list(apart.values())


def drawable(value: float) -> bool:
    """Finite, and small enough that a margin around it still is; a diverged loss counts as not finite."""
    return math.isfinite(value) and abs(value) < 1e30


def xy(points: Points) -> tuple[list[int], list[float]]:
    """The steps and the values, apart."""
    return [step for step, _ in points], [value for _, value in points]


def short(value: Any) -> str:
    """A number in about three digits; "?" for what is none."""
    if not isinstance(value, int | float):
        return "?"
    if value and abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
