"""Downloads from a model hub that end: with the files, or with a reason within seconds."""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PATIENCE = 20.0  # seconds a download may stand still, its start included


class NotHereError(Exception):
    """This place cannot give the files; the next one may."""


BOUNDS = {
    # Mirrors have no Xet store, and files from it grow by fits, which would look like standing still.
    "HF_HUB_DISABLE_XET": "1",
    "MODELSCOPE_API_CONNECT_TIMEOUT": "10",
    "MODELSCOPE_API_MAX_RETRIES": "1",
    "MODELSCOPE_API_TIMEOUT": "10",
    "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1",
    "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "1",
}
CHILD = """
import sys
repo, target, *files = sys.argv[1:]
try:
    {get}
except Exception as error:
    sys.exit(f"\\n{{type(error).__name__}}: " + " ".join(str(error).split()))
"""
MODELSCOPE = """from modelscope.hub.snapshot_download import snapshot_download
    snapshot_download(repo, local_dir=target, allow_patterns=files)"""
# Its chunks of 10 MB would look like standing still on a slow line.
HUGGING_FACE = """from huggingface_hub import constants, snapshot_download
    constants.DOWNLOAD_CHUNK_SIZE = 1 << 18
    snapshot_download(repo, cache_dir=target, allow_patterns=files)"""


def download(get: str, repo: str, files: list[str], target: Path, grows: Path) -> None:
    """Run a hub's own client (`get`) in a child process; end it when `grows` has not changed for PATIENCE seconds.

    Both clients retry for minutes, cannot wholly be told not to, and write to the terminal; a child can be
    ended and its output kept. Raises NotHereError with the client's last line.
    """
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", CHILD.format(get=get), repo, str(target), *files],
            env={**BOUNDS, **os.environ},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        try:
            stalled = _wait(child, grows)
        finally:
            child.kill()
            child.wait()
        said.seek(0)
        last = said.read().decode(errors="replace").strip().rsplit("\n", 1)[-1].strip()
    if stalled or child.returncode:
        raise NotHereError(one_line(f"{stalled} {last}".strip() or f"exit status {child.returncode}"))


def _wait(child: subprocess.Popen, grows: Path) -> str:
    """'' when the child ended by itself, else why it should be ended."""
    size, restarts, moved, looked = 0, 0, time.monotonic(), 0.0
    while child.poll() is None:
        time.sleep(0.05)
        if time.monotonic() - looked < 0.5:
            continue
        last, size, looked = size, _size(grows), time.monotonic()
        restarts += size < last
        if size != last:
            moved = looked
        if looked - moved > PATIENCE:
            return f"no answer for {PATIENCE:g} s."
        if restarts > 3:
            return "the transfer broke off and began anew three times."
    return ""


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # files are renamed while we look
            total += path.lstat().st_size
    return total


def one_line(message: object) -> str:
    """A message without line breaks, cut to 300 characters."""
    return " ".join(str(message).split())[:300]
