"""Where a run comes from: the code, the versions, the machine. Asks, never imports, never fails a run."""

import os
import platform
import socket
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

import omni

PACKAGES = ("torch", "torchaudio", "transformers", "numpy", "hydra-core", "safetensors", "wandb")
GIT_SECONDS = 5.0
DIFF_BYTES = 2_000_000


def versions() -> dict[str, str]:
    """The versions that decide a result: python, omni and each of `PACKAGES` that is installed."""
    found = {"python": platform.python_version(), "omni": omni.__version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def process() -> dict[str, Any]:
    """Which process, where: host, pid, platform, working directory."""
    about = {"host": socket.gethostname(), "pid": os.getpid(), "platform": platform.platform()}
    return about | {"cwd": str(Path.cwd())}


def command() -> list[str]:
    """The command line as typed: sys.orig_argv keeps the `-m omni.train` that sys.argv has lost."""
    return ["python", *sys.orig_argv[1:]]


def read_git(package: Path) -> tuple[dict[str, Any] | None, str]:
    """The commit and the uncommitted changes of the checkout whose top folder holds `package`.

    Returns ({sha, dirty}, diff) or (None, note). The diff applies with `git apply`: what it cannot carry
    (untracked files, a cut at `DIFF_BYTES`) is said in comment lines at its head.
    """
    top = _git(package, "rev-parse", "--show-toplevel")
    # An installed omni may lie in a virtual environment inside the user's own checkout: not its history.
    if top is None or Path(top.strip()).resolve() != package.resolve().parent:
        return None, "# omni ran from an installed copy or without git: there is no diff.\n"
    root = package.resolve().parent
    sha = (_git(root, "rev-parse", "--verify", "--quiet", "HEAD") or "").strip() or None
    untracked = (_git(root, "ls-files", "--others", "--exclude-standard") or "").splitlines()[:1000]
    diff = _git(root, "diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD") if sha else None
    head = [f"# untracked: {name}" for name in untracked]
    if diff is None:
        head.append("# no diff: git has no commit yet, or did not answer in time.")
    elif len(diff) > DIFF_BYTES:
        diff = diff[:DIFF_BYTES]
        head.append(f"# cut: only the first {DIFF_BYTES} characters of the diff are kept.")
    text = "".join(f"{line}\n" for line in head)
    return {"sha": sha, "dirty": bool(text or diff)}, text + (diff or "")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers, read up to a little over DIFF_BYTES and for GIT_SECONDS; None when it refuses."""
    # Inside a git hook GIT_DIR and its kin name another checkout.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    # Twenty runs that start at once must not fight for the index lock.
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    line = ["git", "-c", "core.quotepath=off", "-c", "core.fsmonitor=false", "-C", str(folder), *arguments]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    try:
        with subprocess.Popen(line, env=environment, **pipes) as git:
            timer = threading.Timer(GIT_SECONDS, git.kill)
            timer.start()
            answer = git.stdout.read(4 * DIFF_BYTES + 1)
            timer.cancel()
            cut = len(answer) > 4 * DIFF_BYTES
            if cut:
                git.kill()
    except OSError:
        return None
    return answer.decode(errors="replace") if cut or git.returncode == 0 else None
