"""Whisper's layers on a CPU: transformers' numbers, whichever way they are multiplied."""

import pytest
import torch

from omni.model import cpu_layers as module
from omni.model import encoder as ear
from omni.model.cpu_layers import is_fast, run_layer
from omni.model.encoder import RandomWhisperEncoder

FRAMES = [40, 25, 40]


@pytest.fixture
def layer():
    return RandomWhisperEncoder(width=64, depth=1, n_heads=2).whisper.layers[0]


def distance(a, b) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


@torch.no_grad()
@pytest.mark.parametrize("long", [512, 1])
def test_a_layer_is_transformers_layer(layer, monkeypatch, long):
    monkeypatch.setattr(module, "LONG", long)  # all heads at once, and head by head
    hidden = torch.randn(3, 40, 64, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(40) < torch.tensor(FRAMES)[:, None])[:, None, None]
    before, ours, theirs = hidden.clone(), run_layer(layer, hidden, FRAMES), layer(hidden, mask)
    assert torch.equal(hidden, before)  # it may be kept as a state of its own
    for row, length in enumerate(FRAMES):
        assert distance(ours[row, :length], theirs[row, :length]) < 1e-6
    exact = layer.double()(hidden.double(), mask)[:, :25]
    if not is_fast(hidden.bfloat16()):
        return  # bf16 is emulated here, and oneDNN may have none
    layer.bfloat16()
    short, plain = run_layer(layer, hidden.bfloat16(), FRAMES)[:, :25], layer(hidden.bfloat16(), mask)[:, :25]
    assert distance(short, exact) < 1.3 * distance(plain, exact) < 0.02


def test_what_is_not_fast_goes_through_transformers(monkeypatch):
    clips = [torch.randn(samples, generator=torch.Generator().manual_seed(1)) for samples in (8_000, 5_000)]
    quick, called = RandomWhisperEncoder()(clips)[0], []
    monkeypatch.setattr(ear, "is_fast", lambda hidden: called.append(hidden.dtype) or False)
    assert distance(quick, RandomWhisperEncoder()(clips)[0]) < 1e-5
    assert called
    assert not is_fast(torch.zeros(1).double())
    assert not is_fast(torch.zeros(1, device="meta"))


def test_the_encoder_goes_the_fast_way_where_it_can(monkeypatch):
    called = []
    monkeypatch.setattr(ear, "run_layer", lambda layer, hidden, frames: called.append(1) or hidden)
    RandomWhisperEncoder(depth=3)([torch.ones(8_000)])
    assert called == [1, 1, 1]
    assert is_fast(torch.zeros(1))


def test_a_processor_without_bf16_goes_through_transformers(monkeypatch):
    monkeypatch.setattr(module, "multiplies_bf16", lambda device: False)
    assert not is_fast(torch.zeros(1, dtype=torch.bfloat16))
    assert is_fast(torch.zeros(1))
