"""A sound file's bytes in, soft tokens out, with the time each part took.

Shape letters: S soft tokens, C backbone width.
"""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from omni.audio import SAMPLE_RATE
from omni.audio.read import AudioError, check_audible, read_bytes
from omni.errors import OmniError
from omni.model.omni import Omni
from omni.serving.laps import Laps

log = logging.getLogger("omni.serve")

SHORTEST = 0.1  # seconds
KEPT = 64
"""Clips whose soft tokens are kept: a conversation brings its sounds again in each turn."""


class File(NamedTuple):
    """A sound file, and what it is called in an error."""

    name: str
    content: bytes


class Heard(NamedTuple):
    """A sound as soft tokens (S, C), and how long it is."""

    soft_SC: Tensor
    seconds: float


class Ears:
    """Hears for one thread at a time.

    Args:
        model: in eval mode.
        max_seconds: of a clip; longer ones are refused before they are decoded.
    """

    def __init__(self, model: Omni, *, max_seconds: float):
        self.model, self.max_seconds = model, max_seconds
        self.heard: OrderedDict[bytes, Heard] = OrderedDict()

    @torch.inference_mode()
    def hear(self, sound: File, laps: Laps) -> Heard:
        """A sound in any format that `omni.audio.read` knows.

        Raises:
            OmniError: the model has no ears.
            AudioError: no audio, damaged, silent, or shorter or longer than is allowed; says what a client can do.
        """
        laps.lap("wait")
        if self.model.encoder is None:
            raise OmniError(f"{sound.name}: this model is of text alone and has no ears")
        key = hashlib.sha256(sound.content).digest()
        if key not in self.heard:
            waveform = self._read(sound)
            laps.lap("decode")
            self.heard[key] = Heard(self._soften(waveform, laps), len(waveform) / SAMPLE_RATE)
            if len(self.heard) > KEPT:
                self.heard.popitem(last=False)
        self.heard.move_to_end(key)
        return self.heard[key]

    def _read(self, sound: File) -> Tensor:
        if not sound.content:
            raise AudioError(f"{sound.name}: is empty (0 bytes). Send the file's content.")
        try:
            waveform = read_bytes(sound.content, what=sound.name, max_seconds=self.max_seconds)
        except AudioError as error:
            told, advice, _ = str(error).partition(" Split it, or raise max_seconds.")  # which no client can
            if not advice:
                raise
            log.info("a sound was refused: it is longer than max_audio_seconds=%g", self.max_seconds)
            raise AudioError(f"{told} Send at most {self.max_seconds:g} s.") from error
        if len(waveform) < SHORTEST * SAMPLE_RATE:
            raise AudioError(f"{sound.name}: lasts {len(waveform) / SAMPLE_RATE:.3f} s. Send at least {SHORTEST} s.")
        check_audible(waveform, min_seconds=SHORTEST, what=sound.name)
        return waveform

    def _soften(self, waveform: Tensor, laps: Laps) -> Tensor:
        device = self.model.backbone.lm_head.weight.device
        with mel_timed(self.model.encoder, laps):
            states, frames = self.model.encoder([waveform.to(device)])
        laps.lap("encode")
        soft, lengths = self.model.hear(states, frames)
        soft = soft[0, : lengths[0]]
        laps.lap("project")
        return soft


@contextmanager
def mel_timed(encoder: nn.Module, laps: Laps) -> Iterator[None]:
    """A spectrogram is done when the first convolution is given it. (An encoder that hears the waveform itself has
    none, and its time is all the encoder's.)"""
    first = next((module for name, module in encoder.named_modules() if name.endswith("whisper.conv1")), None)
    if first is None:
        yield
        return
    hook = first.register_forward_pre_hook(lambda module, args: laps.lap("mel"))
    try:
        yield
    finally:
        hook.remove()
