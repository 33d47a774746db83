"""Sweeps: look at every job before the first starts, share a folder safely, go on where one was cut off.

hydra composes and launches the jobs; this module hangs on to it as a callback (`hydra.callbacks.sweep` in train.yaml)
and rewrites the command line of `sweep.resume`.
"""

import logging
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

import omni
from omni.config.check import ConfigError, check
from omni.config.render import signature
from omni.config.wording import say
from omni.errors import OmniError
from omni.record.folder import hold, refuse_links
from omni.record.gate import bound, value_of
from omni.record.provenance import read_git
from omni.record.report import write_report
from omni.record.run import Run, read_run

log = logging.getLogger("omni.sweep")

Job = Callable[[DictConfig, Path, list[str]], bool]
"""Takes the configuration, the run folder and the overrides; returns whether the gate was met."""

SWEEPS = Path("outputs/sweeps")
PLAN = "multirun.yaml"
"""What is written at the start of a sweep; it holds the overrides as they were typed."""


taken: list[Path] = []
"""The sweep folder this process holds."""


class SweepCallback(Callback):
    """Holds the sweep's folder, and says what is wrong with any job before the first one starts."""

    def on_multirun_start(self, config: DictConfig, **_: object) -> None:
        """Take the folder, list and check the jobs. Exits by itself: hydra turns a callback's errors into warnings."""
        try:
            if is_grid(config) and not jobs(config):
                raise ConfigError("the sweep is empty: a glob or a list in it matches nothing")
            ready_search(config)
            if config.sweep.dry_run:
                wrong = show_jobs(config)
                sys.exit(1 if wrong else 0)
            take_folder(Path(config.hydra.sweep.dir), again=config.sweep.resume is not None)
            OmegaConf.save(config, Path(config.hydra.sweep.dir) / PLAN)  # of the sweepers only hydra's own grid does
            if not str(config.hydra.launcher.get("_target_")).endswith(".BasicLauncher"):
                # Parallel jobs get as many threads each as one alone: another number would change the last bits.
                threads = os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
                os.environ.setdefault("MKL_NUM_THREADS", threads)
                os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # and do not spin while another job computes
            wrong = [(name, problem) for name, problem in problems_of_jobs(config) if problem]
        except (OmniError, HydraException, OmegaConfBaseException, ValueError, OSError) as error:
            sys.exit(f"error: {say(error)}")
        for name, problem in wrong:
            print(f"{name}  will fail: {problem}")
        if wrong and config.sweep.fail_fast:
            sys.exit("error: nothing was started (sweep.fail_fast)")


def ready_search(config: DictConfig) -> None:
    """See that a sweeper which searches can be gone on with, and that it searches in the right direction.

    It is given the run's seed where it has none of its own: a search that is resumed then asks for the jobs that are
    there, and only the missing ones run.

    Raises:
        ConfigError: it is told to maximise; or a dry run, when there is no list of jobs yet.
    """
    sweeper = config.hydra.sweeper
    if is_grid(config):
        return
    if config.sweep.dry_run:
        raise ConfigError(
            "sweep.dry_run: lists the jobs of hydra's own grid; this sweeper chooses each by the ones before"
        )
    for key in ("sampler.seed", "optim.seed"):  # of optuna, of nevergrad
        part, _, name = key.partition(".")
        if (node := OmegaConf.select(sweeper, part)) is not None and name in node and node[name] is None:
            node[name] = config.seed
    for key in ("direction", "optim.maximize"):
        told = OmegaConf.select(sweeper, key)
        if getattr(told, "name", told) not in (None, False, "minimize"):
            raise ConfigError(
                f"hydra.sweeper.{key}: leave it out; a job returns what is to be made small, which is the negative of "
                "an objective that is better large"
            )


def take_folder(folder: Path, *, again: bool) -> None:
    """Make the sweep's folder ours until the process ends.

    Raises:
        ConfigError: it exists (and is not to be resumed), another sweep is at work in it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=again)
        hold(folder, "sweep.lock")
        taken.append(folder)
    except FileExistsError as error:
        raise ConfigError(f"{folder} exists: go on with it by sweep.resume={folder}, or choose another") from error
    except BlockingIOError as error:
        raise ConfigError(f"{folder}: a sweep is still running there; wait for it or stop it first") from error
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error}") from error


def jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each job, as hydra's own grid sweeper deals them out; none for another kind of sweeper."""
    if not is_grid(config):
        return []
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    return BasicSweeper.split_arguments(parser.parse_overrides([*params, *config.hydra.overrides.task]), None)[0]


