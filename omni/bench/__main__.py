"""python -m omni.bench: how fast the parts are, as shares of what this machine can do at best.

python -m omni.bench backbone                            depth 6 over bytes, batch 5, as the CPU table in docs/speed.md
python -m omni.bench backbone depth=12 vocab_size=32768 batch=32 lengths=2048 compile=true device=cuda
python -m omni.bench backbone precision=bf16 out=speed.json    one arithmetic, and the figures as JSON
python -m omni.bench encoder                             whisper-base on amazon_queen's clips, beside transformers and
                                                         CTranslate2 (pip install ctranslate2)
python -m omni.bench serving run=data/hearing            a server under load: time to the first token, tokens a second

Both arithmetics are measured unless one is named, bf16 only where the device multiplies it natively. Times are the
shortest of many.
"""

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from omegaconf import MISSING
from rich import box
from rich.console import Console
from rich.table import Table

from omni.atomic import replace_text
from omni.config.arguments import run
from omni.config.check import ConfigError
from omni.config.device import import_torch, pick_device

if TYPE_CHECKING:
    import torch


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


@dataclass
class EncoderBench:
    """What `encoder` takes. clips: of amazon_queen in `folder`, evenly over their lengths; windows: how many of them
    are heard with 30 s around them."""

    folder: str = "data/amazon_queen"
    clips: int = 64
    windows: int = 2
    precision: str = "fp32,bf16"
    device: str = "auto"
    out: str | None = None


@dataclass
class ServingBench:
    """What `serving` takes. seconds: of each load with many clients; requests: of those that come and go."""

    run: str = MISSING
    clients: int = 16
    seconds: float = 120
    requests: int = 1000
    precision: str = "auto"
    device: str = "auto"
    out: str | None = None


def main() -> None:
    """The command."""
    what, *words = sys.argv[1:] or ["--help"]
    if what == "backbone":
        run(bench, Bench, doc=__doc__, words=words)
    elif what == "encoder":
        run(bench_ears, EncoderBench, doc=__doc__, words=words)
    elif what == "serving":
        run(bench_server, ServingBench, doc=__doc__, words=words)
    elif what in ("-h", "--help"):
        print(__doc__)
    else:
        sys.exit(f"error: {what}: name what to measure: backbone, encoder, serving")


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
    lengths = [int(length) for length in asked.lengths.split(",")]
    dtypes = [{"fp32": torch.float32, "bf16": torch.bfloat16}[name] for name in arithmetics(asked.precision, device)]
    sizes = Sizes.from_depth(asked.depth, vocab_size=asked.vocab_size)
    machine = name_of(device)
    shape = {"batch": asked.batch, "lengths": lengths, "device": device, "compile": asked.compile}
    measures = [asdict(measure) for dtype in dtypes for measure in bench_backbone(sizes, dtype=dtype, **shape)]
    console = Console()
    console.print(f"depth {asked.depth}, {sizes.parameters:,} parameters, batch {asked.batch}, {machine}")
    console.print(table_of(measures))
    write(asked, machine, measures)


