"""Layers that keep fp32 master weights and compute in another dtype: mixed precision without autocast (nanochat)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """Multiplies in the input's dtype."""

    def __init__(self, n_in: int, n_out: int, *, bias: bool = False):
        super().__init__(n_in, n_out, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class Embedding(nn.Embedding):
    """Looks up in fp32 and returns `compute_dtype`.

    nanochat stores its tables in the compute dtype, which goes with its learning rates of .15 and .3 for them. At the
    rates of a plain AdamW an update is smaller than bf16's spacing, and more than half of a table would never move.
    """

    def __init__(self, rows: int, width: int, *, compute_dtype: torch.dtype):
        super().__init__(rows, width)
        self.compute_dtype = compute_dtype

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids).to(self.compute_dtype)
