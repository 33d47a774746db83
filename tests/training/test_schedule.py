import math

import pytest
import torch

from omni.training.muon import Muon
from omni.training.schedule import Schedule, muon_momentum, trapezoid


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


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.85), (100, 0.88), (200, 0.91), (400, 0.97), (500, 0.97), (750, 0.935), (1000, 0.90), (1001, 0.90)],
)
def test_muon_momentum_rises_stays_and_falls(step, expected):
    assert muon_momentum(step, max_steps=1000, warmdown=0.5) == pytest.approx(expected, abs=2e-4)


def test_muon_momentum_of_odd_runs():
    assert muon_momentum(49, max_steps=50, warmdown=0.5) == pytest.approx(0.85 + 0.12 * 49 / 400)  # the rise wins
    assert muon_momentum(900, max_steps=1000, warmdown=0.0) == 0.97


def test_apply_sets_what_each_group_follows():
    weight = [torch.nn.Parameter(torch.zeros(2, 2))]
    muon = Muon([{"params": weight, "initial_weight_decay": 0.28}], lr=0.02, weight_decay=0.28)
    adamw = torch.optim.AdamW(weight, lr=0.3, weight_decay=0.01)
    sgd = torch.optim.SGD(weight, lr=0.1, momentum=0.9)
    schedule = Schedule(max_steps=1000, warmup_steps=40, warmdown=0.5, final=0.05)
    schedule.apply(muon, 9)
    assert muon.param_groups[0]["lr"] == pytest.approx(0.005)
    for optimizer in (muon, adamw, sgd):  # twice, so that rates start from the first ones, not the last
        schedule.apply(optimizer, 0)
        schedule.apply(optimizer, 750)
    assert muon.param_groups[0]["lr"] == pytest.approx(0.0105)
    assert muon.param_groups[0]["momentum"] == pytest.approx(0.935)
    assert muon.param_groups[0]["weight_decay"] == pytest.approx(0.28 * (1 + math.cos(0.75 * math.pi)) / 2)
    assert adamw.param_groups[0]["lr"] == pytest.approx(0.3 * 0.525)
    assert adamw.param_groups[0]["weight_decay"] == 0.01
    assert sgd.param_groups[0]["momentum"] == 0.9  # one's own momentum is one's own


def test_weight_decay_is_a_half_cosine():
    muon = Muon(
        [{"params": [torch.nn.Parameter(torch.zeros(2, 2))], "initial_weight_decay": 1.0}], lr=1.0, weight_decay=1.0
    )
    schedule = Schedule(max_steps=4, warmup_steps=0, warmdown=0.0, final=1.0)
    seen = []
    for step in range(4):
        schedule.apply(muon, step)
        seen.append(muon.param_groups[0]["weight_decay"])
    assert seen == pytest.approx([1.0, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2])
