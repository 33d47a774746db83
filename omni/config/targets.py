"""What the keys of the classes that ship with omni may be: a dataclass each, looked up by `_target_` in `TARGETS`."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING


class EncoderPrecision(Enum):
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


class Hub(Enum):
    huggingface = "huggingface"
    modelscope = "modelscope"


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
class AmazonQueen:
    _target_: str = "omni.corpora.amazon_queen.AmazonQueen"
    folder: str = MISSING
    split: str = MISSING
    max_cer: float | None = None


@dataclass
class LibriSpeech:
    _target_: str = "omni.corpora.librispeech.LibriSpeech"
    folder: str = MISSING
    split: str = MISSING
    train: list[str] = MISSING
    val: list[str] = MISSING
    test: list[str] = MISSING
    max_seconds: float = MISSING
    mirror: str = MISSING


@dataclass
class HubSpeech:
    _target_: str = "omni.corpora.hub_speech.HubSpeech"
    repo: str | None = None
    path: str | None = None
    hub: Hub = MISSING
    revision: str | None = None
    files: str = MISSING
    folder: str = MISSING
    split: str = MISSING
    train: str = MISSING
    val: str | None = None
    test: str | None = None
    audio_column: str = MISSING
    text_column: str = MISSING
    min_seconds: float = MISSING
    max_seconds: float = MISSING


@dataclass
class AugmentedClips:
    _target_: str = "omni.data.augmented.AugmentedClips"
    copies: int = MISSING
    speed: list[float] = MISSING
    gain_db: list[float] | None = None
    snr_db: list[float] | None = None


@dataclass
class Corpus:
    _target_: str = "omni.data.text.Corpus"
    path: Any = MISSING
    text_field: str = MISSING


@dataclass
class DebianText:
    _target_: str = "omni.corpora.debian_text.DebianText"
    folder: str = MISSING


@dataclass
class ClimbMix:
    _target_: str = "omni.corpora.climbmix.ClimbMix"
    folder: str = MISSING
    shards: int = MISSING


@dataclass
class Diet(DebianText):
    _target_: str = "omni.corpora.diet.Diet"
    soft: float = MISSING
    hard: float = MISSING
    copies: int = MISSING
    ripening: int = MISSING


@dataclass
class Chats:
    _target_: str = "omni.data.conversations.Chats"
    path: Any = MISSING


@dataclass
class StarterChats(DebianText):
    _target_: str = "omni.corpora.starter_chats.StarterChats"


@dataclass
class AdamW:
    _target_: str = "omni.training.optimizer.adamw"
    betas: list[float] = MISSING
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
        AmazonQueen,
        AugmentedClips,
        LibriSpeech,
        HubSpeech,
        Corpus,
        DebianText,
        ClimbMix,
        Diet,
        Chats,
        StarterChats,
        AdamW,
        MuonAdamW,
        CsvLogger,
        WandbLogger,
    )
}
