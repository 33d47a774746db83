"""Arithmetic: what a device is fast at, and layers that keep fp32 master weights and compute in another dtype, which is
mixed precision without autocast (nanochat)."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """Multiplies in the input's dtype."""

    def __init__(self, n_in: int, n_out: int, *, bias: bool = False):
        super().__init__(n_in, n_out, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)
        if multiplies_by_onednn(x):
            product = OneDNN.apply(x, weight)
            return product if bias is None else product + bias
        # As one matrix: else torch picks its kernel, and so the rounding, by who requires gradients.
        return F.linear(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])


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


class OneDNN(torch.autograd.Function):
    """x W^T on a CPU in fp32 by way of oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn_linear(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad
        of_x = onednn_linear(gradient, weight.mT) if wants_x else None
        if not wants_weight:
            return of_x, None
        return of_x, onednn_linear(gradient.flatten(0, -2).mT, x.flatten(0, -2).mT)


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bf16 natively; what does not emulates it, on a CPU tens of times slower than fp32.

    torch tells what the processor has, and by the other two what the environment lets oneDNN and torch use of it
    (ONEDNN_MAX_CPU_ISA, ATEN_CPU_CAPABILITY). A processor with AMX has AVX-512-bf16 too.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return (
        device.type == "cpu"
        and torch.cpu._is_avx512_bf16_supported()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    """x @ weight^T + bias, and then "gelu". The operator is the one torch's own compiler calls; it has no public name
    and no gradient."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "none")


def multiplies_by_onednn(x: Tensor) -> bool:
    """Whether oneDNN is to multiply in place of torch itself."""
    return (
        not torch.compiler.is_compiling()  # first: the compiler's tracing breaks at what follows
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and onednn_is_faster()
    )


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies fp32 faster than torch itself, which is MKL: on AMD's processors with AVX-512, twice as
    fast. With AVX2 alone it is slower (docs/speed.md). A rule and no measurement: the two round
    differently, and a run repeats itself to the bit."""
    cpuinfo = Path("/proc/cpuinfo")
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and cpuinfo.exists()
        and "AuthenticAMD" in cpuinfo.read_text()
    )
