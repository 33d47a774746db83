"""The one training loop: every stage, whatever trains, goes through here."""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import nn
from torch.nn.utils import get_total_norm

from omni.data.batch import Batch
from omni.data.feed import Feed
from omni.errors import OmniError
from omni.training.distributed import World
from omni.training.freeze import train_mode
from omni.training.schedule import Schedule
from omni.training.seed import seed_everything


class NotFiniteError(OmniError):
    """The loss or a gradient became NaN or infinite."""


class Optimizer(Protocol):
    """What the loop asks of an optimizer: torch's own have it."""

    param_groups: list[dict]

    def step(self) -> None: ...

    def zero_grad(self) -> None: ...

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...


class Pass(NamedTuple):
    """A forward pass in figures: its loss over all its graded tokens, in nats, and what `Batch` tells of it."""

    nats: float
    graded: int
    kind: str | None
    names: list[str]
    shape: tuple[int, int]


class Trainer:
    """Takes optimizer steps, and can be put back to where it was after any of them, bit for bit.

    What a pass draws (dropout) is a function of its number and the seed alone, as its batch is. So neither a resumed
    run nor several processes, see `join`, have random states to keep: they repeat one process that was never stopped.

    Args:
        model: the pipeline; what is frozen in it stays as it is.
        optimizer: over what trains.
        feed: the batches.
        schedule: sets the optimizer's rates before each step.
        max_steps: optimizer steps of the whole run.
        accumulate: forward passes a step, of all processes together.
        compile: run the pipeline through torch.compile.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        feed: Feed,
        *,
        schedule: Schedule,
        max_steps: int,
        accumulate: int = 1,
        compile: bool = False,
    ):
        self.model, self.optimizer, self.feed, self.schedule = model, optimizer, feed, schedule
        self.max_steps, self.accumulate = max_steps, accumulate
        self.forward = torch.compile(model) if compile else model
        self.trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.listening = [module for module in model.modules() if hasattr(module, "take_in")]
        self.device = self.trainable[0].device
        self.seed = torch.initial_seed()
        self.world = World()
        self.done = 0
        self.seconds, self.waited, self.shapes = 0.0, 0.0, Counter()  # of all steps taken here but the first
        self.warm = False

    def join(self, world: World) -> None:
        """Share every step from here on with other processes, each of which has called this.

        Raises:
            OmniError: two processes would share a GPU, or they do not stand at the same step.
        """
        if self.device.type == "cuda":  # not by counting: under Slurm each process may see its own GPU alone
            gpus = set(world.gather(str(torch.cuda.get_device_properties(self.device).uuid)))
            if len(gpus) < world.size:
                raise OmniError(f"{world.size} processes share {len(gpus)} GPUs: start one for each, or set device=cpu")
        if len(set(steps := world.gather(self.done))) > 1:
            raise OmniError(
                f"the processes stand at steps {steps}: the run's folder must be one that all of them, on every "
                "machine, can read"
            )
        world.share_weights(self.trainable)
        self.world = world

    @property
    def passes_left(self) -> int:
        """Forward passes from here to the end of the run, of all processes together."""
        return (self.max_steps - self.done) * self.accumulate

    def steps(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Train to the end; after each step yields its number (from 1) and what it measured.

        loss is in nats a graded token, before the step's update; grad_norm is the L2 norm over all that trains; lr is
        the rate of the optimizer's first group.

        Raises:
            NotFiniteError: names the step and its clips; the weights are those before the step.
        """
        while self.done < self.max_steps:
            train_mode(self.model)  # each time: whoever looked at the model in between may have put it into eval mode
            yield self.step()

    def step(self) -> tuple[int, dict[str, float]]:
        """One optimizer step; see `steps`."""
        began = time.perf_counter()
        self.schedule.apply(self.optimizer, self.done)
        batches = self.own_batches()
        there = time.perf_counter()
        passes = self.accumulate_gradients(batches)
        for each in passes:
            self.check_finite("loss", each.nats, [each])
        norm = get_total_norm([p.grad for p in self.trainable if p.grad is not None]).item()
        self.check_finite("gradient norm", norm, passes)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for module in self.listening:
            module.take_in()
        self.done += 1
        if self.warm:
            self.seconds += time.perf_counter() - began
            self.waited += there - began
            self.shapes.update(each.shape for each in passes)
        self.warm = True
        return self.done, losses(passes) | {"lr": self.optimizer.param_groups[0]["lr"], "grad_norm": norm}

    def own_batches(self) -> dict[int, Batch]:
        """The batches of this step that are this process's, by their number in it; the feed passes over the others."""
        batches = {}
        for number in range(self.accumulate):
            if number % self.world.size == self.world.rank:
                batches[number] = next(self.feed)
            else:
                self.feed.skip()
        return batches

    def accumulate_gradients(self, batches: dict[int, Batch]) -> list[Pass]:
        """The gradient of the loss over all graded tokens of all passes, so that k passes equal one batch k times as
        large, whoever takes them. Returns all passes in their order."""
        graded = max(sum(self.world.gather(sum(batch.graded for batch in batches.values()))), 1)
        sums = []
        for number, batch in batches.items():
            seed_everything(self.seed * 1_000_003 + self.done * self.accumulate + number)
            inputs = {name: tensor.to(self.device) for name, tensor in batch.inputs.items()}
            loss = self.forward(**inputs, reduction="sum")
            (loss / graded).backward()
            sums.append(loss.detach())
        self.world.add_gradients(self.trainable)  # asked for before anything waits for the device
        self.world.add([module.heard for module in self.listening])
        nats = torch.stack(sums).tolist()
        own = {
            number: Pass(value, batch.graded, batch.kind, batch.names, batch.shape)
            for value, (number, batch) in zip(nats, batches.items(), strict=True)
        }
        told = [item for part in self.world.gather(own) for item in part.items()]
        return [each for _, each in sorted(told)]

    def check_finite(self, what: str, value: float, passes: Sequence[Pass]) -> None:
        """Raise NotFiniteError when `value` is NaN or infinite, naming the step and what `passes` were made of."""
        if math.isfinite(value):
            return
        names = [name for each in passes for name in each.names]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise NotFiniteError(
            f"step {self.done + 1}: the {what} is {value} on the batch of: {shown}. This step changed "
            "no weight. Lower stage.lr, raise stage.warmup_steps, or look at these"
        )

    def state_dict(self) -> dict:
        """All that the next step depends on besides the model's weights and the configuration."""
        return {
            "step": self.done,
            "optimizer": self.optimizer.state_dict(),
            "feed": self.feed.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        self.done = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.feed.load_state_dict(state["feed"])


def losses(passes: Sequence[Pass]) -> dict[str, float]:
    """In nats a graded token over all passes; and where they are of several kinds, over those of each."""
    kinds = dict.fromkeys(each.kind for each in passes if each.kind)
    return {"loss": mean_loss(passes)} | {
        f"loss_{kind}": mean_loss([each for each in passes if each.kind == kind]) for kind in kinds
    }


def mean_loss(passes: Sequence[Pass]) -> float:
    return sum(each.nats for each in passes) / max(sum(each.graded for each in passes), 1)
