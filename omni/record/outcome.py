"""What run folders say of themselves once they are written, or half-written, or not runs at all. Reads files only."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from omni.errors import OmniError
from omni.record.gate import Summary, Verdict
from omni.record.metrics import NAME, read_metrics, summarise
from omni.record.run import read_run

# libyaml's loader is fifteen times faster; not every PyYAML is built with it.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Best first. A run that misses its gate ran to its end all the same.
STATES = ("passed", "missed", "running", "interrupted", "failed")


@dataclass(frozen=True)
class Skipped:
    """A folder that could not be compared, and why."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Outcome:
    """One run: its flat configuration {dotted key: value as text}, how it ended and what it measured.

    `error` is the first line of what went wrong, `seconds` the wall time, `commit` a short git sha, with a
    "+" when there were changes and "" when unknown, `overrides` what its command line set. `warning` says why
    metrics.csv could not be read.
    """

    folder: Path
    status: str
    error: str
    stage: str
    seconds: float | None
    config: dict[str, str]
    summary: Summary
    gate: list[Verdict]
    commit: str
    overrides: dict[str, str]
    warning: str = ""

    @property
    def seed(self) -> str:
        return self.config.get("seed", "")

    @property
    def gate_passed(self) -> bool | None:
        """Whether it reached all that was asked of it; None when nothing was."""
        return all(each.get("passed") is True for each in self.gate) if self.gate else None

    @property
    def state(self) -> str:
        """One of `STATES`: the status, but "missed" for a run that only failed its gate."""
        return "missed" if self.status == "failed" and self.gate and not self.error else self.status

    @property
    def finished(self) -> bool:
        """Whether it ran to its end, whatever its gate says."""
        return self.state in ("passed", "missed")

    def value(self, metric: str, which: str = "last") -> float | None:
        """The metric's first, last or best value; None when it was not logged or was not finite."""
        value = self.summary.get(metric, {}).get(which)
        return value if value is not None and math.isfinite(value) else None


def read_outcomes(paths: Iterable[str | Path]) -> tuple[list[Outcome], list[Skipped]]:
    """Every run below the paths, once each however it is reached, ordered by folder, and what had to be skipped.

    Raises OmniError for a path that is no folder.
    """
    folders, skipped = find_runs(paths)
    outcomes = []
    for folder in folders:
        try:
            outcomes.append(read_outcome(folder))
        except OmniError as error:
            skipped.append(Skipped(folder, clean(str(error).removeprefix(f"{folder}{os.sep}"))))
    return outcomes, sorted(skipped, key=lambda skip: natural(skip.folder))


def find_runs(paths: Iterable[str | Path]) -> tuple[list[Path], list[Skipped]]:
    """The folders with a run.json at or below the paths, and those that look like a run but have none.

    Symlinks are followed, and what is reached twice counts once. Raises OmniError for a path that is no folder.
    """
    found: set[Path] = set()
    seen: set[Path] = set()
    skipped: list[Skipped] = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise OmniError(f"{path} is no folder. Name a run folder, a sweep folder or outputs.")
        top = path.resolve()
        before = len(skipped)
        _walk(top, seen, found, skipped)
        if len(skipped) == before and not any(run.is_relative_to(top) for run in found):
            skipped.append(Skipped(top, "no run in it"))
    return sorted(found, key=natural), skipped


def _walk(top: Path, seen: set[Path], found: set[Path], skipped: list[Skipped]) -> None:
    waiting = [top]
    while waiting:
        if (folder := waiting.pop()) in seen:
            continue
        seen.add(folder)
        try:
            with os.scandir(folder) as entries:
                names = {entry.name: entry for entry in entries}
        except OSError as error:
            skipped.append(Skipped(folder, f"cannot be read: {error.strerror}"))
            continue
        if "run.json" in names:
            found.add(folder)
        elif "run.lock" in names or {"config.yaml", NAME} <= names.keys():
            skipped.append(Skipped(folder, "no run.json: half-written, or not a run"))
        elif names.keys() <= {"train.log"} and (folder.parent / "multirun.yaml").exists():
            skipped.append(Skipped(folder, "no run.json: the job ended before it became a run"))
        else:
            waiting += [_real(entry) for name, entry in names.items() if name[0] != "." and _is_folder(entry)]


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symlink in a circle
        return False


def _real(entry: os.DirEntry) -> Path:
    return Path(entry.path).resolve() if entry.is_symlink() else Path(entry.path)


def read_outcome(folder: Path) -> Outcome:
    """One run. The summary is run.json's, or that of metrics.csv for a run that has not written one.

    Raises OmniError when run.json or config.yaml is missing or broken.
    """
    try:
        data = read_run(folder)
        config = _read_config(folder / "config.yaml")
    except RecursionError:
        raise OmniError("run.json or config.yaml: nested too deeply") from None
    summary, warning = _summary(data.get("metrics")), ""
    if summary is None:
        summary = {}
        try:
            # A run that logged nothing yet has no file, and nothing is wrong with that.
            if (folder / NAME).exists():
                summary = summarise(read_metrics(folder / NAME))
        except OmniError as error:
            warning = clean(str(error).removeprefix(f"{folder}{os.sep}"))
    gate, seconds = data.get("gate"), data.get("seconds")
    return Outcome(
        folder=folder,
        status=data["status"],
        error=clean((str(data.get("error") or "").strip().splitlines() or [""])[0]),
        stage=clean(str(data.get("stage") or config.get("stage.name", ""))),
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        config=config,
        summary=summary,
        gate=[each for each in (gate if isinstance(gate, list) else [gate]) if isinstance(each, dict)],
        commit=_commit(data.get("git")),
        overrides=_overrides(data.get("argv")),
        warning=warning,
    )


def _read_config(path: Path) -> dict[str, str]:
    try:
        config = yaml.load(path.read_bytes(), Loader=LOADER)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise OmniError(f"config.yaml cannot be read: {clean(str(error))}") from error
    if not isinstance(config, dict):
        raise OmniError("config.yaml holds no configuration")
    flat: dict[str, str] = {}
    _flatten("", config, flat)
    return flat


def _flatten(prefix: str, node: dict, flat: dict[str, str]) -> None:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            _flatten(f"{prefix}{key}.", value, flat)
        else:
            flat[f"{prefix}{key}"] = _text(value)


def _text(value: Any) -> str:
    """A value as one would write it on the command line."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_text(item) for item in value)}]"
    return str(value)


def _summary(metrics: Any) -> Summary | None:
    """run.json's summary when it has the shape of one. A run that ended has one; it may be empty."""
    if not isinstance(metrics, dict):
        return None
    kinds = (int, float, type(None))
    for ends in metrics.values():
        if not isinstance(ends, dict) or not all(isinstance(ends.get(key), kinds) for key in ("first", "last", "best")):
            return None
    return metrics


def _commit(git: Any) -> str:
    if not isinstance(git, dict) or not git.get("sha"):
        return ""
    return clean(str(git["sha"]))[:7] + "+" * bool(git.get("dirty"))


def _overrides(argv: Any) -> dict[str, str]:
    words = [word for word in argv if isinstance(word, str)] if isinstance(argv, list) else []
    pairs = (word.lstrip("+~").partition("=") for word in words if not word.startswith("-"))
    return {key: value for key, equals, value in pairs if equals}


def clean(text: str) -> str:
    """One line of printable characters: no newline, no terminal code, no half of a surrogate pair."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def natural(path: Path) -> tuple:
    """A key that puts job 10 after job 9."""
    return tuple((not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in path.parts)
