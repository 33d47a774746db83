"""Random states: set once at the start, kept in every checkpoint."""

import random

import torch


def seed_everything(seed: int) -> None:
    """Seed Python's and torch's generators, on every device."""
    random.seed(seed)
    torch.manual_seed(seed)


def random_states() -> dict:
    """The states of all generators a run draws from, as tensors and plain Python."""
    return {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict) -> None:
    """Put back what `random_states` returned."""
    random.setstate(states["python"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])
