"""The command on a tiny pipeline where the size does not matter; in processes of their own where one is killed."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from omni.record.folder import hold, release
from omni.record.progress import Progress

TINY = ("encoder=whisper_random", "backbone=gpt_d2", "logger=csv", "device=cpu")
SHORT = (*TINY, "stage.max_steps=4", "stage.gate=null")
TWELVE = (*TINY, "stage.max_steps=12", "stage.lr=3e-3")
COMMAND = (sys.executable, "-m", "omni.train")
KILLED = """
import os, signal
from omni import train
from omni.record.progress import Progress

update = Progress.update

def die(self, step, values):
    update(self, step, values)
    if "loss" in values and step == int(os.environ["DIES_AFTER"]):
        os.kill(os.getpid(), signal.SIGKILL)

Progress.update = die
train.main()
"""


def process(cwd: Path, *overrides: str, **env: str) -> subprocess.CompletedProcess:
    line = [*COMMAND, *overrides]
    return subprocess.run(line, cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=600)


def runs(cwd: Path) -> list[Path]:
    return sorted(path.parent for path in cwd.glob("outputs/**/run.json"))


def told(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder that is no checkout, with one finished run in it."""
    cwd = tmp_path_factory.mktemp("home")
    done = process(cwd, *TWELVE, "stage.checkpoint_every=5")
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd


def test_a_run_leaves_everything_needed_to_repeat_it(home):
    (run,) = runs(home)
    for name in ("config.yaml", "run.json", "git.diff", "metrics.csv", "curve.png", "train.log"):
        assert (run / name).is_file(), name
    assert not (run / "error.txt").exists()
    assert {path.name for path in run.parent.parent.iterdir()} == {"w1_smoke"}
    assert (home / "outputs" / "latest").resolve() == run
    data = told(run)
    assert data["status"] == "passed"
    assert [each["metric"] for each in data["gate"]] == ["loss_drop"]
    assert data["gate"][0]["passed"]
    assert data["metrics"]["loss"]["first"] == pytest.approx(5.549, abs=0.01)
    assert data["parameters"]["trainable"] < data["parameters"]["all"]
    assert data["encoder"]["source"]
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step_000010", "step_000012"]
    assert len(losses(run)) == 12
    assert "PASS" in (run / "train.log").read_text()


def test_the_config_renders_within_seconds_and_without_torch(tmp_path):
    began = time.monotonic()
    shown = process(tmp_path, "--cfg", "job", "--resolve")
    assert time.monotonic() - began < 15  # about one; far from it only when torch is imported on a busy machine
    assert shown.returncode == 0
    assert "n_embd: 384" in shown.stdout
    assert not (tmp_path / "outputs").exists()
    code = "import sys; import omni.train; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_same_seed_gives_the_same_bits_and_another_another(home, tmp_path, train):
    assert train(tmp_path, *TWELVE).returncode == 0
    assert train(tmp_path, *TWELVE, "seed=2").returncode == 0
    first, second = runs(tmp_path)
    reference = (runs(home)[0] / "metrics.csv").read_bytes()
    assert (first / "metrics.csv").read_bytes() == reference
    assert (second / "metrics.csv").read_bytes() != reference


@pytest.mark.parametrize("after", [2, 7])
def test_kill_9_then_resume_gives_the_metrics_of_an_uninterrupted_run(home, tmp_path, after, train):
    """Killed before the first checkpoint (at 5) and between two of them."""
    reference = runs(home)[0]
    line = [sys.executable, "-c", KILLED, *TWELVE, "stage.checkpoint_every=5"]
    killed = subprocess.run(line, cwd=tmp_path, env=os.environ | {"DIES_AFTER": str(after)}, stdout=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    (run,) = runs(tmp_path)
    assert told(run)["status"] == "running"
    with (run / "metrics.csv").open("a") as file:
        file.write("8,5.0")  # a line cut in half by the kill
    resumed = train(tmp_path, f"resume={run}")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert (run / "metrics.csv").read_bytes() == (reference / "metrics.csv").read_bytes()
    assert told(run)["status"] == "passed"
    assert told(run)["resumed"] == 1
    assert told(run)["metrics"] == told(reference)["metrics"]
    assert runs(tmp_path) == [run]


def test_ctrl_c_saves_and_says_how_to_go_on(home, tmp_path, train, monkeypatch):
    update = Progress.update

    def interrupt(self, step, values):
        update(self, step, values)
        if "loss" in values and step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Progress, "update", interrupt)
    stopped = train(tmp_path, *TWELVE, "stage.checkpoint_every=100")
    assert stopped.returncode == 130, stopped.stderr
    (run,) = runs(tmp_path)
    assert told(run)["status"] == "interrupted"
    assert f"stopped after step 3; go on with resume={run}" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    monkeypatch.undo()
    assert train(tmp_path, "resume=outputs/latest").returncode == 0
    assert losses(run) == losses(runs(home)[0])


