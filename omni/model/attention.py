"""Attention as nanochat does it: rotary positions, QK norm, sliding windows, value embeddings.

Shape letters: B batch, T positions, C width, H heads, G key/value heads, E head width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni.model.precision import Linear

QK_SCALE = 1.2
VALUE_GATE_CHANNELS = 12
ROPE_BASE = 100_000


def rms_norm(x: Tensor) -> Tensor:
    """Divide each row by its root mean square. The eps is fp32's whatever the dtype, as upstream has it."""
    return F.rms_norm(x, (x.size(-1),), eps=torch.finfo(torch.float32).eps)


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021), half-split, from a cache of cosines and sines."""

    def __init__(self, head_dim: int, positions: int, dtype: torch.dtype):
        super().__init__()
        frequency = ROPE_BASE ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angle = torch.outer(torch.arange(positions, dtype=torch.float32), frequency)
        self.register_buffer("cos", angle.cos().to(dtype), persistent=False)
        self.register_buffer("sin", angle.sin().to(dtype), persistent=False)

    def forward(self, x_BTHE: Tensor) -> Tensor:
        length = x_BTHE.size(1)
        cos, sin = self.cos[:length, None], self.sin[:length, None]
        x1, x2 = x_BTHE.chunk(2, dim=-1)
        return torch.cat([x1 * cos + x2 * sin, x2 * cos - x1 * sin], dim=-1)


def attend(q_BHTE: Tensor, k_BGTE: Tensor, v_BGTE: Tensor, window: int) -> Tensor:
    """Causal attention in which a query sees itself and the `window` positions before it.

    A window shorter than the text need not pay for the full square: queries go in blocks of the window's size,
    each against the at most 2 x window keys it can see.
    """
    length, grouped = q_BHTE.size(2), q_BHTE.size(1) != k_BGTE.size(1)
    if length <= window + 1:
        return F.scaled_dot_product_attention(q_BHTE, k_BGTE, v_BGTE, is_causal=True, enable_gqa=grouped)
    blocks = []
    for start in range(0, length, window):
        stop, first = min(start + window, length), max(0, start - window)
        query = torch.arange(start, stop, device=q_BHTE.device)
        distance = query[:, None] - torch.arange(first, stop, device=q_BHTE.device)
        blocks.append(
            F.scaled_dot_product_attention(
                q_BHTE[:, :, start:stop],
                k_BGTE[:, :, first:stop],
                v_BGTE[:, :, first:stop],
                attn_mask=(distance >= 0) & (distance <= window),
                enable_gqa=grouped,
            )
        )
    return torch.cat(blocks, dim=2)


class Attention(nn.Module):
    def __init__(self, n_embd: int, n_head: int, n_kv_head: int, *, window: int, value_embeds: bool):
        super().__init__()
        self.n_head, self.n_kv_head, self.window = n_head, n_kv_head, window
        self.head_dim = n_embd // n_head
        self.c_q = Linear(n_embd, n_head * self.head_dim)
        self.c_k = Linear(n_embd, n_kv_head * self.head_dim)
        self.c_v = Linear(n_embd, n_kv_head * self.head_dim)
        self.c_proj = Linear(n_embd, n_embd)
        self.ve_gate = Linear(VALUE_GATE_CHANNELS, n_kv_head) if value_embeds else None

    def forward(self, x_BTC: Tensor, values_BTC: Tensor | None, rotary: Rotary) -> Tensor:
        batch, length, width = x_BTC.shape
        q = self.c_q(x_BTC).view(batch, length, self.n_head, self.head_dim)
        k = self.c_k(x_BTC).view(batch, length, self.n_kv_head, self.head_dim)
        v = self.c_v(x_BTC).view(batch, length, self.n_kv_head, self.head_dim)
        if values_BTC is not None:
            gate_BTG = 3 * torch.sigmoid(self.ve_gate(x_BTC[..., :VALUE_GATE_CHANNELS]))
            v = v + gate_BTG[..., None] * values_BTC.view_as(v)
        q, k = QK_SCALE * rms_norm(rotary(q)), QK_SCALE * rms_norm(rotary(k))
        y_BHTE = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), self.window)
        return self.c_proj(y_BHTE.transpose(1, 2).reshape(batch, length, width))
