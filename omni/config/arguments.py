"""`key=value` command lines of the commands that take a run rather than a configuration."""

import sys
from collections.abc import Callable
from dataclasses import fields
from typing import TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from omni.config.check import ConfigError, first_line, suggest
from omni.errors import OmniError

T = TypeVar("T")


def read_arguments(schema: type[T], words: list[str], *, doc: str) -> T:
    """An object of the dataclass `schema` from `key=value` words; `--help` prints `doc` and exits.

    A text is taken as it stands, so a prompt may hold anything. A list's key is given once for each item. Of a field
    `dataset: dict[str, str]` the keys are `dataset` and whatever stands below it, `dataset.path`.

    Raises:
        ConfigError: an unknown key, a value of another type, a key left out that has no default.
    """
    if {"-h", "--help"} & set(words):
        print(doc)
        sys.exit(0)
    arguments, types, texts = OmegaConf.structured(schema), {f.name: f.type for f in fields(schema)}, {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"{word}: write it as key=value{suggest(key, list(types))}")
        group = key.partition(".")[0]
        if types.get(group) == dict[str, str]:
            texts.setdefault(group, {})[key] = value
            continue
        if key not in types:
            raise ConfigError(f"{key}: unknown key{suggest(key, list(types))}")
        if types[key] in (str, str | None):
            texts[key] = value
        elif types[key] == list[str]:
            texts.setdefault(key, []).append(value)
        else:
            try:
                arguments[key] = None if value == "null" else value
            except OmegaConfBaseException as error:
                raise ConfigError(f"{key}: {first_line(error)}") from error
    if left_out := sorted(OmegaConf.missing_keys(arguments) - texts.keys()):
        raise ConfigError(f"{', '.join(left_out)}: left out; see --help")
    # A text never goes through OmegaConf, which would look into it for ${...} and ???.
    plain = {key: arguments[key] for key in types if key not in texts}
    return schema(**plain | texts)


def run(job: Callable[[T], None], schema: type[T], *, doc: str, words: list[str] | None = None) -> None:
    """A whole command: `job` on what the command line says. Exits with 1 and a line that says what to do when it
    cannot be done, with 130 after Ctrl-C."""
    try:
        job(read_arguments(schema, sys.argv[1:] if words is None else words, doc=doc))
    except OmniError as error:
        print(f"error: {error}".replace("\n", "\n  "), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
