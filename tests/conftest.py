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
    if hasattr(os, "pidfd_open") and "OMNI_TESTS_SOCKET" not in os.environ:
        folder = Path(tempfile.mkdtemp(prefix="omni-tests-"))
        start, socket = folder / "python", folder / "socket"
        start.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{PYTHON}" "$@"\n')
        start.chmod(0o755)
        server = subprocess.Popen([sys.executable, PYTHON, "serve", socket], stdin=subprocess.PIPE)
        config.add_cleanup(lambda: (server.communicate(), shutil.rmtree(folder)))
        os.environ["OMNI_TESTS_ENVIRONMENT"] = json.dumps(dict(os.environ))
        os.environ |= {"OMNI_TESTS_SOCKET": str(socket), "OMNI_TESTS_REAL_PYTHON": sys.executable}
        if getattr(config.option, "numprocesses", None):
            return  # xdist starts its workers by the real one, and each of them comes here again
    if "OMNI_TESTS_SOCKET" in os.environ:
        sys.executable = str(Path(os.environ["OMNI_TESTS_SOCKET"]).with_name("python"))


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
