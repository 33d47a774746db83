"""A run folder as a place: who holds it, which one is the latest, which one was probably meant."""

import fcntl
import logging
import os
import secrets
from difflib import get_close_matches
from pathlib import Path

from omni.errors import OmniError

log = logging.getLogger(__name__)

_held: set[int] = set()


def hold(folder: Path, name: str = "run.lock") -> int:
    """Hold the lock file `name` until `release` or until this process ends, kill -9 included; returns the hold.

    Raises BlockingIOError when a live process holds it, OSError when the folder cannot be written.
    """
    file = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise
    except OSError as error:
        log.warning("%s: this file system has no locks (%s); do not resume a live run", folder, error.strerror)
    _held.add(file)
    return file


def release(file: int | None) -> None:
    """Give a hold back; a second time, or in a forked child, does nothing."""
    if file in _held:
        _held.discard(file)
        os.close(file)


def _forget() -> None:
    for file in _held:
        os.close(file)
    _held.clear()


# A forked data worker would otherwise keep the lock of a parent that was killed.
os.register_at_fork(after_in_child=_forget)


def refuse_links(folder: Path) -> None:
    """Raise OmniError for a link that leads out of a run's folder, which may come from somebody else: what is written
    into the folder could end up anywhere."""
    top = folder.resolve()
    for path in top.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(top):
            raise OmniError(f"{path}: is a link out of the run's folder, which is to be written into; remove it")


def point_latest(folder: Path) -> None:
    """Let `latest` in the nearest parent named outputs point here. A convenience: it never fails a run."""
    outputs = next((parent for parent in folder.parents if parent.name == "outputs"), None)
    if outputs is None:
        return
    # Replaced, not removed and made: twenty runs that start at once always leave a valid link.
    temporary = outputs / f".latest.{secrets.token_hex(4)}.tmp"
    try:
        temporary.symlink_to(folder.relative_to(outputs), target_is_directory=True)
        temporary.replace(outputs / "latest")
    except OSError as error:
        temporary.unlink(missing_ok=True)
        log.warning("%s was not updated: %s", outputs / "latest", error)


def suggest(folder: Path) -> str:
    """A sentence naming the run that was probably meant: the newest below `folder`, or a near name beside it.

    Empty when there is none. Looks four levels down, which is where sweeps keep theirs.
    """
    below = [path for depth in range(1, 5) for path in folder.glob("*/" * depth + "run.json")]
    below = [path for path in below if not path.parent.is_symlink()]
    if below:
        return f" The newest run in it is {max(below, key=lambda path: path.stat().st_mtime).parent}"
    neighbours = {path.parent.name: path.parent for path in folder.parent.glob("*/run.json")}
    near = get_close_matches(folder.name, neighbours, n=1)
    return f" Did you mean {neighbours[near[0]]}?" if near else ""
