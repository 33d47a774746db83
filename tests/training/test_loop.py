"""The loop on a tiny pipeline: what trains, what it measures, and that it can be cut anywhere."""

import copy
import time

import pytest
import torch

from omni.data.features import Example
from omni.data.feed import ClipFeed
from omni.errors import OmniError
from omni.model.gpt import GPT
from omni.model.omni import Omni
from omni.model.projector import StackMLP
from omni.training.checkpoint import load_checkpoint, save_checkpoint
from omni.training.freeze import freeze
from omni.training.loop import NotFiniteError, Trainer
from omni.training.optimizer import adamw
from omni.training.schedule import Schedule
from omni.training.throughput import data_wait

FLAT = Schedule(max_steps=100, warmup_steps=0, warmdown=0.0, final=0.0)


class Noisy(StackMLP):
    """A projector with noise, so that a run draws random numbers as it trains."""

    def __init__(self, **keys):
        super().__init__(**keys)
        self.noise = torch.nn.Dropout(0.1)

    def mix(self, frames_BTD, lengths_B):
        return self.noise(super().mix(frames_BTD, lengths_B))


def examples(count: int = 6) -> list[Example]:
    generator = torch.Generator().manual_seed(3)
    return [
        Example(
            f"clip{i}",
            torch.randn(1, 9 + 5 * i, 16, generator=generator),
            torch.randint(0, 256, (4 + i,), generator=generator),
        )
        for i in range(count)
    ]


def pipeline(dtype: torch.dtype = torch.float32, **keys) -> Omni:
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
    sizes = {"sequence_len": 128, "vocab_size": 257, "n_layer": 2, "n_head": 1, "n_kv_head": 1, "n_embd": 32}
    backbone = GPT(**sizes, dtype=dtype, **keys)
    return Omni(encoder=encoder, projector=Noisy(in_dim=16, out_dim=32, stack=4), backbone=backbone)


class Falling(Schedule):
    """A rate that differs at every step, so that a resumed run that forgot where it was would show."""

    def apply(self, optimizer, step: int) -> float:
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) / (1 + step)
        return 1 / (1 + step)


def feed(model: Omni, data=None, batch_size: int = 4) -> ClipFeed:
    return ClipFeed(data or examples(), check_fits=model.check_fits, bos=256, batch_size=batch_size, seed=1)


def trainer(model: Omni, data=None, lr: float = 1e-2, batch_size: int = 4, **keys) -> Trainer:
    optimizer = adamw(model, lr=lr, betas=[0.9, 0.95], eps=1e-8, weight_decay=0.1)
    falling = Falling(max_steps=6, warmup_steps=0, warmdown=0.0, final=0.0)
    shape = {"schedule": falling, "max_steps": 6}
    return Trainer(model, optimizer, feed(model, data, batch_size), **shape | keys)


def test_the_loss_falls_and_the_rate_is_told():
    seen = list(trainer(pipeline(), max_steps=20, schedule=FLAT, lr=0.005).steps())
    assert [step for step, _ in seen] == list(range(1, 21))
    assert seen[-1][1]["loss"] < 0.8 * seen[0][1]["loss"]
    assert {values["lr"] for _, values in seen} == {0.005}
    assert all(values["grad_norm"] > 0 for _, values in seen)


def test_accumulated_passes_equal_one_large_batch():
    whole, parts = pipeline(), pipeline()
    whole.projector.noise.p = parts.projector.noise.p = 0.0
    one = list(trainer(whole, batch_size=6, max_steps=3).steps())
    three = list(trainer(parts, batch_size=2, accumulate=3, max_steps=3).steps())
    for (_, a), (_, b) in zip(one, three, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    for left, right in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-3, rtol=1e-2)


def test_what_a_step_waits_for_its_batches_is_told_apart():
    class Slow(ClipFeed):
        def batch(self, number):
            time.sleep(0.05)
            return super().batch(number)

    made = trainer(pipeline(), accumulate=2, max_steps=3)
    made.feed = Slow(examples(), check_fits=made.feed.check_fits, bos=256, batch_size=4, seed=1)
    next(made.steps())
    assert data_wait(made) is None  # the first step does not count
    list(made.steps())
    assert made.seconds > made.waited > 0.2
    assert data_wait(made) == made.waited / made.seconds
    quick = trainer(pipeline(), max_steps=3)
    list(quick.steps())
    assert data_wait(quick) < 0.3


