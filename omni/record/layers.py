"""layers.png: how much a model draws on each of the encoder's layers, over the looks of its run."""

import re
from pathlib import Path

from omni.record.metrics import read_metrics
from omni.record.style import FAINT, INK, canvas, save, tidy, xy

NAME = re.compile(r"(mixer|texture)_layer_(-?\d+)")


def draw_layers(metrics_csv: Path, png: Path) -> bool:
    """Draw the weights, a panel for each part that learns some; False, and no picture, where none does.

    Raises OmniError when metrics_csv cannot be read, OSError when the picture cannot be written.
    """
    found = {
        (match[1], int(match[2])): points
        for name, points in read_metrics(metrics_csv).items()
        if (match := NAME.fullmatch(name)) and points
    }
    parts = sorted({part for part, _ in found})
    if not parts:
        return False
    from matplotlib import colormaps

    figure = canvas((4.4 * len(parts) + 0.6, 3.9), "The share of each layer", left=0.02)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 0.9))
    for axes, part in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        lines = sorted((layer, points) for (owner, layer), points in found.items() if owner == part)
        for place, (layer, points) in enumerate(lines):
            # Layers have an order, and so have their colours; the lightest would not be seen on white.
            color = colormaps["viridis"](0.9 * place / max(1, len(lines) - 1))
            axes.plot(*xy(points), "o-", color=color, ms=3, lw=1.4, label=f"layer {layer}")
        tidy(axes)
        axes.set_ylim(bottom=0)
        axes.set_title(part, fontsize=10, color=INK, loc="left")
        axes.set_xlabel("step", fontsize=9, color=FAINT)
        place = {"loc": "upper left", "bbox_to_anchor": (1, 1), "ncols": -(-len(lines) // 12)}
        axes.legend(frameon=False, fontsize=8, **place)
    save(figure, png)
    return True
