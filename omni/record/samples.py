"""samples.txt of a run folder: what the model went on to write at each look, in the order of the steps."""

import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from omni.atomic import replace_text

NAME = "samples.txt"


def add_samples(folder: Path, step: int, samples: Sequence[str]) -> None:
    """Append those of a step."""
    with (folder / NAME).open("a", encoding="utf-8") as file:
        file.writelines(f"step {step}: {sample}\n" for sample in samples)


def cut_samples(folder: Path, step: int) -> None:
    """Drop those of later steps: a resumed run takes them anew."""
    if not (folder / NAME).exists():
        return

    def is_later(line: str) -> bool:
        found = re.match(r"step (\d+): ", line)
        return found is not None and int(found[1]) > step

    lines = (folder / NAME).read_text(encoding="utf-8").splitlines(keepends=True)
    replace_text(folder / NAME, "".join(takewhile(lambda line: not is_later(line), lines)))
