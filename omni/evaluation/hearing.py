"""Does the model hear? Its loss on clips it has not trained on, told what was said in five ways.

    matched     their own audio
    shuffled    another clip's: all that the presence of speech gives away
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

from omni.data.batch import collate
from omni.data.cached import CachedClips
from omni.data.features import EncodedClips, Example
from omni.evaluation.transcription import transcribe
from omni.model.gpt import GPT
from omni.model.omni import Omni
from omni.text.tokenizer import IGNORE, Tokenizer

RESAMPLES = 2000
BATCH = 32
CLIPS, SAMPLES = 128, 6
"""Of a look at a model in training."""


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


Front = Tensor | None
"""What stands in front of a text: soft tokens (S, C), token ids (L,), or nothing."""


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


def another(count: int, seed: int = 0) -> np.ndarray:
    """For each of `count` clips another one, each taken once (N,); itself where it is alone."""
    order = np.random.default_rng(seed).permutation(count)
    other = np.empty(count, dtype=int)
    other[order] = np.roll(order, 1)
    return other


def gain(shuffled: np.ndarray, matched: np.ndarray, tokens: np.ndarray) -> Interval:
    """The audio gain in nats a token, from each clip's nats and tokens (N,); the interval is over clips."""
    drawn = np.random.default_rng(0).integers(len(tokens), size=(RESAMPLES, len(tokens)))
    gains = (shuffled - matched)[drawn].sum(1) / tokens[drawn].sum(1)
    low, high = np.quantile(gains, [0.025, 0.975])
    return Interval(float((shuffled - matched).sum() / tokens.sum()), float(low), float(high))


class HearingLook:
    """Looks at a model in training: does it hear yet? Call it for its scores and samples.

    Args:
        model: the pipeline.
        examples: held-out clips; the first `CLIPS` are looked at.
        tokenizer: of the text.
    """

    metrics = ("loss_matched", "loss_shuffled", "audio_gain", "audio_gain_low", "audio_gain_high")

    def __init__(self, model: Omni, examples: EncodedClips | CachedClips, *, tokenizer: Tokenizer):
        self.model, self.examples, self.tokenizer = model, examples, tokenizer
        self.heard: list[Example] = []

    def __call__(self) -> tuple[dict[str, float], list[str]]:
        """Losses in nats a token and the audio gain with its interval; and what the model writes down."""
        if not self.heard:
            for _ in self.examples.encode_ahead(range(min(CLIPS, len(self.examples)))):
                pass
            self.heard = [self.examples[i] for i in range(min(CLIPS, len(self.examples)))]
        self.model.eval()
        texts = [example.ids_L for example in self.heard]
        soft = project(self.model, self.heard)
        tokens = np.array([len(text) for text in texts])
        other = another(len(soft))
        bos = self.tokenizer.bos
        matched = text_losses(self.model.backbone, soft, texts, bos=bos)
        shuffled = text_losses(self.model.backbone, [soft[i] for i in other], texts, bos=bos)
        found = gain(shuffled, matched, tokens)
        scores = {
            "loss_matched": float(matched.sum() / tokens.sum()),
            "loss_shuffled": float(shuffled.sum() / tokens.sum()),
            "audio_gain": found.value,
            "audio_gain_low": found.low,
            "audio_gain_high": found.high,
        }
        heard = transcribe(self.model.backbone, self.tokenizer, soft[:SAMPLES], max_tokens=48)
        said = [self.tokenizer.decode(text.tolist()[1:]) for text in texts[:SAMPLES]]
        return scores, [f"{text}|{guess}" for text, guess in zip(said, heard, strict=True)]


@torch.no_grad()
def project(model: Omni, examples: Sequence[Example]) -> list[Tensor]:
    """Soft tokens (S, C) of each clip."""
    soft = []
    for first in range(0, len(examples), BATCH):
        batch = collate(examples[first : first + BATCH], bos=0).inputs
        soft_BSC, lengths_B = model.projector(batch["states_BKTD"].to(model.backbone.dtype), batch["frames_B"])
        soft += [row[:length] for row, length in zip(soft_BSC, lengths_B.tolist(), strict=True)]
    return soft
