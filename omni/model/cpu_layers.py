"""A layer of Whisper's encoder on a CPU, as transformers computes it, up to rounding, and faster.

Products go to oneDNN or to torch, whichever is faster here (`omni/model/precision.py`). torch's fused attention takes
longer than two products and a softmax, but for long windows in torch's own fp32. Measured in docs/speed.md.

Shape letters: N windows, T encoder frames, D encoder width, H heads, E head width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni.model.precision import multiplies_bf16, onednn_is_faster, onednn_linear

LONG = 512
"""Frames from which scores go head by head: those of one head still fit a cache."""


def is_fast(x: Tensor) -> bool:
    """Whether `run_layer` can take this: on a CPU, fp32, or bf16 where it is native; oneDNN may have none elsewhere."""
    if x.device.type != "cpu":
        return False
    return x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and multiplies_bf16(x.device))


def by_onednn(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 or onednn_is_faster()


def run_layer(layer: nn.Module, hidden_NTD: Tensor, frames: list[int]) -> Tensor:
    """What a `WhisperEncoderLayer` returns, without gradients; rows beyond a window's `frames` mean nothing."""
    own = layer.self_attn
    normed_NTD = layer.self_attn_layer_norm(hidden_NTD)
    q, k, v = (multiply(normed_NTD, part) for part in (own.q_proj, own.k_proj, own.v_proj))
    heard_NTD = attend(q.mul_(own.scaling), k, v, frames, own.num_heads)
    hidden_NTD = multiply(heard_NTD, own.out_proj).add_(hidden_NTD)
    normed_NTD = layer.final_layer_norm(hidden_NTD)
    return multiply(multiply(normed_NTD, layer.fc1, then="gelu"), layer.fc2).add_(hidden_NTD)


def multiply(x: Tensor, linear: nn.Linear, then: str = "none") -> Tensor:
    """As `linear(x)`, and then "gelu"."""
    if by_onednn(x):
        return onednn_linear(x, linear.weight, linear.bias, then)
    product = F.linear(x, linear.weight, linear.bias)
    return F.gelu(product) if then == "gelu" else product


def attend(q_NTD: Tensor, k_NTD: Tensor, v_NTD: Tensor, frames: list[int], heads: int) -> Tensor:
    """Attention of each window to its own frames alone; zero beyond them."""
    heard_NTD = torch.zeros_like(q_NTD)
    for n, length in enumerate(frames):  # contiguous: oneDNN has no fast way through anything else
        own = (part[n, :length].unflatten(-1, (heads, -1)).transpose(0, 1) for part in (q_NTD, k_NTD, v_NTD))
        q_HTE, k_HTE, v_HTE = (part.contiguous() for part in own)
        if length < LONG:
            heard_HTE = torch.bmm(torch.bmm(q_HTE, k_HTE.mT).softmax(-1), v_HTE)
        elif not by_onednn(q_HTE):
            heard_HTE = F.scaled_dot_product_attention(q_HTE[None], k_HTE[None], v_HTE[None], scale=1.0)[0]
        else:
            each = zip(q_HTE, k_HTE, v_HTE.mT.contiguous(), strict=True)
            heard_HTE = torch.stack([onednn_linear(onednn_linear(q, k).softmax(-1), v) for q, k, v in each])
        heard_NTD[n, :length] = heard_HTE.transpose(0, 1).flatten(1)
    return heard_NTD
