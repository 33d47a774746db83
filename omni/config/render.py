"""A configuration as text, as a hash, and back from a run folder."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from omni.config.check import ConfigError, name_of_tokenizer
from omni.config.schema import Train
from omni.config.trust import check_saved
from omni.record.run import read_run

NOT_SIGNED = ("logger", "device", "resume", "trust", "sweep")
"""Keys that change where a run runs and who watches, not what it computes."""


def render(cfg: DictConfig) -> str:
    """The resolved YAML; unresolved where an interpolation is broken, so that a failed run still shows its config."""
    try:
        return OmegaConf.to_yaml(cfg, resolve=True)
    except OmegaConfBaseException:
        return OmegaConf.to_yaml(cfg)


def pinned(cfg: DictConfig) -> DictConfig:
    """The configuration with what its links point to in their place: outputs/latest will soon be another run."""
    cfg = cfg.copy()
    if (start := select(cfg, "stage.init_from")) and (run := newest_passed(Path(start).expanduser())) is not None:
        cfg.stage.init_from = str(run)
    for key in ("stage.init_from", "backbone.init_from", "backbone.tokenizer"):
        path = select(cfg, key)
        if path and (there := Path(path).expanduser()).exists():
            OmegaConf.update(cfg, key, first_target(there.absolute()))
    return cfg


def newest_passed(folder: Path) -> Path | None:
    """Of a folder of runs, as outputs/runs has one for each stage, the newest that passed; None where there is none."""
    runs = sorted(path.parent for path in folder.glob("*/run.json")) if folder.is_dir() else []
    return next((run for run in reversed(runs) if read_run(run)["status"] == "passed"), None)


@cache  # what a sweep's first job starts from its later ones do too
def first_target(path: Path) -> str:
    """Where a path leads, told from here where it lies below."""
    there, here = path.resolve(), Path.cwd().resolve()
    return str(there.relative_to(here) if there.is_relative_to(here) else there)


def select(cfg: DictConfig, key: str) -> Any:
    """A value, or None where it is missing or leads nowhere: `check` is who says so."""
    try:
        return OmegaConf.select(cfg, key)
    except OmegaConfBaseException:
        return None


def signature(cfg: DictConfig) -> str | None:
    """Twelve hex digits that two runs share when their configurations ask for the same computation."""
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    except OmegaConfBaseException:
        return None
    signed = {key: value for key, value in plain.items() if key not in NOT_SIGNED}
    return hashlib.sha256(json.dumps(signed, sort_keys=True).encode()).hexdigest()[:12]


def load(run_folder: Path, trust: str | Sequence[str] = ()) -> DictConfig:
    """The configuration a run saved.

    Args:
        trust: see `check_saved`.

    Raises:
        ConfigError: config.yaml is missing or damaged, or of another version of omni, or asks for what is not built.
    """
    path = run_folder / "config.yaml"
    try:
        saved = OmegaConf.load(path)
        check_saved(saved, path, trust)
        gate = OmegaConf.select(saved, "stage.gate")
        if gate is not None and set(gate) == {"metric", "threshold"}:  # as runs had it before a gate asked several
            saved.stage.gate = {gate.metric: gate.threshold}
        return OmegaConf.merge(OmegaConf.structured(Train), saved)
    except ConfigError:
        raise
    except Exception as error:  # yaml, omegaconf and the file system have their own families of errors
        raise ConfigError(f"{path}: cannot be read ({str(error).splitlines()[0]}); start a new run") from error


def self_contained(cfg: DictConfig, run_folder: Path) -> DictConfig:
    """The configuration of a run that has begun, so that it needs nothing that may have moved since: its tokenizer
    is the copy in its folder, and its weights are those of its checkpoints."""
    cfg = cfg.copy()
    own = run_folder / "tokenizer.json"
    if own.is_file():
        cfg.backbone.tokenizer = str(own)
    if any((run_folder / "checkpoints").glob("step_*")):
        cfg.stage.init_from = None
        if "init_from" in cfg.backbone:
            cfg.backbone.tokenizer = name_of_tokenizer(cfg.backbone)
            cfg.backbone.init_from = None
    return cfg
