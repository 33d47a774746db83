"""Every YAML that ships is found, composes, passes the checks, and says the same as its schema and its class."""

import inspect
import re
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, get_method
from omegaconf import OmegaConf

from omni.config.check import components
from omni.config.paths import conf_dir
from omni.config.schema import register
from omni.config.targets import TARGETS

GROUPS = (
    "encoder",
    "mixer",
    "texture",
    "projector",
    "backbone",
    "dataset",
    "augment",
    "optimizer",
    "logger",
    "stage",
    "experiment",
    "debug",
)
OPTIONS = [f"{group}={path.stem}" for group in GROUPS for path in sorted((conf_dir() / group).glob("*.yaml"))]
FILES = sorted(path.relative_to(conf_dir()).as_posix() for path in conf_dir().rglob("*.yaml"))
GIVEN = {
    "backbone": {"dtype"},
    "mixer": {"n_states", "width"},
    "texture": {"n_states", "width"},
    "optimizer": {"model", "lr"},
    "augment": {"clips"},
    "logger": {"folder", "name", "group"},
}
"""What `build.py` gives to a class, besides its YAML."""
KEPT = {"tokenizer", "init_from"}
"""Keys of a backbone that `build.py` itself acts on."""


def composed(*overrides: str):
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("train", overrides=list(overrides))


def test_there_are_the_options_the_readme_speaks_of():
    for option in [
        "encoder=whisper_base",
        "encoder=whisper_tiny_en",
        "encoder=whisper_random",
        "projector=mlp",
        "projector=stack_mlp",
        "projector=conv",
        "backbone=gpt_d2",
        "backbone=gpt_d4",
        "backbone=gpt_d6",
        "backbone=gpt_d12",
        "backbone=gpt_d20",
        "backbone=gpt_d26",
        "dataset=audio_smoke",
        "backbone=starter",
        "dataset=manifest",
        "dataset=amazon_queen",
        "dataset=librispeech",
        "dataset=hub_speech",
        "augment=speech",
        "stage=w2_align",
        "projector=stack4_mlp",
        "dataset=text",
        "dataset=debian_text",
        "dataset=climbmix",
        "dataset=diet",
        "dataset=chats",
        "dataset=starter_chats",
        "stage=w0_base",
        "stage=w0_chat",
        "stage=w1_smoke",
        "optimizer=adamw",
        "optimizer=muon_adamw",
        "logger=csv",
        "logger=wandb",
        "debug=overfit",
        "debug=limit",
        "debug=profile",
        "experiment=w1_seed",
    ]:
        assert option in OPTIONS, option


@pytest.mark.parametrize(
    "option",
    [o for o in OPTIONS if o.split("=")[0] in ("encoder", "projector", "backbone", "dataset", "augment", "optimizer")],
)
def test_yaml_and_schema_have_the_same_keys(option):
    group = option.split("=")[0]
    node = composed(option)[group]
    assert set(node) == {field.name for field in fields(TARGETS[node._target_])}


def test_loggers_and_schema_have_the_same_keys():
    for key, node in components(composed()):
        if key.startswith("logger."):
            assert set(node) == {field.name for field in fields(TARGETS[node._target_])}


@pytest.mark.parametrize("target", TARGETS)
def test_schema_and_class_take_the_same_keys(target):
    call = get_class(target) if target.rsplit(".", 1)[1][0].isupper() else get_method(target)
    group = next(
        group for group in GROUPS if any(target in path.read_text() for path in (conf_dir() / group).glob("*.yaml"))
    )
    taken = set(inspect.signature(call).parameters) - GIVEN.get(group, set())
    assert taken == {field.name for field in fields(TARGETS[target])} - {"_target_"} - KEPT


@pytest.mark.parametrize("file", FILES)
def test_a_comment_stands_above_every_key(file):
    lines = (conf_dir() / file).read_text().splitlines()
    if file.startswith("hydra/"):
        assert lines[0].startswith("# ")
        return
    for above, line in pairwise(lines):
        key = re.match(r"( *)([a-z_]+):(.*)", line)
        if line.startswith("hydra:"):  # hydra's own keys come last, and are documented by hydra
            break
        groups = ("defaults", "stage", "debug", "sweep", "encoder", "projector", "backbone", "augment", "gate")
        groups += ("optimizer", "lora")
        if not key or key[2] in groups:
            continue
        if key[2] == "_target_" or (file.startswith("logger") and not key[1]):
            continue
        assert above.strip().startswith("#"), f"{file}: {line.strip()} has no comment above it"
    assert "@package _global_" not in lines[0] or lines[1].startswith("# ")


def test_the_job_config_is_free_of_the_machine_it_runs_on():
    for file in FILES:
        if file.startswith("hydra/"):
            continue
        content = yaml.safe_load((conf_dir() / file).read_text()) or {}
        content.pop("hydra", None)
        text = yaml.safe_dump(content)
        assert "${hydra:" not in text, file
        assert "${now:" not in text, file
        assert not re.search(r"(^|[\s'\"])/(home|root|usr|tmp|data|mnt)\b", text), file


def test_width_and_heads_follow_from_the_depth():
    for depth, width in ((2, 128), (4, 256), (6, 384), (12, 768), (20, 1280), (26, 1664)):
        backbone = composed(f"backbone=gpt_d{depth}").backbone
        assert (backbone.n_layer, backbone.n_embd, backbone.n_head) == (depth, width, width // 128)
    assert composed("backbone.n_layer=7").backbone.n_embd == 512
    assert composed("backbone.n_layer=7").projector.out_dim == 512


def test_the_command_line_wins_over_experiment_and_stage():
    assert composed("experiment=w1_seed").projector.stack == 1
    assert composed("experiment=w1_seed", "projector=conv").projector._target_.endswith("Conv")
    assert composed("stage=w1_smoke", "dataset=manifest").dataset._target_.endswith("ManifestClips")
    assert composed("debug=limit", "stage.max_steps=7").stage.max_steps == 7


def test_a_wheel_carries_the_yaml():
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert '"conf" = "omni/conf"' in project


def test_every_schema_is_in_use():
    texts = [(conf_dir() / file).read_text() for file in FILES if not file.startswith(("hydra/", "train.yaml"))]
    used = {target for text in texts for target in re.findall(r"^ *_target_: (\S+)", text, re.MULTILINE)}
    assert used == set(TARGETS)
    for schema in TARGETS.values():
        assert all(
            field.default is not NO_DEFAULT or field.default_factory is not NO_DEFAULT for field in fields(schema)
        )
        OmegaConf.structured(schema)
