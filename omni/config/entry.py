"""How a command starts: hydra composes, the job runs, and an error is a line to read, not a traceback.

hydra's own `run_and_report` prints its exceptions and exits. With HYDRA_FULL_ERROR set it lets them through, so this
module sets it and reports them itself; a user who sets the variable gets the traceback.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from omni.config.check import first_line, suggest
from omni.config.paths import conf_dir
from omni.config.schema import register
from omni.errors import OmniError

Job = Callable[[DictConfig, Path, list[str]], tuple[float | None, bool]]
"""Takes the configuration, the run folder and the overrides; returns the objective and whether the gate was met."""


def run_command(job: Job) -> None:
    """Compose the configuration from the command line, run `job` on it (a sweep: on each), and exit.

    The exit status is 0 when every job passed, 1 when one failed, 130 after Ctrl-C.
    """
    want_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.path.insert(0, str(Path.cwd()))  # a user's own encoder.py, also under the console script
    register()
    failed = []

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")
    def composed(cfg: DictConfig) -> float | None:
        run = HydraConfig.get()
        try:
            objective, passed = job(cfg, Path(run.runtime.output_dir), list(run.overrides.task))
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
        composed()
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if error not in failed:
            report(error, want_traceback)
        sys.exit(1)
    sys.exit(1 if failed else 0)


def report(error: Exception, want_traceback: bool) -> None:
    """Print what went wrong; the traceback only when asked for."""
    if want_traceback:
        raise error
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    ours = next((link for link in chain if isinstance(link, OmniError)), None)
    if ours is not None:
        message = str(ours)
    elif isinstance(error, HydraException | OmegaConfBaseException):
        message = explain(error, chain)
    else:
        message = f"{type(error).__name__}: {error} (HYDRA_FULL_ERROR=1 shows the traceback)"
    print(f"error: {message}".replace("\n", "\n  "), file=sys.stderr)


def explain(error: Exception, chain: list[Exception]) -> str:
    """hydra's message about the command line or a YAML, with the nearest option or key."""
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}: there is no {option!r}{suggest(option, list(error.options), f'{group}=')}"
    value = next((link for link in chain if isinstance(link, OmegaConfBaseException) and link.full_key), None)
    if value is None:
        return str(error)
    if isinstance(value, ConfigKeyError | ConfigAttributeError) and value.parent_node is not None:
        parent = str(value.full_key).rpartition(".")[0]
        known = [str(key) for key in value.parent_node if key != "hydra"]
        return f"{value.full_key}: unknown key{suggest(str(value.key), known, parent + '.' if parent else '')}"
    return f"{value.full_key}: {first_line(value)}"
