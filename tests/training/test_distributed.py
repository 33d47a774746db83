"""Two processes against one, at the same global batch: same losses, same weights, same random numbers.

This file is also the program that the processes run: one interpreter that forks, since torch is imported once then.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from omni.data.batch import Batch
from omni.data.features import Example
from omni.data.feed import ClipFeed, Turns
from omni.errors import OmniError
from omni.model.gpt import GPT
from omni.model.omni import Omni
from omni.model.projector import StackMLP
from omni.model.texture import PartStatistics
from omni.training.distributed import LostError, World, join_world
from omni.training.loop import NotFiniteError, Trainer
from omni.training.optimizer import adamw
from omni.training.schedule import Schedule

FLAT = Schedule(max_steps=100, warmup_steps=0, warmdown=0.0, final=0.0)


class Noisy(StackMLP):
    """A projector with dropout, so that a pass draws random numbers."""

    def __init__(self, **keys):
        super().__init__(**keys)
        self.noise = torch.nn.Dropout(0.3)

    def mix(self, frames_BTD, lengths_B):
        return self.noise(super().mix(frames_BTD, lengths_B))


class Sentences:
    """A feed of text alone, ragged by batch; `bad` batches are of another kind of number."""

    def __init__(self, bad: int | None = None):
        self.number, self.bad = 0, bad

    def __next__(self) -> Batch:
        generator = torch.Generator().manual_seed(self.number)
        idx = torch.randint(0, 256, (2, 5 + self.number % 3), generator=generator)
        if self.number == self.bad:
            raise OmniError(f"sentence {self.number} is rotten")
        self.number += 1
        return Batch({"idx_BL": idx, "targets_BL": idx.roll(-1, 1)}, graded=idx.numel(), names=[f"text {self.number}"])

    def skip(self) -> None:
        self.number += 1


def pipeline() -> Omni:
    torch.manual_seed(0)
    backbone = GPT(sequence_len=128, vocab_size=257, n_layer=2, n_head=1, n_kv_head=1, n_embd=32)
    texture = PartStatistics(n_states=1, width=16, out_dim=32, parts=2, hidden_dim=16, dropout=0.3)
    model = Omni(encoder=None, projector=Noisy(in_dim=16, out_dim=32, stack=4), texture=texture, backbone=backbone)
    torch.nn.init.normal_(backbone.lm_head.weight, std=0.1)  # or nothing behind it would have a gradient at first
    return model


def trainer(*, only_text: bool = False, rotten: float | None = None, bad: int | None = None) -> Trainer:
    """Text and clips in turn, so that of two processes one sees only text in a step, the other only clips."""
    model = pipeline()
    generator = torch.Generator().manual_seed(3)
    clips = [
        Example(
            f"clip{i}",
            torch.randn(1, 9 + 5 * i, 16, generator=generator),
            torch.randint(0, 256, (4 + i,), generator=generator),
        )
        for i in range(6)
    ]
    if rotten is not None:
        clips[4].states_KTD[0, 0, 0] = rotten
    feed = ClipFeed(clips, check_fits=model.check_fits, bos=256, batch_size=2, seed=1)
    shares = {"text": 1.0, "clips": 0.0} if only_text else {"text": 0.5, "clips": 0.5}
    optimizer = adamw(model, lr=1e-2, betas=[0.9, 0.95], eps=1e-4, weight_decay=0.1)  # eps: no noise made large
    turns = Turns({"text": Sentences(bad), "clips": feed}, shares)
    return Trainer(model, optimizer, turns, schedule=FLAT, max_steps=4, accumulate=4)


def weights(run: Trainer) -> dict[str, float]:
    """A figure for each parameter and each running statistic."""
    return {name: tensor.double().norm().item() for name, tensor in run.model.state_dict().items()}


def train(world: World, **keys) -> dict:
    run = trainer(**keys)
    if world.rank:
        with torch.no_grad():  # whatever its own start: the first process's is the one
            run.model.backbone.lm_head.weight.add_(1.0)
    run.join(world)
    return {"steps": [values for _, values in run.steps()], "weights": weights(run)}


def train_to_its_error(world: World, **keys) -> str:
    run = trainer(**keys)
    run.join(world)
    try:
        list(run.steps())
    except NotFiniteError as error:
        return str(error)
    return ""


def join_at_different_steps(world: World) -> str:
    run = trainer()
    run.done = world.rank
    try:
        run.join(world)
    except OmniError as error:
        return str(error)
    return ""


def fail_alone(world: World) -> str:
    """What the first process hears when the second meets a bad batch."""
    run = trainer(only_text=True, bad=3)
    run.join(world)
    try:
        list(run.steps())
    except LostError as error:
        return "\n".join([str(error), *error.__notes__])
    except OmniError as error:
        world.fail(error, str(error))
    return ""


def threads() -> int:
    """Of this process, those of gloo included, which Python does not know."""
    return len(list(Path("/proc/self/task").glob("*")))


def program(folder: Path) -> None:
    """What each process does; its findings in a file."""
    before = threads()
    with join_world() as world:
        found = {
            "mixed": train(world),
            "text": train(world, only_text=True),
            "nan": train_to_its_error(world, rotten=float("nan")),
            "apart": join_at_different_steps(world),
            "failed": fail_alone(world),
        }
    found["threads"] = threads() - before
    (folder / f"{world.rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict]:
    """What two processes found."""
    folder = tmp_path_factory.mktemp("found")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("case", ["mixed", "text"])
def test_two_processes_train_as_one(found, case):
    expected = train(World(), only_text=case == "text")
    assert len(expected["steps"]) == 4
    for values in (process[case] for process in found):
        for ours, theirs in zip(values["steps"], expected["steps"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)
        assert values["weights"] == pytest.approx(expected["weights"], rel=1e-5, abs=1e-5)
    assert found[0][case] == found[1][case]  # to the bit: nothing may drift apart
    assert ("loss_clips" in expected["steps"][0]) == (case == "mixed")


def test_what_no_process_uses_keeps_no_gradient_and_does_not_decay(found):
    before, after = weights(trainer()), found[0]["text"]["weights"]
    touched = {name for name in before if before[name] != after[name]}
    assert touched
    assert all(name.startswith("backbone.") for name in touched)


def test_nan_in_one_process_stops_all_with_the_same_words(found):
    assert "the loss is nan on the batch of" in found[0]["nan"]
    assert "clip4" in found[0]["nan"]
    assert found[1]["nan"] == found[0]["nan"] == train_to_its_error(World(), rotten=float("nan"))


def test_processes_that_stand_at_different_steps_do_not_go_on(found):
    assert "stand at steps [0, 1]" in found[0]["apart"] == found[1]["apart"]


def test_the_first_process_hears_why_another_failed(found):
    message, trace = found[0]["failed"].split("\n", 1)
    assert message == "process 1 of 2: sentence 3 is rotten"
    assert "in __next__" in trace


def test_no_thread_outlives_the_group(found):
    """One that did would now and then abort the interpreter's exit."""
    assert [process["threads"] for process in found] == [0, 0]


def test_alone_nothing_is_said_to_anybody():
    alone = World()
    assert alone.gather("x") == ["x"]
    assert alone.share("x") == "x"
    parameter = torch.nn.Parameter(torch.ones(2))
    alone.share_weights([parameter])
    alone.add_gradients([parameter])
    assert parameter.grad is None
    alone.close()


if __name__ == "__main__":
    child = os.fork()
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if child else "1"
    program(Path(sys.argv[1]))
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
