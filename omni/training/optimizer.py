"""Optimizers. To add one: a function of the model that returns a torch optimizer, and a YAML that names it."""

import torch
from torch import nn

from omni.errors import OmniError


def adamw(model: nn.Module, *, lr: float, betas: list[float], eps: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) over what trains; only matrices decay, not gains, biases and lambdas.

    Raises:
        OmniError: when everything is frozen.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trainable:
        raise OmniError("stage.freeze: every parameter is frozen, so there is nothing to train: remove a pattern")
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=lr, betas=tuple(betas), eps=eps, fused=True)
