"""Ctrl-C that waits for the step to end."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread


class Stop:
    """Whether the user has asked to stop."""

    requested = False


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Turn SIGINT, SIGTERM and SIGHUP into a flag, so that no step is cut in half; a second signal stops at once."""
    stop = Stop()
    if current_thread() is not main_thread():  # only the main thread may set handlers; elsewhere nothing is caught
        yield stop
        return

    def request(number: int, frame: object) -> None:
        if stop.requested:
            raise KeyboardInterrupt
        stop.requested = True

    caught = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN
    ]
    before = {number: signal.signal(number, request) for number in caught}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
