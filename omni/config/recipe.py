"""`${recipe:NAME}` in a YAML: what follows from the size of the backbone and `stage.tokens_per_parameter`."""

import math
from typing import Any

from omegaconf import DictConfig

from omni.training.scaling import TUNED_BATCH, TUNED_DEPTH, TUNED_WEIGHT_DECAY, Sizes, find_recipe


def recipe(name: str, *, _root_: DictConfig) -> Any:
    """One number of the run that fits the backbone; what a user sets by hand is what the others follow.

    accumulate: forward passes a step. max_steps: optimizer steps. batch_tokens, weight_decay: for the optimizer; of a
    stage that asks for no tokens per parameter they are those at which rates stand as written, and none.
    """
    backbone, stage = _root_.backbone, _root_.stage
    ratio = stage.tokens_per_parameter
    if ratio is None:
        return {"batch_tokens": TUNED_BATCH, "weight_decay": 0.0}[name]
    sizes = sizes_of(backbone)
    planned = find_recipe(sizes, ratio=ratio)
    pass_tokens = stage.batch_size * backbone.sequence_len
    if name == "accumulate":
        return max(1, math.ceil(planned.batch_tokens / pass_tokens))
    batch_tokens = pass_tokens * stage.accumulate
    if name == "batch_tokens":
        return batch_tokens
    if name == "max_steps":
        return max(1, planned.tokens // batch_tokens)
    tuned = ratio * Sizes.from_depth(TUNED_DEPTH, vocab_size=sizes.vocab_size).matrix_parameters
    return TUNED_WEIGHT_DECAY * math.sqrt(batch_tokens / TUNED_BATCH) * tuned / (batch_tokens * stage.max_steps)


def sizes_of(backbone: DictConfig) -> Sizes:
    """The sizes that a backbone's node gives."""
    return Sizes(**{key: backbone[key] for key in Sizes.__dataclass_fields__})
