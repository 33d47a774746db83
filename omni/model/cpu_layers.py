"""A layer of Whisper's encoder on a CPU, by way of oneDNN: as transformers computes it, up to rounding, and faster.

torch multiplies fp32 with MKL, which on AMD reaches half of oneDNN's speed, and its fused attention takes twice the
time of two products and a softmax. Measured in docs/speed.md.

Shape letters: N windows, T encoder frames, D encoder width, H heads, E head width.
"""

import torch
from torch import Tensor, nn

from omni.model.precision import onednn_linear

LONG = 512
"""Frames from which scores go head by head: those of one head still fit a cache."""


def runs_on_onednn(x: Tensor) -> bool:
    """Whether `run_layer` can take this: fp32 or bf16, on a CPU whose torch has oneDNN."""
    if x.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    # Unlike torch's own product, oneDNN has no bf16 at all where the processor has none.
    return x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


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
    return onednn_linear(x, linear.weight, linear.bias, then)


def attend(q_NTD: Tensor, k_NTD: Tensor, v_NTD: Tensor, frames: list[int], heads: int) -> Tensor:
    """Attention of each window to its own frames alone; zero beyond them."""
    heard_NTD = torch.zeros_like(q_NTD)
    for n, length in enumerate(frames):  # contiguous: oneDNN has no fast way through anything else
        own = (part[n, :length].unflatten(-1, (heads, -1)).transpose(0, 1) for part in (q_NTD, k_NTD, v_NTD))
        q_HTE, k_HTE, v_HTE = (part.contiguous() for part in own)
        if length < LONG:
            heard_HTE = torch.bmm(torch.bmm(q_HTE, k_HTE.mT).softmax(-1), v_HTE)
        else:
            each = zip(q_HTE, k_HTE, v_HTE.mT.contiguous(), strict=True)
            heard_HTE = torch.stack([onednn_linear(onednn_linear(q, k).softmax(-1), v) for q, k, v in each])
        heard_NTD[n, :length] = heard_HTE.transpose(0, 1).flatten(1)
    return heard_NTD
