"""`${recipe:NAME}` in a YAML: what follows from the size of the backbone and `stage.tokens_per_parameter`."""

import math
from typing import Any

from omegaconf import DictConfig

from omni.errors import OmniError
from omni.training.scaling import TUNED_BATCH, Sizes, best_batch, best_weight_decay, run_tokens


def recipe(name: str, *, _root_: DictConfig) -> Any:
    """One number of the run that fits the backbone; what a user sets by hand is what the others follow.

    accumulate: forward passes a step. max_steps: optimizer steps. batch_tokens, weight_decay: for the optimizer; of a
    stage that asks for no tokens per parameter they are those at which rates stand as written, and none.
    """
    backbone, stage = _root_.backbone, _root_.stage
    ratio = stage.tokens_per_parameter
    if ratio is None or ratio <= 0:
        if name in ("max_steps", "accumulate"):
            raise OmniError(f"follows from stage.tokens_per_parameter={ratio}; set that above 0, or stage.{name}")
        return {"batch_tokens": TUNED_BATCH, "weight_decay": 0.0}[name]
    sizes, pass_tokens = sizes_of(backbone), stage.batch_size * backbone.sequence_len
    if name == "accumulate":
        return max(1, math.ceil(best_batch(sizes, ratio) / pass_tokens))
    batch_tokens = pass_tokens * stage.accumulate
    if name == "batch_tokens":
        return batch_tokens
    if name == "max_steps":
        return max(1, run_tokens(sizes, ratio) // batch_tokens)
    return best_weight_decay(sizes, ratio, batch_tokens)


def sizes_of(backbone: DictConfig) -> Sizes | None:
    """The sizes that a backbone's node gives; None where it is of a class that has others."""
    names = Sizes.__dataclass_fields__
    return Sizes(**{name: backbone[name] for name in names}) if names.keys() <= backbone.keys() else None
