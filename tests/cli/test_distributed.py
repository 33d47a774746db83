"""The real command under torchrun: two processes on the CPU, held against one, which is run right here."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import omni.train
from omni.config.check import ConfigError
from omni.config.compose import compose
from omni.record.progress import Progress
from omni.train import refuse_uneven_shares
from omni.training.distributed import World

ONE = (sys.executable, "-m", "omni.train")
TWO = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "omni.train")
BYTES = ("backbone=gpt_d2", "backbone.tokenizer=bytes", "backbone.vocab_size=257", "backbone.sequence_len=64")
BASE = ("stage=w0_base", *BYTES, "dataset=text", "dataset.path=text.jsonl", "logger=csv", "device=cpu")
# Two passes a step: their gradients add up to the same bits in either order, and Muon makes much of small noise.
SHAPE = ("stage.batch_size=4", "stage.accumulate=2", "stage.warmup_steps=10")
LOOKS = ("stage.max_steps=16", "stage.eval_every=5", "stage.eval_tokens=256", "stage.checkpoint_every=100")
RUN = (*BASE, *SHAPE, *LOOKS)
FAULTY = (
    *(word for word in RUN if "checkpoint_every" not in word),
    "backbone._target_=faulty.Faulty",
    "stage.checkpoint_every=1",
)
WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "my", "dog", "ran", "home", "while", "it", "was", "late"]

FAULTS = """
import os, signal
from omni.model.gpt import GPT

