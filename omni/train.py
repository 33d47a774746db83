"""python -m omni.train: compose -> check -> build -> fit -> record.

python -m omni.train                                   the defaults: W1 on five synthetic clips
python -m omni.train projector=conv stage.lr=3e-4      another projector, another learning rate
python -m omni.train -m seed=1,2,3                     a sweep
python -m omni.train resume=outputs/latest             go on where a run was cut off
"""

import io
import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from omni.config.build import Built, build, build_loggers
from omni.config.check import ConfigError, check
from omni.config.entry import run_command
from omni.config.render import load, render, signature
from omni.record.curve import draw_curve
from omni.record.gate import bound, judge
from omni.record.metrics import Loggers, cut_metrics, read_metrics, summarise
from omni.record.progress import Progress, parameter_table
from omni.record.run import Run

if TYPE_CHECKING:
    from omni.training.loop import Trainer

log = logging.getLogger("omni.train")


def main() -> None:
    """The command, also installed as `omni-train`."""
    run_command(train)


def train(cfg: DictConfig, folder: Path, overrides: list[str]) -> tuple[float | None, bool]:
    """One run. Returns its last loss, for a sweeper, and whether it passed its gate."""
    run, cfg = open_run(cfg, folder, overrides)
    with run:
        check(cfg)
        log.info("%s in %s", cfg.stage.name, run.folder)
        built = build(cfg)
        tell_what_was_built(built, run)
        start = restore(built, run.folder)
        loggers = Loggers(
            build_loggers(
                cfg,
                run.folder,
                name=f"{cfg.stage.name} {run.folder.name}",
                config=OmegaConf.to_container(cfg, resolve=True, enum_to_str=True),
            )
        )
        status = "failed"
        try:
            encode_clips(built)
            fit(cfg, built.trainer, run, loggers, start)
            status, summary = close(cfg, run)
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            draw_curve(
                run.folder / "metrics.csv",
                run.folder / "curve.png",
                title=cfg.stage.name,
                gate=run.data["gate"],
            )
            loggers.finish(status)
    return summary["loss"]["last"], status == "passed"


def open_run(cfg: DictConfig, folder: Path, overrides: list[str]) -> tuple[Run, DictConfig]:
    """A new run folder, or with `resume` the old one and the configuration it saved."""
    if cfg.resume is None:
        facts = {"stage": OmegaConf.select(cfg, "stage.name"), "signature": signature(cfg), "seed": cfg.seed}
        return Run.start(folder, config_yaml=render(cfg), facts=facts), cfg
    ignored = [override for override in overrides if not override.startswith("resume=")]
    if ignored:
        raise ConfigError(
            f"resume: a run goes on with its own saved configuration, so {', '.join(ignored)} would not count; "
            "drop it, or start a new run"
        )
    run = Run.resume(folder)
    return run, load(run.folder)


def tell_what_was_built(built: Built, run: Run) -> None:
    """Say and record which weights hear, what trains, and where."""
    for pattern in built.unmatched:
        log.warning("stage.freeze: %r matches no parameter; names look like backbone.lm_head.weight", pattern)
    from omni.training.freeze import count_parameters

    parts = count_parameters(built.model)
    source = getattr(built.model.encoder, "source", type(built.model.encoder).__name__)
    precision = str(built.dtype).removeprefix("torch.")
    text = Console(file=io.StringIO(), width=100)
    text.print(parameter_table(parts))
    log.info("encoder weights from %s\n%s arithmetic on %s", source, precision, built.device)
    log.info(text.file.getvalue().rstrip())
    run.update(
        device=str(built.device),
        precision=precision,
        encoder={"source": source, "sha256": getattr(built.model.encoder, "sha256", None)},
        parameters={"all": sum(row[1] for row in parts), "trainable": sum(row[2] for row in parts)},
    )


def restore(built: Built, folder: Path) -> int:
    """Go back to the newest checkpoint, if there is one, and cut metrics.csv back to it; returns its step."""
    from omni.training.checkpoint import list_checkpoints, load_checkpoint

    checkpoints = list_checkpoints(folder / "checkpoints")
    if checkpoints:
        built.trainer.load_state_dict(load_checkpoint(checkpoints[-1], built.model))
        log.info("going on after step %d", built.trainer.done)
    if (folder / "metrics.csv").exists():
        cut_metrics(folder, built.trainer.done)
    return built.trainer.done


def encode_clips(built: Built) -> None:
    """Run the frozen encoder once over every clip the run will use, and see that each fits the context."""
    trainer, began = built.trainer, time.monotonic()
    needed = {
        index for step in range(trainer.done, trainer.max_steps) for batch in trainer.clips_of(step) for index in batch
    }
    with Progress(len(needed), 0, "encode") as progress:
        for done, example in enumerate(built.examples.encode_ahead(sorted(needed)), start=1):
            built.model.check_fits(example.id, frames=example.states_KTD.size(1), tokens=len(example.ids_L))
            progress.update(done, {})
    log.info("encoded %d clips in %.1f s", len(needed), time.monotonic() - began)


def fit(cfg: DictConfig, trainer: "Trainer", run: Run, loggers: Loggers, start: int) -> None:
    """Train to the end, logging every step and saving what `stage` asks for; Ctrl-C saves and stops."""
    from contextlib import nullcontext

    from omni.training.checkpoint import save_checkpoint
    from omni.training.interrupt import stop_on_signal
    from omni.training.profile import profiled

    stage, began = cfg.stage, time.monotonic()
    with (
        stop_on_signal() as stop,
        profiled(run.folder) if cfg.debug.profile else nullcontext(),
        Progress(stage.max_steps, start, stage.name) as progress,
    ):
        for step, values in trainer.steps():
            loggers.log(step, values)
            progress.update(step, values)
            if step % stage.checkpoint_every == 0 or step == stage.max_steps or stop.requested:
                save_checkpoint(
                    run.folder / "checkpoints",
                    trainer.model,
                    trainer.state_dict(),
                    keep=stage.checkpoints_kept,
                )
            if stop.requested and step < stage.max_steps:
                raise KeyboardInterrupt(f"stopped after step {step}; go on with resume={run.folder}")
    seconds = time.monotonic() - began
    run.update(fit_seconds=round(seconds, 3))
    log.info("%d steps in %.1f s", trainer.done - start, seconds)


def close(cfg: DictConfig, run: Run) -> tuple[str, dict]:
    """Judge the gate and finish run.json; returns the status and the summary of the metrics."""
    summary = summarise(read_metrics(run.folder / "metrics.csv"))
    gate = None
    if cfg.stage.gate is not None:
        gate = judge(summary, metric=cfg.stage.gate.metric, threshold=cfg.stage.gate.threshold)
    status = "passed" if gate is None or gate["passed"] else "failed"
    run.finish(status, metrics=summary, gate=gate)
    if gate is not None:
        verdict = "PASS" if gate["passed"] else "FAIL"
        log.info(
            "%s  %s %.4g, asked %s %.4g",
            verdict,
            gate["metric"],
            math.nan if gate["value"] is None else gate["value"],
            bound(gate["metric"]),
            gate["threshold"],
        )
    log.info("curve in %s", run.folder / "curve.png")
    return status, summary


if __name__ == "__main__":
    main()