def is_grid(config: DictConfig) -> bool:
    """Whether hydra's own sweeper deals out the jobs, so that they are known before the first starts."""
    return str(config.hydra.sweeper.get("_target_")).endswith(".BasicSweeper")


def problems_of_jobs(config: DictConfig) -> Iterator[tuple[str, str]]:
    """For each job its number with what sets it apart, and what `check` says of it, on one line, or nothing."""
    loader, planned = GlobalHydra.instance().config_loader(), jobs(config)
    shared = set(planned[0]).intersection(*planned[1:]) if len(planned) > 1 else set()
    for number, overrides in enumerate(planned):
        name = " ".join([f"#{number}", *(override for override in overrides if override not in shared)])
        try:
            job = loader.load_sweep_config(config, overrides)
            with open_dict(job):
                del job["hydra"]
            check(job)
            yield name, ""
        except (ConfigError, HydraException, OmegaConfBaseException) as error:
            yield name, "; ".join(say(error).splitlines())


def show_jobs(config: DictConfig) -> int:
    """Print the jobs of a dry run, each with its verdict; returns how many would fail."""
    found = list(problems_of_jobs(config))
    for name, problem in found:
        print(f"{name}  will fail: {problem}" if problem else name)
    wrong = sum(bool(problem) for _, problem in found)
    print(f"{len(found)} jobs, {wrong} with problems; nothing was started (sweep.dry_run)")
    return wrong


def resume_command(argv: list[str]) -> list[str]:
    """The command line, with `sweep.resume=FOLDER|last` replaced by what started that sweep.

    Raises:
        ConfigError: no such sweep; other overrides beside it, which would not count; or those that could run code (see
            `is_harmless`) are not given again beside it: the folder may come from somebody else.
        OmniError: a link leads out of its folder.
    """
    args = get_args_parser().parse_args(argv[1:])
    asked = [override.partition("=")[2] for override in args.overrides if override.startswith("sweep.resume=")]
    if not asked or asked[0] in ("", "null"):
        return argv
    others = [override for override in args.overrides if not override.startswith("sweep.resume=")]
    if idle := [override for override in others if is_harmless(override)]:
        raise ConfigError(
            f"sweep.resume: a sweep goes on with its own overrides, so {', '.join(idle)} would not count; "
            "drop it, or start a new sweep"
        )
    folder = newest_sweep() if asked[0] == "last" else Path(asked[0])
    saved = read_plan(folder)
    refuse_links(folder)
    risky = [override for override in saved if not is_harmless(override)]
    if sorted(risky) != sorted(others):
        raise ConfigError(
            f"sweep.resume: {folder} was started with overrides that could run code, and may come from somebody else; "
            f"if it is yours, give these again beside sweep.resume, and no others: {' '.join(risky) or 'none'}"
        )
    flags = [argument for argument in argv[1:] if argument not in (*args.overrides, "-m", "--multirun")]
    return [argv[0], *flags, "--multirun", *saved, f"hydra.sweep.dir='{folder}'", f"sweep.resume='{folder}'"]


def newest_sweep() -> Path:
    """The sweep that was started last from this folder."""
    found = sorted(SWEEPS.glob(f"*/*/{PLAN}"), key=lambda plan: plan.parent.name)
    if not found:
        raise ConfigError(f"sweep.resume=last: there is no sweep below {SWEEPS}")
    return found[-1].parent


def read_plan(folder: Path) -> list[str]:
    """The overrides a sweep was started with."""
    try:
        overrides = OmegaConf.to_container(OmegaConf.load(folder / PLAN))["hydra"]["overrides"]
        saved = [str(override) for override in (*overrides["hydra"], *overrides["task"])]
    except Exception as error:  # yaml, omegaconf and the file system have their own families of errors
        near = f"; the newest is {newest_sweep()}" if list(SWEEPS.glob(f"*/*/{PLAN}")) else ""
        raise ConfigError(f"sweep.resume: {folder} is no sweep folder: it has no readable {PLAN}{near}") from error
    ours = ("hydra.mode=", "hydra.sweep.dir=", "sweep.resume=")
    return [override for override in saved if not override.startswith(ours)]


