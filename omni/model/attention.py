"""Attention as nanochat does it: rotary positions, QK norm, sliding windows, value embeddings.

Shape letters: B batch, T positions, K keys, C width, H heads, G key/value heads, E head width.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni.model.precision import Linear

QK_SCALE = 1.2
VALUE_GATE_CHANNELS = 12
ROPE_BASE = 100_000
QUERY_BLOCK = 128
"""Of windowed attention; smaller blocks look at fewer keys in vain, larger ones need fewer calls."""


def rms_norm(x: Tensor) -> Tensor:
    """Divide each row by its root mean square. The eps is fp32's whatever the dtype, as upstream has it."""
    return F.rms_norm(x, (x.size(-1),), eps=torch.finfo(torch.float32).eps)


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021), half-split: cosines and sines of the positions asked for."""

    def __init__(self, head_dim: int, positions: int, dtype: torch.dtype):
        super().__init__()
        frequency = ROPE_BASE ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angle = torch.outer(torch.arange(positions, dtype=torch.float32), frequency)
        self.register_buffer("cos", torch.cat([angle.cos(), angle.cos()], dim=1).to(dtype), persistent=False)
        self.register_buffer("sin", torch.cat([angle.sin(), -angle.sin()], dim=1).to(dtype), persistent=False)

    def forward(self, positions: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Each (T, 1, E) for a slice, (B, T, 1, E) for positions (B, T)."""
        return self.cos[positions].unsqueeze(-2), self.sin[positions].unsqueeze(-2)


def rotate(x_BTHE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (x_i, x_{i + E / 2}) by their positions' angles."""
    return torch.addcmul(x_BTHE * cos, x_BTHE.roll(x_BTHE.size(-1) // 2, -1), sin)


def attend(q_BHTE: Tensor, k_BGKE: Tensor, v_BGKE: Tensor, window: int, foreign_B: Tensor | None = None) -> Tensor:
    """Causal attention in which a query sees itself and the `window` positions before it.

    Where the window is shorter than the text, nobody pays for the full square: as long as nothing has left the
    window, attention is plainly causal; later queries go in blocks, each against the keys that one of it can see.

    Args:
        k_BGKE, v_BGKE: at most `window` keys of the past, then one for each query.
        foreign_B: how many of each row's first keys are not its own.
    """
    length, past = q_BHTE.size(2), k_BGKE.size(2) - q_BHTE.size(2)
    # Scaling queries and keys by QK_SCALE each is scaling their products by its square: two tensors less to write.
    scale, grouped = QK_SCALE**2 / math.sqrt(q_BHTE.size(3)), q_BHTE.size(1) != k_BGKE.size(1)
    attention = partial(F.scaled_dot_product_attention, scale=scale, enable_gqa=grouped)
    if foreign_B is None and length == 1:
        return attention(q_BHTE, k_BGKE, v_BGKE)
    outputs, start = [], 0
    if foreign_B is None and past == 0:  # is_causal as a word: a comparison of lengths is symbolic when compiled
        if length <= window + 1:
            return attention(q_BHTE, k_BGKE, v_BGKE, is_causal=True)
        start = window + 1
        outputs = [attention(*(x[:, :, :start] for x in (q_BHTE, k_BGKE, v_BGKE)), is_causal=True)]
    while start < length:
        stop = min(length, start + QUERY_BLOCK)
        first, last = max(0, past + start - window), past + stop
        q, k, v = q_BHTE[:, :, start:stop], k_BGKE[:, :, first:last], v_BGKE[:, :, first:last]
        mask = visible(past + start, first, last, window, foreign_B, device=q.device)
        outputs.append(attention(q, k, v, attn_mask=mask))
        start = stop
    return torch.cat(outputs, dim=2)


def visible(query: int, first: int, last: int, window: int, foreign_B: Tensor | None, *, device) -> Tensor:
    """Which of the keys from `first` to `last` each query from `query` to `last` sees: (T, K), or (B, 1, T, K)."""
    key_K = torch.arange(first, last, device=device)
    distance_TK = torch.arange(query, last, device=device)[:, None] - key_K
    mask = (distance_TK >= 0) & (distance_TK <= window)
    return mask if foreign_B is None else mask & (key_K >= foreign_B[:, None])[:, None, None]


class Context(NamedTuple):
    """What all layers are told about the positions they work on.

    `rotary` holds the cosines and sines; `text_BT1` is 1 at text and 0 at audio, None where values come from both;
    `recall` takes a layer's number and what `attend` takes, and attends to the past too (`Chunk.attend`).
    """

    rotary: tuple[Tensor, Tensor]
    text_BT1: Tensor | None
    recall: Callable[..., Tensor] | None


class Attention(nn.Module):
    def __init__(self, n_embd: int, n_head: int, n_kv_head: int, *, layer: int, window: int, value_embeds: bool):
        super().__init__()
        self.n_head, self.n_kv_head, self.layer, self.window = n_head, n_kv_head, layer, window
        self.head_dim = n_embd // n_head
        self.c_q = Linear(n_embd, n_head * self.head_dim)
        self.c_k = Linear(n_embd, n_kv_head * self.head_dim)
        self.c_v = Linear(n_embd, n_kv_head * self.head_dim)
        self.c_proj = Linear(n_embd, n_embd)
        self.ve_gate = Linear(VALUE_GATE_CHANNELS, n_kv_head) if value_embeds else None

    def forward(self, x_BTC: Tensor, values_BTC: Tensor | None, context: Context) -> Tensor:
        batch, length, width = x_BTC.shape
        q = self.c_q(x_BTC).view(batch, length, self.n_head, self.head_dim)
        k = self.c_k(x_BTC).view(batch, length, self.n_kv_head, self.head_dim)
        v = self.c_v(x_BTC).view(batch, length, self.n_kv_head, self.head_dim)
        if values_BTC is not None:
            gate_BTG = 3 * torch.sigmoid(self.ve_gate(x_BTC[..., :VALUE_GATE_CHANNELS]))
            if context.text_BT1 is not None:
                gate_BTG = gate_BTG * context.text_BT1
            v = v + gate_BTG[..., None] * values_BTC.view_as(v)
        q, k = rms_norm(rotate(q, *context.rotary)), rms_norm(rotate(k, *context.rotary))
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        look = attend if context.recall is None else partial(context.recall, self.layer)
        y_BHTE = look(q, k, v, self.window)
        return self.c_proj(y_BHTE.transpose(1, 2).reshape(batch, length, width))
