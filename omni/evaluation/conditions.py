"""What held-out texts cost a model that is told what was said in five ways.

    matched     their own audio
    shuffled    another clip's, about as long: all that the presence and the length of speech give away
    silence     as long, and silent
    none        no audio: what the language model knows by itself
    transcript  the text itself in front: what it would know if it heard perfectly

The audio gain is the loss with another's audio less the loss with their own. A model that only talks has none.

Shape letters: N clips, S soft tokens, C backbone width, L text tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omni.audio import SAMPLE_RATE
from omni.data.batch import collate
from omni.data.features import Example
from omni.model.gpt import GPT
from omni.model.omni import Omni
from omni.text.tokenizer import IGNORE

CONDITIONS = ("matched", "shuffled", "silence", "none", "transcript")
RESAMPLES = 2000
BATCH = 32

Front = Tensor | None
"""What stands in front of a text: soft tokens (S, C), token ids (L,), or nothing."""


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Losses:
    """What each text costs.

    nats: of each text, by condition (N,). tokens: of each text (N,).
    """

    nats: dict[str, np.ndarray]
    tokens: np.ndarray

    def means(self) -> dict[str, float]:
        """Nats a token, by condition."""
        return {condition: float(nats.sum() / self.tokens.sum()) for condition, nats in self.nats.items()}

    def gain(self, over: str = "shuffled") -> Interval:
        """The audio gain in nats a token; or what their own audio gains over another condition."""
        return gain(self.nats[over], self.nats["matched"], self.tokens)

    def hears(self) -> bool:
        """Whether their own audio is worth more than another's as long and than silence as long, each by its whole
        interval: what only knows how long a clip is gains nothing over silence."""
        return self.gain().low > 0 and self.gain("silence").low > 0


def five_losses(
    backbone: GPT, soft: Sequence[Tensor], silent: Sequence[Tensor], texts: Sequence[Tensor], *, bos: int
) -> Losses:
    """The losses of texts (L,), which begin with BOS, by the soft tokens (S, C) of their clips and of silences."""
    fronts: dict[str, Sequence[Front]] = {
        "matched": soft,
        "shuffled": [soft[i] for i in another([len(row) for row in soft])],
        "silence": silent,
        "none": [None] * len(texts),
        "transcript": [text[1:] for text in texts],
    }
    nats = {condition: text_losses(backbone, fronts[condition], texts, bos=bos) for condition in CONDITIONS}
    return Losses(nats, np.array([len(text) for text in texts]))


@torch.no_grad()
def text_losses(backbone: GPT, fronts: Sequence[Front], texts: Sequence[Tensor], *, bos: int) -> np.ndarray:
    """The loss of each text (L,), which begins with BOS, behind what stands in front of it, in nats (N,).

    Every token but the first is graded, and at the end BOS.
    """
    nats = np.zeros(len(texts))
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]) + (0 if fronts[i] is None else len(fronts[i])))
    for first in range(0, len(order), BATCH):
        rows = order[first : first + BATCH]
        nats[rows] = batch_losses(backbone, [fronts[i] for i in rows], [texts[i] for i in rows], bos=bos)
    return nats


def batch_losses(backbone: GPT, fronts: list[Front], texts: list[Tensor], *, bos: int) -> np.ndarray:
    device = backbone.lm_head.weight.device
    read = [front if front is not None and not front.is_floating_point() else texts[0][:0] for front in fronts]
    ids = [torch.cat([front, text]) for front, text in zip(read, texts, strict=True)]
    targets = [
        torch.cat([text.new_full((len(front),), IGNORE), text[1:], text.new_tensor([bos])])
        for front, text in zip(read, texts, strict=True)
    ]
    idx_BL = pad_sequence(ids, batch_first=True).to(device)
    targets_BL = pad_sequence(targets, batch_first=True, padding_value=IGNORE).to(device)
    heard = {}
    if any(front is not None and front.is_floating_point() for front in fronts):
        heard["audio_features"] = pad_sequence(fronts, batch_first=True).to(device)
        heard["audio_lengths"] = torch.tensor([len(front) for front in fronts], device=device)
    losses = backbone(idx_BL, targets_BL, **heard, reduction="none").view(idx_BL.shape)
    return losses.sum(1).double().cpu().numpy()


def another(lengths: Sequence[int]) -> np.ndarray:
    """For each clip another one of about its length, each taken once (N,); itself where it is alone.

    How long a clip is says how long its text is, and a model that hears no more than that must not seem to hear.
    """
    order = np.argsort(lengths, kind="stable")
    other = np.empty(len(order), dtype=int)
    for first in range(0, len(order) - 1, 2):  # neighbours change places, and the last three go round
        group = order[first:] if len(order) - first == 3 else order[first : first + 2]
        other[group] = np.roll(group, 1)
        if len(group) == 3:
            break
    if len(order) == 1:
        other[0] = 0
    return other


def gain(shuffled: np.ndarray, matched: np.ndarray, tokens: np.ndarray) -> Interval:
    """The audio gain in nats a token, from each clip's nats and tokens (N,); the interval is over clips."""
    drawn = np.random.default_rng(0).integers(len(tokens), size=(RESAMPLES, len(tokens)))
    gains = (shuffled - matched)[drawn].sum(1) / tokens[drawn].sum(1)
    low, high = np.quantile(gains, [0.025, 0.975])
    return Interval(float((shuffled - matched).sum() / tokens.sum()), float(low), float(high))


@torch.no_grad()
def project(model: Omni, examples: Sequence[Example]) -> list[Tensor]:
    """Soft tokens (S, C) of each clip."""
    soft, device = [], model.backbone.lm_head.weight.device
    for first in range(0, len(examples), BATCH):
        batch = collate(examples[first : first + BATCH], bos=0).inputs
        soft_BSC, lengths_B = model.hear(batch["states_BKTD"].to(device), batch["frames_B"].to(device))
        soft += [row[:length] for row, length in zip(soft_BSC, lengths_B.tolist(), strict=True)]
    return soft


def seconds(encoder: torch.nn.Module, examples: Sequence[Example]) -> list[float]:
    """How long each clip lasts."""
    return [example.states_KTD.size(1) / encoder.frame_rate for example in examples]


def silences(model: Omni, examples: Sequence[Example]) -> list[Example]:
    """Clips as long as these, and silent; each length is encoded once."""
    states: dict[int, Tensor] = {}
    encoder, device = model.encoder, model.backbone.lm_head.weight.device
    for example, length in zip(examples, seconds(encoder, examples), strict=True):
        like, frames = example.states_KTD, example.states_KTD.size(1)
        if frames not in states:
            states_BKTD, _ = encoder([torch.zeros(round(length * SAMPLE_RATE), device=device)])
            silent = states_BKTD[0, :, :frames].to(like.device)
            states[frames] = silent.to(like.dtype) if silent.to(like.dtype).isfinite().all() else silent
    return [Example(example.id, states[example.states_KTD.size(1)], example.ids_L) for example in examples]
