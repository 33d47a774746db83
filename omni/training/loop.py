"""The one training loop: every stage, whatever trains, goes through here."""

import math
from collections.abc import Callable, Iterator

import torch
from torch.nn.utils import get_total_norm

from omni.data.batch import Batch, collate, draw
from omni.data.features import EncodedClips
from omni.errors import OmniError
from omni.model.omni import Omni
from omni.training.freeze import train_mode
from omni.training.seed import random_states, set_random_states


class NotFiniteError(OmniError):
    """The loss or a gradient became NaN or infinite."""


class Trainer:
    """Takes optimizer steps, and can be put back to where it was after any of them, bit for bit.

    Args:
        model: the pipeline; what is frozen in it stays as it is.
        optimizer: over what trains; each group's learning rate is the one that `lr_factor` scales.
        examples: the encoded clips.
        lr_factor: the factor on the learning rate at a step (from 0).
        bos: the token that ends a text.
        seed: of the data order.
        max_steps, batch_size, accumulate: optimizer steps, clips a forward pass, forward passes a step.
        compile: run the pipeline through torch.compile.
    """

    def __init__(
        self,
        model: Omni,
        optimizer: torch.optim.Optimizer,
        examples: EncodedClips,
        *,
        lr_factor: Callable[[int], float],
        bos: int,
        seed: int,
        max_steps: int,
        batch_size: int,
        accumulate: int = 1,
        compile: bool = False,
    ):
        self.model, self.optimizer, self.examples, self.lr_factor = model, optimizer, examples, lr_factor
        self.bos, self.seed = bos, seed
        self.max_steps, self.batch_size, self.accumulate = max_steps, batch_size, accumulate
        self.forward = torch.compile(model) if compile else model
        self.trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.device = self.trainable[0].device
        self.done = 0
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def clips_of(self, step: int) -> list[list[int]]:
        """The indices of the clips of each of a step's forward passes."""
        first = step * self.accumulate
        return [
            draw(number, size=self.batch_size, clips=len(self.examples), seed=self.seed)
            for number in range(first, first + self.accumulate)
        ]

    def steps(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Train to the end; after each step yields its number (from 1) and what it measured.

        loss is in nats a graded token, before the step's update; grad_norm is the L2 norm over all that trains.

        Raises:
            NotFiniteError: names the step and its clips; the weights are those before the step.
        """
        train_mode(self.model)
        while self.done < self.max_steps:
            yield self.step()

    def step(self) -> tuple[int, dict[str, float]]:
        """One optimizer step; see `steps`."""
        lr = self.set_learning_rate()
        batches = [self.batch(indices) for indices in self.clips_of(self.done)]
        loss = self.accumulate_gradients(batches)
        norm = get_total_norm([p.grad for p in self.trainable if p.grad is not None]).item()
        self.check_finite("gradient norm", norm, batches)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1
        return self.done, {"loss": loss, "lr": lr, "grad_norm": norm}

    def batch(self, indices: list[int]) -> Batch:
        examples = [self.examples[index] for index in indices]
        for example in examples:
            self.model.check_fits(example.id, frames=example.states_KTD.size(1), tokens=len(example.ids_L))
        return collate(examples, bos=self.bos)

    def set_learning_rate(self) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.lr_factor(self.done)
        return self.optimizer.param_groups[0]["lr"]

    def accumulate_gradients(self, batches: list[Batch]) -> float:
        """The loss over all graded tokens of all passes, so that k passes equal one batch k times as large."""
        graded = max(sum(batch.graded for batch in batches), 1)
        losses = []
        for batch in batches:
            loss = self.forward(batch.states_BKTD, batch.frames_B, batch.idx_BL, batch.targets_BL, reduction="sum")
            (loss / graded).backward()
            losses.append(loss.detach() / graded)
        values = torch.stack(losses).tolist()  # the only wait for the device before the norm
        for batch, value in zip(batches, values, strict=True):
            self.check_finite("loss", value, [batch])
        return sum(values)

    def check_finite(self, what: str, value: float, batches: list[Batch]) -> None:
        """Raise NotFiniteError when `value` is NaN or infinite, naming the step and the clips of `batches`."""
        if math.isfinite(value):
            return
        clips = [clip for batch in batches for clip in batch.clip_ids]
        shown = ", ".join(clips[:8]) + (f" and {len(clips) - 8} more" if len(clips) > 8 else "")
        raise NotFiniteError(
            f"step {self.done + 1}: the {what} is {value} on the batch of clips {shown}. This step changed "
            "no weight. Lower stage.lr, raise stage.warmup_steps, or look at these clips"
        )

    def state_dict(self) -> dict:
        """All that the next step depends on besides the model's weights and the configuration."""
        return {"step": self.done, "optimizer": self.optimizer.state_dict(), "random": random_states(self.device)}

    def load_state_dict(self, state: dict) -> None:
        self.done = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        set_random_states(state["random"], self.device)
