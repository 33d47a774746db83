"""The one linear layer of every trained part."""

from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """Keeps fp32 master weights and multiplies in the input's dtype: mixed precision without autocast (nanochat)."""

    def __init__(self, n_in: int, n_out: int, *, bias: bool = False):
        super().__init__(n_in, n_out, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
