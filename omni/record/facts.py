"""What a run is made of, what it could not read, how fast it was: said in train.log and kept in run.json."""

import io
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console

from omni.errors import OmniError
from omni.record.progress import parameter_table
from omni.record.run import Run

if TYPE_CHECKING:
    import torch

    from omni.model.omni import Omni
    from omni.training.loop import Trainer
    from omni.training.scaling import Sizes

log = logging.getLogger(__name__)

SKIPPED_TOLD = 10


def tell_parts(
    run: Run, model: "Omni", init_from: dict[str, Any] | None, *, precision: str, device: "torch.device"
) -> None:
    """Which weights hear and speak, what trains, and where.

    Raises:
        OmniError: a resumed run has other weights than it started with.
    """
    from omni.training.freeze import count_parameters

    weights = {"encoder": weights_of(model.encoder), "backbone": init_from}
    weights = {part: there for part, there in weights.items() if there is not None}
    for part, there in weights.items():
        before = run.data.get(part) or there
        if before["sha256"] != there["sha256"]:
            raise OmniError(
                f"resume: this run started with {part} weights from {before['source']} and now finds others, "
                f"{there['source']}: provide the first again, or start a new run"
            )
        if (so_far := before.get("precision")) not in (None, now := there.get("precision")):
            log.warning("resume: %s in %s so far, %s from here on", part, so_far, now)
        log.info("%s weights from %s", part, there["source"])
        for note in there.get("notes", []):
            log.warning("%s: %s", part, note)
    if run.data.get("precision", precision) != precision:
        log.warning("resume: %s arithmetic so far, %s from here on", run.data["precision"], precision)
    log.info(arithmetic(model, device, precision))
    parts = count_parameters(model)
    table = Console(file=io.StringIO(), width=100)
    table.print(parameter_table(parts))
    log.info(table.file.getvalue().rstrip())
    run.update(
        device=str(device),
        precision=precision,
        **weights,
        parameters={"all": sum(row[1] for row in parts), "trainable": sum(row[2] for row in parts)},
    )


def weights_of(encoder: object | None) -> dict[str, str | None] | None:
    """Where the encoder's weights come from, as far as it says so, and in what it computes."""
    if encoder is None:
        return None
    source, sha256 = getattr(encoder, "source", type(encoder).__name__), getattr(encoder, "sha256", None)
    return {"source": source, "sha256": sha256, "precision": precision_of(encoder)}


def precision_of(part: "torch.nn.Module") -> str | None:
    """The arithmetic of a part that never trains, where it has weights."""
    return next((str(weight.dtype).removeprefix("torch.") for weight in part.parameters()), None)


def arithmetic(model: "Omni", device: "torch.device", precision: str | None = None) -> str:
    """In words: where a model computes, and in what. precision: where the backbone's weights do not tell."""
    encoder = "" if model.encoder is None else f", encoder in {precision_of(model.encoder)}"
    return f"{precision or precision_of(model.backbone)} arithmetic on {device}{encoder}"


def tell_skipped(run: Run, skipped: Mapping[str, str]) -> None:
    """Each thing of the data set that could not be read, once, as soon as it is met. run.json has them all, from when
    it is written next: a damaged file may bring one with every step."""
    known = run.data.get("skipped", {})
    if skipped.items() <= known.items():
        return
    fresh = {name: reason for name, reason in skipped.items() if name not in known}
    for name in list(fresh)[: max(0, SKIPPED_TOLD - len(known))]:
        log.warning("dataset: left out %s: %s", name, fresh[name])
    if len(known) < SKIPPED_TOLD < len(known) + len(fresh):
        log.warning("dataset: more is left out; run.json has the list")
    run.note(skipped=known | dict(skipped))


def tell_throughput(run: Run, trainer: "Trainer", sizes: "Sizes", dtype: "torch.dtype") -> None:
    """How fast a language model trained, if all of it did. What fails here fails no run."""
    from omni.training.throughput import measure_throughput

    if not all(parameter.requires_grad for parameter in trainer.model.parameters()):
        return
    try:
        speed = measure_throughput(trainer, sizes, dtype)
    except RuntimeError as error:  # a GPU that is full
        log.warning("the device's rate could not be measured: %s", error)
        return
    if speed:
        log.info("%s", speed)
        run.update(throughput=asdict(speed))


def tell_wait(run: Run, trainer: "Trainer") -> None:
    """The share of the steps' time that went into waiting for their batches, if there was more than one step."""
    from omni.training.throughput import data_wait

    if (share := data_wait(trainer)) is not None:
        log.info("waited for data %.1f %% of the time", 100 * share)
        run.update(waited_for_data=share)
