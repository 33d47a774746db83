"""What trains and what does not, by the names of parameters."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Freeze every parameter whose name matches a pattern (`backbone.*`); returns the patterns that match none."""
    names = dict(model.named_parameters())
    for name, parameter in names.items():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)
    return [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]


def train_mode(model: nn.Module) -> None:
    """Put what trains into training mode and every wholly frozen part into eval mode: no dropout in a frozen part."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()  # and with it the parts that have no parameters of their own, such as dropout


def count_parameters(model: nn.Module) -> list[tuple[str, int, int]]:
    """Rows (part, parameters, trainable ones), a row for each direct part of the model."""
    return [
        (
            name,
            sum(parameter.numel() for parameter in part.parameters()),
            sum(parameter.numel() for parameter in part.parameters() if parameter.requires_grad),
        )
        for name, part in model.named_children()
    ]