def bench_ears(asked: EncoderBench) -> None:
    """Measure the encoder beside others, print a table, and write JSON where it is asked for.

    Raises:
        ConfigError: arithmetics that are none, no clip.
        OmniError: the clips or the weights are not there.
    """
    import_torch()
    from omni.bench.encoder import GET_CTRANSLATE2, bench_encoder
    from omni.corpora.amazon_queen import AmazonQueen
    from omni.model.encoder import WhisperEncoder

    device = pick_device(asked.device)
    dtypes = arithmetics(asked.precision, device)
    if min(asked.clips, asked.windows) < 1:
        raise ConfigError("clips, windows: at least 1 of each")
    clips = AmazonQueen(folder=asked.folder)
    by_length = sorted(range(len(clips)), key=lambda index: clips.clips[index].seconds)
    chosen = by_length[:: max(1, len(clips) // asked.clips)][: asked.clips]
    heard = {"windows": asked.windows, "dtypes": dtypes, "device": device}
    waveforms = [clips[index].waveform for index in chosen]
    ears = cache(lambda context, dtype: WhisperEncoder(context=context, dtype=dtype).to(device))
    console, machine = Console(), name_of(device)
    measures = [asdict(measure) for measure in bench_encoder(ears, waveforms, **heard)]
    seconds = sum(map(len, waveforms)) / 16_000 / len(waveforms)
    console.print(f"whisper-base, {len(waveforms)} clips of {seconds:.1f} s on average, {machine}")
    console.print(table_of_ears(measures))
    if not any(measure["what"] == "ctranslate2" for measure in measures):
        console.print(GET_CTRANSLATE2)
    write(asked, machine, measures)


def bench_server(asked: ServingBench) -> None:
    """Measure a server from outside, print a table, and write JSON where it is asked for.

    Raises:
        OmniError: it does not start, or fails under the load.
    """
    from omni.bench.serving import Server, bench_serving

    measures, given = [], {"clients": asked.clients, "seconds": asked.seconds, "requests": asked.requests}
    with Server(f"run={asked.run}", f"precision={asked.precision}", f"device={asked.device}") as server:
        for name, load, memory in bench_serving(server, **given):
            statuses = {str(status): number for status, number in load.statuses.items()}
            first = {f"p{share}": load.quantile(share / 100) for share in (50, 95)}
            measures.append({"what": name, **first, "rate": load.rate, "statuses": statuses, "memory": memory})
            measures[-1]["parts"] = {part: median(each[part] for each in load.parts) for part in load.parts[0]}
        left = f"{server.taken()} places taken, {server.threads()} threads when all had gone"
    console = Console()
    console.print(table_of_loads(measures))
    console.print(left)
    write(asked, f"{os.cpu_count()} cores", measures)


def table_of_loads(measures: list[dict]) -> Table:
    """One line a load; p50 and p95 of the time to the first token."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("what", no_wrap=True)
    for name in ("p50", "p95", "tokens/s", "answers", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for measure in measures:
        answers = ", ".join(f"{number} x {status}" for status, number in sorted(measure["statuses"].items()))
        table.add_row(
            measure["what"],
            *(f"{measure[share]:.0f} ms" for share in ("p50", "p95")),
            f"{measure['rate']:.0f}",
            answers,
            f"{measure['memory']:.0f} MiB",
        )
    return table


def arithmetics(names: str, device: "torch.device") -> list[str]:
    """Those of `names` that the device multiplies natively. Raises ConfigError for any but fp32 and bf16, or if none is
    left."""
    from omni.model.precision import multiplies_bf16

    if not set(names.split(",")) <= {"fp32", "bf16"}:
        raise ConfigError(f"precision: {names} is not made of fp32 and bf16")
    if "bf16" not in names or multiplies_bf16(device):
        return names.split(",")
    if "fp32" not in names:
        raise ConfigError("precision: bf16 is not native here; measure precision=fp32")
    print("bf16 is not native here, left out")
    return ["fp32"]


def name_of(device: "torch.device") -> str:
    """The machine in words."""
    import torch

    return torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"


def write(asked: Bench | EncoderBench | ServingBench, machine: str, measures: list[dict]) -> None:
    """The figures as JSON, if they are asked for."""
    import torch

    if asked.out:
        facts = {"machine": machine, "python": platform.python_version(), "torch": torch.__version__}
        facts |= {"asked": asdict(asked), "measures": measures}
        replace_text(Path(asked.out), json.dumps(facts, indent=2) + "\n")


def table_of_ears(measures: list[dict]) -> Table:
    """One line a way to hear."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("what", "arithmetic", "hears"):
        table.add_column(name, no_wrap=True)
    for name in ("clips/s", "audio s/s", "times", "of best"):
        table.add_column(name, justify="right", no_wrap=True)
    for measure in measures:
        table.add_row(
            measure["what"],
            measure["dtype"],
            {"full": "30 s", "clip": "the clip"}[measure["context"]],
            f"{measure['clips']:.2f}",
            f"{measure['audio']:.1f}",
            f"{measure['times']:.2f}",
            "" if measure["share"] is None else f"{measure['share']:.0%}",
        )
    return table


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
