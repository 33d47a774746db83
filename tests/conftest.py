"""What the tests of several rooms share."""

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest


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
