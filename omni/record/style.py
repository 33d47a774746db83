"""How every picture of a run looks: its colours, its axes, its numbers, its smoothing."""

import math
from typing import Any

DPI = 150
INK, FAINT, BLUE, GREEN, RED = "#22262b", "#8a9099", "#2f6fb3", "#2a8a4a", "#c23b32"
ORANGE, PURPLE, TEAL = "#d98324", "#7a5fa8", "#4d9a94"
# Below it a smoothed line would only repeat the raw one.
FEW_POINTS = 30

Points = list[tuple[int, float]]


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
