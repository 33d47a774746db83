"""What every key may be: one dataclass a node, held against the YAML by `check.py` and by the tests.

`Train` types the whole tree, so hydra refuses a misspelt top-level or stage key while it composes. The groups
encoder, projector, backbone, dataset, optimizer and logger stay open to a user's own classes; the classes that ship
with omni are looked up in `TARGETS` by their `_target_`.
"""

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from omni.record.run import read_run

HEAD_DIM = 128
"""Width of an attention head (nanochat)."""


class Device(Enum):
    auto = "auto"
    cuda = "cuda"
    mps = "mps"
    cpu = "cpu"


class Precision(Enum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class EncoderPrecision(Enum):
    fp32 = "fp32"
    bf16 = "bf16"


class Context(Enum):
    full = "full"
    crop = "crop"
    clip = "clip"


class Init(Enum):
    zero = "zero"
    norm_matched = "norm_matched"


class AudioValues(Enum):
    zero = "zero"
    token0 = "token0"


class WandbMode(Enum):
    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class Gate:
    metric: str = MISSING
    threshold: float | None = MISSING


@dataclass
class Stage:
    name: str = MISSING
    project: str = MISSING
    max_steps: int = MISSING
    batch_size: int = MISSING
    accumulate: int = MISSING
    lr: float = MISSING
    warmup_steps: int = MISSING
    warmdown: float = MISSING
    final_lr: float = MISSING
    freeze: list[str] = MISSING
    gate: Gate = field(default_factory=Gate)
    checkpoint_every: int = MISSING
    checkpoints_kept: int = MISSING


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


@dataclass
class Train:
    encoder: Any = MISSING
    projector: Any = MISSING
    backbone: Any = MISSING
    dataset: Any = MISSING
    optimizer: Any = MISSING
    logger: dict[str, Any] = field(default_factory=dict)
    stage: Stage = field(default_factory=Stage)
    debug: Debug = field(default_factory=Debug)
    sweep: Sweep = field(default_factory=Sweep)
    seed: int = 1
    device: Device = Device.auto
    precision: Precision = Precision.auto
    compile: bool = False
    resume: str | None = None


@dataclass
class WhisperEncoder:
    _target_: str = "omni.model.encoder.WhisperEncoder"
    weights: str | None = None
    ms_id: str | None = None
    hf_id: str = MISSING
    wheel: str | None = None
    width: int = MISSING
    depth: int = MISSING
    context: Context = Context.clip
    layers: list[int] = field(default_factory=lambda: [-1])
    dtype: EncoderPrecision = EncoderPrecision.fp32


@dataclass
class RandomWhisperEncoder:
    _target_: str = "omni.model.encoder.RandomWhisperEncoder"
    seed: int = 0
    width: int = MISSING
    depth: int = MISSING
    n_heads: int = MISSING
    context: Context = Context.clip
    layers: list[int] = field(default_factory=lambda: [-1])
    dtype: EncoderPrecision = EncoderPrecision.fp32


@dataclass
class StackMLP:
    _target_: str = "omni.model.projector.StackMLP"
    in_dim: int = MISSING
    out_dim: int = MISSING
    stack: int = MISSING
    init: Init = MISSING
    gate: bool = MISSING


@dataclass
class Conv:
    _target_: str = "omni.model.projector.Conv"
    in_dim: int = MISSING
    out_dim: int = MISSING
    halvings: int = MISSING
    init: Init = MISSING
    gate: bool = MISSING


@dataclass
class GPT:
    _target_: str = "omni.model.gpt.GPT"
    sequence_len: int = MISSING
    vocab_size: int = MISSING
    n_layer: int = MISSING
    n_head: int = MISSING
    n_kv_head: int = MISSING
    n_embd: int = MISSING
    window_pattern: str = MISSING
    audio_values: AudioValues = AudioValues.zero


@dataclass
class AudioSmoke:
    _target_: str = "omni.data.clips.audio_smoke"
    folder: str = MISSING


@dataclass
class ManifestClips:
    _target_: str = "omni.data.clips.ManifestClips"
    path: str = MISSING
    split: str = MISSING
    min_seconds: float = MISSING
    max_seconds: float = MISSING


@dataclass
class AdamW:
    _target_: str = "omni.training.optimizer.adamw"
    betas: list[float] = MISSING
    eps: float = MISSING
    weight_decay: float = MISSING


@dataclass
class CsvLogger:
    _target_: str = "omni.record.metrics.CsvLogger"


@dataclass
class WandbLogger:
    _target_: str = "omni.record.wandb.WandbLogger"
    project: str = MISSING
    mode: WandbMode = WandbMode.auto


TARGETS = {
    schema._target_: schema
    for schema in (
        WhisperEncoder,
        RandomWhisperEncoder,
        StackMLP,
        Conv,
        GPT,
        AudioSmoke,
        ManifestClips,
        AdamW,
        CsvLogger,
        WandbLogger,
    )
}


def gpt_width(n_layer: int) -> int:
    """nanochat's width of a depth: 64 a layer, rounded up to whole heads."""
    return math.ceil(64 * n_layer / HEAD_DIM) * HEAD_DIM


def run_dir(fresh: str, resume: str | None) -> str:
    """The folder of a run: a fresh one, or the one to go on with.

    Raises:
        OmniError: that one holds no run; said here, since hydra makes the folder before the job starts.
    """
    if resume is None:
        return fresh
    read_run(resume)
    return resume


def register() -> None:
    """Make the schema and the resolvers known to hydra; doing it twice changes nothing."""
    ConfigStore.instance().store(group="schema", name="train", node=Train, package="_global_")
    OmegaConf.register_new_resolver("gpt_width", gpt_width, replace=True)
    OmegaConf.register_new_resolver("gpt_heads", lambda width: width // HEAD_DIM, replace=True)
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
