"""Which of a hundred transcripts was said, and which of a hundred clips says it: by the model's loss alone."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omni.model.gpt import GPT
from omni.text.tokenizer import IGNORE

ROWS = 20
"""Texts in a batch; shorter batches are padded less."""


@torch.inference_mode()
def loss_matrix(backbone: GPT, soft: Sequence[Tensor], texts: Sequence[Tensor], *, bos: int) -> np.ndarray:
    """Nats a token of each text (L,) behind each clip's soft tokens (S, C): (clips, texts).

    A clip is read once, and all texts go on from there, those of like length together.
    """
    device = backbone.lm_head.weight.device
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    groups = [order[first : first + ROWS] for first in range(0, len(order), ROWS)]
    batches = [(group, *padded([texts[i] for i in group], bos, device)) for group in groups]
    nothing = torch.empty(1, 0, dtype=torch.int64, device=device)
    matrix = np.empty((len(soft), len(texts)))
    for clip, row in enumerate(soft):
        heard = backbone.new_cache(columns=len(row))
        backbone.states(nothing, audio_features=row[None].to(device), kv_cache=heard)
        for group, idx_NL, targets_NL in batches:
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
    """The share of ranks that are `most` at most."""
    return float((ranks <= most).mean())
