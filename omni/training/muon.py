"""Muon: momentum whose direction is made orthogonal before it is taken, for matrices.

A gradient of a matrix has a few large singular values; the update that Muon takes instead has them all near 1, so that
rare directions move as far as common ones. The parts, in the order of a step:

- Nesterov momentum and the polar factor instead of the raw direction: Muon (Keller Jordan, 2024);
- rows brought to one norm before it: MuonEq;
- five matrix polynomials that approach the polar factor: Polar Express (Amsel et al., 2025);
- the result rescaled to the norm of an orthogonal matrix: Muon+;
- a running second moment per neuron: NorMuon (Li et al., 2025);
- weight decay only where it agrees with the update: cautious weight decay (Chen et al., 2025).

The combination and its constants are nanochat's.

Shape letters: N matrices of one shape, R rows, C columns.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from omni.errors import OmniError
from omni.model.precision import multiplies_by_onednn, onednn_linear

POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
TINY = 1e-10
POLAR_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
STACK = {"cpu": 2**16, "cuda": 2**26}
"""Elements of the matrices that are worked on at once: what fits a core's cache, or what fills a GPU."""


class Muon(torch.optim.Optimizer):
    """Muon as nanochat runs it; the steps are those of the module's docstring.

    Args:
        params: groups of matrices, each group of one shape.
        lr: learning rate; a tall matrix takes sqrt(rows / cols) times as much.
        momentum, beta2: how much of the running mean, and of the running second moment, a step keeps.
        weight_decay: decoupled, a step and unit of learning rate.
        polar: the arithmetic of the polar factor: "fp32", or "bf16" where the hardware is fast at that.

    Raises:
        OmniError: an unknown `polar`.
        ValueError: a group of several shapes, or of something else than matrices.
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float = 0.02,
        momentum: float = 0.95,
        beta2: float = 0.9,
        weight_decay: float = 0.0,
        polar: str = "fp32",
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "beta2": beta2, "weight_decay": weight_decay})
        if polar not in POLAR_DTYPES:
            raise OmniError(f"optimizer.polar: {polar!r} must be one of {', '.join(POLAR_DTYPES)}")
        self.polar = POLAR_DTYPES[polar]
        for group in self.param_groups:
            shapes = {tuple(p.shape) for p in group["params"]}
            if len(shapes) > 1 or any(len(shape) != 2 for shape in shapes):
                raise ValueError(f"a group of Muon holds matrices of one shape, not {sorted(shapes)}")

    @torch.no_grad()
    def step(self) -> None:
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            for matrices in stacks([p for p in group["params"] if p.grad is not None]):
                self.move(matrices, group)

    def move(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        """One step of some matrices of a group."""
        rows, cols = matrices[0].shape
        lr = group["lr"] * math.sqrt(max(1, rows / cols))
        update_NRC = orthogonalise(equalise(self.accumulate(matrices, group["momentum"])), self.polar).float()
        factor = self.even_out(update_NRC, matrices, group["beta2"])
        weights_NRC = torch.stack(matrices)
        agrees_NRC = (update_NRC * weights_NRC).ge_(0)  # the factor is positive and changes no sign
        update_NRC.mul_(lr * factor).addcmul_(weights_NRC, agrees_NRC, value=lr * group["weight_decay"])
        torch._foreach_sub_(matrices, list(update_NRC.unbind()))

    def accumulate(self, matrices: list[Tensor], momentum: float) -> Tensor:
        """The Nesterov direction of each matrix, stacked."""
        gradients = [p.grad for p in matrices]
        means = [self.state_of(p)["momentum"] for p in matrices]
        torch._foreach_lerp_(means, gradients, 1 - momentum)
        return torch.stack(gradients).lerp_(torch.stack(means), momentum)

    def even_out(self, update_NRC: Tensor, matrices: list[Tensor], beta2: float) -> Tensor:
        """The factors (N, R, 1) or (N, 1, C) that give every neuron a like share of the update.

        The update is read as if it had the norm of an orthogonal matrix, and the factors take it to that norm.
        """
        rows, cols = matrices[0].shape
        along, length = (-1, cols) if rows >= cols else (-2, rows)
        target = min(rows, cols) / length
        mean_square = torch.linalg.vector_norm(update_NRC, dim=along, keepdim=True).square_().div_(length)
        rescale = target / total(mean_square)
        mean_square *= rescale
        seconds = [self.state_of(p)["second"] for p in matrices]
        torch._foreach_lerp_(seconds, list(mean_square.unbind()), 1 - beta2)
        factor = torch.stack(seconds).clamp_min_(TINY).rsqrt_()
        return factor * (rescale * target / total(mean_square * factor.square())).sqrt()

    def state_of(self, matrix: Tensor) -> dict[str, Tensor]:
        """The running means of a matrix: its gradient's, and the second moment of its neurons."""
        state = self.state[matrix]
        if not state:
            rows, cols = matrix.shape
            state["momentum"] = torch.zeros_like(matrix)
            state["second"] = matrix.new_zeros((rows, 1) if rows >= cols else (1, cols))
        return state


