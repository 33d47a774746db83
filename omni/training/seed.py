"""Random numbers: a run draws the same ones from the same seed."""

import random

import torch


def seed_everything(seed: int) -> None:
    """Seed Python's and torch's generators, on every device."""
    random.seed(seed)
    torch.manual_seed(seed)
