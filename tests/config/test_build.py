"""Objects from configuration: devices, precision, seeds, and classes that are not omni's."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from omni.config.build import build, build_loggers, build_model
from omni.config.check import ConfigError
from omni.config.device import pick_device, warn_of_emulation
from omni.config.make import frozen_encoder, make
from omni.config.paths import conf_dir
from omni.config.schema import register
from omni.model import precision
from omni.model.encoder import RandomWhisperEncoder
from omni.record.facts import tell_parts
from omni.record.run import Run, read_run


def composed(*overrides: str):
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("train", overrides=["encoder=whisper_random", "backbone=gpt_d2", *overrides])


def test_another_projector_leaves_the_start_of_the_backbone_as_it_is():
    cpu = torch.device("cpu")
    models = [build_model(composed(f"projector={name}"), torch.float32, cpu) for name in ("mlp", "conv")]
    for name, tensor in models[0].backbone.state_dict().items():
        assert torch.equal(tensor, models[1].backbone.state_dict()[name]), name
    other = build_model(composed("seed=2"), torch.float32, cpu)
    assert not torch.equal(other.backbone.transformer.wte.weight, models[0].backbone.transformer.wte.weight)


def test_the_jobs_of_a_sweep_share_encoder_and_features():
    first, second = build(composed("projector=mlp", "device=cpu")), build(composed("projector=conv", "device=cpu"))
    assert first.model.encoder is second.model.encoder
    assert first.trainer.feed.examples is second.trainer.feed.examples
    other = build(composed("encoder.context=crop", "device=cpu"))
    assert other.model.encoder is not first.model.encoder
    assert other.trainer.feed.examples is not first.trainer.feed.examples


def test_changed_copies_are_trained_on_in_memory_too(tmp_path):
    plain = build(composed("device=cpu"))
    both = build(composed("augment=speech", "augment.copies=1", "device=cpu"))
    assert (len(plain.trainer.feed.examples), len(both.trainer.feed.examples)) == (5, 10)
    again = build(composed("augment=speech", "augment.copies=1", "augment.speed=[0.8]", "device=cpu"))
    frames = [built.trainer.feed.examples[5].states_KTD.size(1) for built in (both, again)]
    assert frames[0] != frames[1] == 313  # 5 s at 0.8 of the speed


@pytest.mark.parametrize("lacks", ["signature", "frame_rate"])
def test_states_on_disk_ask_of_an_encoder_what_they_need(tmp_path, monkeypatch, lacks):
    cfg = composed("device=cpu", f"features={tmp_path}")
    monkeypatch.delattr(RandomWhisperEncoder.__mro__[1], lacks)
    frozen_encoder.cache_clear()
    with pytest.raises(ConfigError, match=f"features: the encoder has no `{lacks}`"):
        build(cfg)
    frozen_encoder.cache_clear()


def test_a_device_that_is_not_there_is_refused():
    assert pick_device("auto").type in ("cuda", "mps", "cpu")
    absent = next(name for name in ("cuda", "mps") if pick_device("auto").type != name)
    with pytest.raises(ConfigError, match=f"device: {absent} is not available here"):
        pick_device(absent)


CHOSEN = {  # on a device with and without bf16: what encoder and backbone compute in
    (): ("bfloat16", "bfloat16", "float32", "float32"),
    ("precision=fp32",): ("float32", "float32", "float32", "float32"),
    ("precision=bf16",): ("bfloat16", "bfloat16", "bfloat16", "bfloat16"),
    ("encoder.dtype=fp32",): ("float32", "bfloat16", "float32", "float32"),
    ("encoder.dtype=bf16", "precision=fp32"): ("bfloat16", "float32", "bfloat16", "float32"),
}


@pytest.mark.parametrize("overrides", CHOSEN, ids=" ".join)
def test_encoder_and_backbone_compute_in_what_the_device_multiplies_natively(monkeypatch, caplog, tmp_path, overrides):
    found = []
    for native in (True, False):
        monkeypatch.setattr(precision, "multiplies_bf16", lambda device, native=native: native)
        warn_of_emulation.cache_clear()
        caplog.clear()
        for built in [build(composed("device=cpu", f"features={tmp_path}", *overrides)) for _ in range(2)]:
            encoder, backbone = built.model.encoder.signature["dtype"], str(built.model.backbone.dtype)
        found += [encoder, backbone.removeprefix("torch.")]
        assert caplog.text.count("emulated") == ("bf16" in str(overrides) and not native)
    assert tuple(found) == CHOSEN[overrides]


def test_bf16_is_native_where_processor_onednn_and_torch_have_it(monkeypatch):
    def has(processor: bool, onednn: bool, torch_uses: str) -> bool:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: processor)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: torch_uses)
        return precision.multiplies_bf16(torch.device("cpu"))

    assert has(True, True, "AVX512") == torch.backends.mkldnn.is_available()
    assert not has(False, True, "AVX512")  # one that oneDNN can emulate it on
    assert not has(True, False, "AVX512")  # masked by ONEDNN_MAX_CPU_ISA
    assert not has(True, True, "AVX2")  # masked by ATEN_CPU_CAPABILITY


def test_a_trained_encoder_computes_in_what_it_is_used_in():
    cfg = composed("encoder.dtype=bf16")
    assert build_model(cfg, torch.float32, torch.device("cpu"), trained=True).encoder.signature["dtype"] == "float32"


def test_a_run_records_what_encoder_and_backbone_compute_in(tmp_path, caplog):
    built = build(composed("device=cpu", "precision=fp32", "encoder.dtype=bf16", f"features={tmp_path / 'states'}"))
    told = {"precision": built.precision, "device": built.device}
    caplog.set_level("INFO")
    with Run.start(tmp_path / "run", config_yaml="", facts={}) as run:
        run.begin()
        tell_parts(run, built.model, None, **told)
        assert "float32 arithmetic on cpu, encoder in bfloat16" in caplog.text
        tell_parts(run, built.model.to(torch.float32), None, **told)
        assert "encoder in bfloat16 so far, float32 from here on" in caplog.text
    data = read_run(run.folder)
    assert (data["precision"], data["encoder"]["precision"]) == ("float32", "float32")


def test_a_logger_is_given_what_it_asks_for_and_csv_comes_first(tmp_path):
    cfg = OmegaConf.create(
        {
            "logger": {
                "counter": {"_target_": "collections.Counter"},
                "csv": {"_target_": "omni.record.metrics.CsvLogger"},
            }
        }
    )
    csv, counter = build_loggers(cfg, tmp_path, name="run", config={})
    assert type(csv).__name__ == "CsvLogger"
    assert counter["folder"] == tmp_path


def test_a_class_that_does_not_take_its_keys_is_named():
    with pytest.raises(ConfigError, match=r"projector: torch\.nn\.Linear takes in_features.*'loud'"):
        make(
            OmegaConf.create({"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1, "loud": 2}),
            "projector",
        )


def test_nested_objects_and_plain_lists():
    node = OmegaConf.create(
        {
            "_target_": "argparse.Namespace",
            "inner": {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 2},
        }
    )
    node.names = ["a", "b"]
    made = make(node, "anything")
    assert isinstance(made.inner, torch.nn.Linear)
    assert type(made.names) is list
