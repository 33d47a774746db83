"""Frozen ears that learnt without text: waveforms -> states of WavLM or w2v-BERT 2.0, 50 frames a second.

Shape letters: B clips, K encoder states kept, T encoder frames, D encoder width, F features a frame, N windows of at
most 30 s in one batch.

The layers are transformers' own. What stands before them hears each window alone: WavLM's group norm and w2v-BERT's
norm of its filter banks take their statistics over time, and in a batch padding and neighbours would count in.
"""

import itertools
import json
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    PreTrainedModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    WavLMConfig,
    WavLMModel,
)

from omni.audio import SAMPLE_RATE
from omni.errors import OmniError
from omni.model.encoder import DTYPES, _check, _groups, _layers
from omni.model.layout import MODEL, WeightsError
from omni.model.self_supervised_weights import Weights, find_self_supervised

WINDOW_SECONDS = 30
"""Attention is quadratic, and neither model was trained on longer clips."""

FRAMES_AT_ONCE = {"cpu": 0, "cuda": 24_000}
"""In one batch, by device. On a CPU each window alone: torch's attention with a bias takes 2.5 times as long for two
windows of 5 s as for one in fp32, and 30 times and more in bf16. A GPU wants more, not measured."""


class WavLMFrames:
    """What WavLM (Chen et al. 2022) has before its layers: convolutions over the waveform.

    Attributes: hop, samples from a frame to the next; reach, samples the first frame covers.
    """

    config, model, prefix = WavLMConfig, WavLMModel, "wavlm."

    def __init__(self, config: WavLMConfig):
        self.hop = self.reach = 1
        for kernel, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
            self.reach += (kernel - 1) * self.hop
            self.hop *= stride
        # As published: of the two kinds, the one with layer norms (WavLM-large) was trained on waveforms of mean 0 and
        # variance 1, the other on waveforms as they are.
        self.normed = config.feat_extract_norm == "layer"

    def __call__(self, model: WavLMModel, waveform: Tensor) -> Tensor:
        """(samples,) -> (1, T, F)."""
        if self.normed:
            waveform = nn.functional.layer_norm(waveform, waveform.shape, eps=1e-7)
        return model.feature_extractor(waveform[None].to(model.dtype)).transpose(1, 2)


