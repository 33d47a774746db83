"""How a command starts: hydra composes, the job runs, and an error is a line to read, not a traceback.

hydra's own `run_and_report` prints its exceptions and exits. With HYDRA_FULL_ERROR set it lets them through, so this
module sets it and reports them itself; a user who sets the variable gets the traceback.
"""

import os
import sys
from functools import partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from omni.config import sweep
from omni.config.paths import VERSION_BASE, conf_dir
from omni.config.schema import register
from omni.config.wording import is_foreseen, say


def run_command(job: sweep.Job) -> None:
    """Compose the configuration from the command line, run `job` on it (a sweep: on each), and exit.

    The exit status is 0 when every job passed, 1 when one failed, 130 after Ctrl-C.
    """
    want_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.path.insert(0, str(Path.cwd()))  # a user's own encoder.py, also under the console script
    register()
    failed = []

    @hydra.main(version_base=VERSION_BASE, config_path=str(conf_dir()), config_name="train")
    def composed(cfg: DictConfig) -> float | None:
        run = HydraConfig.get()
        run_one = partial(sweep.run_job, job) if run.mode == RunMode.MULTIRUN else job
        try:
            objective, passed = run_one(cfg, Path(run.runtime.output_dir), list(run.overrides.task))
        except Exception as error:
            report(error, want_traceback)
            failed.append(error)
            if run.mode == RunMode.MULTIRUN:
                raise  # hydra goes on with the other jobs, and a sweeper learns of it
            return None
        if not passed:
            failed.append(None)
        return objective

    try:
        sys.argv = sweep.resume_command(sys.argv)
        composed()
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if error not in failed:
            report(error, want_traceback)
        sys.exit(1)
    sys.exit(1 if failed or sweep.any_failed() else 0)


def report(error: Exception, want_traceback: bool) -> None:
    """Print what went wrong; the traceback only when asked for."""
    if want_traceback:
        raise error
    hint = "" if is_foreseen(error) else " (HYDRA_FULL_ERROR=1 shows the traceback)"
    print(f"error: {say(error)}{hint}".replace("\n", "\n  "), file=sys.stderr)
