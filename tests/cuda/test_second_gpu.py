"""A process whose GPU is not the first: what threads do, which GPUs two processes may have, fp32's arithmetic."""

import json
from pathlib import Path

import pytest
import torch

from omni.audio.tones import write_smoke_clips
from omni.config.build import build
from omni.config.compose import compose
from omni.config.device import pick_device
from omni.errors import OmniError
from omni.train import encode_ahead
from omni.training.distributed import World
from omni.training.loop import Trainer


class OneOfMany(World):
    """As if the others had the same to say, but for the names of their GPUs."""

    def gather(self, value):
        return [f"{value} of {rank}" if isinstance(value, str) else value for rank in range(self.size)]

    def share_weights(self, parameters) -> None: ...

    def add(self, tensors) -> None: ...

    def add_gradients(self, parameters) -> None: ...


W2 = [
    *("stage=w2_align", "encoder=whisper_random", "backbone=gpt_d2", "backbone.tokenizer=bytes"),
    *("backbone.vocab_size=257", "backbone.sequence_len=512", "dataset=manifest", "dataset.path=clips/all.jsonl"),
    *("~augment", "features=features", "precision=fp32", "logger=[csv]"),
    *("stage.batch_size=2", "stage.accumulate=2", "stage.max_steps=3", "stage.gate=null", "stage.warmup_steps=0"),
]


class OnOneGpu(OneOfMany):
    def gather(self, value):
        return [value] * self.size


def trained(device: str) -> tuple[torch.device, list[dict], list[torch.Tensor]]:
    """What the second of two processes finds in three steps."""
    built = build(compose([*W2, f"device={device}"]))
    built.trainer.join(OneOfMany(rank=1, size=2, local_rank=1))
    for _ in encode_ahead(built):
        pass
    steps = [values for _, values in built.trainer.steps()]
    return built.trainer.device, steps, [p.detach().to("cpu") for p in built.trainer.trainable]


def test_a_stage_that_hears_trains_on_the_second_gpu_as_on_the_cpu(gpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_smoke_clips(tmp_path / "clips")
    rows = [json.loads(line) for line in Path("clips/manifest.jsonl").read_text().splitlines()]
    rows = [row | {"id": f"{row['id']} {split}", "split": split} for split in ("train", "val") for row in rows]
    Path("clips/all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _, expected, weights = trained("cpu")
    gpus(2)
    torch.cuda.set_device(1)  # as `join_world` does
    device, steps, found = trained("cuda")
    assert device == torch.device("cuda", 1)
    assert len(steps) == 3
    assert steps == expected
    for ours, theirs in zip(found, weights, strict=True):
        assert torch.equal(ours, theirs)


def test_the_device_has_its_number_and_multiplies_fp32_as_tf32(gpus):
    gpus(4)
    torch.cuda.set_device(3)
    assert pick_device("cuda") == pick_device("auto") == torch.device("cuda", 3)
    assert torch.get_float32_matmul_precision() == "high"


def test_each_process_may_see_its_own_gpu_alone_and_no_two_share_one(gpus):
    gpus(1)  # as Slurm's --gpus-per-task=1 has it
    model = torch.nn.Linear(2, 2).to(pick_device("cuda"))
    trainer = Trainer(model, torch.optim.SGD(model.parameters()), feed=None, schedule=None, max_steps=1)
    trainer.join(OneOfMany(rank=3, size=4, local_rank=3))
    assert trainer.world.size == 4
    with pytest.raises(OmniError, match="4 processes share 1 GPUs"):
        trainer.join(OnOneGpu(rank=3, size=4, local_rank=3))
