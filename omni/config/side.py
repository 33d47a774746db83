"""One side of a comparison, found by what the user typed: a run folder, a snapshot, a revision, the working tree."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from omni.config import revision
from omni.config.revision import Rendered, RenderError
from omni.errors import OmniError

SIDES = "a side is a run folder, a snapshot, a git revision, or . for the working tree"


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a tree with all its stages and experiments, or a single configuration."""

    label: str
    configs: Rendered = field(default_factory=dict)
    error: str | None = None
    own_names: tuple[str, ...] | None = None
    """Of a single configuration: what it is called in a tree; None for a tree."""


def open_side(source: str) -> Side:
    """Find out what `source` names, and read or render it. Raises OmniError."""
    path = Path(source)
    if source == ".":
        return tree_side("the working tree", revision.source_root())
    if (path / "config.yaml").is_file():
        return Side(source, {source: read(path / "config.yaml")}, own_names=names_of_run(path))
    if path.is_file():
        return Side(source, {source: read(path)}, own_names=(f"{path.resolve().parent.name}/{path.stem}",))
    if path.is_absolute():
        raise OmniError(f"{source} is no run folder: it has no config.yaml; {SIDES}")
    commit = revision.find_commit(source)
    if commit is None:
        what = "is a folder without config.yaml, so no run, and no revision" if path.is_dir() else "names nothing here"
        raise OmniError(f"{source!r} {what}{revision.nearest_revision(source)}; {SIDES}")
    return commit_side(commit[:7] if commit.startswith(source) else f"{source} ({commit[:7]})", commit)


def merge_base_side(first: str, second: str) -> Side:
    """The commit where two revisions part. Raises OmniError."""
    commits = []
    for source in (first, "HEAD" if second == "." else second):
        commit = None if Path(source, "config.yaml").is_file() else revision.find_commit(source)
        if commit is None:
            raise OmniError(f"--merge-base is for revisions, and {source!r} is none{revision.nearest_revision(source)}")
        commits.append(commit)
    base = revision.merge_base(*commits)
    return commit_side(f"{first} (merge base {base[:7]})", base)


def commit_side(label: str, commit: str) -> Side:
    """A commit, unpacked for as long as it takes to render it."""
    try:
        with revision.unpacked(commit) as folder:
            return tree_side(label, folder)
    except RenderError as error:
        return Side(label, error=str(error))


def tree_side(label: str, folder: Path) -> Side:
    """A rendered tree, or why it cannot be rendered."""
    try:
        return Side(label, revision.render_tree(folder))
    except RenderError as error:
        return Side(label, error=str(error))


def read(path: Path) -> dict[str, Any]:
    """A saved configuration.

    Raises:
        OmniError: it cannot be read.
    """
    try:
        plain = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # yaml, omegaconf and the file system have their own families of errors
        raise OmniError(f"{path}: cannot be read ({str(error).splitlines()[0]}); {SIDES}") from error
    if not isinstance(plain, dict):
        raise OmniError(f"{path}: holds no configuration; {SIDES}")
    return plain


def names_of_run(folder: Path) -> tuple[str, ...]:
    """The experiment, else the stage, that a run's command line chose; several when it was a sweep over them."""
    try:
        argv = [str(word) for word in json.loads((folder / "run.json").read_text())["argv"]]
    except (OSError, ValueError, KeyError, TypeError):
        argv = []
    for group in ("experiment", "stage"):
        for word in argv:
            key, _, options = word.lstrip("+").partition("=")
            if key == group and options not in ("", "null"):
                return tuple(f"{group}/{option.strip()}" for option in options.split(","))
    return ()
