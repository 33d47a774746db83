"""What hydra, omegaconf and yaml have to say about a configuration, in words a user can act on."""

import os
import shlex
import sys

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
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
    if isinstance(error, OverrideParseException) and (quoted := in_quotes(error.override)):
        told = str(error).partition("\nSee ")[0]  # of a function what there is, of anything else which tokens
        told = told if "while evaluating" in told else f"Error parsing override {error.override!r}"
        return f"{told}; a text is put in quotes: {quoted}"
    value = next((link for link in chain(error) if isinstance(link, OmegaConfBaseException) and link.full_key), None)
    if value is None:
        return str(error)
    if isinstance(value, ConfigKeyError | ConfigAttributeError) and value.parent_node is not None:
        parent = str(value.full_key).rpartition(".")[0]
        known = [str(key) for key in value.parent_node if key != "hydra"]
        return f"{value.full_key}: unknown key{suggest(str(value.key), known, parent + '.' if parent else '')}"
    return f"{value.full_key}: {first_line(value)}"


def in_quotes(override: str) -> str | None:
    """An override that hydra cannot read with each of its values in quotes, as a shell takes it; None where quotes do
    not help."""
    key, equals, value = override.partition("=")
    is_list = value[:1] + value[-1:] == "[]"
    several = is_list or {"-m", "--multirun"} & {*sys.argv}
    items = (value[1:-1] if is_list else value).split(",") if several else [value]
    text = ",".join(QuotedString(item.strip(), Quote.double).with_quotes() for item in items)
    quoted = f"{key}=[{text}]" if is_list else f"{key}={text}"
    try:
        OverridesParser.create().parse_overrides([quoted])
    except HydraException:
        return None
    return shlex.quote(quoted) if equals else None
