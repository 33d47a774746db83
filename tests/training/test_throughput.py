"""What a run says of its speed, with the clock held still."""

import pytest
import torch

from omni.data.batch import Batch
from omni.model.gpt import GPT
from omni.model.omni import Omni
from omni.training.loop import Trainer
from omni.training.optimizer import adamw
from omni.training.rates import matmul_rate
from omni.training.scaling import Sizes, flops_per_token
from omni.training.schedule import Schedule
from omni.training.throughput import measure_throughput

SIZES = Sizes(n_layer=2, n_embd=32, n_head=1, n_kv_head=1, vocab_size=257, sequence_len=128)


class Growing:
    """Two rows a batch, each batch a token longer than the last, from 8; three of them soft."""

    def __init__(self):
        self.length = 7

    def __next__(self) -> Batch:
        self.length += 1
        idx = torch.randint(0, 256, (2, self.length - 3))
        inputs = {"idx_BL": idx, "targets_BL": idx.roll(-1, 1), "audio_features": torch.randn(2, 3, SIZES.n_embd)}
        return Batch(inputs, graded=idx.numel(), names=[])


def trainer(steps: int) -> Trainer:
    torch.manual_seed(1)
    names = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd")
    model = Omni(encoder=None, projector=None, backbone=GPT(**{name: getattr(SIZES, name) for name in names}))
    optimizer = adamw(model, lr=1e-3, betas=[0.9, 0.95], eps=1e-8, weight_decay=0.0)
    schedule = Schedule(max_steps=steps, warmup_steps=0, warmdown=0.0, final=0.0)
    made = Trainer(model, optimizer, Growing(), schedule=schedule, max_steps=steps, accumulate=2)
    list(made.steps())
    return made


def test_every_step_but_the_first_counts_with_the_tokens_it_had():
    made = trainer(3)
    assert made.seconds > 0
    made.seconds = 0.5
    speed = measure_throughput(made, SIZES, torch.float32)
    lengths = (10, 11, 12, 13)  # 8 and 9 were the first step's
    assert speed.tokens == pytest.approx(sum(2 * length for length in lengths) / 0.5)
    assert speed.flops == pytest.approx(sum(2 * length * flops_per_token(SIZES, length) for length in lengths) / 0.5)
    assert speed.flops / speed.mfu == pytest.approx(matmul_rate(made.device, torch.float32), rel=0.9)


def test_a_run_of_one_step_has_no_speed():
    assert measure_throughput(trainer(1), SIZES, torch.float32) is None
