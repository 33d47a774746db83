"""What the machine can do at best, measured: every other figure is told as a share of it."""

import time
from collections.abc import Callable

import torch

SECONDS = 1.0
"""How long a thing is repeated. The shortest time counts: whatever is longer was disturbed."""
FEWEST = 3


def shortest(
    work: Callable[..., object],
    device: torch.device,
    *,
    seconds: float = SECONDS,
    setup: Callable[[], object] | None = None,
) -> float:
    """The shortest time of `work` in seconds, after a first call that does not count.

    setup: makes what `work` takes, anew and untimed each time.
    """
    times, began = [], 0.0
    while len(times) <= FEWEST or time.perf_counter() - began < seconds:
        given = () if setup is None else (setup(),)
        wait(device)
        start = time.perf_counter()
        work(*given)
        wait(device)
        times.append(time.perf_counter() - start)
        began = began or time.perf_counter()
    return min(times[1:])


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_rate(device: torch.device, dtype: torch.dtype, *, seconds: float = SECONDS) -> float:
    """FLOP/s of a product of square matrices, 2048 wide, on a GPU 8192."""
    size = 8192 if device.type == "cuda" else 2048
    x, y = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / shortest(lambda: x @ y, device, seconds=seconds)


def memory_rate(device: torch.device) -> float:
    """Bytes/s of reading a tensor that no cache holds."""
    x = torch.randn(2**28 if device.type == "cuda" else 2**26, device=device)
    return x.nbytes / shortest(x.sum, device)
