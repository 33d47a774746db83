"""The schemas for editors fit the YAML that ships, explain every key, and catch a key that was renamed on one side."""

import json
import re
from copy import deepcopy
from dataclasses import make_dataclass
from fnmatch import fnmatch
from typing import Any

import pytest
import yaml

from omni.config import json_schema
from omni.config.generated import checkout, drift
from omni.config.json_schema import FOLDER, MEND, SETTINGS, comments, files, head_comment
from omni.config.targets import TARGETS

ROOT = checkout()
YAML = sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "conf").rglob("*.yaml") if "hydra" not in path.parts
)
TYPES = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def fits(value: Any, schema: dict, top: dict) -> bool:
    """Whether a value passes a schema; knows the words `json_schema.py` uses, and stops at any other."""
    known = {"description", "examples", "title", "$schema", "$comment", "definitions"}
    return all(word_fits(word, value, schema, top) for word in schema if word not in known)


def word_fits(word: str, value: Any, schema: dict, top: dict) -> bool:
    asked = schema[word]
    match word:
        case "$ref":
            return fits(value, top["definitions"][asked.removeprefix("#/definitions/")], top)
        case "type":
            return any(is_of(value, kind) for kind in ([asked] if isinstance(asked, str) else asked))
        case "enum":
            return value in asked
        case "const":
            return value == asked
        case "pattern":
            return not isinstance(value, str) or bool(re.search(asked, value))
        case "anyOf":
            return any(fits(value, part, top) for part in asked)
        case "allOf":
            return all(fits(value, part, top) for part in asked)
        case "not":
            return not fits(value, asked, top)
        case "if":
            return not fits(value, asked, top) or fits(value, schema["then"], top)
        case "then":
            return True
        case "required":
            return not isinstance(value, dict) or all(key in value for key in asked)
        case "items":
            return not isinstance(value, list) or all(fits(item, asked, top) for item in value)
        case "properties":
            return not isinstance(value, dict) or all(
                fits(value[key], asked[key], top) for key in asked if key in value
            )
        case "additionalProperties":
            others = set(value) - set(schema.get("properties", {})) if isinstance(value, dict) else set()
            return all(asked is not False and fits(value[key], asked, top) for key in others)
    raise AssertionError(f"this test does not know {word!r}")


def is_of(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        numbers = int if kind == "integer" else int | float
        return isinstance(value, numbers) and not isinstance(value, bool)
    return isinstance(value, TYPES[kind])


def schema_for(path: str, made: dict[str, str]) -> dict:
    globs = json.loads(made[SETTINGS])["yaml.schemas"]
    (name,) = (name for name, patterns in globs.items() if any(fnmatch(path, p.replace("**/", "")) for p in patterns))
    return json.loads(made[name.removeprefix("./")])


def load(path: str) -> dict:
    return yaml.safe_load((ROOT / path).read_text())


def renamed(content: Any) -> list[Any]:
    """Copies of a configuration with one key misspelt, each key in its turn."""
    copies = []

    def walk(node: Any, way: tuple) -> None:
        for key in node if isinstance(node, dict) else ():
            if (not way and key in ("defaults", "hydra")) or way == ("stage", "gate"):  # metrics are no keys
                continue
            other = deepcopy(content)
            parent = other
            for step in way:
                parent = parent[step]
            parent[f"{key}z"] = parent.pop(key)
            copies.append(other)
            walk(node[key], (*way, key))

    walk(content, ())
    return copies


def test_the_schemas_are_up_to_date():
    found = drift(ROOT, files(), f"{FOLDER}/*.json")
    assert not found, f"the keys or their comments have changed; `{MEND}` takes it over:\n{found}"


@pytest.mark.parametrize("path", YAML)
def test_every_yaml_that_ships_passes_its_schema(path):
    schema = schema_for(path, files())
    assert fits(load(path), schema, schema)


@pytest.mark.parametrize("path", [path for path in YAML if "/logger/" not in path])
def test_a_key_renamed_in_a_yaml_does_not_pass(path):
    schema = schema_for(path, files())
    content = load(path)
    copies = renamed(content)
    assert copies or content.keys() == {"defaults"}  # an experiment may be a choice of groups and nothing else
    for copy in copies:
        assert not fits(copy, schema, schema), copy


def test_a_key_renamed_in_a_schema_fails_its_yaml(monkeypatch):
    target = "omni.model.projector.StackMLP"
    other = make_dataclass("Renamed", [("in_dim", int), ("out_dim", int), ("stacked", int), ("init", str)])
    monkeypatch.setitem(TARGETS, target, other)
    schema = schema_for("conf/projector/stack_mlp.yaml", files())
    assert not fits(load("conf/projector/stack_mlp.yaml"), schema, schema)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("conf/encoder/x.yaml", {"_target_": "omni.model.encoder.WhisperEncoder", "context": "loud"}),
        ("conf/encoder/x.yaml", {"_target_": "omni.model.encoder.WhisperEncoder", "n_heads": 2}),
        ("conf/encoder/x.yaml", {"defaults": ["whisper_base"], "widht": 3}),
        ("conf/stage/x.yaml", {"stage": {"lr": "fast"}}),
        ("conf/stage/x.yaml", {"stage": {"gate": {"loss": "low"}}}),
        ("conf/stage/x.yaml", {"stage": {"freeze": "backbone"}}),
        ("conf/experiment/x.yaml", {"seed": True}),
        ("conf/experiment/x.yaml", {"projector": {"dropuot": 0.1}}),
        ("conf/experiment/x.yaml", {"defaults": [3]}),
        ("conf/logger/x.yaml", {"wandb": {"_target_": "omni.record.wandb.WandbLogger", "mode": "loud"}}),
        ("conf/logger/x.yaml", {"csv": {"_target_": "omni.record.metrics.CsvLogger", "x": 1}}),
    ],
)
def test_what_is_wrong_is_marked(path, content):
    schema = schema_for(path, files())
    assert not fits(content, schema, schema)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("conf/encoder/x.yaml", {"_target_": "mine.Ear", "loudness": 11}),
        ("conf/encoder/x.yaml", {"defaults": ["whisper_base", "_self_"], "width": "${backbone.n_embd}"}),
        ("conf/dataset/x.yaml", {"_target_": "omni.data.clips.ManifestClips", "path": "???", "max_seconds": "???"}),
        (
            "conf/stage/x.yaml",
            {"stage": {"lr": 1, "gate": {"loss_drop": None}, "freeze": ["backbone.*"], "max_steps": "${seed}"}},
        ),
        ("conf/experiment/x.yaml", {"defaults": [{"override /projector": "my_own"}, {"override /logger": ["csv"]}]}),
        ("conf/experiment/x.yaml", {"projector": {"_target_": "mine.Bridge", "anything": 1}, "hydra": {"mode": "x"}}),
        ("conf/logger/x.yaml", {"mine": {"_target_": "mine.Logger", "colour": "red"}}),
    ],
)
def test_what_is_right_is_not_marked(path, content):
    schema = schema_for(path, files())
    assert fits(content, schema, schema)


