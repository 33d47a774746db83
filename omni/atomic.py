"""Files that are either the old ones or the new ones, whole, whatever happens in between; and taking turns at them."""

import fcntl
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, its file becomes `path` in one step.

    A reader never sees half a file and a block that fails leaves the old one. Raises OSError.
    """
    # The random part keeps twenty runs and their threads out of each other's way.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        if not temporary.is_symlink():
            with temporary.open("rb") as file:
                # Without it a power cut can leave the new name on an empty file.
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; when the block ends well it becomes `folder`, in place of what was there.
    A block that fails leaves that as it was. Raises OSError.

    There is no step that swaps two folders on every system. A process that is killed between the two that it takes
    leaves the old one under another name, and the next call puts it back.
    """
    mark = secrets.token_hex(4)
    aside, old = (folder.with_name(f".{folder.name}.{mark}.{end}") for end in ("partial", "old"))
    put_back(folder)
    try:
        aside.mkdir(parents=True)
        yield aside
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
        if old.exists():
            old.rename(aside)  # what is half removed is not to be put back
    finally:
        put_back(folder)
        shutil.rmtree(aside, ignore_errors=True)


def put_back(folder: Path) -> None:
    """Give a folder that was being replaced its name again; where the new one stands, remove the old one."""
    for old in folder.parent.glob(f".{glob.escape(folder.name)}.*.old"):
        if not folder.exists():
            old.rename(folder)
        else:
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock, however many processes ask for it; the file stays. Raises OSError."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def replace_text(path: Path, text: str) -> None:
    """Write `text` as the whole of `path`. Raises OSError; the old file is then still there."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Write `content` as the whole of `path`. Raises OSError; the old file is then still there."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
