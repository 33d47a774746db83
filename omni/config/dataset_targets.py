"""What the keys of the data sets that ship with omni may be; see `omni.config.targets`."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from omegaconf import MISSING


class Hub(Enum):
    huggingface = "huggingface"
    modelscope = "modelscope"


class Asked(Enum):
    accent = "accent"
    gender = "gender"


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
class Mixture:
    _target_: str = "omni.data.mixture.Mixture"
    parts: dict[str, Any] = MISSING
    weights: dict[str, float] | None = None


@dataclass
class AudioBenchMini:
    _target_: str = "omni.instructions.benchmark.AudioBenchMini"
    path: str = MISSING


@dataclass
class AudioInstructions:
    _target_: str = "omni.instructions.dataset.AudioInstructions"
    folder: str = MISSING
    n: int = MISSING
    split: str = MISSING
    seed: int = MISSING
    engines: list[str] = MISSING
    voices: dict[str, Any] | None = None
    amazon_queen: str | None = None
    animals: str | None = None
    soundfont: str | None = None


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
class AudioBench:
    _target_: str = "omni.corpora.audiobench.AudioBench"
    repo: str | None = None
    path: str | None = None
    hub: Hub = MISSING
    revision: str | None = None
    files: str = MISSING
    folder: str = MISSING
    split: str = MISSING
    audio_column: str = MISSING
    question_column: str = MISSING
    max_seconds: float = MISSING


@dataclass
class MMAU:
    _target_: str = "omni.corpora.mmau.MMAU"
    folder: str = MISSING
    split: str = MISSING
    file: str = MISSING
    max_seconds: float = MISSING


@dataclass
class Ravdess:
    _target_: str = "omni.corpora.emotion_speech.Ravdess"
    folder: str = MISSING
    split: str = MISSING
    max_seconds: float = MISSING


@dataclass
class CremaD(Ravdess):
    _target_: str = "omni.corpora.emotion_speech.CremaD"


@dataclass
class EmoDB(Ravdess):
    _target_: str = "omni.corpora.emotion_speech.EmoDB"


@dataclass
class VoxCeleb1(Ravdess):
    _target_: str = "omni.corpora.speaker_sets.VoxCeleb1"


@dataclass
class VCTK(Ravdess):
    _target_: str = "omni.corpora.speaker_sets.VCTK"
    ask: Asked = MISSING


DATASETS = (
    AudioSmoke,
    ManifestClips,
    AmazonQueen,
    LibriSpeech,
    HubSpeech,
    Mixture,
    AudioBenchMini,
    AudioInstructions,
    Corpus,
    DebianText,
    ClimbMix,
    Diet,
    Chats,
    StarterChats,
    AudioBench,
    MMAU,
    Ravdess,
    CremaD,
    EmoDB,
    VoxCeleb1,
    VCTK,
)
