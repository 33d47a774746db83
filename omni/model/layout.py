"""What weights are called on disk: a Whisper as transformers lays it out, an exported folder, a checkpoint."""

import re
from pathlib import Path

from safetensors import safe_open

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


def holds_base(checkpoint: Path) -> bool:
    """Whether a checkpoint holds its language model, or only what was trained beside it."""
    with safe_open(checkpoint / MODEL, framework="numpy") as file:  # the names alone, which need no torch
        return any(map(of_base, file.keys()))


def of_base(name: str) -> bool:
    """Whether a tensor is the language model's own, not its adapters'."""
    return name.startswith("backbone.") and ".lora_" not in name
