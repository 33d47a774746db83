"""What the keys of the classes that ship with omni may be: a dataclass each, looked up by `_target_` in `TARGETS`."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from omni.config.dataset_targets import DATASETS, AugmentedClips


class EncoderPrecision(Enum):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Polar(Enum):
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
    dtype: EncoderPrecision = EncoderPrecision.auto


@dataclass
class RandomWhisperEncoder:
    _target_: str = "omni.model.encoder.RandomWhisperEncoder"
    seed: int = 0
    width: int = MISSING
    depth: int = MISSING
    n_heads: int = MISSING
    context: Context = Context.clip
    layers: list[int] = field(default_factory=lambda: [-1])
    dtype: EncoderPrecision = EncoderPrecision.auto


@dataclass
class SelfSupervisedEncoder:
    _target_: str = "omni.model.self_supervised.SelfSupervisedEncoder"
    weights: str | None = None
    ms_id: str | None = None
    hf_id: str = MISSING
    width: int = MISSING
    depth: int = MISSING
    layers: list[int] = field(default_factory=lambda: [-1])
    dtype: EncoderPrecision = EncoderPrecision.auto


@dataclass
class OneLayer:
    _target_: str = "omni.model.layers.OneLayer"
    index: int = MISSING


@dataclass
class WeightedSum:
    _target_: str = "omni.model.layers.WeightedSum"


@dataclass
class TokenWeights:
    _target_: str = "omni.model.layers.TokenWeights"


@dataclass
class LayerConv:
    _target_: str = "omni.model.layers.LayerConv"
    rank: int = MISSING


@dataclass
class PartStatistics:
    _target_: str = "omni.model.texture.PartStatistics"
    out_dim: int = MISSING
    parts: int = MISSING
    hidden_dim: int = MISSING
    dropout: float = MISSING


@dataclass
class StackMLP:
    _target_: str = "omni.model.projector.StackMLP"
    in_dim: int = MISSING
    out_dim: int = MISSING
    stack: int = MISSING
    hidden_dim: int = MISSING
    init: Init = MISSING
    gate: bool = MISSING
    dropout: float = MISSING


@dataclass
class Conv:
    _target_: str = "omni.model.projector.Conv"
    in_dim: int = MISSING
    out_dim: int = MISSING
    halvings: int = MISSING
    init: Init = MISSING
    gate: bool = MISSING
    dropout: float = MISSING


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
    checkpointing: bool = False
    tokenizer: str | None = None
    init_from: str | None = None


@dataclass
class AdamW:
    _target_: str = "omni.training.optimizer.adamw"
    betas: list[float] = MISSING
    ears_lr: float | None = None
    eps: float = MISSING
    weight_decay: float = MISSING


@dataclass
class MuonAdamW:
    _target_: str = "omni.training.optimizer.muon_adamw"
    batch_tokens: int = MISSING
    weight_decay: float = MISSING
    unembedding_lr: float = MISSING
    embedding_lr: float = MISSING
    matrix_lr: float = MISSING
    scalar_lr: float = MISSING
    smear_lr: float = MISSING
    projector_lr: float = MISSING
    polar: Polar | None = None


@dataclass
class CsvLogger:
    _target_: str = "omni.record.metrics.CsvLogger"


@dataclass
class WandbLogger:
    _target_: str = "omni.record.wandb.WandbLogger"
    project: str = MISSING
    mode: WandbMode = WandbMode.auto


KINDS = {
    "encoder": (WhisperEncoder, RandomWhisperEncoder, SelfSupervisedEncoder),
    "mixer": (OneLayer, WeightedSum, TokenWeights, LayerConv),
    "texture": (PartStatistics,),
    "projector": (StackMLP, Conv),
    "backbone": (GPT,),
    "dataset": DATASETS,
    "augment": (AugmentedClips,),
    "optimizer": (AdamW, MuonAdamW),
    "logger": (CsvLogger, WandbLogger),
}
"""What each group may be."""

TARGETS = {schema._target_: schema for schemas in KINDS.values() for schema in schemas}