class BertFrames:
    """What w2v-BERT 2.0 (Barrault et al. 2023, Seamless) has before its layers: filter banks, two frames stacked.

    Attributes: as of `WavLMFrames`.
    """

    config, model, prefix = Wav2Vec2BertConfig, Wav2Vec2BertModel, "wav2vec2_bert."
    hop, reach = 320, 560  # two windows of 400 samples, 160 apart

    def __init__(self, config: Wav2Vec2BertConfig):
        bands = config.feature_projection_input_dim // 2
        self.extract = SeamlessM4TFeatureExtractor(feature_size=bands, num_mel_bins=bands)

    def __call__(self, model: Wav2Vec2BertModel, waveform: Tensor) -> Tensor:
        """(samples,) -> (1, T, F)."""
        got = self.extract(waveform.cpu().numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt")
        whole = got["attention_mask"][0].bool()  # not the stack whose second frame is padding
        return got["input_features"][:, whole].to(model.device, model.dtype)


FAMILIES = {"wavlm": WavLMFrames, "wav2vec2-bert": BertFrames}
"""By config.json's model_type."""


class SelfSupervisedEncoder(nn.Module):
    """WavLM or w2v-BERT 2.0, whichever the weights are; it never trains.

    Args:
        weights: a folder in transformers' layout. This and the next two: in `find_self_supervised`'s order.
        ms_id, hf_id: names on ModelScope and Hugging Face.
        width, depth: what the rest of the configuration was built for; they must be those of the weights.
        layers: which of the depth + 1 states, as `FrozenWhisper` counts them. Empty: all. What stands behind the
            last one kept is not computed.
        dtype: "fp32" or "bf16": of weights, arithmetic and states, whatever autocast says outside.

    Attributes: width (D), n_states (K), frame_rate (frames a second), source, sha256.

    Raises:
        WeightsError: no usable weights.
        OmniError: an option that does not exist, or weights of another size than width and depth.
    """

    def __init__(
        self,
        *,
        weights: str | None = None,
        ms_id: str | None = None,
        hf_id: str = "microsoft/wavlm-base-plus",
        width: int = 768,
        depth: int = 12,
        layers: Sequence[int] = (-1,),
        dtype: str = "fp32",
    ):
        super().__init__()
        if dtype not in DTYPES:
            raise OmniError(f"encoder.dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
        found = find_self_supervised(folder=weights, ms_id=ms_id, hf_id=hf_id)
        family, config = _config(found)
        for key, asked, real in (("width", width, config.hidden_size), ("depth", depth, config.num_hidden_layers)):
            if asked != real:
                raise OmniError(f"encoder.{key}={asked}, but {found.source} has {real}: set encoder.{key}={real}")
        self.layers = _layers(layers, depth)
        self.frames, self.model = family(config), _read(family, config, found)
        self.model.encoder.layers = self.model.encoder.layers[: max(1, *self.layers)]
        self.source, self.sha256, self.width, self.depth = found.source, found.sha256, width, depth
        self.n_states, self.frame_rate = len(self.layers), SAMPLE_RATE / self.frames.hop
        self.to(DTYPES[dtype]).requires_grad_(False).eval()

    @property
    def signature(self) -> dict[str, object]:
        """All that its states depend on besides the sound."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        return {"weights": self.sha256, "layers": list(self.layers), "dtype": dtype}

    def train(self, mode: bool = True) -> "SelfSupervisedEncoder":
        """Stays in eval mode: a trainer that wakes the whole pipeline must not wake this."""
        return super().train(False)

    def output_length(self, samples: int) -> int:
        """Frames of a clip of so many samples: as many as fit, and one for a clip that is shorter than a frame."""
        return max(1, (samples - self.frames.reach) // self.frames.hop + 1)

    @torch.no_grad()
    def forward(self, waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Hear a batch of clips of any lengths.

        waveforms: each (samples,) float32, mono, 16 kHz, on any device. Beyond 30 s a clip is cut into windows of 30 s
        that know nothing of each other but the few samples their border frames share, and their states are joined.
        Returns states_BKTD in the encoder's dtype and lengths_B int64, on the encoder's device; frames beyond a clip's
        length are zero. A clip's states do not depend on its neighbours, up to rounding.
        Raises OmniError for an empty batch or clip, or one of another shape or dtype.
        """
        _check(waveforms)
        device = self.model.device
        cuts = [self._cut(waveform.to(device)) for waveform in waveforms]
        with torch.autocast(device.type, enabled=False):
            windows = iter(self._encode([window for windows in cuts for window in windows]))
        clips = [torch.cat(list(itertools.islice(windows, len(cut)))) for cut in cuts]
        lengths_B = torch.tensor([len(clip) for clip in clips], device=device)
        return pad_sequence(clips, batch_first=True).transpose(1, 2), lengths_B

    def _cut(self, waveform: Tensor) -> list[Tensor]:
        """Windows that overlap by what the last frame of one covers of the next, so that no frame is lost between."""
        reach, hop = self.frames.reach, self.frames.hop
        waveform = nn.functional.pad(waveform, (0, max(0, reach - len(waveform))))
        size = WINDOW_SECONDS * SAMPLE_RATE // hop
        starts = range(0, self.output_length(len(waveform)), size)
        return [waveform[start * hop : (start + size) * hop + reach - hop] for start in starts]

    def _encode(self, windows: list[Tensor]) -> list[Tensor]:
        """Windows -> states (T, K, D) of each, in the same order."""
        states: list[Tensor] = [torch.empty(0)] * len(windows)
        frames = [self.output_length(len(window)) for window in windows]
        most = FRAMES_AT_ONCE.get(self.model.device.type, FRAMES_AT_ONCE["cuda"])
        for group in _groups(frames, most):
            hidden = [self.model.feature_projection(self.frames(self.model, windows[i]))[0][0] for i in group]
            for i, states_TKD in zip(group, self._run(hidden), strict=True):
                states[i] = states_TKD[: frames[i]]
        return states

    def _run(self, hidden: list[Tensor]) -> Tensor:
        """What enters the encoder of each window, (T, D) -> states_NTKD."""
        hidden_NTD = pad_sequence(hidden, batch_first=True)
        frames_N = torch.tensor([len(frames_TD) for frames_TD in hidden], device=hidden_NTD.device)
        mask_NT = torch.arange(hidden_NTD.shape[1], device=hidden_NTD.device) < frames_N[:, None]
        kept: list[Tensor] = []

        def keep(_: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
            kept.extend(() if kept else inputs[:1])
            kept.append(output[0] if isinstance(output, tuple) else output)

        hooks = [layer.register_forward_hook(keep) for layer in self.model.encoder.layers]
        with warnings.catch_warnings():
            # WavLM gives torch a mask of booleans beside one of numbers, which it may.
            warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
            last_NTD = self.model.encoder(hidden_NTD, attention_mask=None if mask_NT.all() else mask_NT)[0]
        for hook in hooks:
            hook.remove()
        if len(kept) > self.depth:
            kept[-1] = last_NTD  # has passed the final norm, where there is one
        return torch.stack([kept[index] for index in self.layers], dim=2)


def _config(found: Weights) -> tuple[type[WavLMFrames] | type[BertFrames], Any]:
    fields = json.loads(found.config.read_bytes())
    kind = fields.get("model_type") if isinstance(fields, dict) else None
    if kind not in FAMILIES:
        raise WeightsError(f"{found.config}: model_type {kind!r} is not one of {', '.join(FAMILIES)}")
    # Without what only training has (masking) or what stands behind the last state (an adapter).
    fields |= {"add_adapter": False, "mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    try:
        return FAMILIES[kind], FAMILIES[kind].config.from_dict(fields)
    except Exception as error:  # huggingface_hub validates with classes of its own
        raise WeightsError(f"{found.config} is not readable: {error}") from None


def _read(family: type[WavLMFrames] | type[BertFrames], config: Any, found: Weights) -> PreTrainedModel:
    """The model of a config with the file's tensors in fp32; those that it has no place for are passed over."""
    try:
        if found.file.name == MODEL:
            stored = load_file(found.file)
        else:
            stored = torch.load(found.file, map_location="cpu", weights_only=True)
        with torch.device("meta"):  # draws nothing, so it costs no time and leaves the global random state alone
            # Its own attention: a config.json could name code on a hub.
            model = family.model._from_config(config, attn_implementation=None)
        state = {name.removeprefix(family.prefix): tensor.float() for name, tensor in stored.items()}
        missing = model.load_state_dict(state, strict=False, assign=True).missing_keys
    except Exception as error:  # of the pickle's, torch's and transformers' own kinds
        raise WeightsError(f"{found.source}: {found.file} does not fit its config.json: {error}") from None
    missing += [name for name, buffer in model.named_buffers() if buffer.is_meta]
    if missing:
        raise WeightsError(f"{found.source}: {found.file} lacks {len(missing)} tensors: {', '.join(missing[:3])}...")
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):  # the norm of a weight that never changes is taken once
            parametrize.remove_parametrizations(module, "weight")
    return model
