"""fp8 layers: the scaling, both passes against the same arithmetic in fp32, and which layers they are for.

Where the CPU's torch has no fp8 product these tests are passed over; no GPU is asked for.
"""

import pytest
import torch

from omni.errors import OmniError
from omni.model.fp8 import BACKWARD, FORWARD, Fp8Linear, check_fp8, fits, multiply, quantise, use_fp8
from omni.model.gpt import GPT
from omni.model.precision import Linear


def has_product() -> bool:
    ones = (torch.ones(16, 16).to(FORWARD), torch.ones(()))
    try:
        multiply(ones, ones, torch.float32, fast=False)
    except (RuntimeError, NotImplementedError):
        return False
    return True


needs_product = pytest.mark.skipif(not has_product(), reason="this torch has no fp8 product on the CPU")


def rounded(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is left of `x` after fp8, in fp32."""
    values, scale = quantise(x, dtype)
    return values.float() * scale


def layer(n_in: int = 128, n_out: int = 256) -> Linear:
    torch.manual_seed(0)
    return Linear(n_in, n_out)


@pytest.mark.parametrize(("dtype", "step"), [(FORWARD, 2**-4), (BACKWARD, 2**-3)])
@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
def test_the_largest_entry_becomes_the_largest_there_is_whatever_the_size(dtype, step, size):
    x = size * torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    values, scale = quantise(x, dtype)
    if size > 1e-12:
        assert values.float().abs().max() == torch.finfo(dtype).max
        large = x.abs() > x.abs().max() / 64  # smaller ones are rounded to a fixed step
        torch.testing.assert_close((values.float() * scale)[large], x[large], rtol=step, atol=0.0)
    assert torch.isfinite(values.float()).all()


def test_zeros_stay_zeros():
    values, scale = quantise(torch.zeros(4, 4), FORWARD)
    assert not values.float().any()
    assert torch.isfinite(scale)


@needs_product
@pytest.mark.parametrize("rows", [32, 7])
def test_both_passes_are_products_of_what_fp8_leaves(rows):
    """In fp32 around them the products themselves are exact, so the passes can be redone by hand."""
    fp8 = layer()
    assert use_fp8(fp8) == 1
    x = torch.randn(1, rows, 128, requires_grad=True)
    gradient = torch.randn(1, rows, 256)
    y = fp8(x)
    y.backward(gradient)
    x8, w8, g8 = rounded(x[0].detach(), FORWARD), rounded(fp8.weight.detach(), FORWARD), rounded(gradient[0], BACKWARD)
    torch.testing.assert_close(y[0], x8 @ w8.t(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(x.grad[0], g8 @ w8, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(fp8.weight.grad, g8.t() @ x8, rtol=1e-5, atol=1e-4)
    assert fp8.weight.grad.dtype == torch.float32


@needs_product
def test_rows_are_added_only_where_some_are_missing(monkeypatch):
    pads, pad = [], torch.nn.functional.pad
    monkeypatch.setattr("omni.model.fp8.F.pad", lambda x, by: pads.append(by[-1]) or pad(x, by))
    fp8 = layer()
    use_fp8(fp8)
    for rows in (16, 32, 33):
        assert fp8(torch.randn(rows, 128)).shape == (rows, 256)
    assert pads == [15]


@needs_product
def test_it_is_near_the_full_product_and_off_in_evaluation():
    full, fp8 = layer(), layer()
    use_fp8(fp8)
    x = torch.randn(32, 128)
    error = (fp8(x) - full(x)).norm() / full(x).norm()
    assert 0.005 < error < 0.05
    torch.testing.assert_close(fp8.eval()(x), full(x), rtol=0.0, atol=0.0)


def test_narrow_odd_and_biased_layers_stay_as_they_are():
    assert fits(layer())
    assert not fits(Linear(64, 256))
    assert not fits(Linear(136, 257))
    assert not fits(Linear(128, 256, bias=True))


@needs_product
def test_a_gpt_trains_in_fp8_with_the_same_names_and_nearly_the_same_gradients():
    torch.manual_seed(0)
    keys = {"sequence_len": 64, "vocab_size": 257, "n_layer": 2, "n_head": 1, "n_kv_head": 1, "n_embd": 128}
    full, fp8 = GPT(**keys), GPT(**keys)
    for parameter in full.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    fp8.load_state_dict(full.state_dict())
    assert use_fp8(fp8) == 2 * 6 + 1  # q, k, v, o, up, down in each block, and the head; no gates
    assert isinstance(fp8.lm_head, Fp8Linear)
    assert list(fp8.state_dict()) == list(full.state_dict())
    idx = torch.randint(0, 256, (2, 24))
    losses = [model(idx, idx.roll(-1, 1)) for model in (full, fp8)]
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=0.02)
    for loss in losses:
        loss.backward()
    for (name, ours), theirs in zip(fp8.named_parameters(), full.parameters(), strict=True):
        if ours.ndim == 2 and theirs.grad.norm() > 0:
            similarity = torch.cosine_similarity(ours.grad.flatten(), theirs.grad.flatten(), dim=0)
            assert similarity > 0.9, name


def test_a_device_without_fp8_is_refused():
    with pytest.raises(OmniError, match=r"precision: fp8 needs a CUDA device of capability 8\.9"):
        check_fp8(torch.device("cpu"))
