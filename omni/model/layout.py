"""A Whisper on disk, as transformers lays it out."""

from omni.errors import OmniError

CONFIG, MODEL, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
RECORD = f"{MODEL}.sha256"  # beside what omni converted itself


class WeightsError(OmniError):
    """No usable weights: says what was tried, why each failed, and the way out."""
