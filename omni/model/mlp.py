"""The feed-forward half of a block: relu squared, as nanochat has it."""

import torch
from torch import Tensor, nn

from omni.model.precision import Linear


class ReLUSquared(torch.autograd.Function):
    """relu(x)^2, which keeps one tensor for the backward pass and writes one, where autograd would write four."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        positive = x.relu()
        ctx.save_for_backward(positive)
        return positive.square()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return (gradient * positive).mul_(2)


class MLP(nn.Module):
    def __init__(self, n_embd: int):
        super().__init__()
        self.c_fc = Linear(n_embd, 4 * n_embd)
        self.c_proj = Linear(4 * n_embd, n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(ReLUSquared.apply(self.c_fc(x)))
