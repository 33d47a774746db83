"""What every key may be: one dataclass a node, held against the YAML by `check.py` and by the tests.

`Train` types the whole tree, so hydra refuses a misspelt top-level or stage key while it composes. The groups
encoder, projector, backbone, dataset, augment, optimizer and logger stay open to a user's own classes; `targets.py`
describes those that ship with omni.
"""

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from omni.config.recipe import recipe
from omni.record.folder import refuse_links
from omni.record.run import read_run
from omni.training.scaling import HEAD_DIM, Sizes


class Device(Enum):
    auto = "auto"
    cuda = "cuda"
    mps = "mps"
    cpu = "cpu"


class Precision(Enum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp8 = "fp8"


@dataclass
class LoRA:
    rank: int = MISSING
    alpha: float = MISSING
    dropout: float = MISSING
    targets: list[str] = MISSING
    dora: bool = MISSING


@dataclass
class Stage:
    name: str = MISSING
    project: str = MISSING
    tokens_per_parameter: float | None = None
    max_steps: int = MISSING
    batch_size: int = MISSING
    accumulate: int = MISSING
    lr: float = MISSING
    warmup_steps: int = MISSING
    warmdown: float = MISSING
    final_lr: float = MISSING
    init_from: str | None = None
    freeze: list[str] = MISSING
    lora: LoRA | None = None
    gate: dict[str, float | None] | None = None
    checkpoint_every: int = MISSING
    checkpoints_kept: int = MISSING
    eval_every: int | None = None
    eval_tokens: int | None = None
    samples: list[str] = field(default_factory=list)


@dataclass
class Debug:
    limit_clips: int | None = None
    profile: bool = False


@dataclass
class Sweep:
    name: str = MISSING
    resume: str | None = None
    dry_run: bool = False
    fail_fast: bool = False
    objective: str | None = None


@dataclass
class Train:
    encoder: Any = None
    mixer: Any = None
    texture: Any = None
    projector: Any = None
    backbone: Any = MISSING
    dataset: Any = MISSING
    augment: Any = None
    optimizer: Any = MISSING
    logger: dict[str, Any] = field(default_factory=dict)
    stage: Stage = field(default_factory=Stage)
    features: str | None = None
    debug: Debug = field(default_factory=Debug)
    sweep: Sweep = field(default_factory=Sweep)
    seed: int = 1
    device: Device = Device.auto
    precision: Precision = Precision.auto
    compile: bool = False
    resume: str | None = None
    trust: Any = None


def gpt_width(n_layer: int) -> int:
    """nanochat's width of a depth."""
    return Sizes.from_depth(n_layer).n_embd


def run_dir(fresh: str, resume: str | None) -> str:
    """The folder of a run: a fresh one, or the one to go on with.

    Raises:
        OmniError: that one holds no run, or leads elsewhere; said here, since hydra makes the folder and opens the log
            before the job starts.
    """
    if resume is None:
        return fresh
    read_run(resume)
    refuse_links(Path(resume))
    return resume


def register() -> None:
    """Make the schema and the resolvers known to hydra; doing it twice changes nothing."""
    ConfigStore.instance().store(group="schema", name="train", node=Train, package="_global_")
    OmegaConf.register_new_resolver("gpt_width", gpt_width, replace=True)
    OmegaConf.register_new_resolver("gpt_heads", lambda width: width // HEAD_DIM, replace=True)
    OmegaConf.register_new_resolver("recipe", recipe, replace=True)
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
