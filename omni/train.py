"""python -m omni.train: compose -> check -> build -> fit -> record.

python -m omni.train                                   the defaults: W1 on five synthetic clips
python -m omni.train projector=conv stage.lr=3e-4      another projector, another learning rate
python -m omni.train -m seed=1,2,3                     a sweep
python -m omni.train resume=outputs/latest             go on where a run was cut off
python -m omni.train resume=outputs/latest trust=my_ear      the same, with a class of your own, of my_ear.py
torchrun --nproc_per_node=8 -m omni.train stage=...    the same run, faster: 8 processes share each step
"""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from omni.config.build import Built, build, build_loggers
from omni.config.check import ConfigError, check, components, refuse_missing
from omni.config.entry import run_command
from omni.config.recipe import sizes_of
from omni.config.render import load, pinned, render, select, self_contained, signature
from omni.config.sweep import PLAN
from omni.errors import OmniError
from omni.record.curve import draw_curve
from omni.record.facts import tell_parts, tell_skipped, tell_throughput, tell_wait
from omni.record.folder import point_latest
from omni.record.gate import judge, refuse_unknown, tell
from omni.record.layers import draw_layers
from omni.record.metrics import Loggers, cut_metrics, read_metrics, summarise
from omni.record.progress import Progress
from omni.record.run import Run
from omni.record.samples import add_samples, cut_samples
from omni.training.distributed import World

log = logging.getLogger("omni.train")


def main() -> None:
    """The command, also installed as `omni-train`."""
    run_command(train, follow)


