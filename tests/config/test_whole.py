"""The shipped model as a folder that needs nothing else, and what can be wrong with one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoFeatureExtractor, WhisperModel

from omni.config.check import ConfigError
from omni.config.trained import Trained, load_trained
from omni.config.whole import export_whole
from omni.errors import OmniError
from omni.export import Export, export
from omni.model.encoder import RandomWhisperEncoder
from omni.model.omni import Omni
from omni.model.pretrained import load_gpt

HEARING = Path("data/hearing")
CLIP = "data/audio_smoke/high_beeps.wav"
QUESTION = "How many beeps are there?"


@pytest.fixture(scope="module")
def shipped() -> Trained:
    return load_trained(str(HEARING), device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def folder(shipped, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "my_model"
    assert export_whole(shipped.model, shipped.tokenizer, HEARING, folder) > 35e6
    return folder


def test_it_answers_as_the_run_does(folder, shipped, monkeypatch):
    monkeypatch.setattr("omni.model.weights.WHEELS", {})  # nothing that is installed is needed
    loaded = load_trained(str(folder), device="cpu", precision="fp32")
    for question in (QUESTION, "What is said?"):
        assert loaded.ask(question, CLIP) == shipped.ask(question, CLIP) != ""
    for kind in ("layers", "dtype"):
        assert loaded.model.encoder.signature[kind] == shipped.model.encoder.signature[kind]
    state, stored = shipped.model.encoder.whisper.state_dict(), load_file(folder / "encoder" / "model.safetensors")
    assert all(torch.equal(stored[f"encoder.{name}"].float(), tensor) for name, tensor in state.items())
    assert (folder / "encoder" / "model.safetensors").stat().st_size < 42e6


def test_nothing_in_it_names_a_place_on_this_machine(folder):
    for file in ("pipeline.yaml", "config.json", "README.md"):
        assert str(Path.cwd()) not in (folder / file).read_text()
        assert "/tmp/" not in (folder / file).read_text()


def test_adapters_are_merged(folder):
    assert not [name for name in load_file(folder / "model.safetensors") if "lora" in name or "base_layer" in name]


def test_it_is_one_to_start_other_runs_from(folder, shipped):
    backbone, tokenizer = load_gpt(folder)
    assert backbone.sizes == shipped.model.backbone.sizes
    assert tokenizer.vocab_size == shipped.tokenizer.vocab_size


def test_transformers_reads_its_encoder_and_its_settings(folder):
    found, info = WhisperModel.from_pretrained(folder / "encoder", output_loading_info=True)
    assert not [name for name in info["missing_keys"] if name.startswith("encoder.")]
    assert found.config.d_model == 512
    assert AutoFeatureExtractor.from_pretrained(folder / "encoder").sampling_rate == 16_000


def test_its_card_tells_the_scores_that_lie_beside_the_run(folder):
    card = (folder / "README.md").read_text()
    told = json.loads((HEARING / "run.json").read_text())
    assert f"{told['parameters']['trainable']:,}" in card
    score = json.loads((HEARING / "audiobench_mini" / "audiobench_mini.json").read_text())["matched"]["value"]
    assert f"{score:.1%}" in card


def test_it_replaces_an_export_and_nothing_else(folder, shipped, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    shutil.copytree(folder, again)
    (again / "left.txt").write_text("from before")
    export_whole(shipped.model, shipped.tokenizer, HEARING, again)
    assert not (again / "left.txt").exists()
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(OmniError, match="no exported folder"):
        export_whole(shipped.model, shipped.tokenizer, HEARING, other)
    assert [path.name for path in other.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("pipeline.yaml", "no weights there|cannot be read"),
        ("model.safetensors", "cannot be read"),
        ("encoder", "weights"),
    ],
)
def test_what_is_missing_is_named(folder, tmp_path, file, told):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    if (broken / file).is_dir():
        shutil.rmtree(broken / file)
    elif file == "pipeline.yaml":
        (broken / file).write_text("encoder: [")
    else:
        (broken / file).unlink()
    with pytest.raises(OmniError, match=told):
        load_trained(str(broken), device="cpu")


def test_another_encoder_than_whisper_cannot_be_passed_on(shipped, tmp_path):
    deaf = Omni(encoder=RandomWhisperEncoder(), projector=shipped.model.projector, backbone=shipped.model.backbone)
    with pytest.raises(ConfigError, match="only Whisper's"):
        export_whole(deaf, shipped.tokenizer, HEARING, tmp_path / "out")


def test_a_folder_of_somebody_else_s_runs_nothing_but_omni(folder, tmp_path):
    foreign = tmp_path / "foreign"
    shutil.copytree(folder, foreign)
    pipeline = yaml.safe_load((foreign / "pipeline.yaml").read_text())
    pipeline["projector"]["_target_"] = "os.system"
    (foreign / "pipeline.yaml").write_text(yaml.safe_dump(pipeline))
    with pytest.raises(ConfigError, match=r"os\.system is none of omni's"):
        load_trained(str(foreign), device="cpu")


def test_the_command_exports_what_hears_whole(tmp_path):
    export(Export(run=str(HEARING), to=str(tmp_path / "out")))
    assert {"pipeline.yaml", "encoder", "README.md"} <= {path.name for path in (tmp_path / "out").iterdir()}
