"""Adapters on disk: that they come back, that PEFT reads them, and what is wrong with a folder or a configuration."""

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file, save_file

from omni.errors import OmniError
from omni.export import Export, Format, export
from omni.model.adapter import load_adapter, read_settings, save_adapter
from omni.model.gpt import GPT
from omni.model.lora import AdapterError, add_lora, merge_lora

SIZES = {"sequence_len": 64, "vocab_size": 257, "n_layer": 4, "n_head": 2, "n_kv_head": 1, "n_embd": 32}
SETTINGS = {"rank": 4, "alpha": 8, "dropout": 0.1, "targets": ["transformer.h.*.attn.c_*"], "dora": True}
IDS = torch.arange(24).view(2, 12)
FILES = ["adapter_config.json", "adapter_model.safetensors"]


def base() -> GPT:
    """A GPT whose matrices are all alive, as after training."""
    torch.manual_seed(0)
    model = GPT(**SIZES)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def adapted(**settings) -> GPT:
    """The same with adapters that do something."""
    model = base()
    add_lora(model, **SETTINGS | settings)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture
def folder(tmp_path) -> Path:
    save_adapter(adapted(), tmp_path / "new" / "adapter")
    return tmp_path / "new" / "adapter"


@pytest.fixture
def run(tmp_path) -> Path:
    """A run that trained a projector and adapters."""
    checkpoint = tmp_path / "run" / "checkpoints" / "step_000005"
    checkpoint.mkdir(parents=True)
    state = {f"backbone.{name}": tensor for name, tensor in adapted().state_dict().items()}
    save_file(state | {"projector.fc1.weight": torch.ones(2)}, checkpoint / "model.safetensors")
    write_config(tmp_path / "run", SETTINGS)
    return tmp_path / "run"


def write_config(run: Path, lora: dict | None) -> None:
    config = {"backbone": {"_target_": "omni.model.gpt.GPT", **base().sizes}, "stage": {"lora": lora}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("settings", [{}, {"dora": False, "targets": ["lm_head", "transformer.h.*.mlp.*"]}])
def test_adapters_come_back_with_their_settings(tmp_path, settings):
    model, other = adapted(**settings), base()
    count = save_adapter(model, tmp_path / "adapter")
    load_adapter(other, tmp_path / "adapter")
    assert torch.equal(other.eval()(IDS), model(IDS))
    assert {name for name, parameter in other.named_parameters() if parameter.requires_grad} == {
        name for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    assert count == sum(parameter.numel() for parameter in other.parameters() if parameter.requires_grad)
    kept = ("r", "lora_alpha", "lora_dropout", "use_dora")
    (told, wanted) = (each.peft_config["default"].to_dict() for each in (other, model))
    assert {key: told[key] for key in kept} == {key: wanted[key] for key in kept}


def test_the_folder_holds_two_files_for_everybody_and_nothing_of_the_base(tmp_path):
    before = os.umask(0o022)
    try:
        save_adapter(adapted(), tmp_path / "adapter")
        save_adapter(adapted(), tmp_path / "adapter")  # one that is there is replaced
    finally:
        os.umask(before)
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == FILES
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "adapter").iterdir()} == {0o644}
    assert all(".lora_" in name for name in load_file(tmp_path / "adapter" / FILES[1]))


def test_the_same_adapters_are_the_same_bytes(folder, tmp_path):
    save_adapter(adapted(), tmp_path / "again")
    for name in FILES:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_peft_reads_the_folder(folder):
    model = base()
    theirs = PeftModel.from_pretrained(model, folder).eval()
    torch.testing.assert_close(theirs(IDS), adapted()(IDS), rtol=0, atol=1e-4)


def test_anything_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(AdapterError, match="there is something else than an adapter"):
        save_adapter(adapted(), tmp_path)
    with pytest.raises(AdapterError, match=r"notes\.txt: there is something else"):
        save_adapter(adapted(), tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_full_disk_leaves_the_adapter_that_was_there(folder, small_disk):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with small_disk(8), pytest.raises(AdapterError, match="adapter: the adapter cannot be written"):
        save_adapter(adapted(rank=2), folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_or_missing_file_is_named(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(AdapterError, match="adapter: the adapter cannot be loaded"):
        load_adapter(base(), folder)
    (folder / name).unlink()
    with pytest.raises(AdapterError, match=r"adapter: the adapter cannot be loaded .*No such file"):
        load_adapter(base(), folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_rslora": True}, "use_rslora and alpha_pattern are not for omni"),
        ({"r": 2}, r"lora_A\.weight: shape \(4, 32\) there, \(2, 32\) here"),
        ({"use_dora": False}, "extra: .*lora_magnitude_vector"),
        ({"r": "4"}, "adapter cannot be loaded"),
    ],
)
def test_a_configuration_that_lies_is_refused(folder, change, said):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(OmniError, match=said):
        load_adapter(base(), folder)


def test_an_adapter_of_another_model_is_refused(folder):
    shallow = GPT(**SIZES | {"n_layer": 2})
    with pytest.raises(AdapterError, match=r"transformer\.h\.2\.attn\.c_k.* matches no matrix"):
        load_adapter(shallow, folder)
    with pytest.raises(OmniError, match=r"shape .* there, .* here"):
        load_adapter(GPT(**SIZES | {"n_embd": 64}), folder)


def test_a_runs_adapters_are_exported(run, tmp_path, capsys):
    export(Export(run=str(run), to=str(tmp_path / "adapter"), format=Format.adapter))
    assert "parameters in" in capsys.readouterr().out
    other = base()
    load_adapter(other, tmp_path / "adapter")
    assert torch.equal(other.eval()(IDS), adapted()(IDS))


def test_a_run_without_adapters_is_told(tmp_path):
    merged = merge_lora(adapted()).state_dict()
    (tmp_path / "checkpoints" / "step_000005").mkdir(parents=True)
    save_file(merged, tmp_path / "checkpoints" / "step_000005" / "model.safetensors")
    write_config(tmp_path, None)
    with pytest.raises(AdapterError, match=r"config\.yaml: .*this run has no adapters"):
        export(Export(run=str(tmp_path), to=str(tmp_path / "adapter"), format=Format.adapter))
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("stage: {}", "this run has no adapters"),
        ("stage: {lora: {rank: 4}}", "alpha, dora, dropout, targets missing or unknown"),
        ("stage: {lora: {rank: 4, alpha: a lot, dropout: 0, targets: [], dora: false}}", "alpha 'a lot' is no number"),
        ("stage: {lora: 3}", "'int' object"),
        ("- 1", "list indices"),
        ("stage: [", "while parsing"),
    ],
)
def test_settings_that_cannot_be_read_are_named(tmp_path, content, said):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(AdapterError, match=rf"config\.yaml: no settings of adapters under stage\.lora \(.*{said}"):
        read_settings(tmp_path / "config.yaml")
