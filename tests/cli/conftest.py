"""The commands without an interpreter for each: torch is imported once."""

import io
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch as mock_patch

import pytest

from omni import compare as compare_module
from omni import train as train_module
from omni.config import __main__ as config_module
from omni.config import sweep
from omni.record import folder

Command = Callable[..., CompletedProcess]
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)


def command(main: Callable[[], None], name: str, cwd: Path, *words: object, **env: str) -> CompletedProcess:
    """`python -m NAME WORDS` in a folder, as `subprocess.run` tells it. What it does to this process is taken back, and
    the locks that it holds to its end are given up."""
    words, status = [*map(str, words)], 0
    out, err = (io.TextIOWrapper(io.BytesIO(), env.get("PYTHONIOENCODING", "utf-8")) for _ in range(2))
    loggers = [(logger, logger.handlers[:], logger.level) for logger in map(logging.getLogger, (None, "omni"))]
    handlers, modules = {number: signal.getsignal(number) for number in SIGNALS}, {*sys.modules}
    with pytest.MonkeyPatch.context() as patch, mock_patch.dict(os.environ), redirect_stdout(out), redirect_stderr(err):
        patch.chdir(cwd)
        for variable, value in {"HYDRA_FULL_ERROR": "0", **env}.items():
            patch.setenv(variable, value)
        patch.setattr(sys, "argv", [name, *words])
        patch.setattr(sys, "orig_argv", ["python", "-m", name, *words])
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(sweep, "taken", [])
        patch.setattr(logging, "raiseExceptions", False)
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
            if isinstance(status, str):
                print(status, file=sys.stderr)
                status = 1
        finally:
            folder._forget()
            for logger, before, level in loggers:
                logger.handlers[:] = before
                logger.setLevel(level)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            for module in [each for name, each in sys.modules.items() if name.startswith("omni.")]:
                for cached in [each for each in vars(module).values() if hasattr(each, "cache_clear")]:
                    cached.cache_clear()  # what a sweep loads once is of another folder then
            for module in {*sys.modules} - modules:  # the next folder may have another my_ear.py
                if str(getattr(sys.modules[module], "__file__", "")).startswith(str(cwd)):
                    del sys.modules[module]
    for stream in (out, err):
        stream.flush()
    return CompletedProcess(words, status, *(stream.buffer.getvalue().decode() for stream in (out, err)))


@pytest.fixture(scope="session")
def train() -> Command:
    return partial(command, train_module.main, "omni.train")


@pytest.fixture(scope="session")
def config() -> Command:
    return partial(command, config_module.main, "omni.config")


@pytest.fixture(scope="session")
def compare() -> Command:
    return partial(command, compare_module.main, "omni.compare")
