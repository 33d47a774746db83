"""How learning rates, momentum and weight decay move over a run (nanochat's shapes)."""

import math
from dataclasses import dataclass
from typing import Any

MOMENTUM_START, MOMENTUM, MOMENTUM_END = 0.85, 0.97, 0.90
MOMENTUM_STEPS = 400


def trapezoid(step: int, *, max_steps: int, warmup_steps: int, warmdown: float, final: float) -> float:
    """The factor on the learning rate at `step` (from 0): up, flat, down.

    Args:
        max_steps: steps of the whole run.
        warmup_steps: steps of the linear rise; the first step already has 1/warmup_steps.
        warmdown: the share of the run, at its end, over which the rate falls linearly.
        final: the factor reached at the end.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    falling = round(warmdown * max_steps)
    if step < max_steps - falling:
        return 1.0
    left = (max_steps - step) / falling
    return left + (1 - left) * final


def muon_momentum(step: int, *, max_steps: int, warmdown: float) -> float:
    """Muon's momentum at `step`: .85 -> .97 over 400 steps, flat, .97 -> .90 while the rate falls.

    Where the two ramps of a short run overlap the rise wins, as upstream.
    """
    if step < MOMENTUM_STEPS:
        return MOMENTUM_START + step / MOMENTUM_STEPS * (MOMENTUM - MOMENTUM_START)
    falling = round(warmdown * max_steps)
    fallen = max(0.0, 1 - (max_steps - step) / falling) if falling else 0.0
    return MOMENTUM + fallen * (MOMENTUM_END - MOMENTUM)


def cosine(step: int, *, max_steps: int) -> float:
    """The factor on weight decay at `step`: half a cosine from 1 to 0."""
    return (1 + math.cos(math.pi * step / max_steps)) / 2


@dataclass(frozen=True)
class Schedule:
    """Sets an optimizer's groups before each step; see `trapezoid` for the fields."""

    max_steps: int
    warmup_steps: int
    warmdown: float
    final: float

    def apply(self, optimizer: Any, step: int) -> None:
        """Set every group's rate for `step` (from 0).

        Momentum and weight decay move only in groups that have an `initial_weight_decay`, which are Muon's: the decay
        of an AdamW group stays.
        """
        factor = trapezoid(
            step,
            max_steps=self.max_steps,
            warmup_steps=self.warmup_steps,
            warmdown=self.warmdown,
            final=self.final,
        )
        for group in optimizer.param_groups:
            group["lr"] = factor * group.setdefault("initial_lr", group["lr"])
            if "initial_weight_decay" in group:
                group["momentum"] = muon_momentum(step, max_steps=self.max_steps, warmdown=self.warmdown)
                group["weight_decay"] = cosine(step, max_steps=self.max_steps) * group["initial_weight_decay"]