def is_harmless(override: str) -> bool:
    """Whether an override only chooses among options that are there, or sets a value; of hydra's own settings a word of
    its launcher and its sweeper alone. It names no class, looks nothing up, and leads to no YAML outside of conf/."""
    key, _, value = override.lstrip("+~").partition("=")
    if (
        not re.fullmatch(r"[\w./]+", key)
        or "${" in override
        or re.search(r"(?<![A-Za-z0-9])_\w+_(?![A-Za-z0-9])", override)
    ):
        return False
    if re.match(r"hydra\b", key):
        group = re.fullmatch(r"hydra/(launcher|sweeper)(/\w+)*", key)
        return bool((group or re.match(r"hydra\.(launcher|sweeper)\.", key)) and re.fullmatch(r"-?\w+(\.\d+)?", value))
    # A key without a dot may be a group, and its option a path.
    return "." in key or bool(re.fullmatch(r"([\w\[\](),*'\" -]|(?<=\w)/(?=\w)|(?<=\w)\.(?=\w))*", value))


def objective(cfg: DictConfig, run: dict[str, Any]) -> float:
    """What a sweeper is to make small, as all of them do unless told otherwise: the metric of `sweep.objective`, else
    the first that the gate asks for, else the loss. Of one that is better large it is the negative."""
    metric = cfg.sweep.objective or (run["gate"] or [{"metric": "loss"}])[0]["metric"]
    value = value_of(run["metrics"], metric)
    if value is None:  # nothing finite was measured
        return math.inf
    return value if bound(metric) == "at most" else -value


def run_job(job: Job, cfg: DictConfig, folder: Path, overrides: list[str]) -> tuple[float, bool]:
    """One job of a sweep: passed over when a resumed sweep has it already, gone on with when it was cut off. Returns
    its objective and whether the gate was met.

    The sweep's report is brought up to date afterwards, however the job ended.
    """
    started = (folder.parent / PLAN).stat().st_mtime  # written at each start, a resumed one too
    ended = {name: (folder.parent / name / "run.json").stat().st_mtime for name in failed_jobs(folder.parent)}
    failed = [name for name, when in ended.items() if when >= started]
    if cfg.sweep.fail_fast and failed:
        raise ConfigError(f"job {folder.name} was not started: job {failed[0]} failed and sweep.fail_fast is on")
    if cfg.sweep.resume is not None:
        found = standing(folder, cfg)
        if found == "done":
            run = read_run(folder)
            log.info("#%s is done: %s", folder.name, run["status"])
            return objective(cfg, run), run["status"] == "passed"
        if found == "cut off":
            cfg.resume = str(folder)
            overrides = []
    try:
        passed = job(cfg, folder, overrides)
        return objective(cfg, read_run(folder)), passed
    finally:
        try:
            write_report(folder.parent)
        except OmniError as error:  # nothing to compare yet, or no room: the jobs go on
            log.warning("the report was not written: %s", error)


def standing(folder: Path, cfg: DictConfig) -> str:
    """What a resumed sweep finds in a job's folder: "nothing", "cut off" or "done".

    Done is what ended, its gate met or not, with the same configuration and from the same commit. What ended
    otherwise is put aside into `.aside`, and nothing is lost.
    """
    if not (folder / "run.json").exists():
        return "nothing"
    git, _ = read_git(Path(omni.__file__).parent)
    try:
        run = read_run(folder)
    except OmniError:  # killed while it was being written, before anything was trained
        run = {}
    if run.get("signature") == signature(cfg) and run.get("git", {}) == git:
        if run["status"] in ("running", "interrupted") and (folder / "config.yaml").exists():
            return "cut off"
        if run.get("gate") is not None or run["status"] == "passed":
            return "done"
    aside = folder.parent / ".aside"
    aside.mkdir(exist_ok=True)
    folder.rename(aside / f"{folder.name}-{len(list(aside.iterdir()))}")
    folder.mkdir()
    return "nothing"


def failed_jobs(folder: Path) -> list[str]:
    """The numbers of a sweep's jobs that failed, or that left a run.json nobody can read."""
    return [path.parent.name for path in sorted(folder.glob("[0-9]*/run.json")) if has_failed(path.parent)]


def has_failed(run: Path) -> bool:
    try:
        return read_run(run)["status"] == "failed"
    except OmniError:
        return True


def close_stopped() -> str:
    """After Ctrl-C: record jobs whose process was taken away as interrupted; returns how to go on with the sweep."""
    for folder in taken:
        for path in sorted(folder.glob("[0-9]*/run.json")):
            with suppress(OmniError):
                if read_run(path.parent)["status"] == "running":
                    with suppress(KeyboardInterrupt), Run.resume(path.parent) as run:
                        run.begin()
                        raise KeyboardInterrupt("stopped with its sweep")
        with suppress(OmniError):
            write_report(folder)
    return f"; go on with sweep.resume={taken[0]}" if taken else ""


def any_failed() -> bool:
    """Whether a job of the sweep of this process failed, in whichever process it ran."""
    return any(failed_jobs(folder) for folder in taken)