def test_a_run_that_is_still_running_is_not_resumed(home, train):
    held = hold(runs(home)[0])
    refused = train(home, "resume=outputs/latest")
    release(held)
    assert refused.returncode == 1
    assert f"still running (pid {told(runs(home)[0])['pid']}" in refused.stderr


def test_a_gate_that_is_not_met_fails_the_command(tmp_path, train):
    failed = train(tmp_path, *TINY, "stage.max_steps=2", "stage.gate.loss_drop=5")
    assert failed.returncode == 1
    assert "FAIL  loss_drop" in failed.stdout
    (run,) = runs(tmp_path)
    assert told(run)["status"] == "failed"
    assert told(run)["gate"][0]["passed"] is False


def test_a_sweep_makes_every_run_and_outlives_one_that_fails(tmp_path, train):
    swept = train(
        tmp_path, "-m", *SHORT, "stage=w1_smoke", "projector=mlp,stack_mlp", "encoder.layers=[-1],[9]", "seed=1"
    )
    assert swept.returncode == 1
    found = runs(tmp_path)
    assert [run.name for run in found] == ["0", "1", "2", "3"]
    assert [told(run)["status"] for run in found] == ["passed", "failed", "passed", "failed"]
    assert "encoder.layers: [9]" in (found[1] / "error.txt").read_text()
    assert "encoder.layers: [9]" in swept.stderr
    assert "Traceback" not in swept.stderr
    assert losses(found[0]) != losses(found[2])


OWN_CODE = '''
import torch

class Ear(torch.nn.Module):
    """Two numbers a frame of 1000 samples: mean and deviation."""

    source = "my own ear"

    def __init__(self, *, width):
        super().__init__()
        self.loudness = torch.nn.Linear(width, width)    # a careless encoder: trainable parameters, dropout
        self.dropout = torch.nn.Dropout(0.5)

    def forward(self, waveforms):
        rows = [w[: len(w) // 1000 * 1000].view(-1, 1000) for w in waveforms]
        states = [self.dropout(self.loudness(torch.stack([r.mean(1), r.std(1)], dim=-1)))[None] for r in rows]
        return torch.stack(states), torch.tensor([len(r) for r in rows])
'''


def test_an_encoder_of_ones_own_needs_no_change_to_omni(tmp_path, train):
    (tmp_path / "my_ear.py").write_text(OWN_CODE)
    folder = tmp_path / "my_conf" / "encoder"
    folder.mkdir(parents=True)
    (folder / "ear.yaml").write_text("_target_: my_ear.Ear\nwidth: 2\n")
    done = train(tmp_path, *SHORT[1:], "encoder=ear", "--config-dir", "my_conf", "projector.in_dim=2")
    assert done.returncode == 0, done.stderr
    assert told(runs(tmp_path)[0])["encoder"]["source"] == "my own ear"
    assert ["encoder", "6", "frozen"] in [line.split() for line in done.stdout.splitlines()]


def test_a_manifest_of_ones_own(home, tmp_path, train):
    for clip in ("low_tone", "two_notes"):
        shutil.copy(home / "data" / "audio_smoke" / f"{clip}.wav", tmp_path)
    rows = [{"audio": "low_tone.wav", "text": "hm"}, {"audio": "two_notes.wav", "text": "hm hm"}]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = train(tmp_path, *SHORT, "dataset=manifest", "dataset.path=my.jsonl")
    assert done.returncode == 0, done.stderr
    assert "encoded 2 clips" in done.stdout


@pytest.mark.parametrize("mode", ["overfit", "limit", "profile"])
def test_debug_modes(tmp_path, mode, train):
    done = train(tmp_path, *TINY, f"debug={mode}", *(["stage.max_steps=10"] if mode == "overfit" else []))
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = runs(tmp_path)
    assert len(losses(run)) == {"overfit": 10, "limit": 3, "profile": 10}[mode]
    assert f"encoded { ({'overfit': 1, 'limit': 2, 'profile': 5}[mode]) } clips" in done.stdout
    assert (run / "profile.txt").exists() == (run / "trace.json").exists() == (mode == "profile")


BROKEN_TORCHAUDIO = "raise OSError('libc10_cuda.so: cannot open shared object file: No such file or directory')"


