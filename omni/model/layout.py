"""What weights are called on disk: a Whisper as transformers lays it out, an exported folder, a checkpoint."""

import re
from pathlib import Path

from omni.errors import OmniError

CONFIG, MODEL, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
RECORD = f"{MODEL}.sha256"  # beside what omni converted itself


class WeightsError(OmniError):
    """No usable weights: says what was tried, why each failed, and the way out."""


def numbered(folder: Path, pattern: str) -> dict[int, Path]:
    """What stands in `folder` under a name that is `pattern`, by the number in it, lowest first."""
    found = {path: re.fullmatch(pattern, path.name) for path in folder.glob("*")}
    return dict(sorted((int(match[1]), path) for path, match in found.items() if match))


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in a run's `checkpoints`, oldest first."""
    return [*numbered(folder, r"step_(\d+)").values()]
