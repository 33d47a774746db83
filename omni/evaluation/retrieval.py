"""Which of a hundred transcripts was said, and which of a hundred clips says it: by the model's loss alone."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omni.model.gpt import GPT
from omni.text.tokenizer import IGNORE

ROWS = 20
"""Texts in a batch; shorter batches are padded less."""
DRAWS, CANDIDATES, WORDS = 5, 100, 3
"""A clip's transcript is looked for among so many, which differ and have so many words or more; drawn so often."""


def retrieval(
    backbone: GPT, soft: Sequence[Tensor], texts: Sequence[Tensor], said: Sequence[str], *, bos: int
) -> dict[str, Any] | None:
    """recall_1, recall_5 and the median rank of a clip's transcript among others (to_text) and of a transcript's clip
    (to_audio), averaged over the draws, beside their chance; None when there are no two transcripts to tell apart."""
    pool = tellable(said)
    among = min(CANDIDATES, len(pool))
    if among < 2:
        return None
    draws = [np.random.default_rng(draw).choice(pool, among, replace=False) for draw in range(DRAWS)]
    drawn = np.unique(draws)
    places = [np.searchsorted(drawn, draw) for draw in draws]
    wanted = np.zeros((len(drawn), len(drawn)), dtype=bool)
    for place in places:
        wanted[np.ix_(place, place)] = True
    matrix = loss_matrix(backbone, [soft[i] for i in drawn], [texts[i] for i in drawn], bos=bos, wanted=wanted)
    squares = [matrix[np.ix_(place, place)] for place in places]
    return {
        "candidates": among,
        "draws": DRAWS,
        "chance": {"recall_1": 1 / among, "recall_5": min(1.0, 5 / among), "median_rank": (among + 1) / 2},
        "to_text": averages([ranks(square) for square in squares]),
        "to_audio": averages([ranks(square.T) for square in squares]),
    }


def averages(drawn: Sequence[np.ndarray]) -> dict[str, float]:
    """Over the draws, of what their ranks come to."""
    return {
        "recall_1": float(np.mean([recall(each, 1) for each in drawn])),
        "recall_5": float(np.mean([recall(each, 5) for each in drawn])),
        "median_rank": float(np.mean([np.median(each) for each in drawn])),
    }


def tellable(said: Sequence[str]) -> list[int]:
    """Which transcripts can be told apart: of like ones the first, and none too short to say much."""
    first: dict[str, int] = {}
    for i, text in enumerate(said):
        if len(text.split()) >= WORDS:
            first.setdefault(text.lower(), i)
    return sorted(first.values())


@torch.inference_mode()
def loss_matrix(
    backbone: GPT,
    soft: Sequence[Tensor],
    texts: Sequence[Tensor],
    *,
    bos: int,
    wanted: np.ndarray | None = None,
) -> np.ndarray:
    """Nats a token of each text (L,) behind each clip's soft tokens (S, C): (clips, texts).

    A clip is read once, and all texts go on from there, those of like length together. With `wanted`, bools of the
    same shape, only those pairs are computed, and the others are NaN.
    """
    device = backbone.lm_head.weight.device
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    nothing = torch.empty(1, 0, dtype=torch.int64, device=device)
    matrix = np.full((len(soft), len(texts)), np.nan)
    for clip, row in enumerate(soft):
        heard = backbone.new_cache(columns=len(row))
        backbone.states(nothing, audio_features=row[None].to(device), kv_cache=heard)
        these = [i for i in order if wanted is None or wanted[clip, i]]
        for first in range(0, len(these), ROWS):
            group = these[first : first + ROWS]
            idx_NL, targets_NL = padded([texts[i] for i in group], bos, device)
            cache = backbone.new_cache(rows=0)
            cache.join(heard, copies=len(group))
            losses = backbone(idx_NL, targets_NL, kv_cache=cache, reduction="none").view(idx_NL.shape)
            matrix[clip, group] = losses.sum(1).double().cpu().numpy() / [len(texts[i]) for i in group]
    return matrix


def padded(texts: Sequence[Tensor], bos: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and targets (N, L)."""
    targets = [torch.cat([text[1:], text.new_tensor([bos])]) for text in texts]
    idx_NL = pad_sequence(list(texts), batch_first=True)
    return idx_NL.to(device), pad_sequence(targets, batch_first=True, padding_value=IGNORE).to(device)


def ranks(matrix: np.ndarray) -> np.ndarray:
    """For each row the rank, from 1, of its own entry, the one on the diagonal; a tie, or a NaN, counts against it."""
    own = np.diag(matrix)[:, None]
    return (~(matrix > own)).sum(1)


def recall(ranks: np.ndarray, most: int) -> float:
    """The share of ranks that are `most` at most; NaN of none."""
    return float((ranks <= most).mean()) if len(ranks) else math.nan