def test_a_torchaudio_that_does_not_fit_is_said_with_the_remedy(tmp_path):
    (tmp_path / "torchaudio.py").write_text(BROKEN_TORCHAUDIO)
    failed = process(tmp_path, *SHORT, PYTHONHASHSEED="0")  # in a fresh interpreter: see tests/python
    assert failed.returncode == 1
    assert "cannot be imported together (libc10_cuda.so" in failed.stderr
    assert "torchaudio==2.11.*" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stage.max_stepz=3"], "stage.max_stepz: unknown key; did you mean stage.max_steps?"),
        (["stag=w1_smoke"], "stag: unknown key; did you mean stage?"),
        (["stage=w1_smok"], "stage: there is no 'w1_smok'; did you mean stage=w1_smoke?"),
        (["+stage.typo=3"], "stage.typo: unknown key"),
        (["stage.lr=fast"], "stage.lr: Value 'fast' of type 'str' could not be converted to Float"),
        (["device=gpu"], "device: Invalid value 'gpu', expected one of [auto, cuda, mps, cpu]"),
        (["encoder._target_=nowhere.Ear"], "encoder._target_: nowhere.Ear cannot be imported"),
        (["projector._target_=torch.nn.Linear"], "projector: torch.nn.Linear takes in_features"),
        (["dataset=manifest"], "dataset.path: a value is missing"),
        (["dataset=manifest", "dataset.path=nowhere.jsonl"], "nowhere.jsonl"),
        (["backbone.sequence_len=20"], "do not fit the context of 20"),
        (["stage.freeze=[projector.*,backbone.*]"], "stage.freeze: every parameter is frozen"),
        (["resume=nowhere"], "nowhere is no run folder"),
        (["seed=3", "seed=4"], "seed=3 seed=4: the key is set twice"),
        (["dataset.path=数据/a#1.jsonl"], """; a text is put in quotes: 'dataset.path="数据/a#1.jsonl"'"""),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_with_the_way_out(tmp_path, overrides, message, train):
    base = [word for word in SHORT if word.partition("=")[0] != overrides[0].partition("=")[0]]
    failed = train(tmp_path, *([] if overrides == ["resume=nowhere"] else base), *overrides)
    assert failed.returncode == 1
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr
    left = [path for path in tmp_path.glob("outputs/**/*") if path.is_file()]
    if "fit the context" in message:  # which is met when a clip has been encoded
        (run,) = runs(tmp_path)
        assert told(run)["status"] == "failed"
        assert message in (run / "error.txt").read_text()
        assert not (tmp_path / "outputs" / "latest").exists()
    else:
        assert not left


def test_latest_is_the_newest_run_that_took_a_step(home, tmp_path, train):
    assert train(tmp_path, *SHORT).returncode == 0
    (run,) = runs(tmp_path)
    assert train(tmp_path, *SHORT, "backbone.sequence_len=20").returncode == 1
    assert len(runs(tmp_path)) == 2
    assert (tmp_path / "outputs" / "latest").resolve() == run


def test_what_is_not_there_is_said_before_anything_is_built(tmp_path, train, monkeypatch):
    monkeypatch.setattr("omni.train.build", lambda cfg: pytest.fail("it was built"))
    failed = train(tmp_path, *SHORT, "dataset=amazon_queen", "stage.init_from=outputs/runs/w9")
    assert "stage.init_from: outputs/runs/w9 is no run" in failed.stderr
    asked = "python -m omni.prepare encoder=whisper_random backbone=gpt_d2 logger=csv stage.max_steps=4"
    assert f"dataset.folder: data/amazon_queen is not prepared; `{asked}" in failed.stderr
    assert not runs(tmp_path)


def test_a_gate_on_a_metric_that_is_not_logged_is_met_at_the_first_step(tmp_path, train):
    failed = train(tmp_path, *TINY, "stage.max_steps=50", "+stage.gate.los_drop=1")
    assert failed.returncode == 1
    assert "stage.gate.los_drop: no such metric is logged; there are loss, lr, grad_norm" in failed.stderr
    (run,) = runs(tmp_path)
    assert len(losses(run)) == 1
    assert told(run)["metrics"]["loss"]["first"] == losses(run)[0]


def test_resume_hears_through_the_weights_it_started_with(tmp_path, train):
    assert train(tmp_path, *SHORT).returncode == 0
    (run,) = runs(tmp_path)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 7"))  # the random encoder's
    failed = train(tmp_path, f"resume={run}")
    assert failed.returncode == 1
    assert "started with encoder weights from random (seed 0) and now finds others, random (seed 7)" in failed.stderr


