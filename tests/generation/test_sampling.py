"""Draws from a handful of logits."""

import pytest
import torch

from omni.errors import OmniError
from omni.generation.sampling import Settings, sample

LOGITS = torch.tensor([0.0, 3.0, 1.0, 2.0, -5.0])


def draw(settings: Settings, logits: torch.Tensor = LOGITS, times: int = 400) -> list[int]:
    generator = torch.Generator().manual_seed(settings.seed)
    return [sample(logits, settings, generator) for _ in range(times)]


def test_temperature_0_takes_the_likeliest():
    assert set(draw(Settings(temperature=0, top_k=3, top_p=0.5))) == {1}


def test_plain_settings_draw_from_the_models_own_distribution():
    tokens = torch.tensor(draw(Settings(), times=4000))
    shares = torch.bincount(tokens, minlength=5) / 4000
    torch.testing.assert_close(shares, LOGITS.softmax(-1), atol=0.03, rtol=0)


def test_temperature_sharpens():
    tokens = torch.tensor(draw(Settings(temperature=0.5), times=4000))
    torch.testing.assert_close((tokens == 1).float().mean(), (LOGITS / 0.5).softmax(-1)[1], atol=0.03, rtol=0)


def test_top_k():
    assert set(draw(Settings(top_k=2))) == {1, 3}
    assert set(draw(Settings(top_k=1))) == {1}
    assert set(draw(Settings(top_k=99, temperature=9.0))) == {0, 1, 2, 3, 4}


def test_top_p_is_the_smallest_set_that_holds_so_much():
    logits = torch.tensor([0.2, 0.5, 0.3]).log()
    assert set(draw(Settings(top_p=0.49), logits)) == {1}
    assert set(draw(Settings(top_p=0.51), logits)) == {1, 2}
    assert set(draw(Settings(top_p=0.81), logits)) == {0, 1, 2}


def test_top_p_counts_what_top_k_and_temperature_left():
    logits = torch.tensor([0.4, 0.3, 0.3]).log()
    assert set(draw(Settings(top_k=2, top_p=0.56), logits)) == {0}  # 0.4 of 0.7 is enough
    assert set(draw(Settings(top_p=0.5, temperature=0.1), logits)) == {0}


def test_a_seed_is_a_sequence():
    assert draw(Settings(seed=3)) == draw(Settings(seed=3)) != draw(Settings(seed=4))


def test_a_tiny_temperature_is_no_overflow():
    assert set(draw(Settings(temperature=1e-38), LOGITS * 5)) == {1}


@pytest.mark.parametrize(
    "wrong",
    [
        *({"temperature": -1}, {"temperature": float("nan")}, {"temperature": float("inf")}),
        *({"top_k": 0}, {"top_p": 0}, {"top_p": 1.1}, {"max_tokens": 0}, {"seed": 10**20}, {"seed": -1}),
        {"max_characters": 0},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(OmniError, match=next(iter(wrong))):
        Settings(**wrong)


@pytest.mark.parametrize("given", [{"temperature": 1e-300}, {"temperature": 1e-46}, {"top_p": 1e-46}], ids=str)
def test_what_is_almost_nothing_takes_the_likeliest(given):
    assert set(draw(Settings(**given), times=5)) == {1}
