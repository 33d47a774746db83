"""A score on questions with choices as files to read, from its figures alone.

STEM.md (the report), .json (its figures), .jsonl (a row a question), and pictures: _categories.png, _confusion.png.
STEM is audiobench_mini, or what one's own questions are called. Beside it a log of how often the benchmark's test set
was used: what has been looked at often is no test any more.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from omni.atomic import locked, replace_text
from omni.record.audiobench_pictures import draw_categories, draw_confusions
from omni.record.audiobench_text import NAME, render_markdown
from omni.record.hearing import plain

Figures = dict[str, Any]


def write_audiobench(
    folder: Path, figures: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], *, stem: str = "audiobench_mini"
) -> tuple[Figures, list[Path]]:
    """Write all of it; returns the figures as they are in JSON, with their name, and the files.

    Args:
        figures: run, step, split, left_out, and those of `omni.evaluation.audiobench.Result`; name, unless they are of
            the AudioBench-style synthetic mini.
        rows: the questions of the same.
        stem: of the files' names.
    """
    figures = plain({"name": NAME, **figures})
    pictures = [f"{stem}_categories.png", f"{stem}_confusion.png"]
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / f"{stem}.json", json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    replace_text(folder / f"{stem}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    draw_categories(figures, folder / pictures[0])
    draw_confusions(figures, folder / pictures[1])
    replace_text(folder / f"{stem}.md", render_markdown(figures, pictures))
    return figures, [folder / name for name in (f"{stem}.md", f"{stem}.json", f"{stem}.jsonl", *pictures)]


def log_test_use(path: Path, *, run: str, step: int, score: float) -> int:
    """Append a line for one more look at the test set; returns how many there are with it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = datetime.now().astimezone().isoformat(timespec="seconds")
    line = json.dumps({"time": time, "run": run, "step": step, "score": score}, ensure_ascii=False) + "\n"
    with locked(path.with_name(f".{path.name}.lock")):
        so_far = path.read_text() if path.exists() else ""
        replace_text(path, so_far + line)
    return so_far.count("\n") + 1