def stacks(matrices: list[Tensor]) -> Iterator[list[Tensor]]:
    """Matrices of one shape in portions that the device can work on at once."""
    if not matrices:
        return
    size = max(1, STACK.get(matrices[0].device.type, STACK["cuda"]) // matrices[0].numel())
    for first in range(0, len(matrices), size):
        yield matrices[first : first + size]


def equalise(update_NRC: Tensor) -> Tensor:
    """Bring rows to one norm and each matrix to a Frobenius norm just under 1, in place."""
    norm_NR1 = torch.linalg.vector_norm(update_NRC, dim=-1, keepdim=True)
    root_mean_square_N11 = norm_NR1.square().mean(-2, keepdim=True).sqrt()
    scale_NR1 = root_mean_square_N11 / norm_NR1.clamp_min(TINY)
    norm_N11 = torch.linalg.vector_norm(norm_NR1 * scale_NR1, dim=-2, keepdim=True)
    return update_NRC.mul_(scale_NR1 / (1.01 * norm_N11 + 1e-6))


def orthogonalise(update_NRC: Tensor, dtype: torch.dtype) -> Tensor:
    """Five Polar Express iterations: singular values in (0, 1] come near 1.

    An iteration multiplies by a polynomial of the Gram matrix on the small side. Those polynomials commute, so for an
    oblong matrix they are multiplied with each other first, small x small, and with the matrix once: from a ratio of
    3 : 2 on that takes fewer operations. In bf16 the errors of that grow without bound, so there it is not done.
    """
    tall = update_NRC.size(-2) > update_NRC.size(-1)
    wide = (update_NRC.mT if tall else update_NRC).to(dtype).contiguous()
    if dtype == torch.float32 and 2 * wide.size(-1) > 3 * wide.size(-2):
        wide = product(commuting_product(product(wide, wide.mT)), wide)
    else:
        for a, b, c in POLAR_EXPRESS:
            gram = product(wide, wide.mT)
            wide = add_product(wide, add_product(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return (wide.mT if tall else wide).contiguous()


def commuting_product(gram: Tensor) -> Tensor:
    """The product of the five polynomials, each of the Gram matrix that the ones before it leave."""
    first, *others = POLAR_EXPRESS
    whole = factor = polynomial(gram, *first)
    for coefficients in others:
        gram = product(product(factor, gram), factor)
        factor = polynomial(gram, *coefficients)
        whole = product(factor, whole)
    return whole


def polynomial(gram: Tensor, a: float, b: float, c: float) -> Tensor:
    """a I + b A + c A^2 of square matrices A."""
    result = add_product(gram, gram, gram, beta=b, alpha=c)
    result.diagonal(dim1=-2, dim2=-1).add_(a)
    return result


def add_product(z: Tensor, x: Tensor, y: Tensor, *, beta: float, alpha: float = 1.0) -> Tensor:
    """beta z + alpha x @ y for stacks of matrices."""
    if len(x) == 1 and multiplies_by_onednn(x):
        return product(x, y).mul_(alpha).add_(z, alpha=beta)
    return torch.baddbmm(z, x, y, beta=beta, alpha=alpha)


def product(x: Tensor, y: Tensor) -> Tensor:
    """x @ y for stacks of matrices."""
    if len(x) == 1 and multiplies_by_onednn(x):
        return onednn_linear(x[0], y[0].mT)[None]
    return torch.bmm(x, y)


def total(x: Tensor) -> Tensor:
    """The sum over each matrix, never 0, so that it can be divided by."""
    return x.sum((-2, -1), keepdim=True).clamp_min_(TINY)