def train(world: World, cfg: DictConfig, folder: Path, overrides: list[str]) -> bool:
    """One run. Returns whether it passed its gate."""
    run, cfg = open_run(cfg, folder, overrides)
    with run:
        check(cfg)
        refuse_uneven_shares(cfg, world)
        refuse_missing(cfg, overrides)
        log.info("%s in %s", cfg.stage.name, run.folder)
        built = build(cfg)
        for pattern in built.idle_patterns:
            log.warning("stage.freeze: %r matches no parameter; names look like backbone.lm_head.weight", pattern)
        tell_parts(run, built.model, built.init_from, precision=built.precision, device=built.device)
        start = restore(built, run.folder)
        world.share((cfg, run.folder))
        built.trainer.join(world)
        run.begin()
        run.update(processes=world.size)
        keep_tokenizer(built, run.folder)
        group = run.folder.parent.name if (run.folder.parent / PLAN).exists() else None
        name = f"{cfg.stage.name} {run.folder.name}"
        loggers = Loggers(build_loggers(cfg, run.folder, name=name, group=group))
        loggers.config(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
        status = "failed"
        try:
            encode_clips(built)
            stopped = fit(cfg, built, run, loggers, start)
            status = judge_run(cfg, run)
            if cfg.encoder is not None:
                tell_wait(run, built.trainer)
            elif sizes := sizes_of(cfg.backbone):
                tell_throughput(run, built.trainer, sizes, built.dtype)
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            close(cfg, run, loggers, status)
    if stopped:  # too late for this run, in time for what a sweep would start next
        raise KeyboardInterrupt(f"stopped after the last step; {run.folder} is complete")
    return status == "passed"


def follow(world: World) -> None:
    """The part of every process but the first: its share of each step. It writes nothing and says nothing."""
    from omni.training.checkpoint import load_newest
    from omni.training.interrupt import stop_on_signal

    cfg, folder = world.share()
    built = build(cfg)
    load_newest(folder / "checkpoints", built.trainer)
    built.trainer.join(world)
    for _ in encode_ahead(built):
        pass
    with stop_on_signal() as stop:
        for _ in built.trainer.steps():
            if any(world.gather(stop.requested)):
                return


def refuse_uneven_shares(cfg: DictConfig, world: World) -> None:
    """Raise ConfigError when a step's forward passes cannot be dealt out evenly: a process would wait for others."""
    passes, size = cfg.stage.accumulate, world.size
    if passes % size:
        fewer = max(n for n in range(1, size) if passes % n == 0)
        raise ConfigError(
            f"stage.accumulate: {size} processes cannot share {passes} forward passes a step evenly; set "
            f"stage.accumulate={math.ceil(passes / size) * size} (with a smaller stage.batch_size a step stays as "
            f"large), or start {fewer}"
        )


def open_run(cfg: DictConfig, folder: Path, overrides: list[str]) -> tuple[Run, DictConfig]:
    """A new run folder, or with `resume` the old one and the configuration it saved."""
    if cfg.resume is None:
        cfg = pinned(cfg)
        known = {key: select(cfg, key) for key in ("stage.name", "seed")}
        facts = {"stage": known["stage.name"], "signature": signature(cfg), "seed": known["seed"]}
        run = Run.start(folder, config_yaml=render(cfg), facts=facts)
        if (folder.parent / PLAN).exists():  # whatever becomes of a job, it stays in its sweep's table
            run.begin()
        return run, cfg
    ignored = [override for override in overrides if not override.startswith(("resume=", "device=", "trust="))]
    if ignored:
        raise ConfigError(
            f"resume: a run goes on with its own saved configuration, so {', '.join(ignored)} would not count; "
            "drop it, or start a new run"
        )
    named = [cfg.trust] if isinstance(cfg.trust, str) else [*(cfg.trust or ())]
    # A job of a sweep is composed again before it goes on, so what it is built of is the caller's own word.
    named += [str(node.get("_target_")).rpartition(".")[0] for _, node in components(cfg)]
    saved = load(folder.resolve(), named)  # before the run is taken up: a damaged one keeps its verdict
    check(saved)
    run = Run.resume(folder)
    if any(override.startswith("device=") for override in overrides):
        saved.device = cfg.device
    return run, self_contained(saved, folder)


def keep_tokenizer(built: Built, folder: Path) -> None:
    """Leave a trained tokenizer in the run's folder: without it the weights mean nothing."""
    if hasattr(built.tokenizer, "save"):
        built.tokenizer.save(folder)


def restore(built: Built, folder: Path) -> int:
    """Go back to the newest checkpoint, if there is one, and cut metrics.csv back to it; returns its step."""
    from omni.training.checkpoint import load_newest

    checkpoint = load_newest(folder / "checkpoints", built.trainer)
    if checkpoint is not None:
        log.info("going on after step %d", built.trainer.done)
    metrics = folder / "metrics.csv"
    cut_samples(folder, built.trainer.done)
    if metrics.exists():
        cut_metrics(folder, built.trainer.done)
    kept = {step for step, _ in read_metrics(metrics).get("loss", [])} if metrics.exists() else set()
    if len(kept) != built.trainer.done:
        raise OmniError(
            f"{metrics}: {len(kept)} steps are on record and the checkpoint is from step {built.trainer.done}; "
            f"remove {checkpoint} to go on from an earlier one, or start a new run"
        )
    return built.trainer.done


def encode_clips(built: Built) -> None:
    """Run the frozen encoder once over every clip the run will use, and see that each fits the context."""
    if built.model.encoder is None:
        return
    began, needed, done = time.monotonic(), len(built.trainer.feed.needed(built.trainer.passes_left)), 0
    with Progress(needed, 0, "encode", unit="clip") as progress:
        for done, _ in enumerate(encode_ahead(built), start=1):
            progress.update(done, {})
    log.info("encoded %d clips in %.1f s", done, time.monotonic() - began)


def encode_ahead(built: Built) -> Iterator[object]:
    """Encode what the run will use, if it hears at all; yields for each clip."""
    if built.model.encoder is not None:
        yield from built.trainer.feed.encode_ahead(built.trainer.passes_left)
        if built.evaluate is not None:
            built.evaluate.listen()


def fit(cfg: DictConfig, built: Built, run: Run, loggers: Loggers, start: int) -> bool:
    """Train to the end, logging every step and saving what `stage` asks for.

    Ctrl-C saves and stops after the step it came in, in all processes; returns whether that was the last one.
    """
    from omni.training.checkpoint import save_checkpoint
    from omni.training.interrupt import stop_on_signal
    from omni.training.profile import profiled

    stage, trainer, began = cfg.stage, built.trainer, time.monotonic()
    with (
        closing(trainer.world),
        stop_on_signal() as stop,
        profiled(run.folder, built.device) if cfg.debug.profile else nullcontext(),
        Progress(stage.max_steps, start, stage.name) as progress,
    ):
        for step, values in trainer.steps():
            if stage.eval_every and (step % stage.eval_every == 0 or step == stage.max_steps):
                values |= look(built, run.folder, step)
            loggers.log(step, values)
            progress.update(step, values)
            tell_skipped(run, trainer.feed.skipped)
            if step == start + 1:
                point_latest(run.folder)
                logged = [*values, *(built.evaluate.metrics if stage.eval_every else ())]
                refuse_unknown(asked_of(stage), logged)  # a misspelt metric is not found out after hours
                refuse_unknown(filter(None, [cfg.sweep.objective]), logged, "sweep.objective=")
            stopping = any(trainer.world.gather(stop.requested))
            if step % stage.checkpoint_every == 0 or step == stage.max_steps or stopping:
                run.update()  # first: what a run goes on behind has to be on record
                save_checkpoint(
                    run.folder / "checkpoints", trainer.model, trainer.state_dict(), keep=stage.checkpoints_kept
                )
            if stopping and step < stage.max_steps:
                raise KeyboardInterrupt(f"stopped after step {step}; go on with resume={run.folder}")
    log.info("%d steps in %.1f s", trainer.done - start, time.monotonic() - began)
    return stop.requested


def look(built: Built, folder: Path, step: int) -> dict[str, float]:
    """What the model can do by now: its scores, and samples in `samples.txt`."""
    values, samples = built.evaluate()
    values |= built.model.layer_shares()
    log.info("step %d: %s", step, ", ".join(f"{name} {value:.4f}" for name, value in values.items()))
    add_samples(folder, step, samples)
    return values


def judge_run(cfg: DictConfig, run: Run) -> str:
    """Hold the metrics against the gate and finish run.json; returns the status."""
    summary = summarise(read_metrics(run.folder / "metrics.csv"))
    gate = judge(summary, asked_of(cfg.stage))
    status = "passed" if all(each["passed"] for each in gate) else "failed"
    run.finish(status, metrics=summary, gate=gate or None)
    for each in gate:
        log.info("%s", tell(each))
    return status


def asked_of(stage: DictConfig) -> dict[str, float]:
    """The metrics that the gate asks for, and how much of each."""
    return {metric: threshold for metric, threshold in (stage.gate or {}).items() if threshold is not None}


def close(cfg: DictConfig, run: Run, loggers: Loggers, status: str) -> None:
    """However the run ended: its metrics in run.json, its curve drawn, its loggers closed.

    What fails here is only warned about: it must not take the place of what ended the run.
    """
    metrics, curve = run.folder / "metrics.csv", run.folder / "curve.png"
    try:
        if metrics.exists():
            run.update(metrics=summarise(read_metrics(metrics)))
            draw_curve(metrics, curve, title=cfg.stage.name, gate=run.data["gate"] or [])
            log.info("curve in %s", curve)
            if draw_layers(metrics, run.folder / "layers.png"):
                log.info("what it draws on in %s", run.folder / "layers.png")
    except (OSError, OmniError) as error:
        log.warning("the curve could not be drawn: %s", error)
    finally:
        loggers.finish(status)


if __name__ == "__main__":
    main()
