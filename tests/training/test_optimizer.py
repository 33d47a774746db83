import pytest
import torch

from omni.errors import OmniError
from omni.training.optimizer import adamw

KEYS = {"lr": 0.1, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.5}


def test_only_matrices_decay():
    model = torch.nn.Linear(3, 2)
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer = adamw(model, **KEYS)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.weight, before[0] * (1 - 0.1 * 0.5))
    torch.testing.assert_close(model.bias, before[1])


def test_nothing_to_train_is_said():
    with pytest.raises(OmniError, match=r"stage\.freeze"):
        adamw(torch.nn.Linear(2, 2).requires_grad_(False), **KEYS)
