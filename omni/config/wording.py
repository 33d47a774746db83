"""What hydra, omegaconf and yaml have to say about a configuration, in words a user can act on."""

import os

import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from omni.config.check import first_line, suggest
from omni.config.paths import conf_dir
from omni.errors import OmniError


def say(error: Exception) -> str:
    """What is wrong, without a traceback and without the place of this checkout."""
    ours = next((link for link in chain(error) if isinstance(link, OmniError)), None)
    if ours is not None:
        return str(ours)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        message = f"{error.problem_mark.name}, line {error.problem_mark.line + 1}: {error.problem}"
    elif isinstance(error, HydraException | OmegaConfBaseException):
        message = explain(error)
    elif isinstance(error, OSError) and error.filename:
        message = (
            f"{error.filename}: {error.strerror}; choose other folders by hydra.run.dir=... and dataset.folder=..."
        )
    elif "override must be a string or a list. Got NoneType" in str(error):  # hydra does not say which
        message = "GROUP=null: a group is left out with a ~ before its name, as in ~augment"
    else:
        message = f"{type(error).__name__}: {error}"
    return message.replace(f"{conf_dir().parent}{os.sep}", "")


def is_foreseen(error: Exception) -> bool:
    """Whether the error is one of ours or about the configuration, so that its message is all there is to read."""
    known = (OmniError, HydraException, OmegaConfBaseException, yaml.YAMLError)
    return any(isinstance(link, known) for link in chain(error))


def chain(error: BaseException) -> list[BaseException]:
    """The error and what led to it."""
    links = [error]
    while cause := links[-1].__cause__ or links[-1].__context__:
        links.append(cause)
    return links


def explain(error: Exception) -> str:
    """hydra's message about the command line or a YAML, with the nearest option or key."""
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}: there is no {option!r}{suggest(option, list(error.options), f'{group}=')}"
    value = next((link for link in chain(error) if isinstance(link, OmegaConfBaseException) and link.full_key), None)
    if value is None:
        return str(error)
    if isinstance(value, ConfigKeyError | ConfigAttributeError) and value.parent_node is not None:
        parent = str(value.full_key).rpartition(".")[0]
        known = [str(key) for key in value.parent_node if key != "hydra"]
        return f"{value.full_key}: unknown key{suggest(str(value.key), known, parent + '.' if parent else '')}"
    return f"{value.full_key}: {first_line(value)}"
