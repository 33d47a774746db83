"""Simulated GPUs: tensors that say they are on cuda:N and are computed on the CPU, with the real numbers.

Shown is what goes wrong in Python: tensors of two devices in one operation, "cuda" that means another GPU in another
thread, NumPy arrays of GPU tensors. Not shown: CUDA kernels, times, memory, streams, NCCL, what torch.compile makes.
"""

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CPU = torch.device("cpu")
CURRENT = threading.local()
"""`index` of the current device: each thread's own, and 0 in a new one, as with cudaSetDevice."""
MOVES = ("to", "cpu", "cuda", "copy_", "__set__", "_has_compatible_shallow_copy_type")
INDEXES = ("__getitem__", "__setitem__", "index_put_")


def current() -> int:
    return getattr(CURRENT, "index", 0)


def named(device: object) -> torch.device:
    """A device with its index."""
    device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    return torch.device("cuda", current()) if device == torch.device("cuda") else device


def place(tensor: Tensor) -> torch.device:
    return getattr(tensor, "simulated", tensor.device)


def is_device(value: object) -> bool:
    return isinstance(value, torch.device | str) or type(value) is int


def is_cuda(value: object) -> bool:
    return isinstance(value, torch.device | str) and str(value).startswith("cuda")


class Simulated(TorchFunctionMode):
    """Lets torch's functions run on the CPU, and notes at each tensor they return where it would be."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.__name__
        if func in (torch.device, torch._C._nn._parse_to):
            return func(*args, **kwargs)
        if name == "__get__" and func.__self__ is Tensor.device:
            return place(args[0])
        if name == "__get__" and func.__self__ in (Tensor.is_cuda, Tensor.is_cpu):
            return place(args[0]).type == ("cuda" if func.__self__ is Tensor.is_cuda else "cpu")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name == "numpy" and place(args[0]).type == "cuda":
            raise TypeError(f"can't convert {place(args[0])} device type tensor to numpy")
        there = self.place_of_result(name, tensors, args, kwargs)
        args, kwargs = tree_map(lambda value: CPU if is_cuda(value) else value, (args, kwargs))
        result = func(*args, **kwargs)
        if name in ("to", "cpu", "cuda") and result is args[0] and there != place(result):
            result = result.clone()
        for tensor in (leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)):
            if there != place(tensor) and tensor.device == CPU:
                tensor.simulated = there
        if name == "__set__" and func.__self__ is Tensor.data:
            args[0].simulated = place(args[1])
        return result

    def place_of_result(self, name: str, tensors: list[Tensor], args: tuple, kwargs: dict) -> torch.device:
        """Raises RuntimeError, as torch does, when there are tensors of two devices. Indices and numbers may be the
        CPU's."""
        if name == "cpu":
            return CPU
        asked = kwargs.get("device")
        if name in ("to", "cuda") and asked is None:
            asked = place(tensors[1]) if len(tensors) > 1 else next(filter(is_device, args[1:]), None)
        if asked is not None:
            return named(asked)
        counted = tensors[:1] if name in MOVES else [t for t in tensors if t.dim() or place(t).type == "cuda"]
        if name in INDEXES and place(tensors[0]).type == "cuda":
            counted = [tensor for tensor in counted if place(tensor).type == "cuda"]
        places = sorted({str(place(tensor)) for tensor in counted})
        if len(places) > 1:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{' and '.join(places)}! ({name})"
            )
        return torch.device(places[0]) if places else CPU


@pytest.fixture
def gpus(monkeypatch) -> Callable[[int], None]:
    """`gpus(2)`: from there on to the end of the test, in all threads, there are so many."""
    if torch.cuda.is_available():
        pytest.skip("there is a real GPU")
    run = threading.Thread.run
    mode = Simulated()

    def simulate(count: int) -> None:
        CURRENT.index = 0
        answers = {
            "is_available": lambda: True,
            "device_count": lambda: count,
            "current_device": current,
            "set_device": lambda device: setattr(CURRENT, "index", named(device).index),
            "get_device_capability": lambda device=None: (9, 0),
            "get_device_properties": lambda device=None: SimpleNamespace(uuid=f"GPU-{named(device or 'cuda').index}"),
            "is_current_stream_capturing": lambda: False,
            "synchronize": lambda device=None: None,
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        # Asked by torch's optimizers, which would then ask the driver whether a graph is captured.
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
        monkeypatch.setattr(threading.Thread, "run", lambda thread: run_simulated(thread))
        mode.__enter__()
        if str(torch.nn.Linear(1, 1).to("cuda").weight.device) != "cuda:0":
            pytest.skip(f"torch {torch.__version__} moves modules in another way")

    def run_simulated(thread: threading.Thread) -> None:
        with Simulated():
            run(thread)

    precision = torch.get_float32_matmul_precision()
    yield simulate
    mode.__exit__(None, None, None)
    torch.set_float32_matmul_precision(precision)
