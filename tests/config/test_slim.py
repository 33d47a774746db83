from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from omni.config.build import adapt, build_model
from omni.config.check import ConfigError
from omni.config.compose import compose
from omni.config.render import load, render
from omni.config.slim import export_slim
from omni.config.trained import load_trained
from omni.errors import OmniError
from omni.export import Export, Format, export
from omni.model.init_from import load_backbone
from omni.model.layout import MODEL
from omni.model.lora import adapter_state
from omni.model.pretrained import load_adapted, load_gpt
from omni.record.run import Run
from omni.text.tokenizer import load_tokenizer
from omni.training.checkpoint import save_checkpoint

EARS = ["encoder=whisper_random", "encoder.layers=[0,1,-1]", "projector.hidden_dim=32", "texture.hidden_dim=16"]


@pytest.fixture(params=["adapters", "no adapters"])
def checkpoint(request, tmp_path):
    """Of a run whose ears and adapters are no longer as they started."""
    cfg = compose(["stage=w3_lora", *EARS, *(["stage.lora=null"] if request.param == "no adapters" else [])])
    model = build_model(cfg, torch.float32, torch.device("cpu"))
    load_backbone(model.backbone, Path("data/starter"), load_tokenizer("data/starter"))
    adapt(model, cfg)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    with Run.start(tmp_path / "run", config_yaml=render(cfg), facts={"stage": "w3_lora"}) as made:
        made.begin()
        load_tokenizer("data/starter").save(made.folder)
    return save_checkpoint(tmp_path / "run" / "checkpoints", model, {"step": 7}, keep=1)


def says(source) -> torch.Tensor:
    """The logits of a few words behind a sound."""
    trained = load_trained(str(source), device="cpu", precision="fp32")
    torch.manual_seed(2)
    states = torch.randn(1, 3, 40, trained.model.encoder.width)
    with torch.inference_mode():
        return trained.model(torch.tensor([[0, 5, 9]]), states_BKTD=states, frames_B=torch.tensor([40]))


def test_a_slim_run_says_what_the_run_says_and_holds_no_language_model(checkpoint, tmp_path):
    parameters = export_slim(checkpoint, tmp_path / "slim")
    state = load_file(tmp_path / "slim" / "checkpoints" / checkpoint.name / MODEL)
    assert parameters == sum(tensor.numel() for tensor in state.values()) < 1e6
    assert not any("wte" in name or "base_layer" in name for name in state)
    torch.testing.assert_close(says(tmp_path / "slim"), says(checkpoint), atol=0.1, rtol=0.02)


def test_it_is_replaced_whole_and_nothing_else_is(checkpoint, tmp_path):
    export_slim(checkpoint, tmp_path / "slim")
    export_slim(checkpoint, tmp_path / "slim")
    (tmp_path / "slim" / "thesis.txt").write_text("mine")
    with pytest.raises(OmniError, match="holds other things"):
        export_slim(checkpoint, tmp_path / "slim")


def test_one_that_fails_leaves_the_one_before_and_what_was_found_out_about_it(checkpoint, tmp_path, monkeypatch):
    slim = tmp_path / "slim"
    export_slim(checkpoint, slim)
    (slim / "hearing").mkdir()
    (slim / "hearing" / "test.json").write_text("{}")
    before = {path: path.read_bytes() for path in slim.rglob("*") if path.is_file()}
    later = checkpoint.rename(checkpoint.with_name("step_000009"))
    with monkeypatch.context() as patch:
        patch.setattr("omni.config.slim.save_file", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export_slim(later, slim)
    assert {path: path.read_bytes() for path in slim.rglob("*") if path.is_file()} == before
    assert [path.name for path in (slim / "checkpoints").iterdir()] == ["step_000007"]
    export_slim(later, slim)
    assert [path.name for path in (slim / "checkpoints").iterdir()] == ["step_000009"]
    assert (slim / "hearing" / "test.json").read_text() == "{}"


def test_its_language_model_is_exported_for_nanochat_with_adapters_merged(checkpoint, tmp_path):
    slim = tmp_path / "slim"
    export_slim(checkpoint, slim)
    export(Export(run=str(slim), to=str(tmp_path / "nanochat"), format=Format.nanochat))
    theirs, tokenizer = load_gpt(tmp_path / "nanochat")
    ours = load_trained(str(slim), device="cpu", precision="fp32")
    assert tokenizer.fingerprint == ours.tokenizer.fingerprint
    for name, tensor in ours.model.backbone.state_dict().items():
        torch.testing.assert_close(theirs.state_dict()[name], tensor, rtol=0, atol=1e-6)
    if load(slim).stage.lora is not None:
        assert adapter_state(load_adapted(slim)).keys() == adapter_state(load_adapted(checkpoint)).keys()


def test_a_slim_run_that_does_not_say_where_its_language_model_is_is_named(checkpoint, tmp_path):
    export_slim(checkpoint, tmp_path / "slim")
    config, cfg = tmp_path / "slim" / "config.yaml", load(tmp_path / "slim")
    for source in (None, str(tmp_path / "slim")):
        cfg.backbone.init_from = source
        OmegaConf.save(cfg, config)
        with pytest.raises(OmniError, match=r"model\.safetensors: holds no language model, and backbone\.init_from"):
            load_gpt(tmp_path / "slim")


def test_a_language_model_that_was_trained_too_is_not_left_out(checkpoint, tmp_path):
    model = load_file(checkpoint / MODEL)
    name = next(name for name in model if name.endswith("wte.weight"))
    save_file(model | {name: model[name] + 0.01}, checkpoint / MODEL)
    with pytest.raises(ConfigError, match="export it whole"):
        export_slim(checkpoint, tmp_path / "slim")
    assert not (tmp_path / "slim").exists()
