"""python -m omni.bench: how fast the parts are, as shares of what this machine can do at best.

python -m omni.bench backbone                            depth 6 over bytes, batch 5, as the CPU table in docs/speed.md
python -m omni.bench backbone depth=12 vocab_size=32768 batch=32 lengths=2048 compile=true device=cuda
python -m omni.bench backbone precision=bf16 out=speed.json    one arithmetic, and the figures as JSON

Both arithmetics are measured unless one is named. Times are the shortest of many.
"""

import json
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from omni.atomic import replace_text
from omni.config.arguments import run
from omni.config.check import ConfigError
from omni.config.device import import_torch, pick_device


@dataclass
class Bench:
    """What `backbone` takes; lengths are separated by commas."""

    depth: int = 6
    vocab_size: int = 257
    batch: int = 5
    lengths: str = "64,256,1600"
    precision: str = "fp32,bf16"
    device: str = "auto"
    compile: bool = False
    out: str | None = None


def main() -> None:
    """The command."""
    what, *words = sys.argv[1:] or ["--help"]
    if what == "backbone":
        run(bench, Bench, doc=__doc__, words=words)
    elif what in ("-h", "--help"):
        print(__doc__)
    else:
        sys.exit(f"error: {what}: name what to measure: backbone")


def bench(asked: Bench) -> None:
    """Measure the backbone, print a table, and write JSON where it is asked for.

    Raises:
        ConfigError: lengths or arithmetics that are none.
    """
    import_torch()
    import torch

    from omni.bench.backbone import bench_backbone
    from omni.training.scaling import Sizes

    device = pick_device(asked.device)
    if not all(length.isdigit() for length in asked.lengths.split(",")):
        raise ConfigError(f"lengths: {asked.lengths} is no list of numbers, as in lengths=64,256")
    if not set(asked.precision.split(",")) <= {"fp32", "bf16"}:
        raise ConfigError(f"precision: {asked.precision} is not made of fp32 and bf16")
    lengths = [int(length) for length in asked.lengths.split(",")]
    dtypes = [{"fp32": torch.float32, "bf16": torch.bfloat16}[name] for name in asked.precision.split(",")]
    sizes = Sizes.from_depth(asked.depth, vocab_size=asked.vocab_size)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    shape = {"batch": asked.batch, "lengths": lengths, "device": device, "compile": asked.compile}
    measures = [asdict(measure) for dtype in dtypes for measure in bench_backbone(sizes, dtype=dtype, **shape)]
    console = Console()
    console.print(f"depth {asked.depth}, {sizes.parameters:,} parameters, batch {asked.batch}, {machine}")
    console.print(table_of(measures))
    if asked.out:
        facts = {"machine": machine, "python": platform.python_version(), "torch": torch.__version__}
        facts |= {"asked": asdict(asked), "measures": measures}
        replace_text(Path(asked.out), json.dumps(facts, indent=2) + "\n")


def table_of(measures: list[dict]) -> Table:
    """One line a measure."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("what", "arithmetic"):
        table.add_column(name, no_wrap=True)
    for name in ("tokens", "ms", "rate", "of best"):
        table.add_column(name, justify="right", no_wrap=True)
    for measure in measures:
        table.add_row(
            measure["what"],
            measure["dtype"],
            str(measure["length"] or ""),
            f"{1000 * measure['seconds']:.1f}" if measure["seconds"] else "",
            f"{measure['rate']:,.0f} {measure['unit']}",
            f"{measure['share']:.0%}",
        )
    return table


if __name__ == "__main__":
    main()
