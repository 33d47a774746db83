"""Linear layers that multiply in 8-bit floating point: twice bf16's rate on GPUs of capability 8.9 and above.

Each tensor is scaled by one number so that its largest entry becomes the largest fp8 has (dynamic tensorwise scaling).
Activations and weights are e4m3, gradients e5m2, which has more range and less precision. The backward pass takes the
fp8 tensors of the forward pass up again, so they are all that is kept for it: half of what bf16 keeps.

Shape letters: N tokens of a batch, I and O inputs and outputs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from omni.errors import OmniError
from omni.model.precision import Linear

CAPABILITY = (8, 9)
"""Of the first GPUs that multiply in fp8 (Ada; Hopper is 9.0)."""
MULTIPLE = 16
"""What every side of a product must be a multiple of."""
SMALLEST = 128
"""Below this side the scaling costs more than the product gains."""
FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2


def quantise(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`x` in fp8, and the fp32 scalar that brings it back. Zeros stay zeros."""
    largest = torch.finfo(dtype).max
    # In fp64: compiled code divides in fp32 otherwise than eager code does (torchao).
    scale = (largest / x.abs().max().double().clamp(min=1e-12)).float()
    return (x.float() * scale).clamp(-largest, largest).to(dtype), scale.reciprocal()


def multiply(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], dtype: torch.dtype, *, fast: bool) -> Tensor:
    """The product (M, N) of what `quantise` gave for (M, K) and for (N, K): both are read along K, as the hardware
    wants it. `fast` adds up in fewer bits: good enough for activations, not for gradients."""
    (a, a_scale), (b, b_scale) = left, right
    return torch._scaled_mm(a, b.t(), scale_a=a_scale, scale_b=b_scale, out_dtype=dtype, use_fast_accum=fast)


def turn(quantised: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The transpose, laid out anew."""
    values, scale = quantised
    return values.t().contiguous(), scale


class Product(torch.autograd.Function):
    """x (N, I) times the transpose of a weight (O, I), in fp8 both ways."""

    @staticmethod
    def forward(ctx, x_NI: Tensor, weight_OI: Tensor) -> Tensor:
        x, weight = quantise(x_NI, FORWARD), quantise(weight_OI, FORWARD)
        ctx.save_for_backward(*x, *weight)
        return multiply(x, weight, x_NI.dtype, fast=True)

    @staticmethod
    def backward(ctx, gradient_NO: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors[:2], ctx.saved_tensors[2:]
        gradient = quantise(gradient_NO, BACKWARD)
        x_gradient_NI = multiply(gradient, turn(weight), gradient_NO.dtype, fast=False)
        weight_gradient_OI = multiply(turn(gradient), turn(x), gradient_NO.dtype, fast=False)
        return x_gradient_NI, weight_gradient_OI


class Fp8Linear(Linear):
    """Multiplies in fp8 in training; in evaluation as `Linear` does."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        x_NI = x.reshape(-1, x.size(-1))
        rows = x_NI.size(0)
        if missing := -rows % MULTIPLE:  # rows of zeros change neither the others nor the gradient of the weight
            x_NI = F.pad(x_NI, (0, 0, 0, missing))
        return Product.apply(x_NI, self.weight)[:rows].view(*x.shape[:-1], -1)


def fits(layer: Linear) -> bool:
    """Whether fp8 is for this layer: without bias, sides that are multiples of 16, the smaller one at least 128."""
    sides = layer.weight.shape
    return layer.bias is None and not any(side % MULTIPLE for side in sides) and min(sides) >= SMALLEST


def use_fp8(model: nn.Module) -> int:
    """Let every layer that it is for multiply in fp8, with the weights it has; returns how many."""
    layers = [module for module in model.modules() if type(module) is Linear and fits(module)]
    for layer in layers:
        layer.__class__ = Fp8Linear  # nothing else differs: its weights and its name in a checkpoint stay
    return len(layers)


def check_fp8(device: torch.device) -> None:
    """Raise OmniError where the hardware does not multiply in fp8."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < CAPABILITY:
        wanted = ".".join(map(str, CAPABILITY))
        raise OmniError(
            f"precision: fp8 needs a CUDA device of capability {wanted} or above (Ada, Hopper and later), and this run "
            f"is on {device}; use precision=auto"
        )
