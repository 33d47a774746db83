"""RUN/hearing: the hearing report as files to read, from its figures alone.

SPLIT.md (the report), SPLIT.json (its figures), SPLIT.jsonl (what was said and heard), and pictures, each with its
numbers beside it as CSV: conditions (over training), SPLIT_plane, SPLIT_rms.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omni.atomic import replace_text
from omni.record.hearing_pictures import draw_conditions, draw_plane, draw_rms
from omni.record.hearing_text import TOLD, render_markdown
from omni.record.metrics import Metrics, read_metrics

Figures = dict[str, Any]

GAIN = ("audio_gain", "audio_gain_low", "audio_gain_high")


def read_looks(metrics_csv: Path, until: int) -> Metrics:
    """What looks at the model in training found up to a step, by metric; nothing where there were no looks.

    Raises:
        OmniError: the file is damaged.
    """
    if not metrics_csv.is_file():
        return {}
    names = (*(f"loss_{condition}" for condition in TOLD), *GAIN, "recall_1")
    metrics = read_metrics(metrics_csv)
    looks = {name: [(step, value) for step, value in metrics.get(name, []) if step <= until] for name in names}
    return {name: points for name, points in looks.items() if points}


def emergence(looks: Metrics) -> int | None:
    """The first step at which the interval of the audio gain lay above zero."""
    return next((step for step, low in looks.get("audio_gain_low", []) if low > 0), None)


def write_hearing(
    folder: Path,
    figures: Mapping[str, Any],
    transcripts: Sequence[Mapping[str, str]],
    *,
    looks: Metrics,
    plane: tuple[np.ndarray, np.ndarray],
    loudness: tuple[np.ndarray, np.ndarray],
) -> tuple[Figures, list[Path]]:
    """Write all of it; returns the figures as they are in JSON, with what the looks add, and the files.

    Args:
        figures: run, step, split, clips, hears, losses, audio_gain, retrieval, wer, cer, and whisper_wer and
            whisper_cer where the data set has them; explained, of the plane.
        transcripts: id, said, heard of each clip.
        looks: see `read_looks`.
        plane: points of soft tokens and of text embeddings (P, 2).
        loudness: RMS of soft tokens and text embeddings through a clip (BINS, 3): mean and middle 80 %.
    """
    split, step = figures["split"].replace("/", "-"), emergence(looks)
    lows = looks.get("audio_gain_low", [])
    back = [at for at, low in lows if step is not None and at > step and not low > 0]
    figures = plain({**figures, "looks": [at for at, _ in lows], "emergence_step": step, "back_at_zero": back})
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / f"{split}.json", json.dumps(figures, indent=2) + "\n")
    replace_text(folder / f"{split}.jsonl", "".join(json.dumps(line) + "\n" for line in transcripts))
    names = [f"{split}.md", f"{split}.json", f"{split}.jsonl"]
    if any(name.startswith("loss_") for name in looks):
        write_conditions(folder, looks, step)
        names += ["conditions.png", "conditions.csv"]
    write_plane(folder, f"{split}_plane", *plane, figures["explained"])
    write_rms(folder, f"{split}_rms", *loudness)
    names += [f"{split}_{name}" for name in ("plane.png", "plane.csv", "rms.png", "rms.csv")]
    pictures = [name for name in names if name.endswith(".png")]
    replace_text(folder / f"{split}.md", render_markdown(figures, transcripts, pictures))
    return figures, [folder / name for name in names]


def plain(value: Any) -> Any:
    """As JSON can hold it: null for what is no finite number."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_conditions(folder: Path, looks: Metrics, step: int | None) -> None:
    by_step = {name: dict(points) for name, points in looks.items()}
    steps = sorted(set().union(*by_step.values()))
    rows = [[at, *(values.get(at) for values in by_step.values())] for at in steps]
    write_csv(folder / "conditions.csv", ["step", *by_step], rows)
    draw_conditions(looks, folder / "conditions.png", emergence=step)


def write_plane(folder: Path, name: str, soft: np.ndarray, text: np.ndarray, explained: Sequence[float]) -> None:
    rows = [[kind, *point] for kind, points in (("soft", soft), ("text", text)) for point in points.tolist()]
    write_csv(folder / f"{name}.csv", ["kind", "first", "second"], rows)
    draw_plane(soft, text, explained, folder / f"{name}.png")


def write_rms(folder: Path, name: str, soft: np.ndarray, text: np.ndarray) -> None:
    percent = [(part + 0.5) / len(soft) * 100 for part in range(len(soft))]
    head = ["percent", *(f"{kind}_{what}" for kind in ("soft", "text") for what in ("mean", "low", "high"))]
    values = np.column_stack([percent, soft, text]).tolist()
    write_csv(folder / f"{name}.csv", head, plain(values))
    draw_rms(percent, {"soft tokens": soft, "text": text}, folder / f"{name}.png")


def write_csv(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    replace_text(path, text.getvalue())
