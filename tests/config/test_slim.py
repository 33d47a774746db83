from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from omni.config.build import adapt, build_model
from omni.config.check import ConfigError
from omni.config.compose import compose
from omni.config.render import render
from omni.config.slim import export_slim
from omni.config.trained import load_trained
from omni.errors import OmniError
from omni.model.init_from import load_backbone
from omni.model.layout import MODEL
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


def test_a_language_model_that_was_trained_too_is_not_left_out(checkpoint, tmp_path):
    model = load_file(checkpoint / MODEL)
    name = next(name for name in model if name.endswith("wte.weight"))
    save_file(model | {name: model[name] + 0.01}, checkpoint / MODEL)
    with pytest.raises(ConfigError, match="export it whole"):
        export_slim(checkpoint, tmp_path / "slim")
    assert not (tmp_path / "slim").exists()
