"""How fast a run trained: tokens and FLOPs a second, as a share of what the device multiplies at best; its waits."""

from dataclasses import dataclass

import torch

from omni.training.loop import Trainer
from omni.training.rates import matmul_rate
from omni.training.scaling import Sizes, flops_per_token


@dataclass(frozen=True)
class Throughput:
    """Per second, of all processes together; soft tokens and padding count, looks at held-out text do not.

    mfu is the model FLOPs utilisation (Chowdhery et al., 2022): flops as a share of `matmul_rate` times processes.
    """

    tokens: float
    flops: float
    mfu: float

    def __str__(self) -> str:
        return f"{self.tokens:,.0f} tokens/s, {self.flops / 1e9:,.0f} GFLOP/s: {self.mfu:.0%} of a matmul's rate (MFU)"


def measure_throughput(trainer: Trainer, sizes: Sizes, dtype: torch.dtype) -> Throughput | None:
    """Of the steps that `trainer` took, on a model of text alone, all of which trains; None before its second step.

    Measures the device for a fraction of a second.
    """
    if not trainer.shapes:
        return None
    passes = [(count * rows * length, length) for (rows, length), count in trainer.shapes.items()]
    tokens = sum(tokens for tokens, _ in passes) / trainer.seconds
    flops = sum(tokens * flops_per_token(sizes, length) for tokens, length in passes) / trainer.seconds
    best = matmul_rate(trainer.device, dtype, seconds=0.2) * trainer.world.size
    return Throughput(tokens, flops, flops / best)


def data_wait(trainer: Trainer) -> float | None:
    """The share of its steps' time that this process waited for their batches; None before its second step."""
    return trainer.waited / trainer.seconds if trainer.seconds else None
