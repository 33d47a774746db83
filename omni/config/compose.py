"""Configurations without a command line: composed one by one, and all that there is to compose."""

from collections.abc import Iterator
from functools import cache

import hydra
import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from omni.config.check import ConfigError, check, components, first_line, refuse_twice, suggest
from omni.config.paths import VERSION_BASE, conf_dir
from omni.config.schema import register
from omni.config.wording import say


def compose(overrides: list[str]) -> DictConfig:
    """The configuration `python -m omni.train OVERRIDES` would run, unchecked.

    Raises:
        ConfigError: it does not compose; in the words of the command line, with the nearest key or option.
    """
    register()
    try:
        refuse_twice(overrides)
        with hydra.initialize_config_dir(version_base=VERSION_BASE, config_dir=str(conf_dir())):
            return hydra.compose("train", overrides=overrides)
    except Exception as error:  # whatever hydra, omegaconf, yaml and the file system make of a broken file
        raise ConfigError(say(error)) from error


def options(group: str) -> list[str]:
    """The names of a group's options, sorted."""
    folder = conf_dir() / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


@cache
def defaults() -> dict[str, str | list[str] | None]:
    """The groups in the order of train.yaml, each with what it chooses; hydra's own groups left out.

    Raises:
        ConfigError: train.yaml cannot be read.
    """
    try:
        entries = yaml.safe_load((conf_dir() / "train.yaml").read_text())["defaults"]
        chosen = {key: value for entry in entries if isinstance(entry, dict) for key, value in entry.items()}
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(f"conf/train.yaml: its list of defaults cannot be read ({say(error)})") from error
    return {group: value for group, value in chosen.items() if "hydra/" not in group}


def choices() -> Iterator[str]:
    """Each option of each group, as an override; in a group that takes a list it stands beside the usual ones."""
    for group, usual in defaults().items():
        for option in options(group):
            beside = ",".join(dict.fromkeys([*usual, option])) if isinstance(usual, list) else None
            yield f"{group}=[{beside}]" if beside else f"{group}={option}"


def problems(choice: str) -> list[str]:
    """What is wrong with one option; a value that its YAML leaves to the user (`path: ???`) is not."""
    left_open: set[str] = set()
    try:
        cfg = compose([choice])
        # In the typed part of the tree a missing value is one that a schema has and no YAML.
        left_open = {
            f"{name}.{key}" for name, node in components(cfg) for key in node if OmegaConf.is_missing(node, key)
        }
        check(cfg)
    except ConfigError as error:
        return [line for line in str(error).splitlines() if line.partition(":")[0] not in left_open]
    except OmegaConfBaseException as error:  # a group that is itself an interpolation, and leads nowhere
        return [say(error)]
    return []


def part(cfg: DictConfig, key: str) -> str:
    """A group or a dotted key of a configuration, as YAML.

    Raises:
        ConfigError: there is no such key, with the nearest, or its value leads nowhere.
    """
    node, before = cfg, ""
    try:
        for word in key.split("."):
            if not isinstance(node, DictConfig) or word not in node:
                known = [str(name) for name in node] if isinstance(node, DictConfig) else []
                raise ConfigError(f"--key {before}{word}: there is no such key{suggest(word, known, before)}")
            node, before = node[word], f"{before}{word}."
        if OmegaConf.is_config(node):
            return OmegaConf.to_yaml(node, resolve=True).rstrip()
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}: {first_line(error)}") from error
    return str(getattr(node, "name", "null" if node is None else node))
