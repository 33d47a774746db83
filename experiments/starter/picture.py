"""The losses of a run of this experiment by what its batches were, as copies.png here.

python experiments/starter/picture.py outputs/latest
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from omni.record.metrics import read_metrics
from omni.record.style import BLUE, DPI, GREEN, INK, ORANGE, smooth, tidy, xy

LINES = {
    "loss_text": ("text", BLUE),
    "loss_soft": ("worn copies of soft tokens", ORANGE),
    "loss_hard": ("copies of tokens", GREEN),
}
NAMES = {"loss_text": (0.6, 4.05), "loss_soft": (0.6, 1.4), "loss_hard": (0.42, 0.55)}
"""Where a line's name stands: the share of the run, and nats."""


def main() -> None:
    metrics = read_metrics(Path(sys.argv[1]) / "metrics.csv")
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for name, (label, color) in LINES.items():
        steps, values = xy(metrics[name])
        axes.plot(steps, values, color=color, lw=0.5, alpha=0.25)
        axes.plot(steps, smooth(values), color=color, lw=1.8)
        share, height = NAMES[name]
        axes.text(share * steps[-1], height, label, color=color, fontsize=10)
    axes.set_ylim(0, 8.5)
    axes.set_xlabel("step")
    axes.set_ylabel("nats a token", color=INK)
    tidy(axes)
    figure.savefig(Path(__file__).parent / "copies.png", dpi=DPI)


if __name__ == "__main__":
    main()
