"""A run as small as what it trained: its checkpoint without the frozen language model, which is named instead.

The folder is a run like any other, but that it cannot be gone on with: a configuration, run.json, and a checkpoint of
16 bits a number that lacks what lies in `backbone.init_from`.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from omni.atomic import replace_text, replacing, replacing_folder
from omni.config.check import ConfigError
from omni.config.render import load
from omni.errors import OmniError
from omni.model.layout import MODEL, of_base
from omni.model.pretrained import find_weights, read_weights
from omni.record.run import read_run

KEPT = ("config.yaml", "run.json", "checkpoints")
BESIDE = ("README.md", "hearing", "audiobench_mini")
"""What may stand there too: what was found out about it."""


def halved(tensor: torch.Tensor) -> torch.Tensor:
    """A matrix in 16 bits a number; what is small anyway as it is."""
    return tensor.to(torch.bfloat16) if tensor.ndim >= 2 else tensor


def export_slim(checkpoint: Path, folder: Path, trust: str | Sequence[str] = ()) -> int:
    """Write what a run trained; returns how many parameters.

    Args:
        checkpoint: of the run.
        folder: a new one, or one that was exported so before, which is replaced.
        trust: see `check_saved`.

    Raises:
        ConfigError: the run names no language model to start from, or has trained it.
        OmniError: something else is in the way.
    """
    run, folder = checkpoint.parents[1], folder.resolve()
    cfg, state = load(run, trust), load_file(checkpoint / MODEL)
    base = {name: tensor for name, tensor in state.items() if of_base(name)}
    trained = {name: halved(tensor) for name, tensor in state.items() if name not in base}
    if not cfg.backbone.get("init_from"):
        raise ConfigError(
            f"run: {run} names no language model that it starts from (backbone.init_from); export it whole"
        )
    there = read_weights(Path(cfg.backbone.init_from)).state
    own = {name.removeprefix("backbone.").replace(".base_layer.", "."): tensor for name, tensor in base.items()}
    if any(not torch.equal(tensor, there[name].float()) for name, tensor in own.items()):
        raise ConfigError(
            f"run: {run} has another language model than {cfg.backbone.init_from}: it trained it, or started from a "
            "run that did; export it whole"
        )
    if folder.exists() and {path.name for path in folder.iterdir()} - {*KEPT, *BESIDE}:
        raise OmniError(f"{folder}: holds other things than a run that was exported; choose another")
    cfg.stage.init_from = None
    told = {name: value for name, value in read_run(run).items() if name not in ("argv", "cwd", "host", "pid")}
    base = find_weights(Path(cfg.backbone.init_from))[1]
    named = {"source": str(base), "sha256": hashlib.sha256(base.read_bytes()).hexdigest()}
    told["backbone"] = told.get("backbone", {}) | named
    with replacing_folder(folder) as aside:
        target = aside / "checkpoints" / checkpoint.name
        target.mkdir(parents=True)
        replace_text(aside / "config.yaml", OmegaConf.to_yaml(cfg))
        replace_text(aside / "run.json", json.dumps(told, indent=2) + "\n")
        with replacing(target / MODEL) as temporary:
            save_file(trained, temporary)
        shutil.copymode(aside / "config.yaml", target / MODEL)  # safetensors shuts out others, whatever the umask
        for kept in BESIDE:
            if (folder / kept).is_dir():
                shutil.copytree(folder / kept, aside / kept)
            elif (folder / kept).exists():
                shutil.copy2(folder / kept, aside / kept)
    return sum(tensor.numel() for tensor in trained.values())