def test_what_is_frozen_does_not_move_and_keeps_no_gradient():
    model = pipeline()
    freeze(model, ["backbone.*"])
    before = copy.deepcopy(model.state_dict())
    list(trainer(model).steps())
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[0] for name in moved} == {"projector"}
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


def test_a_frozen_part_is_put_into_eval_mode_and_the_encoder_never_leaves_it():
    model = pipeline()
    freeze(model, ["backbone.*"])
    next(trainer(model).steps())
    assert model.projector.noise.training
    assert not model.backbone.training
    assert not any(module.training for module in model.encoder.modules())
    assert not any(parameter.requires_grad for parameter in model.encoder.parameters())


def test_each_group_keeps_its_own_rate():
    model = pipeline()
    optimizer = torch.optim.AdamW(
        [{"params": model.projector.parameters(), "lr": 0.1}, {"params": model.backbone.parameters(), "lr": 0.01}]
    )
    half = Schedule(max_steps=6, warmup_steps=2, warmdown=0.0, final=0.0)
    next(Trainer(model, optimizer, feed(model), schedule=half, max_steps=3).steps())
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.005])


def test_a_clip_longer_than_the_context_is_met_before_it_is_run():
    run = trainer(pipeline(), [*examples(5), Example("endless", torch.zeros(1, 600, 16), torch.zeros(4).long())])
    with pytest.raises(OmniError, match="'endless': 150 soft tokens"):
        list(run.steps())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_run_cut_at_any_step_goes_on_to_the_bit(tmp_path, dtype):
    whole = trainer(pipeline(dtype))
    expected = list(whole.steps())
    for cut in range(1, 6):
        first = trainer(pipeline(dtype))
        for step, _ in first.steps():
            if step == cut:
                break
        folder = save_checkpoint(tmp_path / str(cut), first.model, first.state_dict(), keep=1)
        torch.manual_seed(999)  # another process has other random states
        second = trainer(pipeline(dtype))
        second.load_state_dict(load_checkpoint(folder, second.model))
        assert list(second.steps()) == expected[cut:]
        for name, tensor in second.model.state_dict().items():
            assert torch.equal(tensor, whole.model.state_dict()[name]), name


def test_nan_stops_before_the_weights_are_touched_and_names_step_and_clips():
    data = examples()
    data[4].states_KTD[0, 2, 3] = float("nan")
    run = trainer(pipeline(), data, batch_size=1)
    with pytest.raises(NotFiniteError, match=r"step \d: the loss is nan on the batch of: clip4"):
        list(run.steps())
    assert all(torch.isfinite(parameter).all() for parameter in run.model.parameters())


def test_a_gradient_that_overflows_stops_too():
    model = pipeline()
    model.backbone.lm_head.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(NotFiniteError, match="gradient norm"):
        list(trainer(model).steps())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointed_blocks_train_to_the_same_bits_and_keep_less(dtype):
    plain, lean = (trainer(pipeline(dtype, checkpointing=checkpointing)) for checkpointing in (False, True))
    assert kept_for_backward(lean) < 0.6 * kept_for_backward(plain)
    assert list(lean.steps()) == list(plain.steps())
    for ours, theirs in zip(lean.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def kept_for_backward(run: Trainer) -> int:
    """Bytes of the tensors that one forward pass keeps."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.setdefault(tensor.untyped_storage().data_ptr(), tensor), lambda tensor: tensor
    ):
        run.model(**next(run.feed).inputs)
    run.feed.load_state_dict({"number": 0})
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.slow
def test_compiled_training_equals_eager():
    eager, compiled = (
        list(trainer(model, compile=compile).steps()) for model, compile in ((quiet(), False), (quiet(), True))
    )
    for (_, a), (_, b) in zip(eager, compiled, strict=True):
        assert a == pytest.approx(b, rel=1e-3)


def quiet() -> Omni:
    model = pipeline()
    model.projector.noise.p = 0.0  # a compiled dropout draws other numbers
    return model
