"""A source tree's stages and experiments, rendered by the code of that tree; git hands out the trees.

Nothing of `omni.config.schema` is imported here, so that a working tree whose schema is broken can still be asked.
Rendering a revision runs its code: do it with revisions you would run anyway.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from difflib import get_close_matches
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import OmegaConf

import omni
from omni.errors import OmniError

Rendered = dict[str, dict[str, Any] | str]
"""By name (`stage/w1_smoke`): the resolved configuration, or why it does not render."""

KEPT = ("PATH", "HOME", "TMPDIR", "TEMP", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
"""Environment variables a child needs to start; any other could change what it renders."""

SECONDS = 300


class RenderError(OmniError):
    """A tree none of whose configurations can be rendered."""


def source_root() -> Path:
    """The folder that holds the package `omni` this process runs."""
    return Path(omni.__file__).resolve().parent.parent


def git(*arguments: str) -> bytes:
    """What git says about the checkout omni runs from.

    Raises:
        OmniError: git is not installed, refuses, or omni does not run from a checkout.
    """
    root = source_root()
    # Inside a git hook GIT_DIR and its kin name another checkout.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    line = ["git", "-c", "core.quotepath=off", "-C", str(root), *arguments]
    try:
        done = subprocess.run(line, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise OmniError(f"git cannot be started ({error}); compare run folders or snapshots instead") from error
    if done.returncode == 0:
        return done.stdout
    said = done.stderr.decode(errors="replace").strip()
    if "not a git repository" in said or not (root / "conf").is_dir():
        raise OmniError(
            f"{root} is no git checkout, so it has no revisions; run this from a clone, or compare run folders"
        )
    raise OmniError(f"git {arguments[0]}: {said.splitlines()[0] if said else f'exit {done.returncode}'}")


def find_commit(revision: str) -> str | None:
    """The full hash of the commit a revision names; None when there is none. Raises OmniError as `git` does."""
    git("rev-parse", "--git-dir")
    try:
        # --end-of-options: a revision called --upload-pack=... is a name like any other.
        found = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except OmniError:
        return None
    return found.decode().strip()


def nearest_revision(revision: str) -> str:
    """'did you mean main?', or nothing."""
    names = git("for-each-ref", "--format=%(refname:short)").decode().split()
    near = get_close_matches(revision, names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def merge_base(commit: str, other: str) -> str:
    """The commit where two lines of history part.

    Raises:
        OmniError: they share none; in a shallow clone it may just not be there.
    """
    try:
        return git("merge-base", commit, other).decode().strip()
    except OmniError as error:
        raise OmniError(
            f"{commit[:7]} and {other[:7]} share no commit here; a shallow clone needs `git fetch --unshallow`"
        ) from error


@contextmanager
def unpacked(commit: str) -> Iterator[Path]:
    """A temporary folder with `omni/` and `conf/` as they are in a commit.

    Raises:
        OmniError: the commit has no such folders.
    """
    with TemporaryDirectory(prefix="omni-") as name:
        folder = Path(name).resolve()
        try:
            archive = git("archive", "--format=tar", commit, "--", "omni", "conf")
        except OmniError as error:
            raise RenderError(f"this revision cannot be unpacked: {error}") from error
        with tarfile.open(fileobj=BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        yield folder


def render_tree(folder: Path) -> Rendered:
    """All stages and experiments of the tree in `folder`, by its own code in a process of its own.

    Raises:
        RenderError: nothing of it can be rendered, with the first lines of its error.
    """
    code = "import omni, sys; sys.stdout.write(omni.__file__ or '')"
    origin = run_in(folder, "-c", code).stdout
    if not origin or Path(origin).resolve() != folder / "omni" / "__init__.py":
        raise RenderError(f"its own code is not what python imports there, but {origin or 'nothing'}")
    if not (folder / "omni" / "config" / "snapshot.py").is_file():
        return render_by_command(folder)
    done = run_in(folder, "-m", "omni.config", "snapshot", "--json")
    if done.returncode != 0:
        raise RenderError(short(done.stderr, folder))
    return {name: said.get("config", said.get("error")) for name, said in json.loads(done.stdout).items()}


def render_by_command(folder: Path) -> Rendered:
    """The same for a tree older than `omni.config.snapshot`: one `omni.train --cfg job` each."""

    def one(name: str) -> dict[str, Any] | str:
        done = run_in(folder, "-m", "omni.train", "--cfg", "job", "--resolve", name.replace("/", "=", 1))
        if done.returncode != 0:
            return short(done.stderr, folder)
        return OmegaConf.to_container(OmegaConf.create(done.stdout))

    conf = folder / "conf"
    paths = [path for group in ("stage", "experiment") for path in sorted((conf / group).rglob("*.yaml"))]
    names = [path.relative_to(conf).with_suffix("").as_posix() for path in paths]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))


def run_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Python with `folder` first on its path and little else of this process's environment."""
    environment = {key: os.environ[key] for key in KEPT if key in os.environ}
    places = [str(folder), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment |= {"PYTHONPATH": os.pathsep.join(places), "PYTHONIOENCODING": "utf-8", "PYTHONDONTWRITEBYTECODE": "1"}
    line = [sys.executable, *arguments]
    try:
        return subprocess.run(
            line, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8",
            errors="replace", timeout=SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise RenderError(f"no answer within {SECONDS} s") from error


def short(stderr: str, folder: Path) -> str:
    """The first lines of an error; of a traceback its end and the file it points to."""
    text = stderr.replace(f"{folder}{os.sep}", "").strip()
    places = re.findall(r'File "(.+?)", line (\d+)', text)
    if places:
        own = [place for place in places if not Path(place[0]).is_absolute()] or places
        return "{}, line {}: ".format(*own[-1]) + text.splitlines()[-1].strip()
    return "\n".join(line.removeprefix("error: ").strip() for line in text.splitlines()[:3]) or "it says nothing"
