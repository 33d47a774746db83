"""The pipeline: what it hears is what mixer, projector and texture make of it, at the place where it stands."""

import pytest
import torch
from torch import nn

from omni.errors import OmniError
from omni.model.gpt import GPT
from omni.model.layers import OneLayer
from omni.model.omni import Omni
from omni.model.projector import StackMLP
from omni.model.texture import PartStatistics
from omni.training.freeze import train_mode

WIDTH, STATES, D = 32, 2, 8
FRAMES = torch.tensor([21, 4, 1])


def pipeline(*, mixer: bool = True, texture: bool = True, seed: int = 0) -> Omni:
    """A small model whose every path carries signal; its mixer takes the first state."""
    torch.manual_seed(seed)
    sizes = {"n_layer": 2, "n_head": 2, "n_kv_head": 1, "n_embd": WIDTH}
    backbone = GPT(sequence_len=64, vocab_size=50, **sizes)
    for name, parameter in backbone.named_parameters():
        if name.endswith("c_proj.weight") or name == "lm_head.weight":
            nn.init.normal_(parameter, std=0.2)
    keys = {"n_states": STATES, "width": D}
    return Omni(
        encoder=None,
        mixer=OneLayer(**keys, index=0) if mixer else None,
        texture=PartStatistics(**keys, out_dim=WIDTH, parts=3, hidden_dim=16) if texture else None,
        projector=StackMLP(in_dim=D if mixer else STATES * D, out_dim=WIDTH, stack=2),
        backbone=backbone,
    ).eval()


def states(rows: int = 3, frames: int = 21) -> torch.Tensor:
    torch.manual_seed(5)
    return torch.randn(rows, STATES, frames, D)


@torch.no_grad()
def test_the_texture_stands_in_front_of_what_the_projector_makes():
    with_, without = pipeline(), pipeline(texture=False)
    without.load_state_dict({k: v for k, v in with_.state_dict().items() if not k.startswith("texture.")})
    soft, lengths = with_.hear(states(), FRAMES)
    plain, plain_lengths = without.hear(states(), FRAMES)
    assert torch.equal(soft[:, :3], with_.texture(states(), FRAMES))
    assert torch.equal(soft[:, 3:], plain)
    assert lengths.tolist() == [n + 3 for n in plain_lengths] == [14, 5, 4]


@torch.no_grad()
def test_the_texture_hears_all_layers_and_the_projector_what_the_mixer_leaves():
    model, heard = pipeline(), states()
    before, _ = model.hear(heard, FRAMES)
    heard[:, 1] = -heard[:, 1].flip(-1)
    after, _ = model.hear(heard, FRAMES)
    assert torch.equal(after[:, 3:], before[:, 3:])
    assert ((after - before)[:, :3].abs().amax(-1) > 1e-3).all()


@pytest.mark.parametrize("texture", [True, False])
def test_the_declared_length_is_the_length(texture):
    model = pipeline(texture=texture)
    for frames in (1, 2, 3, 21, 50):
        soft, (length,) = model.hear(states(1, frames), torch.tensor([frames]))
        assert model.soft_length(frames) == soft.size(1) == length


def test_a_clip_fits_with_its_texture_or_is_named():
    model, room = pipeline(), 64
    model.check_fits("fits", frames=2 * 40, tokens=room - 43)
    with pytest.raises(OmniError, match="clip 'long': 43 soft tokens and 22 text tokens do not fit the context of 64"):
        model.check_fits("long", frames=2 * 40, tokens=room - 42)
    with pytest.raises(OmniError, match="clip 'wordy': a text of 65 tokens does not fit"):
        model.check_fits("wordy", frames=1, tokens=room + 1)
    plain = pipeline(texture=False)
    plain.check_fits("fits", frames=2 * 40, tokens=room - 40)
    # What is said to fit does.
    ids = torch.ones(1, room - 43, dtype=torch.long)
    assert model(ids, states_BKTD=states(1, 80), frames_B=torch.tensor([80])).isfinite().all()


@torch.no_grad()
def test_what_is_heard_stands_at_its_place_in_each_row():
    model, ids, places = pipeline(), torch.randint(0, 50, (3, 9)), torch.tensor([2, 0, 9])
    logits = model(ids, states_BKTD=states(), frames_B=FRAMES, places_B=places)
    for row, (place, count) in enumerate(zip(places, FRAMES, strict=True)):
        soft, _ = model.hear(states()[row : row + 1, :, :count], count[None])
        at = place + torch.arange(soft.size(1))[None]
        alone = model.backbone(ids[row : row + 1], audio_features=soft, audio_positions=at)
        torch.testing.assert_close(logits[row], alone[0], atol=1e-4, rtol=1e-4)
    # What stands in front of the sound has not heard it, what stands behind it has.
    deaf = model(ids)
    heard = (logits - deaf).abs().amax(-1) > 1e-3
    assert heard.tolist() == [[False] * 2 + [True] * 7, [True] * 9, [False] * 9]


@torch.no_grad()
def test_without_places_all_sounds_stand_in_front():
    model, ids = pipeline(), torch.randint(0, 50, (3, 9))
    heard = {"states_BKTD": states(), "frames_B": FRAMES}
    zeros = torch.zeros(3, dtype=torch.long)
    torch.testing.assert_close(model(ids, **heard), model(ids, **heard, places_B=zeros))


def test_everything_but_a_frozen_part_learns_to_hear():
    model, ids = pipeline(), torch.randint(0, 50, (3, 9))
    model.texture.requires_grad_(False)
    before = model.texture.norm.running_mean.clone()
    train_mode(model)
    model(ids, ids, states_BKTD=states(), frames_B=FRAMES).backward()
    model.texture.take_in()
    assert torch.equal(model.texture.norm.running_mean, before)
    model.texture.requires_grad_(True)
    train_mode(model)
    model(ids, ids, states_BKTD=states(), frames_B=FRAMES).backward()
    model.texture.take_in()
    assert not torch.equal(model.texture.norm.running_mean, before)
    for part in (model.texture, model.projector):
        for name, parameter in part.named_parameters():
            assert parameter.grad.abs().sum() > 0, name


def test_an_encoder_never_trains():
    model = Omni(encoder=nn.Sequential(nn.Linear(2, 2), nn.Dropout()), projector=None, backbone=pipeline().backbone)
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())
    model.train()
    assert not any(module.training for module in model.encoder.modules())
    assert model.backbone.training
