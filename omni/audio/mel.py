"""Whisper's log-mel spectrogram, on whatever device the waveform lives.

The recipe is openai/whisper's `audio.py`: 25 ms windows every 10 ms, slaney mels, log10, nothing quieter than
80 dB under the loudest, then squeezed to about [-1, 1]. Written on torch.stft because transformers' own
extractor works through numpy on the CPU and always pads to 30 s.
"""

from functools import lru_cache

import torch
import torchaudio
from torch import Tensor

from omni.audio import SAMPLE_RATE

N_FFT = 400
HOP = 160
# Below this many samples torch.stft cannot reflect the clip at its edges.
SHORTEST = N_FFT // 2 + 1


def log_mel(waveform: Tensor, n_mels: int = 80) -> Tensor:
    """Spectrogram of one clip, as Whisper's encoder hears it.

    waveform: (samples,) float32, mono, 16 kHz, at least 201 samples (12.6 ms).
    Returns (n_mels, samples // 160) float32 on the waveform's device: 100 frames a second, a last partial hop
    dropped. The floor of 80 dB is taken from this clip's loudest bin, so padding a clip with silence does not
    change the floor, and a batch must be made clip by clip.
    Raises ValueError for another shape or dtype, or too short a clip.
    """
    if waveform.ndim != 1 or waveform.dtype != torch.float32 or len(waveform) < SHORTEST:
        raise ValueError(
            f"log_mel wants a float32 waveform (samples,) of at least {SHORTEST} samples, "
            f"got {waveform.dtype} {tuple(waveform.shape)}"
        )
    window, filters = _window_and_filters(n_mels, waveform.device)
    spectrum = torch.stft(waveform, N_FFT, HOP, window=window, return_complex=True)
    # stft centres a window on every hop and so ends with one frame more than there are whole hops.
    power = spectrum[:, :-1].abs().square()
    log_spec = (filters.T @ power).clamp(min=1e-10).log10()
    return (log_spec.clamp(min=log_spec.max() - 8.0) + 4.0) / 4.0


@lru_cache(maxsize=16)
def _window_and_filters(n_mels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Hann window (400,) and slaney filter bank (201, n_mels) on the device."""
    filters = torchaudio.functional.melscale_fbanks(
        N_FFT // 2 + 1, 0.0, SAMPLE_RATE / 2, n_mels, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )
    return torch.hann_window(N_FFT, device=device), filters.to(device)
