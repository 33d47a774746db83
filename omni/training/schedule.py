"""How the learning rate moves over a run."""


def trapezoid(step: int, *, max_steps: int, warmup_steps: int, warmdown: float, final: float) -> float:
    """The factor on the learning rate at `step` (from 0): up, flat, down (nanochat's shape).

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
