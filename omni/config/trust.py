"""What a saved configuration may do: it may come from somebody else, and building runs what it names."""

import os
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from omni.config.check import ConfigError
from omni.config.dataset_targets import AudioSmoke
from omni.config.targets import KINDS


def check_saved(cfg: DictConfig, file: Path, trust: str | Sequence[str] = ()) -> None:
    """See that a configuration builds omni's own classes alone, each in its place, looks nothing up and writes into no
    new place.

    Args:
        cfg: as it was read: nothing resolved.
        file: it came from, for the error.
        trust: modules of the caller's own, or packages of such, whose classes may be built too. They are imported.

    Raises:
        ConfigError: names every key that would do something else.
    """
    modules = [trust] if isinstance(trust, str) else list(trust)
    plain = OmegaConf.to_container(cfg)
    if problems := [*refused(plain, "", modules)]:
        raise ConfigError("\n".join([f"{file} may come from somebody else, so nothing of it is built", *problems]))


def refused(node: Any, key: str, modules: Sequence[str]) -> Iterator[str]:
    """A line for each key below `key` that would run what is not to be run."""
    if isinstance(node, dict):
        if "_target_" in node and (why := refuse_target(node["_target_"], key, modules)):
            yield f"{key}._target_: {why}"
        if node.get("_target_") == AudioSmoke._target_:  # writes its clips when it is built
            yield from made_outside(node.get("folder"), f"{key}.folder", "manifest.jsonl")
        if not key:
            yield from made_outside(node.get("features"), "features", "encoder.json", "*/encoder.json")
        for name, value in node.items():
            if name != "_target_" and re.fullmatch(r"_\w+_", str(name)):
                yield f"{key}.{name}: tells hydra how to call; a run has no such key"
            else:
                yield from refused(value, f"{key}.{name}".lstrip("."), modules)
    elif isinstance(node, list):
        for place, value in enumerate(node):
            yield from refused(value, f"{key}.{place}", modules)
    elif isinstance(node, str) and "${" in node:
        yield f"{key}: {node} would be looked up on this machine; a run that has begun holds its values"


def refuse_target(target: Any, key: str, modules: Sequence[str]) -> str | None:
    """Why a target is not built at a key; None where it is omni's of that kind, or defined in one of the modules."""
    kind = key.partition(".")[0]
    place = {"dataset": r"dataset(\.parts\.[^.]+)*", "logger": r"logger\.[^.]+"}.get(kind, kind)
    if kind not in KINDS or not re.fullmatch(place, key):
        return f"{target}: nothing is built there"
    if target in [schema._target_ for schema in KINDS[kind]]:
        return None
    module, _, name = str(target).rpartition(".")
    if module.partition(".")[0] == "omni":
        return f"{target} is none of omni's for {kind}"
    if not within(module, modules):
        return f"{target} is none of omni's own classes; if its code is yours, say so: trust={module or 'MODULE'}"
    try:
        # Not hydra's way to find it, which goes through a module into what that imports: my_ear.os.system.
        home = getattr(getattr(import_module(module), name), "__module__", None)
    except Exception as error:  # a module of the user's own may raise anything
        return (
            f"{target} cannot be imported ({error}); a class of your own must be importable from the folder you are in,"
            " or from PYTHONPATH"
        )
    return None if within(str(home), modules) else f"{target} is not {module}'s own, it is defined in {home}"


def within(module: str, modules: Sequence[str]) -> bool:
    """Whether a module is one of these, or in a package of them."""
    return any(module == each or module.startswith(f"{each}.") for each in modules)


def made_outside(folder: Any, key: str, *marks: str) -> Iterator[str]:
    """A line when building or training would make a folder outside of the one that one is in; where omni's files of
    that kind lie already, more may come."""
    # Not resolved alone: data/ may be a link to a larger disk.
    path = Path(os.path.normpath(Path.cwd() / Path(str(folder)).expanduser()))
    inside = any(each.is_relative_to(Path.cwd()) for each in (path, path.resolve()))
    if folder is not None and not inside and not any(any(path.glob(mark)) for mark in marks):
        yield f"{key}: {folder} would be made outside of the folder you are in; go to where the run was started"
