import pytest
from hydra import compose, initialize_config_dir

from omni.config.check import ConfigError
from omni.config.paths import conf_dir
from omni.config.render import load, render, signature
from omni.config.schema import Device, register


def composed(*overrides: str):
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("train", overrides=list(overrides))


def test_a_saved_config_comes_back_with_its_types_and_signature(tmp_path):
    cfg = composed("stage.lr=3e-4", "device=cpu", "encoder.layers=[0,-1]")
    (tmp_path / "config.yaml").write_text(render(cfg))
    back = load(tmp_path)
    assert back.device is Device.cpu
    assert back.stage.lr == 3e-4
    assert back.backbone.n_embd == 384
    assert signature(back) == signature(cfg)
    assert render(back) == render(cfg)


def test_the_signature_tells_computations_apart_and_nothing_else():
    same = {signature(composed(*o)) for o in ([], ["device=cpu"], ["logger=csv"], ["resume=outputs/latest"])}
    assert len(same) == 1
    other = {signature(composed(o)) for o in ("seed=2", "stage.lr=2e-3", "precision=fp32", "projector=conv")}
    assert len(same | other) == 5


def test_a_broken_config_is_still_shown():
    cfg = composed("stage.project=${nowhere}")
    assert "${nowhere}" in render(cfg)
    assert signature(cfg) is None


def test_a_run_whose_gate_asked_for_one_metric_is_still_read(tmp_path):
    text = render(composed()).replace("loss_drop: 0.5", "metric: loss_drop\n    threshold: 0.5")
    assert "metric: loss_drop" in text
    (tmp_path / "config.yaml").write_text(text)
    assert load(tmp_path).stage.gate == {"loss_drop": 0.5}


@pytest.mark.parametrize("content", [None, "stage: [", "stage: 3", "zoo: 1"])
def test_a_damaged_config_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read"):
        load(tmp_path)