class Faulty(GPT):
    calls = 0

    def forward(self, *args, **keys):
        loss = super().forward(*args, **keys)
        self.calls += self.training and os.environ["RANK"] == "1"
        if self.calls < 3:
            return loss
        if os.environ["FAULT"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ["FAULT"] == "bug":
            raise ValueError("a bug of my own")
        return loss * float("nan")
"""


def start(cwd: Path, command: tuple[str, ...], *overrides: str, **env: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*command, *overrides],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
    )


def train(cwd: Path, command: tuple[str, ...], *overrides: str, **env: str) -> tuple[int, str]:
    """The exit status, and what was said."""
    process = start(cwd, command, *overrides, **env)
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def train_here(cwd: Path, folder: str, *overrides: str) -> None:
    """A run of one process, without the seconds that another interpreter takes to import torch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with chdir(cwd):
            omni.train.train(World(), compose([*overrides]), Path(folder), [*overrides])
    finally:
        torch.set_num_threads(threads)


def runs(cwd: Path) -> list[Path]:
    return sorted(path.parent for path in cwd.glob("outputs/**/run.json"))


def told(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def metrics(run: Path) -> list[list[float]]:
    with (run / "metrics.csv").open() as file:
        return [[float(value or "nan") for value in row] for row in list(csv.reader(file))[1:]]


def steps_done(cwd: Path) -> int:
    return sum(len(path.read_text().splitlines()) - 1 for path in cwd.glob("outputs/**/metrics.csv"))


def assert_equal(one: Path, other: Path) -> None:
    assert len(metrics(one)) == len(metrics(other)) > 0
    for ours, theirs in zip(metrics(one), metrics(other), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, nan_ok=True)


def write_corpus(cwd: Path) -> None:
    draw = random.Random(1)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(5, 60))) for _ in range(300)]
    (cwd / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """A run of one process that nobody stopped."""
    cwd = tmp_path_factory.mktemp("reference")
    write_corpus(cwd)
    train_here(cwd, "outputs/runs/one", *RUN)
    return cwd / "outputs" / "runs" / "one"


def test_a_run_goes_from_one_process_to_two_and_back_as_if_never_stopped(reference, tmp_path, monkeypatch):
    """No document is lost or repeated, and one folder holds it all."""
    write_corpus(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "update", lambda _, step, __: step == 3 and signal.raise_signal(signal.SIGTERM))
        with pytest.raises(KeyboardInterrupt, match="stopped after step 3"):
            train_here(tmp_path, "outputs/runs/one", *RUN)
    process = start(tmp_path, TWO, "resume=outputs/latest")
    while steps_done(tmp_path) < 6:  # with a look
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    (run,) = runs(tmp_path)
    assert told(run)["status"] == "interrupted", output
    assert told(run)["processes"] == 2
    assert f"resume={run}" in output
    assert process.returncode == 1  # torchrun has a status of its own
    assert 6 <= steps_done(tmp_path) < 16
    train_here(tmp_path, "outputs/runs/one", "resume=outputs/latest")
    assert runs(tmp_path) == [run]
    assert told(run)["status"] == "passed"
    assert told(run)["processes"] == 1
    assert_equal(run, reference)
    looks = [line for line in (run / "samples.txt").read_text().splitlines() if "The sun" in line]
    assert looks == [
        line for line in (reference / "samples.txt").read_text().splitlines() if "The sun" in line
    ]  # the first process alone looks
    assert {path.name for path in run.iterdir()} - {"train.log"} == {path.name for path in reference.iterdir()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs", "text.jsonl"]


@pytest.mark.slow
def test_a_stage_that_hears_is_shared_too(tmp_path):
    overrides = ("encoder=whisper_random", "backbone=gpt_d2", "logger=csv", "device=cpu", "stage.gate=null")
    overrides = (*overrides, "texture=parts")
    overrides = (*overrides, "stage.accumulate=2", "stage.batch_size=3", "stage.max_steps=4")
    for command in (ONE, TWO):
        status, output = train(tmp_path, command, *overrides)
        assert status == 0, output
    assert_equal(*runs(tmp_path))


@pytest.mark.slow
def test_nan_in_one_process_stops_all_and_is_told_once(tmp_path):
    write_corpus(tmp_path)
    (tmp_path / "faulty.py").write_text(FAULTS)
    status, output = train(tmp_path, TWO, *FAULTY, FAULT="nan")
    assert status == 1
    assert output.count("error: step 3: the loss is nan on the batch of: text rows") == 1
    (run,) = runs(tmp_path)
    assert told(run)["status"] == "failed"
    assert "the loss is nan" in told(run)["error"]
    assert max(path.name for path in (run / "checkpoints").iterdir()) == "step_000002"


@pytest.mark.parametrize(
    ("passes", "size", "more", "fewer"), [(3, 2, 4, 1), (1, 8, 8, 1), (12, 8, 16, 6), (20, 16, 32, 10)]
)
def test_passes_that_cannot_be_shared_evenly_are_refused(passes, size, more, fewer):
    cfg = OmegaConf.create({"stage": {"accumulate": passes}})
    with pytest.raises(ConfigError, match=rf"stage\.accumulate: {size} processes .* {passes} forward") as refused:
        refuse_uneven_shares(cfg, World(size=size))
    assert f"set stage.accumulate={more} " in str(refused.value)
    assert str(refused.value).endswith(f"or start {fewer}")
    refuse_uneven_shares(cfg, World(size=fewer))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [("bug", "error: process 1 of 2: ValueError: a bug of my own at"), ("kill", "error: another process of the run")],
)
def test_a_process_that_fails_or_dies_hangs_nobody(tmp_path, fault, said):
    write_corpus(tmp_path)
    (tmp_path / "faulty.py").write_text(FAULTS)
    status, output = train(tmp_path, TWO, *FAULTY, FAULT=fault)
    assert status == 1
    (run,) = runs(tmp_path)
    if fault == "bug" or told(run)["status"] == "failed":  # torchrun may interrupt the first before it has noticed
        assert output.count(said) == 1
    if fault == "bug":
        assert "in forward" in (run / "error.txt").read_text()
    assert told(run)["status"] in ("failed", "interrupted")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cfg", "job"), "sequence_len: 64"),
        (("-m", "seed=1,2"), "error: -m: several processes share one run"),
        (("stage.accumulate=3",), "error: stage.accumulate: 2 processes cannot share 3 forward passes a step evenly"),
        (("stage.typo=3",), "error: stage.typo: unknown key"),
        (("stage.max_steps=many",), "error: stage.max_steps: Value 'many'"),
    ],
)
def test_what_does_not_train_ends_at_once_and_is_said_once(tmp_path, words, said):
    write_corpus(tmp_path)
    kept = [word for word in RUN if word.partition("=")[0] != words[-1].partition("=")[0]]
    status, output = train(tmp_path, TWO, *kept, *words)
    assert status == (0 if "--cfg" in words else 1)
    assert output.count(said) == 1
    assert "--cfg" in words or output.count("error: ") == 1
    assert steps_done(tmp_path) == 0


@pytest.mark.slow
def test_compiled_w0_base_equals_eager(reference, tmp_path):
    write_corpus(tmp_path)
    status, output = train(tmp_path, ONE, *RUN, "compile=true")
    assert status == 0, output
    (run,) = runs(tmp_path)
    for ours, theirs in zip(metrics(run), metrics(reference), strict=True):  # it adds up in another order
        assert ours == pytest.approx(theirs, rel=1e-2, nan_ok=True)
        assert ours[1] == pytest.approx(theirs[1], rel=1e-4)
