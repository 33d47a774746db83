"""The snapshots are what conf/ composes to, and nothing of the machine that made them."""

import os
from contextlib import suppress

import pytest
from omegaconf import OmegaConf

from omni.config.compose import compose
from omni.config.generated import checkout, drift, update
from omni.config.snapshot import MEND, as_json, bare_environment, snapshots

PATTERN = "tests/snapshots/**/*.yaml"


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return snapshots()


def test_the_snapshots_are_up_to_date(made):
    found = drift(checkout(), made, PATTERN)
    assert not found, f"a change of conf/ reaches these configurations; `{MEND}` takes it over:\n{found}"


def test_every_stage_and_experiment_has_one(made):
    conf = checkout() / "conf"
    names = {f"{group}/{path.name}" for group in ("stage", "experiment") for path in (conf / group).glob("*.yaml")}
    assert {name.removeprefix("tests/snapshots/") for name in made} == names


def test_a_snapshot_is_the_resolved_configuration_with_a_line_on_how_it_was_made(made):
    text = made["tests/snapshots/experiment/w1_seed.yaml"]
    assert text.startswith(f"# What experiment=w1_seed composes to, resolved. Made by `{MEND}`; edit conf/ instead.\n")
    assert "${" not in text
    cfg = compose(["experiment=w1_seed"])
    OmegaConf.resolve(cfg)
    assert OmegaConf.create(text) == OmegaConf.create(OmegaConf.to_yaml(cfg))
    rendered = as_json()
    assert {f"tests/snapshots/{name}.yaml" for name in rendered} == set(made)
    assert rendered["experiment/w1_seed"] == {"config": OmegaConf.to_container(cfg, enum_to_str=True)}


def test_the_environment_does_not_leak_in(made, monkeypatch):
    for name in ("WHISPER_MS_ID", "WHISPER_HF_ID", "WANDB_PROJECT", "WANDB_MODE", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(name, "leaked")
    assert compose([]).encoder.hf_id == "leaked"  # a run does follow it
    assert snapshots() == made
    assert os.environ["WHISPER_HF_ID"] == "leaked"


def test_the_environment_comes_back_after_an_error(monkeypatch):
    monkeypatch.setenv("WHISPER_HF_ID", "mine")
    with suppress(KeyError), bare_environment():
        os.environ["WHISPER_HF_ID"]
    assert os.environ["WHISPER_HF_ID"] == "mine"


def test_update_writes_removes_and_is_then_done(tmp_path):
    gone = tmp_path / "tests/snapshots/experiment/gone.yaml"
    gone.parent.mkdir(parents=True)
    gone.write_text("seed: 1\n")
    (tmp_path / "tests/snapshots/README.md").write_text("kept")
    wanted = {"tests/snapshots/stage/a.yaml": "seed: 1\n"}
    said = ["wrote tests/snapshots/stage/a.yaml", "removed tests/snapshots/experiment/gone.yaml"]
    assert update(tmp_path, wanted, PATTERN) == said
    assert (tmp_path / "tests/snapshots/stage/a.yaml").read_text() == "seed: 1\n"
    assert not gone.exists()
    assert (tmp_path / "tests/snapshots/README.md").exists()
    assert update(tmp_path, wanted, PATTERN) == []


def test_drift_is_a_unified_diff_and_writes_nothing(tmp_path):
    folder = tmp_path / "tests/snapshots"
    (folder / "stage").mkdir(parents=True)
    (folder / "stage/a.yaml").write_text("seed: 1\nlr: 2\n")
    (folder / "stage/gone.yaml").write_text("x: 1\n")
    wanted = {"tests/snapshots/stage/a.yaml": "seed: 1\nlr: 3\n", "tests/snapshots/stage/new.yaml": "y: 1\n"}
    lines = drift(tmp_path, wanted, PATTERN).splitlines()
    assert lines[:2] == ["--- tests/snapshots/stage/a.yaml", "+++ tests/snapshots/stage/a.yaml"]
    for line in ("-lr: 2", "+lr: 3", "+y: 1", "-x: 1"):
        assert line in lines
    assert lines[lines.index("+++ tests/snapshots/stage/new.yaml") - 1] == "--- /dev/null"
    assert lines[lines.index("--- tests/snapshots/stage/gone.yaml") + 1] == "+++ /dev/null"
    assert sorted(path.name for path in folder.rglob("*.yaml")) == ["a.yaml", "gone.yaml"]
    assert (folder / "stage/a.yaml").read_text() == "seed: 1\nlr: 2\n"
