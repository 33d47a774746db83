"""Muon against its seven steps written out plainly in fp64, and what a long run asks of it besides."""

import copy

import pytest
import torch

from omni.errors import OmniError
from omni.training import muon
from omni.training.muon import POLAR_EXPRESS, Muon, commuting_product, orthogonalise

SHAPES = [(24, 24), (20, 64), (64, 20), (20, 24), (24, 20), (3, 12), (1, 12)]


def gradients(shape: tuple[int, int], *, count: int, steps: int = 4) -> list[list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [[torch.randn(shape, generator=generator) for _ in range(count)] for _ in range(steps)]


def take(optimizer: Muon, matrices: list[torch.nn.Parameter], step: list[torch.Tensor | None]) -> None:
    for matrix, gradient in zip(matrices, step, strict=True):
        matrix.grad = None if gradient is None else gradient.clone()
    optimizer.step()


def make(shape: tuple[int, int], *, count: int) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for _ in range(count)]


def plain_polar(x: torch.Tensor) -> torch.Tensor:
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def reference(p, history, *, lr, mu, beta2, decay):
    """One matrix through the steps of its gradients, fp64."""
    p, m, v = p.double(), torch.zeros_like(p, dtype=torch.float64), 0.0
    rows, cols = p.shape
    lr *= max(1, rows / cols) ** 0.5
    for gradient in history:
        g = gradient.double()
        m = mu * m + (1 - mu) * g
        u = (1 - mu) * g + mu * m
        u = u / u.norm(dim=1, keepdim=True) * u.norm() / rows**0.5
        u = plain_polar(u / (1.01 * u.norm() + 1e-6))
        u = u * min(rows, cols) ** 0.5 / u.norm()
        norm = u.norm()
        v = beta2 * v + (1 - beta2) * u.square().mean(1 if rows >= cols else 0, keepdim=True)
        u = u * v.clamp(min=1e-10).rsqrt()
        u = u * norm / u.norm()
        p = p - lr * u - lr * decay * p * (u * p >= 0)
    return p


@pytest.mark.parametrize("stack", [1, 2**20], ids=["alone", "stacked"])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_takes_the_seven_steps(shape, stack, monkeypatch):
    monkeypatch.setitem(muon.STACK, "cpu", stack)
    matrices, steps = make(shape, count=3), gradients(shape, count=3)
    start = [matrix.detach().clone() for matrix in matrices]
    optimizer = Muon(matrices, lr=0.1, momentum=0.9, beta2=0.8, weight_decay=0.5)
    for step in steps:
        take(optimizer, matrices, step)
    for i, matrix in enumerate(matrices):
        expected = reference(start[i], [step[i] for step in steps], lr=0.1, mu=0.9, beta2=0.8, decay=0.5)
        torch.testing.assert_close(matrix.detach().double(), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("shape", [(64, 96), (64, 200), (200, 64), (64, 64)])
def test_singular_values_come_near_one(shape):
    torch.manual_seed(0)
    x = torch.randn(2, *shape)
    x /= 1.01 * x.norm(dim=(1, 2), keepdim=True)
    for dtype, low, high in [(torch.float32, 0.6, 1.2), (torch.bfloat16, 0.5, 1.3)]:
        values = torch.linalg.svdvals(orthogonalise(x, dtype).float())
        assert low < values.quantile(0.02)
        assert values.max() < high
        left, _, right = torch.linalg.svd(x, full_matrices=False)
        assert torch.nn.functional.cosine_similarity(
            (left @ right).flatten(), orthogonalise(x, dtype).float().flatten(), dim=0
        ) == pytest.approx(1, abs=0.03)


def test_the_short_cut_is_accurate_where_singular_values_die_out():
    torch.manual_seed(0)
    left, right = torch.linalg.qr(torch.randn(64, 64))[0], torch.linalg.qr(torch.randn(300, 64))[0]
    x = left @ torch.diag(torch.logspace(0, -6, 64)) @ right.mT
    x = (x / (1.01 * x.norm()))[None]
    expected = plain_polar(x.double())
    error = commuting_product(x @ x.mT) @ x - expected
    assert error.norm() < 1e-3 * expected.norm()


def test_a_state_dict_goes_on_to_the_bit():
    matrices, steps = make((20, 64), count=3), gradients((20, 64), count=3)
    optimizer = Muon(matrices, lr=0.1, weight_decay=0.5)
    for step in steps[:2]:
        take(optimizer, matrices, step)
    twins = copy.deepcopy(matrices)
    other = Muon(twins, lr=9.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in steps[2:]:
        take(optimizer, matrices, step)
        take(other, twins, step)
    assert all(torch.equal(a, b) for a, b in zip(matrices, twins, strict=True))


def test_a_matrix_without_a_gradient_stays_and_others_do_not_notice():
    matrices, twins = make((8, 8), count=2), make((8, 8), count=2)
    before = matrices[1].detach().clone()
    step = gradients((8, 8), count=2)[0]
    take(Muon(matrices), matrices, [step[0], None])
    take(Muon(twins), twins, step)
    assert torch.equal(matrices[1], before)
    torch.testing.assert_close(matrices[0], twins[0])


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-6])
def test_gradients_of_nothing_or_almost_nothing_stay_finite(size):
    matrices, steps = make((8, 24), count=2), gradients((8, 24), count=2)
    steps[1][0][:4] = 0  # some rows alone
    optimizer = Muon(matrices, weight_decay=0.1)
    for step in [[gradient * size for gradient in steps[0]], steps[1]]:
        take(optimizer, matrices, step)
        assert all(torch.isfinite(matrix).all() for matrix in matrices)


def test_the_update_does_not_depend_on_the_gradients_scale():
    small, large = make((8, 24), count=1), make((8, 24), count=1)
    step = gradients((8, 24), count=1)[0]
    take(Muon(small), small, step)
    take(Muon(large), large, [step[0] * 1000])
    torch.testing.assert_close(small[0], large[0], atol=1e-5, rtol=1e-5)


def test_only_what_agrees_with_the_update_decays():
    free, decayed = make((8, 8), count=1), make((8, 8), count=1)
    start = free[0].detach().clone()
    step = gradients((8, 8), count=1)[0]
    take(Muon(free, lr=0.01), free, step)
    take(Muon(decayed, lr=0.01, weight_decay=2.0), decayed, step)
    agrees = (start - free[0]) * start >= 0
    torch.testing.assert_close(decayed[0], free[0] - 0.01 * 2.0 * start * agrees)
    assert 0 < agrees.sum() < 64


def test_bf16_takes_nearly_the_same_step():
    exact, rounded = make((64, 128), count=1), make((64, 128), count=1)
    start = exact[0].detach().clone()
    step = gradients((64, 128), count=1)[0]
    take(Muon(exact, lr=1.0), exact, step)
    take(Muon(rounded, lr=1.0, polar="bf16"), rounded, step)
    assert (exact[0] - rounded[0]).norm() < 0.05 * (exact[0] - start).norm()


def test_what_it_does_not_take_is_refused():
    with pytest.raises(OmniError, match=r"optimizer\.polar: 'fp8' must be one of fp32, bf16"):
        Muon(make((8, 8), count=1), polar="fp8")
    with pytest.raises(ValueError, match="matrices of one shape"):
        Muon([*make((8, 8), count=1), *make((8, 4), count=1)])
    with pytest.raises(ValueError, match="matrices of one shape"):
        Muon([torch.nn.Parameter(torch.zeros(3))])
