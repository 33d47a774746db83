"""Where the time goes: a trace for a viewer, and a table of the slowest operations."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


@contextmanager
def profiled(folder: Path, device: torch.device) -> Iterator[None]:
    """Write `trace.json` (for chrome://tracing or Perfetto) and `profile.txt` (by own time) into `folder`."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    with profile(activities=activities) as profiler:
        yield
    profiler.export_chrome_trace(str(folder / "trace.json"))
    slowest = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    (folder / "profile.txt").write_text(profiler.key_averages().table(sort_by=slowest, row_limit=25) + "\n")
