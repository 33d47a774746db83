"""What the tests of several rooms share."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

PYTHON = Path(__file__).parent / "python"


def pytest_configure(config: pytest.Config) -> None:
    """Commands that tests start by `sys.executable` are forked, where the system can: see tests/python."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell starts what runs in its background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(os, "pidfd_open") and "OMNI_TESTS_PYTHON" not in os.environ:
        home = Path(tempfile.mkdtemp(prefix="omni-tests-"))
        (home / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{PYTHON}" run "{home}" "$@"\n')
        (home / "python").chmod(0o755)
        (home / "environment.json").write_text(json.dumps(dict(os.environ)))
        server = subprocess.Popen([sys.executable, PYTHON, "serve", home], stdin=subprocess.PIPE)
        config.add_cleanup(lambda: (server.communicate(), shutil.rmtree(home)))
        os.environ["OMNI_TESTS_PYTHON"] = str(home / "python")
        if getattr(config.option, "numprocesses", None):
            return  # xdist starts its workers by the real one, and each of them comes here again
    sys.executable = os.environ.get("OMNI_TESTS_PYTHON", sys.executable)


@pytest.fixture(scope="session")
def small_disk() -> Callable[[int], AbstractContextManager]:
    """`with small_disk(kib):` no file grows beyond that, as on a disk that is nearly full.

    For the block alone: pytest's own output may go into a file that is longer already.
    """

    @contextmanager
    def limited(kib: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 1024, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return limited
