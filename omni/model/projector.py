"""From the encoder's frames to soft tokens the backbone can read.

Shape letters: B batch, K encoder layers kept, T encoder frames, D encoder width, S soft tokens, C backbone width.

A projector takes `(states_BKTD, lengths_B)`, returns `(soft_BSC, lengths_B)` and declares `output_length(frames)`.
To add one, write such a module in a file of your own and name it in a YAML (see the README).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni.errors import OmniError
from omni.model.attention import rms_norm
from omni.model.precision import Linear

GELU_RMS = 0.652
"""Root mean square of GELU(x) for x ~ N(0, 1)."""


class Projector(nn.Module):
    """What every projector shares: kept layers side by side, padding silenced, the last linear layer, the gate.

    Args:
        in_dim: encoder width times the number of layers kept.
        out_dim: backbone width.
        hidden_dim: width of what `mix` returns.
        init: how loud the soft tokens start. "norm_matched" draws the last layer so that they come out with the
            RMS of 1 that text embeddings have. "zero" starts it at zero, as omni's first version did; the norm in
            the backbone undoes that within one step (its gradient at zero is about 2900 times as steep).
        gate: a learnable gain per channel behind a norm. Per channel, since the backbone norms each row anyway and
            a single gain would cancel.
        dropout: the share of hidden units that are silenced in training.

    Raises:
        OmniError: an unknown `init`, or states of another width than `in_dim`.
    """

    def __init__(self, *, in_dim: int, out_dim: int, hidden_dim: int, init: str, gate: bool, dropout: float):
        super().__init__()
        self.in_dim, self.dropout = in_dim, dropout
        self.fc2 = Linear(hidden_dim, out_dim, bias=True)
        self.gate = nn.Parameter(torch.ones(out_dim)) if gate else None
        nn.init.zeros_(self.fc2.bias)
        if init == "zero":
            nn.init.zeros_(self.fc2.weight)
        elif init == "norm_matched":
            nn.init.normal_(self.fc2.weight, std=1 / (GELU_RMS * math.sqrt(hidden_dim)))
        else:
            raise OmniError(f"projector.init: {init!r} is not one of zero, norm_matched")

    def forward(self, states_BKTD: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Soft tokens (B, S, C) and how many of them count per row (B,); see the class for what it raises."""
        batch, layers, frames, width = states_BKTD.shape
        if layers * width != self.in_dim:
            raise OmniError(
                f"projector.in_dim={self.in_dim}, but the encoder gives {layers} layer(s) x {width} = "
                f"{layers * width}: set projector.in_dim={layers * width}"
            )
        frames_BTD = states_BKTD.transpose(1, 2).reshape(batch, frames, layers * width)
        hidden_BSH = F.gelu(self.mix(silence_padding(frames_BTD, lengths_B), lengths_B))
        soft_BSC = self.fc2(F.dropout(hidden_BSH, self.dropout, self.training))
        if self.gate is not None:
            soft_BSC = rms_norm(soft_BSC) * self.gate.to(soft_BSC.dtype)
        return soft_BSC, self.output_length(lengths_B)

    def mix(self, frames_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Frames to hidden units (B, S, hidden_dim), before the GELU."""
        raise NotImplementedError

    def output_length(self, frames):
        """Soft tokens for so many frames; an int or a tensor of them."""
        raise NotImplementedError


def silence_padding(x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
    """Zero what stands behind each row's end, so that a ragged batch equals its rows one by one."""
    inside_BT = torch.arange(x_BTD.size(1), device=x_BTD.device) < lengths_B[:, None]
    return x_BTD * inside_BT[..., None]


class StackMLP(Projector):
    """Stack `stack` neighbouring frames, then two layers with a GELU between (the frame stacking of ultravox).

    The last stack is filled up with zeros: no frame is dropped. `stack=1` is the plain MLP; `hidden_dim` is its width
    between, `out_dim` unless it is given.
    """

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        stack: int = 8,
        hidden_dim: int | None = None,
        init: str = "norm_matched",
        gate: bool = True,
        dropout: float = 0.0,
    ):
        hidden_dim = hidden_dim or out_dim
        super().__init__(in_dim=in_dim, out_dim=out_dim, hidden_dim=hidden_dim, init=init, gate=gate, dropout=dropout)
        self.stack = stack
        self.fc1 = Linear(in_dim * stack, hidden_dim, bias=True)
        nn.init.normal_(self.fc1.weight, std=1 / math.sqrt(in_dim * stack))
        nn.init.zeros_(self.fc1.bias)

    def mix(self, frames_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        batch, frames, width = frames_BTD.shape
        soft = self.output_length(frames)
        filled = F.pad(frames_BTD, (0, 0, 0, soft * self.stack - frames))
        return self.fc1(filled.view(batch, soft, self.stack * width))

    def output_length(self, frames):
        return -(-frames // self.stack)


class Conv(Projector):
    """Strided convolutions, each halving the frame rate, then a linear layer.

    `halvings=3` turns 50 frames a second into 6.25 soft tokens a second, as `StackMLP(stack=8)` does, but each soft
    token sees across the border of its stack.
    """

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        halvings: int = 3,
        init: str = "norm_matched",
        gate: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__(in_dim=in_dim, out_dim=out_dim, hidden_dim=out_dim, init=init, gate=gate, dropout=dropout)
        self.convs = nn.ModuleList(
            nn.Conv1d(in_dim if i == 0 else out_dim, out_dim, kernel_size=3, stride=2, padding=1)
            for i in range(halvings)
        )
        for i, conv in enumerate(self.convs):
            gain = 1 if i == 0 else GELU_RMS
            nn.init.normal_(conv.weight, std=1 / (gain * math.sqrt(conv.in_channels * 3)))
            nn.init.zeros_(conv.bias)

    def mix(self, frames_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        x_BTD = frames_BTD
        for i, conv in enumerate(self.convs):
            if i:
                x_BTD = silence_padding(F.gelu(x_BTD), lengths_B)
            weight, bias = conv.weight.to(x_BTD.dtype), conv.bias.to(x_BTD.dtype)
            x_BTD = F.conv1d(x_BTD.transpose(1, 2), weight, bias, stride=2, padding=1).transpose(1, 2)
            lengths_B = halve(lengths_B)
        return x_BTD

    def output_length(self, frames):
        for _ in self.convs:
            frames = halve(frames)
        return frames


def halve(length):
    """Half of it, rounded up."""
    return -(-length // 2)
