"""How a command starts: hydra composes, the job runs, and an error is a line to read, not a traceback.

hydra's own `run_and_report` prints its exceptions and exits. With HYDRA_FULL_ERROR set it lets them through, so this
module sets it and reports them itself; a user who sets the variable gets the traceback.
"""

import logging
import os
import shutil
import signal
import sys
import sysconfig
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

import omni
from omni.config import sweep
from omni.config.check import ConfigError, refuse_twice
from omni.config.paths import VERSION_BASE, conf_dir
from omni.config.schema import register
from omni.config.wording import is_foreseen, say
from omni.errors import OmniError
from omni.training.distributed import LostError, World, join_world


def run_command(lead: Callable[..., bool], follow: Callable[[World], None]) -> None:
    """Compose the configuration from the command line, run `lead` on it (a sweep: on each), and exit.

    The exit status is 0 when every job passed, 1 when one failed, 130 after Ctrl-C. Of the processes that torchrun
    starts the first does this; each of the others runs `follow`, and leaves no word and no file.

    Args:
        lead: a job as in `sweep.Job`, with the `World` in front.
        follow: takes the `World`.
    """
    want_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.path.insert(0, str(Path.cwd()))  # a user's own encoder.py, also under the console script
    survive_the_terminal()
    register()
    try:
        with join_world() as world:
            if world.rank == 0:
                run_jobs(partial(lead, world), want_traceback, alone=world.size == 1)
            else:
                run_quietly(follow, world)
    except OmniError as error:  # the processes have not found each other
        report(error, want_traceback)
        sys.exit(1)


def run_quietly(follow: Callable[[World], None], world: World) -> None:
    """Run `follow`; its errors are told by the first process. Exits 0 then too: torchrun ends the others at once when
    one fails, and the first would not come to say why."""
    logging.disable()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)  # there is nothing to save
    try:
        follow(world)
    except LostError:
        pass
    except Exception as error:
        world.fail(error, wording(error))


def run_jobs(job: sweep.Job, want_traceback: bool, *, alone: bool) -> None:
    """Run `job` on what hydra composes, and exit."""
    failed = []

    @hydra.main(version_base=VERSION_BASE, config_path=str(conf_dir()), config_name="train")
    def composed(cfg: DictConfig) -> float | None:
        run = HydraConfig.get()
        folder, overrides, objective = Path(run.runtime.output_dir), list(run.overrides.task), None
        try:
            refuse_what_would_not_count(cfg, run)
            if run.mode == RunMode.MULTIRUN:
                objective, passed = sweep.run_job(job, cfg, folder, overrides)
            else:
                passed = job(cfg, folder, overrides)
        except Exception as error:
            report(error, want_traceback)
            failed.append(error)
            if run.mode == RunMode.MULTIRUN:
                raise  # hydra goes on with the other jobs, and a sweeper learns of it
            return None
        finally:
            drop_empty(folder)
        if not passed:
            failed.append(None)
        return objective

    try:
        sys.argv = overrides_last(sys.argv)
        refuse_twice(get_args_parser().parse_args(sys.argv[1:]).overrides)
        sys.argv = sweep.resume_command(sys.argv)
        if not alone and {"-m", "--multirun"} & set(sys.argv):
            raise ConfigError("-m: several processes share one run, not a sweep; start its jobs one by one")
        composed()
    except KeyboardInterrupt as stop:
        print((str(stop) or "stopped") + sweep.close_stopped(), file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if error not in failed:
            report(error, want_traceback)
        sys.exit(1)
    sys.exit(1 if failed or sweep.any_failed() else 0)


def drop_empty(folder: Path) -> None:
    """Take away the folder that hydra made for a run that never began: all that is in it is hydra's log."""
    if {path.name for path in folder.iterdir()} <= {"train.log"}:
        shutil.rmtree(folder)


def overrides_last(argv: list[str]) -> list[str]:
    """The command line with its overrides behind its flags: argparse takes them in one piece only."""
    return [argv[0], *sorted(argv[1:], key=lambda word: word[:1] in "~+" or ("=" in word and word[0] != "-"))]


def survive_the_terminal() -> None:
    """Let a run outlive a pipe that closes or a terminal that knows no ─, and record a SIGTERM as Ctrl-C is."""
    logging.raiseExceptions = False
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP on purpose
            signal.signal(number, stop)


def refuse_what_would_not_count(cfg: DictConfig, run: DictConfig) -> None:
    """Raise ConfigError for a YAML that a shipped one of its name hides, and for what cannot stand beside resume."""
    for source in run.runtime.config_sources:
        own = Path(source.path)
        if source.schema == "file" and own != conf_dir():
            relative = [path.relative_to(own) for path in sorted(own.rglob("*.yaml"))]
            names = [name for name in relative if (conf_dir() / name).exists()]
            if names:
                raise ConfigError(f"{own / names[0]}: omni has a {names[0]} too, which hides it; give it another name")
    if cfg.sweep.dry_run:
        raise ConfigError("sweep.dry_run: counts with -m alone; add -m, or look with --cfg job")
    if cfg.trust is not None and cfg.resume is None:
        raise ConfigError("trust: counts with resume= alone; what the command line itself names is built anyway")
    if cfg.resume is not None and Path(run.runtime.output_dir).resolve() != Path(cfg.resume).resolve():
        raise ConfigError("resume: goes alone, without -m and without hydra.*")


def report(error: Exception, want_traceback: bool) -> None:
    """Print what went wrong; the traceback only when asked for."""
    if want_traceback:
        raise error
    print(f"error: {wording(error)}".replace("\n", "\n  "), file=sys.stderr)


def wording(error: Exception) -> str:
    """What is wrong, and where in the user's own code if it was not foreseen."""
    return say(error) + ("" if is_foreseen(error) else f"{where(error)} (HYDRA_FULL_ERROR=1 shows the traceback)")


def where(error: Exception) -> str:
    """The last place in the user's own code that an error came through: ' at my_ear.py:17'."""
    frames = traceback.extract_tb(error.__traceback__)
    foreign = (Path(omni.__file__).parent, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))
    own = [frame for frame in frames if not any(Path(frame.filename).is_relative_to(place) for place in foreign)]
    own = [frame for frame in own if frame.filename.endswith(".py")]
    return f" at {own[-1].filename}:{own[-1].lineno}" if own else ""