def leaves(schema: dict, path: str = "") -> dict[str, dict]:
    """Each key that holds a value, with its schema."""
    found = {}
    for key, inner in schema.get("properties", {}).items():
        name = f"{path}.{key}".lstrip(".")
        parts = [inner, *inner.get("anyOf", [])]
        nested = {k: v for part in parts for k, v in leaves(part, name).items()}
        found |= nested or {name: inner}
    return found


def test_every_key_is_explained_so_a_schema_without_its_yaml_fails():
    made = {name: json.loads(text) for name, text in files().items()}
    keys = {key: schema for key, schema in leaves(made[f"{FOLDER}/train.json"]).items() if not key.endswith("_target_")}
    assert {"seed", "stage.lr", "stage.gate", "debug.limit_clips", "stage.freeze"} <= set(keys)
    for group in ("encoder", "projector", "backbone", "dataset", "augment", "optimizer"):
        for case in made[f"{FOLDER}/{group}.json"]["allOf"]:
            keys |= leaves(case["then"], group)
    unexplained = [
        key
        for key, schema in keys.items()
        if "description" not in schema and "$ref" not in schema and not key.endswith("_target_")
    ]
    assert not unexplained, (
        f"these keys are in omni/config/schema.py, and no YAML has them under a comment: {unexplained}"
    )


def test_descriptions_are_the_comments_of_the_file_that_names_the_class():
    schema = schema_for("conf/encoder/whisper_base.yaml", files())
    width = schema["allOf"][0]["then"]["properties"]["width"]
    assert width["description"] == "Width of its states, in numbers a frame; held against the weights."


def test_comments_are_joined_and_the_head_of_a_file_is_its_own(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(
        "# @package _global_\n# A file\n# of mine.\nstage:\n  # Rate,\n  # a step.\n  lr: 1\n\n  # lost\n\n  b: 2\n"
    )
    assert comments(path) == {"stage.lr": "Rate, a step."}
    assert head_comment(path) == "A file of mine."


def test_an_editors_other_settings_are_kept(monkeypatch, tmp_path):
    (tmp_path / ".vscode").mkdir()
    (tmp_path / SETTINGS).write_text('{"editor.rulers": [120], "yaml.schemas": {"old": []}}')
    monkeypatch.setattr(json_schema, "conf_dir", lambda: tmp_path / "conf")
    made = json_schema.settings({"train": ["conf/train.yaml"]})
    assert made == {"editor.rulers": [120], "yaml.schemas": {"./docs/schema/train.json": ["conf/train.yaml"]}}
    (tmp_path / SETTINGS).write_text("{ // mine\n}")
    with pytest.raises(json_schema.ConfigError, match="plain JSON"):
        json_schema.settings({})