def test_a_yaml_of_ones_own_that_a_shipped_one_hides_is_refused(tmp_path, train):
    (tmp_path / "mine" / "projector").mkdir(parents=True)
    (tmp_path / "mine" / "projector" / "conv.yaml").write_text("halvings: 2\n")
    failed = train(tmp_path, *SHORT, "--config-dir", "mine")
    assert failed.returncode == 1
    assert "mine/projector/conv.yaml: omni has a projector/conv.yaml too, which hides it" in failed.stderr


def test_a_class_of_ones_own_that_fails_is_named(tmp_path, train):
    (tmp_path / "mine.py").write_text("class Ear:\n    def __init__(self):\n        raise ValueError('no ear')\n")
    (tmp_path / "conf" / "encoder").mkdir(parents=True)
    (tmp_path / "conf" / "encoder" / "ear.yaml").write_text("_target_: mine.Ear\n")
    failed = train(tmp_path, *SHORT[1:], "encoder=ear", "--config-dir", "conf", "projector.in_dim=2")
    assert failed.returncode == 1
    assert "encoder: mine.Ear failed: ValueError: no ear" in failed.stderr


def test_an_error_in_ones_own_code_names_its_file_and_line(tmp_path, train):
    code = "import torch\nclass Ear(torch.nn.Module):\n    def forward(self, waveforms):\n        return waveforms[5]\n"
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "conf" / "encoder").mkdir(parents=True)
    (tmp_path / "conf" / "encoder" / "ear.yaml").write_text("_target_: mine.Ear\n")
    failed = train(tmp_path, *SHORT[1:], "encoder=ear", "--config-dir", "conf", "projector.in_dim=2")
    assert failed.returncode == 1
    assert f"IndexError: list index out of range at {tmp_path / 'mine.py'}:4" in failed.stderr


def test_a_resume_that_cannot_start_leaves_the_verdict(home, tmp_path, train):
    folder = tmp_path / "copy"
    shutil.copytree(runs(home)[0], folder)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("max_steps", "max_stepz"))
    before = (folder / "run.json").read_bytes()
    failed = train(home, f"resume={folder}")
    assert failed.returncode == 1
    assert "config.yaml: cannot be read" in failed.stderr
    assert (folder / "run.json").read_bytes() == before


def test_a_resume_that_is_refused_leaves_the_verdict_too(home, train, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (run,) = runs(home)
    before = {path: path.read_bytes() for path in run.glob("*.*") if path.name != "train.log"}
    failed = train(home, f"resume={run}", "device=cuda")
    assert failed.returncode == 1
    assert "device: cuda is not available here" in failed.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert not (run / "error.txt").exists()


def test_metrics_with_a_hole_are_not_gone_on_with(home, tmp_path, train):
    folder = tmp_path / "copy"
    shutil.copytree(runs(home)[0], folder)
    metrics = folder / "metrics.csv"
    metrics.write_bytes(b"".join(metrics.read_bytes().splitlines(keepends=True)[:4]))
    failed = train(home, f"resume={folder}")
    assert failed.returncode == 1
    assert "3 steps are on record and the checkpoint is from step 12" in failed.stderr


def test_resume_starts_where_the_run_was_started(home, tmp_path, train):
    failed = train(tmp_path, f"resume={runs(home)[0]}")
    assert failed.returncode == 1
    assert f"was started in {home}: go there first" in failed.stderr


def test_a_pipe_that_closes_stops_no_run(tmp_path):
    line = f"{sys.executable} -m omni.train {' '.join(SHORT)} | head -1"
    done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert told(runs(tmp_path)[0])["status"] == "passed"


def test_resume_takes_no_other_override(home, train):
    failed = train(home, "resume=outputs/latest", "stage.lr=1")
    assert failed.returncode == 1
    assert "stage.lr=1 would not count" in failed.stderr


def test_a_folder_that_holds_a_run_is_not_written_over(home, train):
    before = (runs(home)[0] / "metrics.csv").read_bytes()
    failed = train(home, *SHORT, f"hydra.run.dir={runs(home)[0]}")
    assert failed.returncode == 1
    assert "already holds a run" in failed.stderr
    assert (runs(home)[0] / "metrics.csv").read_bytes() == before


def test_a_freeze_pattern_that_matches_nothing_is_warned_about(tmp_path, train):
    done = train(tmp_path, *SHORT, "stage.freeze=[bakbone.*]")
    assert done.returncode == 0
    assert "'bakbone.*' matches no parameter" in done.stdout


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_curve(tmp_path, train):
    failed = train(tmp_path, *TINY, "stage.lr=1e18", "stage.max_steps=30")
    assert failed.returncode == 1
    assert "on the batch of: " in failed.stderr
    (run,) = runs(tmp_path)
    assert told(run)["status"] == "failed"
    assert (run / "curve.png").is_file()
