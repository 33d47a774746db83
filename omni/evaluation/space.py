"""Where soft tokens stand among text embeddings: in one plane, and how loud.

The backbone brings every row that enters it to an RMS of 1, soft tokens and text embeddings alike. The plane shows the
rows behind that norm, which is what its first layer reads; the RMS is of the rows in front of it, where a projector
may be louder or quieter than text without the backbone's noticing.

Shape letters: P points, C width, Q quantities.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from omni.model.attention import rms_norm
from omni.model.gpt import GPT

POINTS, BINS = 400, 20
"""So many rows of each kind are drawn into the plane; a clip is cut into so many parts."""


@dataclass(frozen=True)
class Plane:
    """The first two principal components of soft tokens and text embeddings together.

    soft, text: points (P, 2). explained: what share of the variance each component has (2,).
    """

    soft: np.ndarray
    text: np.ndarray
    explained: np.ndarray


@dataclass(frozen=True)
class Loudness:
    """RMS in front of the backbone's norm, through a clip: mean, tenth and ninetieth percentile (BINS, 3), NaN where
    nothing falls."""

    soft: np.ndarray
    text: np.ndarray


@torch.no_grad()
def plane(backbone: GPT, soft: Sequence[Tensor], texts: Sequence[Tensor]) -> Plane:
    """Of soft tokens (S, C) and texts (L,), which begin with BOS."""
    heard = rms_norm(torch.cat(list(soft)).to(backbone.dtype))
    read = backbone.embed(torch.cat([text[1:] for text in texts]).to(heard.device)[None])[0]
    return project_down(draw(heard), draw(read))


def draw(rows_PC: Tensor) -> np.ndarray:
    """So many rows that a plane is not crowded, the same ones each time."""
    order = np.random.default_rng(0).permutation(len(rows_PC))[:POINTS]
    return rows_PC[np.sort(order)].double().cpu().numpy()


def project_down(soft_PC: np.ndarray, text_PC: np.ndarray) -> Plane:
    """Two principal components, fit on both kinds of rows together (Pearson 1901)."""
    both = np.concatenate([soft_PC, text_PC])
    middle = both.mean(0)
    _, sizes, axes_QC = np.linalg.svd(both - middle, full_matrices=False)
    # An axis has no sign of its own: its largest entry is made positive, so that a picture is the same again.
    signs_Q = np.sign(axes_QC[np.arange(len(axes_QC)), np.abs(axes_QC).argmax(1)])
    axes_QC = (signs_Q[:, None] * axes_QC)[:2]
    explained = sizes[:2] ** 2 / max((sizes**2).sum(), np.finfo(float).tiny)
    return Plane((soft_PC - middle) @ axes_QC.T, (text_PC - middle) @ axes_QC.T, explained)


@torch.no_grad()
def loudness(backbone: GPT, soft: Sequence[Tensor], texts: Sequence[Tensor]) -> Loudness:
    """Of soft tokens (S, C) and of the embeddings of texts (L,), which begin with BOS."""
    table = backbone.transformer.wte
    read = [table(text[1:].to(table.weight.device)) for text in texts]
    return Loudness(through_clips(soft), through_clips(read))


def through_clips(clips: Sequence[Tensor]) -> np.ndarray:
    """Mean, tenth and ninetieth percentile of the rows' RMS (BINS, 3), by how far into its clip (P, C) a row stands."""
    found: list[list[float]] = [[] for _ in range(BINS)]
    for rows_PC in clips:
        for place, value in enumerate(rows_PC.double().square().mean(1).sqrt().tolist()):
            found[int((place + 0.5) / len(rows_PC) * BINS)].append(value)
    return np.array([[np.mean(v), *np.quantile(v, [0.1, 0.9])] if v else [np.nan] * 3 for v in found])
