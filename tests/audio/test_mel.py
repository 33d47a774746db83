import pytest
import torch
from transformers import WhisperFeatureExtractor

from omni.audio.mel import log_mel


def clip(seconds: float) -> torch.Tensor:
    time = torch.arange(int(16_000 * seconds)) / 16_000
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(0))
    return 0.3 * torch.sin(2 * torch.pi * 440 * time * (1 + time)) + 0.01 * noise


# The finer bank sums fewer bins, so float32 rounding shows a little more at the 80 dB floor.
@pytest.mark.parametrize(("n_mels", "tolerance"), [(80, 1e-4), (128, 5e-4)])
def test_equals_transformers_on_a_padded_clip(n_mels: int, tolerance: float):
    waveform = clip(7.3)
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    expected = extractor(waveform.numpy(), sampling_rate=16_000, return_tensors="pt").input_features[0]
    padded = torch.nn.functional.pad(waveform, (0, 480_000 - len(waveform)))
    mel = log_mel(padded, n_mels)
    assert mel.shape == (n_mels, 3000)
    assert (mel - expected).abs().max() < tolerance
    assert (mel - expected).abs().mean() < 1e-6


@pytest.mark.parametrize("samples", [201, 319, 320, 12_345])
def test_a_frame_for_every_whole_hop(samples: int):
    mel = log_mel(clip(1.0)[:samples])
    assert mel.shape == (80, samples // 160)
    assert mel.dtype == torch.float32


def test_silence_is_flat_and_finite():
    mel = log_mel(torch.zeros(16_000))
    assert mel.isfinite().all()
    assert mel.min() == mel.max()


@pytest.mark.parametrize("waveform", [torch.zeros(2, 16_000), torch.zeros(16_000).double(), torch.zeros(200)])
def test_other_shapes_and_dtypes_are_refused(waveform: torch.Tensor):
    with pytest.raises(ValueError, match="float32 waveform"):
        log_mel(waveform)
