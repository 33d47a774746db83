"""JSON schemas of the YAML in conf/, made from the dataclasses, for editors that complete and check while one types.

A key's description is the comment above it in the YAML that ships, so there is one place to write it. Draft 7, which
editors understand best.
"""

import json
import re
import types
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from itertools import dropwhile
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from omni.config.check import ConfigError
from omni.config.compose import defaults, options
from omni.config.paths import conf_dir
from omni.config.schema import Train
from omni.config.targets import TARGETS

MEND = "python -m omni.config schema"
FOLDER = "docs/schema"
"""Not below conf/: hydra takes every folder there for a group, and completion offers it."""

SETTINGS = ".vscode/settings.json"

LATE = {"$ref": "#/definitions/late"}
"""What may stand for a value of any type: `???` and an interpolation."""

Schema = dict[str, Any]


def files() -> dict[str, str]:
    """Each generated file's path in the checkout and its text: the schemas, and which YAML an editor holds to them.

    Raises:
        ConfigError: train.yaml or the editor's settings cannot be read.
    """
    schemas = {"train": whole()}
    globs = {"train": ["conf/train.yaml"]}
    for group in defaults():
        # A file that is packaged globally (stage, experiment, debug) may set any key, as train.yaml does.
        name = group if classes_of(group) else "train"
        globs.setdefault(name, []).append(f"conf/{group}/**/*.yaml")
        schemas.setdefault(name, option_file(group))
    texts = {f"{FOLDER}/{name}.json": schema for name, schema in schemas.items()}
    texts[SETTINGS] = settings(globs)
    return {name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in texts.items()}


def settings(globs: dict[str, list[str]]) -> dict[str, Any]:
    """VS Code's settings of the workspace: ours set, all others kept."""
    path = conf_dir().parent / SETTINGS
    try:
        kept = json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{SETTINGS}: cannot be read as plain JSON ({error})") from error
    return kept | {"yaml.schemas": {f"./{FOLDER}/{name}.json": paths for name, paths in globs.items()}}


def whole() -> Schema:
    """The schema of train.yaml, and of a file that sets keys anywhere in the configuration."""
    properties = {"defaults": {"$ref": "#/definitions/defaults"}}
    for name, kind in hints(Train).items():
        if classes_of(name):
            said = {"description": f"Keys of conf/{name}/, of whichever option is chosen."}
            properties[name] = said | (loggers() if name == "logger" else component(name))
        else:
            properties[name] = node(kind, name)
    properties["hydra"] = {"type": "object", "description": "hydra's own settings, as where runs are kept."}
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return head("train.yaml, stages, experiments", None) | schema


def option_file(group: str) -> Schema:
    """The schema of the files in a group whose options become objects."""
    return head(group, group) | (loggers() if group == "logger" else component(group, inherits=True))


def head(title: str, group: str | None) -> Schema:
    """What each schema starts with."""
    definitions = {"late": {"type": "string", "pattern": r"^\?\?\?$|\$\{"}}
    if group is None:
        definitions |= {"defaults": choices_list()} | {f"of_{name}": of(name) for name in chosen_groups()}
    else:
        own = {"anyOf": [{"enum": ["_self_", *options(group)]}, {"type": ["string", "object"]}]}
        definitions["defaults"] = {"type": "array", "description": "Options that this one builds on.", "items": own}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$comment": f"Made by `{MEND}` from omni/config/schema.py and the comments in conf/.",
        "title": title,
        "definitions": definitions,
    }


def loggers() -> Schema:
    """Any number of loggers, each under a name of its own."""
    return {"type": "object", "additionalProperties": component("logger")}


def component(group: str, *, inherits: bool = False) -> Schema:
    """A node that becomes an object: the keys of its class, of all classes when it names none, any of a stranger's."""
    classes, every = classes_of(group), {}
    shared = {"_target_": {"type": "string", "examples": classes}}
    if inherits:
        shared["defaults"] = {"$ref": "#/definitions/defaults"}
    for target in classes:
        for key, schema in keys_of(target, group).items():
            every.setdefault(key, schema)
            if every[key] != schema:
                every[key] = either(every[key], schema)
    cases = [
        {
            "if": {"required": ["_target_"], "properties": {"_target_": {"const": target}}},
            "then": {"properties": shared | keys_of(target, group), "additionalProperties": False},
        }
        for target in classes
    ]
    cases.append(
        {
            "if": {"not": {"required": ["_target_"]}},
            "then": {"properties": shared | every, "additionalProperties": False},
        }
    )
    return {"type": "object", "properties": shared, "allOf": cases}


