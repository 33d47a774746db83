"""Projectors: what goes in comes out, nothing is dropped, padding is not heard."""

import pytest
import torch

from omni.errors import OmniError
from omni.model.omni import Omni
from omni.model.projector import Conv, StackMLP

KINDS = [
    pytest.param(lambda **keys: StackMLP(stack=8, **keys), id="stack_mlp"),
    pytest.param(lambda **keys: StackMLP(stack=1, **keys), id="mlp"),
    pytest.param(lambda **keys: StackMLP(stack=4, hidden_dim=320, **keys), id="wide"),
    pytest.param(lambda **keys: Conv(halvings=3, **keys), id="conv"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gate", [True, False])
def test_the_declared_length_is_the_length(kind, gate):
    projector = kind(in_dim=16, out_dim=32, gate=gate)
    for frames in (1, 7, 8, 9, 50, 1500):
        soft, lengths = projector(torch.randn(2, 1, frames, 16), torch.tensor([frames, 1]))
        assert soft.shape == (2, projector.output_length(frames), 32)
        assert lengths.tolist() == [projector.output_length(frames), projector.output_length(1)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_ragged_batch_equals_its_rows_one_by_one(kind):
    torch.manual_seed(0)
    projector = kind(in_dim=16, out_dim=32)
    states, frames = torch.randn(3, 1, 43, 16), [43, 10, 25]
    soft, lengths = projector(states, torch.tensor(frames))
    for row, count in enumerate(frames):
        alone, _ = projector(states[row : row + 1, :, :count], torch.tensor([count]))
        torch.testing.assert_close(soft[row, : lengths[row]], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_frame_is_heard(kind):
    torch.manual_seed(0)
    projector = kind(in_dim=16, out_dim=32)
    states = torch.randn(1, 1, 43, 16, requires_grad=True)
    soft, _ = projector(states, torch.tensor([43]))
    (soft * torch.randn_like(soft)).sum().backward()
    assert (states.grad[0, 0].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_norm_matched_starts_as_loud_as_text_and_zero_starts_silent(kind):
    torch.manual_seed(0)
    states, lengths = torch.randn(2, 1, 64, 128), torch.tensor([64, 64])
    ungated, _ = kind(in_dim=128, out_dim=256, init="norm_matched", gate=False)(states, lengths)
    assert ungated.square().mean().sqrt().item() == pytest.approx(1, rel=0.25)
    gated, _ = kind(in_dim=128, out_dim=256, init="norm_matched", gate=True)(states, lengths)
    torch.testing.assert_close(gated.square().mean(-1), torch.ones(gated.shape[:2]), rtol=1e-4, atol=1e-4)
    silent, _ = kind(in_dim=128, out_dim=256, init="zero", gate=False)(states, lengths)
    assert silent.abs().max().item() == 0


def test_the_gate_is_a_gain_per_channel():
    projector = StackMLP(in_dim=16, out_dim=32, gate=True)
    states, lengths = torch.randn(1, 1, 8, 16), torch.tensor([8])
    before, _ = projector(states, lengths)
    with torch.no_grad():
        projector.gate[3] = 5.0
    after, _ = projector(states, lengths)
    torch.testing.assert_close(after[..., 3], 5 * before[..., 3])
    torch.testing.assert_close(after[..., 4:], before[..., 4:])


def test_dropout_silences_its_share_in_training_alone():
    states, lengths = torch.randn(4, 1, 64, 16), torch.full((4,), 64)
    projector = StackMLP(in_dim=16, out_dim=256, gate=False, dropout=0.5)
    seen = []
    projector.fc2.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    projector.train()(states, lengths)
    projector.eval()(states, lengths)
    train, evaluated = seen
    silent = train == 0
    assert 0.4 < silent.float().mean() < 0.6
    torch.testing.assert_close(train[~silent], 2 * evaluated[~silent])


def test_kept_layers_stand_side_by_side():
    projector = StackMLP(in_dim=32, out_dim=8, stack=2)
    states = torch.randn(1, 2, 4, 16)
    soft, _ = projector(states, torch.tensor([4]))
    flat = torch.cat([states[:, 0], states[:, 1]], dim=-1)[:, None]
    torch.testing.assert_close(soft, projector(flat, torch.tensor([4]))[0])
    with pytest.raises(OmniError, match=r"projector\.in_dim=16"):
        projector(states[:, :1], torch.tensor([4]))


def test_an_unknown_init_is_refused():
    with pytest.raises(OmniError, match=r"projector\.init"):
        StackMLP(in_dim=4, out_dim=4, init="loud")


def test_a_clip_longer_than_the_context_is_named():
    class Backbone(torch.nn.Module):
        sequence_len = 64

    model = Omni(encoder=torch.nn.Identity(), projector=StackMLP(in_dim=4, out_dim=4), backbone=Backbone())
    model.check_fits("short", frames=8 * 44, tokens=20)
    with pytest.raises(OmniError, match="'long': 45 soft tokens and 20 text tokens"):
        model.check_fits("long", frames=8 * 44 + 1, tokens=20)
