"""Soft tokens of statistics: what counts is the sound, neither its padding nor its neighbours nor how loud it is."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from omni.model.texture import PartStatistics, shares

SIZES = {"n_states": 3, "width": 16, "out_dim": 32, "hidden_dim": 24}


def states(rows: int, frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 3, frames, 16, generator=torch.Generator().manual_seed(seed))


def trained(parts: int = 4, **keys) -> PartStatistics:
    """In eval mode, with statistics and biases as they are after some training."""
    torch.manual_seed(1)
    texture = PartStatistics(**SIZES, parts=parts, **keys)
    for linear in (texture.fc1, texture.fc2):
        torch.nn.init.normal_(linear.bias)
    with torch.no_grad():
        for seed in range(20):
            texture(states(4, 30, seed), torch.tensor([30, 20, 10, 25]))
            texture.take_in()
    return texture.eval()


@torch.no_grad()
@pytest.mark.parametrize("parts", [1, 4, 8])
def test_a_ragged_batch_equals_its_rows_one_by_one(parts):
    texture, heard, frames = trained(parts), states(4, 40), [40, 9, 3, 1]
    soft = texture(heard, torch.tensor(frames))
    assert soft.shape == (4, parts, 32)
    for row, count in enumerate(frames):
        alone = texture(heard[row : row + 1, :, :count], torch.tensor([count]))
        torch.testing.assert_close(soft[row], alone[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_is_not_heard_and_leaves_no_trace():
    heard, frames = states(3, 40), torch.tensor([40, 9, 3])
    padded = heard.clone()
    for row, count in enumerate(frames):
        padded[row, :, count:] = 100 * torch.randn(3, 40 - count, 16)
    ours, theirs = trained(), trained()
    for texture in (ours, theirs):
        texture.train()
    torch.testing.assert_close(ours(heard, frames), theirs(padded, frames), atol=1e-5, rtol=1e-5)
    ours.take_in(), theirs.take_in()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], msg=name)


@torch.no_grad()
@pytest.mark.parametrize(("frame", "part"), [(0, 0), (9, 0), (10, 1), (29, 2), (39, 3)])
def test_each_token_tells_of_its_own_part(frame, part):
    texture, heard, length = trained(), states(1, 50), torch.tensor([40])
    before = texture(heard, length)
    heard[0, :, frame] = heard[0, :, frame].flip(-1)
    moved = (texture(heard, length) - before).abs().amax(-1)[0] > 1e-4
    assert moved.nonzero().flatten().tolist() == [part]


@torch.no_grad()
def test_a_token_knows_how_much_a_part_changes_and_not_in_what_order():
    texture, length, even = trained(parts=1), torch.tensor([20]), torch.ones(1, 3, 20, 16)
    lively = torch.where(torch.arange(20) % 2 == 0, 1.0, 1.5)[:, None] * even + torch.linspace(-1, 1, 16)
    swung = torch.where(torch.arange(20) % 2 == 0, 1.0, -1.0)[:, None] * torch.linspace(-1, 1, 16) + even
    assert (texture(lively, length) - texture(swung, length)).abs().max() > 0.01
    order = torch.randperm(20)
    torch.testing.assert_close(texture(swung[:, :, order], length), texture(swung, length), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("frames", "parts"), [(1, 4), (3, 4), (7, 8), (10, 4), (13, 5), (40, 8), (1500, 7)])
def test_all_frames_count_alike_in_their_parts(frames, parts):
    (share_PT,) = shares(torch.tensor([frames]), parts, frames + 5)
    torch.testing.assert_close(share_PT.sum(-1), torch.ones(parts))
    assert not share_PT[:, frames:].any()
    assert (share_PT[:, :frames].sum(0) > 0).all()
    for row in share_PT:
        there = row.nonzero().flatten()
        assert there.tolist() == list(range(there[0], there[-1] + 1))
        assert len(there) <= frames / parts + 2
        assert row[there].unique().numel() == 1
    starts = (share_PT > 0).float().argmax(-1)
    assert (starts.diff() >= 0).all()


def test_a_sound_shorter_than_its_parts_has_the_frame_nearest_to_each():
    (share_PT,) = shares(torch.tensor([2]), 4, 3)
    assert share_PT.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]]


@torch.no_grad()
def test_how_loud_each_frame_and_layer_is_does_not_count():
    texture, heard, length = trained(), states(1, 40), torch.tensor([40])
    louder = heard * torch.rand(1, 3, 40, 1).add(0.01) * torch.tensor([1.0, 500.0, 0.05])[:, None, None]
    torch.testing.assert_close(texture(louder, length), texture(heard, length), atol=1e-4, rtol=1e-4)
    assert texture(torch.zeros(1, 3, 40, 16), length).isfinite().all()


@torch.no_grad()
def test_what_no_training_sound_had_is_not_louder_than_it_may_be():
    texture, inside = trained(), []
    texture.norm.running_var.fill_(0.01)
    texture.fc1.register_forward_pre_hook(lambda _, given: inside.append(given[0]))
    one_channel = torch.zeros(1, 3, 40, 16)
    one_channel[..., 3] = 1.0
    texture(one_channel, torch.tensor([40]))
    assert inside[0].abs().max() == 5


@torch.no_grad()
def test_statistics_are_learned_in_training_alone():
    texture, heard, length = trained(), states(2, 40, seed=99), torch.tensor([40, 20])
    before = {name: value.clone() for name, value in texture.state_dict().items()}
    texture(heard, length)
    texture.take_in()
    assert all(torch.equal(value, before[name]) for name, value in texture.state_dict().items())
    texture.train()(heard, length)
    texture.take_in()
    moved = {name for name, value in texture.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}


@torch.no_grad()
def test_passes_of_a_step_are_taken_in_alike_by_one_process_and_by_two():
    one, first, second = (trained().train() for _ in range(3))
    batches = [(states(3, 40, seed=50) + 1, torch.tensor([40, 9, 22])), (states(2, 10, seed=51), torch.tensor([10, 4]))]
    for place, texture in enumerate((first, second)):
        torch.testing.assert_close(texture(*batches[place]), one(*batches[place]), atol=0, rtol=0)
    first.heard += second.heard
    first.take_in(), one.take_in()
    for name, value in one.state_dict().items():
        torch.testing.assert_close(first.state_dict()[name], value, msg=name)
    assert one.norm.num_batches_tracked == 22
    one(*batches[0])
    assert one.heard[0] == 1  # what was taken in counts once


def test_a_batch_in_training_is_standardised():
    inside, texture = [], PartStatistics(**SIZES, parts=4)
    texture.fc1.register_forward_pre_hook(lambda _, given: inside.append(given[0].detach()))
    texture(states(16, 40) + 3, torch.full((16,), 40))
    flat = inside[0].flatten(0, 1)
    assert flat.mean(0).abs().max() < 0.1
    assert flat.std(0).sub(1).abs().max() < 0.3


def test_it_comes_back_from_a_file(tmp_path):
    texture, heard, frames = trained(), states(2, 40), torch.tensor([40, 9])
    save_file(texture.state_dict(), tmp_path / "texture.safetensors")
    torch.manual_seed(7)
    other = PartStatistics(**SIZES, parts=4).eval()
    assert (other(heard, frames) - texture(heard, frames)).abs().max() > 0.1
    other.load_state_dict(load_file(tmp_path / "texture.safetensors"))
    assert torch.equal(other(heard, frames), texture(heard, frames))


def test_dropout_silences_its_share_in_training_alone():
    texture, seen = PartStatistics(**SIZES | {"hidden_dim": 256}, parts=4, dropout=0.5), []
    texture.fc2.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    texture.train()(states(8, 40), torch.full((8,), 40))
    texture.eval()(states(8, 40), torch.full((8,), 40))
    assert 0.4 < (seen[0] == 0).float().mean() < 0.6
    assert (seen[1] == 0).float().mean() < 0.01


def test_all_of_it_trains_from_the_first_step_and_silence_does_no_harm():
    texture, heard = PartStatistics(**SIZES, parts=4), states(2, 40)
    heard[1] = 0
    texture(heard, torch.tensor([40, 3])).square().sum().backward()
    for name, parameter in texture.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_bf16_goes_in_and_comes_out_and_the_weights_stay_fp32():
    texture, heard, length = trained(), states(2, 40), torch.tensor([40, 20])
    rounded = texture(heard.bfloat16(), length)
    assert rounded.dtype == torch.bfloat16
    assert texture.fc1.weight.dtype == torch.float32
    whole = texture(heard, length)
    assert (rounded.float() - whole).abs().max() < 0.05 * whole.abs().max()


def test_one_part_of_one_sound_trains():
    soft = PartStatistics(**SIZES, parts=1)(states(1, 40), torch.tensor([40]))
    assert soft.isfinite().all()
