"""Waveforms: float32 (samples,), mono, 16 kHz, within [-1, 1]."""

SAMPLE_RATE = 16_000
