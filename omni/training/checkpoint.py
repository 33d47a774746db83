"""Checkpoints: whole or not there at all.

`checkpoints/step_000050/` holds `model.safetensors` (projector and backbone, with its adapters if any; the frozen
encoder is named in run.json, not copied) and `trainer.pt` (step, optimizer, feed; loaded without running code). Neither
depends on how many processes trained.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from omni.errors import OmniError
from omni.model.layout import MODEL, list_checkpoints, of_base
from omni.model.omni import Omni
from omni.model.state import differences
from omni.training.loop import Trainer

TRAINER = "trainer.pt"


class CheckpointError(OmniError):
    """A checkpoint that cannot be written or read."""


def save_checkpoint(folder: Path, model: Omni, trainer_state: dict, *, keep: int) -> Path:
    """Write a checkpoint aside, rename it into `folder`, and drop all but the newest `keep`.

    Raises:
        CheckpointError: the disk is full or read-only; what was there before is untouched.
    """
    final = folder / f"step_{trainer_state['step']:06d}"
    aside = folder / f".{final.name}.partial"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        save_file(learned_state(model), aside / MODEL)
        torch.save(trainer_state, aside / TRAINER)
        shutil.copymode(aside / TRAINER, aside / MODEL)  # safetensors shuts out everybody else, whatever the umask
        for name in (MODEL, TRAINER):
            flush_to_disk(aside / name)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        kept = [path.name for path in list_checkpoints(folder)]
        raise CheckpointError(
            f"{final}: the checkpoint could not be written ({error}); "
            + (f"kept: {', '.join(kept)}. " if kept else "no earlier one exists. ")
            + f"Free some space, then go on with resume={folder.parent}"
        ) from error
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def load_newest(folder: Path, trainer: Trainer) -> Path | None:
    """Put a trainer and its model back to the newest checkpoint in `folder`; returns it, None where there is none.

    Raises as `load_checkpoint`.
    """
    checkpoints = list_checkpoints(folder)
    if not checkpoints:
        return None
    trainer.load_state_dict(load_checkpoint(checkpoints[-1], trainer.model))
    return checkpoints[-1]


def load_checkpoint(folder: Path, model: Omni) -> dict:
    """Put a checkpoint's weights into `model`; returns the trainer's state.

    Raises:
        CheckpointError: a file is missing or damaged, or does not fit the model.
    """
    load_weights(folder, model)
    return read(folder, lambda: torch.load(folder / TRAINER, map_location="cpu", weights_only=True))


def load_weights(folder: Path, model: Omni) -> None:
    """Put a checkpoint's weights into `model`; one without a language model leaves that as it is. Raises as
    `load_checkpoint`."""
    state, wanted = read(folder, lambda: load_file(folder / MODEL)), learned_state(model)
    if not any(map(of_base, state)):
        wanted = {name: tensor for name, tensor in wanted.items() if not of_base(name)}
    if lines := differences(wanted, state):
        raise CheckpointError("\n  ".join([f"{folder}: these weights do not fit the model", *lines]))
    model.load_state_dict(state, strict=False)


def read(folder: Path, load: Callable[[], dict]) -> dict:
    try:
        return load()
    except Exception as error:  # each of the two formats has its own family of errors for a damaged file
        raise CheckpointError(
            f"{folder}: the checkpoint cannot be read ({error}); remove this folder to go on from an earlier one"
        ) from error


def learned_state(model: Omni) -> dict[str, torch.Tensor]:
    """The tensors of projector and backbone, by name."""
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}


def flush_to_disk(path: Path) -> None:
    """Wait until the bytes are on the disk, so that the rename cannot overtake them."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
