"""Several processes that train as one, started by torchrun: `torchrun --nproc_per_node=8 -m omni.train ...`.

A step's forward passes are dealt out, gradients are added up, and every process takes the same optimizer step. The
first process leads: it alone composes, logs, evaluates and writes; the others are handed its configuration and work
until it is done. What they tell each other is plain Python objects by way of gloo, whatever the device, so that one
that has died is noticed at once; NCCL is for gradients alone.
"""

import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from omni.errors import OmniError

if TYPE_CHECKING:  # torch is imported when there is someone to talk to: a configuration is shown without it
    from torch import Tensor

PATIENCE = timedelta(minutes=60)
"""How long the others wait for the first process to evaluate or save; one that has died is noticed without it."""


class LostError(OmniError):
    """Another process has failed, or is gone."""


class Failure(NamedTuple):
    """What a process says instead of what it was asked for."""

    message: str
    trace: str


@dataclass(frozen=True)
class World:
    """The processes of a run as one of them sees it.

    rank: its number among the `size`, 0 leads. local_rank: its number on its machine, and that of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def gather(self, value: Any) -> list[Any]:
        """What each process has said here, by rank; anything that can be pickled.

        Raises:
            LostError: another process has failed, in its own words, or is gone.
        """
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        told: list[Any] = [None] * self.size
        with lost_is_an_error():
            dist.all_gather_object(told, value)
        failure = next((item for item in told if isinstance(item, Failure)), None)
        if failure is not None:
            error = LostError(failure.message)
            error.add_note(failure.trace)
            raise error
        return told

    def share(self, value: Any = None) -> Any:
        """What the first process has said here. Raises as `gather`."""
        return self.gather(value if self.rank == 0 else None)[0]

    def fail(self, error: Exception, message: str) -> None:
        """Let the others fail too, wherever they listen next; returns when they have heard it, or are gone."""
        trace = "".join(traceback.format_exception(error))
        with suppress(LostError):
            self.gather(Failure(f"process {self.rank} of {self.size}: {message}", trace))

    def share_weights(self, parameters: Sequence["Tensor"]) -> None:
        """Start from those of the first process. Raises LostError."""
        if self.size > 1:
            import torch.distributed as dist

            with lost_is_an_error():
                for parameter in parameters:
                    dist.broadcast(parameter.data, 0)

    def add_gradients(self, parameters: Sequence["Tensor"]) -> None:
        """Add up the gradients of all processes, in place; what took part in no pass of any keeps none.

        Tensor by tensor, after the last pass. DistributedDataParallel would hide this behind that pass, but must be
        told what takes part in it, which differs by process where feeds are mixed. What there is to hide is small: by
        arithmetic 28 ms of a step of 1.4 s at depth 24 on 8 H100 (5.6 GB of gradients, 2^20 tokens).

        Raises:
            LostError: another process is gone.
        """
        if self.size == 1:
            return
        import torch

        took_part = zip(*self.gather([parameter.grad is not None for parameter in parameters]), strict=True)
        reached = [parameter for parameter, by_rank in zip(parameters, took_part, strict=True) if any(by_rank)]
        for parameter in reached:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.add([parameter.grad for parameter in reached])

    def add(self, tensors: Sequence["Tensor"]) -> None:
        """Add up each of these over all processes, in place. Raises LostError."""
        if self.size > 1:
            import torch.distributed as dist

            with lost_is_an_error():
                for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
                    work.wait()

    def close(self) -> None:
        """Nothing more is said. All close at about the same time, as NCCL wants it; twice does nothing."""
        if self.size > 1:
            import torch.distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()


@contextmanager
def join_world() -> Iterator[World]:
    """The processes that torchrun has started, or this one alone.

    Raises:
        OmniError: torchrun has not started this one, though WORLD_SIZE says so.
        LostError: they do not find each other.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    if left_out := [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise OmniError(
            f"WORLD_SIZE={size} is set and {', '.join(left_out)} is not: start with torchrun, or unset WORLD_SIZE"
        )
    import torch
    import torch.distributed as dist
    import torch.distributed.nn  # its functions keep the group that is there when it is imported, and its threads

    world = World(int(os.environ["RANK"]), size, int(os.environ["LOCAL_RANK"]))
    gpus = torch.cuda.device_count()
    if gpus:  # of two processes on one GPU only device=cpu goes on from here, see `Trainer.join`
        torch.cuda.set_device(world.local_rank % gpus)
    with lost_is_an_error():
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=PATIENCE)
    with closing(world):
        yield world


@contextmanager
def lost_is_an_error() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo's, when the other end is closed
        import torch

        if isinstance(error, torch.OutOfMemoryError):  # our own
            raise
        said = str(error).strip().split("\n")[0][:200]
        raise LostError(
            "another process of the run is gone without a word: killed, out of memory, or out of reach; go on from the "
            f"last checkpoint with resume=FOLDER ({said})"
        ) from error
