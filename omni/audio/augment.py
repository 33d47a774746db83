"""Sounds changed in ways that leave the words alone, by torchaudio.

Not what else is heard in a sound: speed changes pitch and pace, gain changes loudness, noise changes all but the
words. What is taught to name those must not be taught from changed sounds.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchaudio import functional as audio

from omni.audio import SAMPLE_RATE
from omni.errors import OmniError

SLOWEST, FASTEST = 0.5, 2.0


@dataclass(frozen=True)
class Change:
    """What is done to a sound: played `speed` times as fast, `gain_db` louder, under noise `snr_db` below it; `seed`
    is the noise's."""

    speed: float = 1.0
    gain_db: float = 0.0
    snr_db: float | None = None
    seed: int = 0

    def apply(self, waveform: Tensor) -> Tensor:
        """The changed sound (samples,), within [-1, 1]; `speed` makes it shorter or longer."""
        if self.speed != 1:
            waveform, _ = audio.speed(waveform, SAMPLE_RATE, self.speed)
        if self.snr_db is not None:
            noise = torch.randn(waveform.shape, generator=torch.Generator().manual_seed(self.seed))
            waveform = audio.add_noise(waveform, noise, torch.tensor(self.snr_db))
        return audio.gain(waveform, self.gain_db).clamp(-1, 1)


@dataclass(frozen=True)
class Changes:
    """What sounds may be changed by.

    speed: factors to choose among (Ko et al. 2015: 0.9, 1, 1.1). gain_db, snr_db: from and to, in dB; None leaves
    loudness alone, and adds no noise.

    Raises:
        OmniError: a factor or a range that is none.
    """

    speed: Sequence[float] = (1.0,)
    gain_db: Sequence[float] | None = None
    snr_db: Sequence[float] | None = None

    def __post_init__(self):
        if not self.speed or not all(SLOWEST <= factor <= FASTEST for factor in self.speed):
            raise OmniError(f"augment.speed: {list(self.speed)} must be factors from {SLOWEST} to {FASTEST}")
        for name, ends in (("gain_db", self.gain_db), ("snr_db", self.snr_db)):
            if ends is not None and (len(ends) != 2 or ends[0] > ends[1]):
                raise OmniError(f"augment.{name}: {list(ends)} must be two numbers, from and to")

    def draw(self, seed: str) -> Change:
        """One change, the same for the same seed."""
        rng = random.Random(seed)
        speed = rng.choice(list(self.speed))
        gain_db, snr_db = (None if ends is None else rng.uniform(*ends) for ends in (self.gain_db, self.snr_db))
        return Change(speed, gain_db or 0.0, snr_db, rng.getrandbits(63))