def either(first: Schema, second: Schema) -> Schema:
    """A key that two classes of a group share."""
    said = {"description": first["description"]} if "description" in first else {}
    plain = [{key: value for key, value in schema.items() if key != "description"} for schema in (first, second)]
    return said | (plain[0] if plain[0] == plain[1] else {"anyOf": plain})


def keys_of(target: str, group: str) -> dict[str, Schema]:
    """The schema of each key a class takes."""
    kinds = hints(TARGETS[target])
    return {key: node(kind, f"{group}.{target}.{key}") for key, kind in kinds.items() if key != "_target_"}


def node(kind: Any, path: str) -> Schema:
    """The schema of one key, with its comment."""
    said = comments_of_all().get(path)
    return ({"description": said} if said else {}) | shape(kind, path)


def shape(kind: Any, path: str) -> Schema:
    """What a value of a type may be."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        parts = [shape(part, path) for part in inner]
        return {"anyOf": [choice for part in parts for choice in part.get("anyOf", [part])]}
    if kind is type(None):
        return {"type": "null"}
    if kind is Any:
        return {}
    if kind is str:
        return {"type": "string"}
    if is_dataclass(kind):
        keys = {key: node(part, f"{path}.{key}") for key, part in hints(kind).items()}
        return {"type": "object", "properties": keys, "additionalProperties": False}
    if origin is dict:
        return {"type": "object", "additionalProperties": shape(inner[1], path)}
    if origin is list:
        return {"anyOf": [{"type": "array", "items": shape(inner[0], path)}, LATE]}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"anyOf": [{"enum": [member.name for member in kind]}, LATE]}
    names = {bool: "boolean", int: "integer", float: "number"}
    return {"anyOf": [{"type": names[kind]}, LATE]}


def chosen_groups() -> list[str]:
    """The groups a file chooses from; no file chooses an experiment, so that a new one changes no schema."""
    return [group for group in defaults() if group != "experiment"]


def choices_list() -> Schema:
    """The `defaults:` of train.yaml, of a stage, of an experiment: what it chooses in each group."""
    spelled = {form.format(name): name for name in chosen_groups() for form in ("{}", "override /{}")}
    chosen = {key: {"$ref": f"#/definitions/of_{name}"} for key, name in spelled.items()}
    item = {"anyOf": [{"enum": ["_self_"]}, {"type": "string"}, {"type": "object", "properties": chosen}]}
    return {"type": "array", "description": "What this file chooses in each group.", "items": item}


def of(group: str) -> Schema:
    """An option of a group: one of those that ship, or any other name, since users add their own."""
    option = {"anyOf": [{"enum": options(group)}, {"type": ["string", "null"]}]}
    return {"anyOf": [option, {"type": "array", "items": option}]} if isinstance(defaults()[group], list) else option


@cache
def classes_of(group: str) -> list[str]:
    """The targets of a group: those its YAML names and `TARGETS` knows."""
    text = "".join((conf_dir() / group / f"{option}.yaml").read_text() for option in options(group))
    named = re.findall(r"^ *_target_: *(\S+)", text, re.MULTILINE)
    return [target for target in TARGETS if target in named] if named else []


def hints(schema: type) -> dict[str, Any]:
    """The type of each field, in order."""
    known = get_type_hints(schema)
    return {item.name: known[item.name] for item in fields(schema)}


@cache
def comments_of_all() -> dict[str, str]:
    """The comment above each key: by `stage.lr`, and in a component by `encoder.<target>.width`.

    A file that names its class explains it best, so it is read before those that inherit from it.
    """
    found = comments(conf_dir() / "train.yaml")
    for group in defaults():
        paths = [conf_dir() / group / f"{option}.yaml" for option in options(group)]
        for path in sorted(paths, key=lambda path: "_target_:" not in path.read_text()):
            text = path.read_text()
            target = re.search(r"^( *)_target_: *(\S+)", text, re.MULTILINE)
            for key, comment in comments(path).items():
                if target:
                    key = key.partition(".")[2] if target[1] else key  # a logger's keys stand below its own name
                    key = f"{group}.{target[2]}.{key}"
                elif "@package _global_" not in text:
                    continue
                found.setdefault(key, comment)
    return found


def comments(path: Path) -> dict[str, str]:
    """The comment that stands right above each key of a YAML, by dotted key; the file's own at its top is none."""
    found, above, parents = {}, [], []
    lines = dropwhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    for line in lines:
        if key := re.match(r"( *)([\w]+):", line):
            parents = [*parents[: len(key[1]) // 2], key[2]]
            if above:
                found[".".join(parents)] = " ".join(above)
        above = [*above, line.strip().lstrip("# ")] if line.strip().startswith("#") else []
    return found


def head_comment(path: Path) -> str:
    """What a YAML says of itself in its first lines."""
    said = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            said.append(line.lstrip("# "))
    return " ".join(said)
