import torch
from torch import nn

from omni.training.freeze import count_parameters, freeze, train_mode


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.projector = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))
        self.backbone = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))


def test_patterns_freeze_by_name_and_the_idle_ones_come_back():
    model = Model()
    assert freeze(model, ["backbone.*", "bakcbone.*"]) == ["bakcbone.*"]
    trains = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trains == {"projector.0.weight", "projector.0.bias"}
    assert count_parameters(model) == [("projector", 9, 9), ("backbone", 12, 0)]


def test_a_frozen_part_stays_in_eval_mode():
    model = Model()
    freeze(model, ["backbone.*"])
    train_mode(model)
    assert model.projector.training
    assert model.projector[1].training
    assert not model.backbone.training
    assert not model.backbone[0].training
    assert torch.is_grad_enabled()
