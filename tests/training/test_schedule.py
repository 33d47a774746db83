import pytest

from omni.training.schedule import trapezoid


def factors(**shape) -> list[float]:
    return [trapezoid(step, **shape) for step in range(shape["max_steps"])]


def test_up_flat_down():
    values = factors(max_steps=10, warmup_steps=2, warmdown=0.5, final=0.0)
    assert values == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_it_ends_at_its_share():
    values = factors(max_steps=100, warmup_steps=0, warmdown=1.0, final=0.1)
    assert values[0] == 1.0
    assert values[-1] == pytest.approx(0.1 + 0.9 / 100)


def test_no_warmdown_stays_flat():
    assert factors(max_steps=4, warmup_steps=0, warmdown=0.0, final=0.1) == [1.0] * 4
