"""Sweeps in real processes: the report, the dry run, going on after a kill, parallel jobs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

TINY = ("encoder=whisper_random", "backbone=gpt_d2", "logger=csv", "device=cpu", "stage.gate=null")
COMMAND = (sys.executable, "-m", "omni.train")


def train(cwd: Path, *overrides: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*COMMAND, *overrides], cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=300, check=False
    )


def the_sweep(cwd: Path) -> Path:
    (plan,) = cwd.glob("outputs/sweeps/*/*/multirun.yaml")
    return plan.parent


def statuses(folder: Path) -> dict[str, str]:
    return {path.parent.name: told(path.parent)["status"] for path in sorted(folder.glob("*/run.json"))}


def told(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with a finished sweep of four jobs."""
    cwd = tmp_path_factory.mktemp("sweep")
    done = train(cwd, "-m", *TINY, "stage.max_steps=6", "projector=mlp,stack_mlp", "seed=1,2")
    assert done.returncode == 0, done.stdout + done.stderr
    return cwd


def test_a_sweep_reports_itself(home):
    folder = the_sweep(home)
    assert statuses(folder) == dict.fromkeys("0123", "passed")
    for name in ("compare.csv", "compare.md", "compare.png", "compare.html", "multirun.yaml"):
        assert (folder / name).stat().st_size > 0, name
    assert len((folder / "compare.csv").read_text().splitlines()) == 5
    assert "projector.stack" in (folder / "compare.md").read_text()


def test_in_one_process_no_job_differs_from_its_single_run(home, tmp_path):
    assert train(tmp_path, *TINY, "stage.max_steps=6", "projector=stack_mlp", "seed=2").returncode == 0
    alone = (tmp_path / "outputs" / "latest" / "metrics.csv").read_bytes()
    assert (the_sweep(home) / "3" / "metrics.csv").read_bytes() == alone


def test_parallel_jobs_do_not_differ_either(home, tmp_path):
    done = train(
        tmp_path, "-m", *TINY, "stage.max_steps=6", "projector=mlp,stack_mlp", "seed=1,2",
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for job in "0123":
        expected = (the_sweep(home) / job / "metrics.csv").read_bytes()
        assert (the_sweep(tmp_path) / job / "metrics.csv").read_bytes() == expected
    assert len((the_sweep(tmp_path) / "compare.csv").read_text().splitlines()) == 5


def test_a_missed_gate_of_a_parallel_job_fails_the_command(tmp_path):
    done = train(
        tmp_path, "-m", *TINY[:-1], "stage.max_steps=2", "stage.gate.loss_drop=-9,9",
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
    )  # fmt: skip
    assert done.returncode == 1
    assert statuses(the_sweep(tmp_path)) == {"0": "passed", "1": "failed"}


def test_killed_in_the_middle_a_sweep_runs_only_what_was_missing(home, tmp_path):
    line = [*COMMAND, "-m", *TINY, "stage.max_steps=6", "projector=mlp,stack_mlp", "seed=1,2"]
    process = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("outputs/sweeps/*/*/2/metrics.csv")):
        assert process.poll() is None
        time.sleep(0.002)
    locked = train(tmp_path, "sweep.resume=last")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert locked.returncode == 1
    assert "a sweep is still running there" in locked.stderr
    folder = the_sweep(tmp_path)
    before = {job: (folder / job / "run.json").read_bytes() for job in "01"}
    done = train(tmp_path, "sweep.resume=last")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {job: (folder / job / "run.json").read_bytes() for job in "01"} == before
    assert told(folder / "2")["resumed"] <= 1
    for job in "0123":
        assert (folder / job / "metrics.csv").read_bytes() == (the_sweep(home) / job / "metrics.csv").read_bytes()
    assert statuses(folder) == dict.fromkeys("0123", "passed")


def test_a_job_killed_while_its_first_files_were_written_is_run_again(tmp_path):
    assert train(tmp_path, "-m", *TINY, "stage.max_steps=2", "seed=1,2").returncode == 0
    folder = the_sweep(tmp_path)
    (folder / "0" / "run.json").write_text("")
    data = told(folder / "1")
    (folder / "1" / "run.json").write_text(json.dumps(data | {"status": "running"}))
    (folder / "1" / "config.yaml").unlink()
    done = train(tmp_path, "sweep.resume=last")
    assert done.returncode == 0, done.stdout + done.stderr
    assert statuses(folder) == {"0": "passed", "1": "passed"}
    assert len(list((folder / ".aside").iterdir())) == 2


def test_ctrl_c_in_a_parallel_sweep_leaves_no_job_running_on_paper(tmp_path):
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    process = subprocess.Popen(
        [*COMMAND, "-m", *TINY, "stage.max_steps=100000", "seed=1,2", *parallel],
        cwd=tmp_path,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(list(tmp_path.glob("outputs/sweeps/*/*/*/metrics.csv"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"go on with sweep.resume={the_sweep(tmp_path).relative_to(tmp_path)}" in stderr
    assert "interrupted" in statuses(the_sweep(tmp_path)).values()


def test_a_dry_run_lists_and_checks_every_job_and_starts_none(tmp_path):
    done = train(tmp_path, "-m", *TINY, "sweep.dry_run=true", "projector=mlp,conv", "encoder.layers=[9],[-1]")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("#0 projector=mlp encoder.layers=[9]  will fail: encoder.layers: [9] are not among")
    assert lines[1] == "#1 projector=mlp encoder.layers=[-1]"
    assert lines[4] == "4 jobs, 2 with problems; nothing was started (sweep.dry_run)"
    assert not (tmp_path / "outputs").exists()


def test_fail_fast_starts_nothing_when_a_job_is_wrong_and_nothing_after_one_that_failed(tmp_path):
    wrong = train(tmp_path, "-m", *TINY, "sweep.fail_fast=true", "encoder.layers=[9],[-1]")
    assert wrong.returncode == 1
    assert not list(tmp_path.glob("outputs/**/run.json"))
    failed = train(
        tmp_path,
        "-m",
        *TINY,
        "sweep.fail_fast=true",
        "sweep.name=second",
        "stage.max_steps=2",
        "stage.lr=1e30,1e-3,1e-4",
    )
    assert failed.returncode == 1
    (plan,) = tmp_path.glob("outputs/sweeps/second/*/multirun.yaml")
    assert statuses(plan.parent) == {"0": "failed"}
    assert "job 1 was not started: job 0 failed" in failed.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sweep.resume=last"], "sweep.resume=last: there is no sweep below outputs/sweeps"),
        (["sweep.resume=nowhere"], "sweep.resume: nowhere is no sweep folder"),
        (["sweep.resume=last", "seed=1,2"], "so seed=1,2 would not count"),
        (["-m", "seed=1,,2"], "Error parsing override 'seed=1,,2'"),
        (["-m", "seed=glob(*)"], "the sweep is empty: a glob or a list in it matches nothing"),
        (["sweep.dry_run=true"], "sweep.dry_run: counts with -m alone"),
        (["-m", "resume=nowhere"], "resume: goes alone, without -m"),
    ],
)
def test_bad_input(tmp_path, overrides, message):
    failed = train(tmp_path, *overrides)
    assert failed.returncode == 1
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr


def test_what_finished_otherwise_is_put_aside_not_lost(home):
    folder = the_sweep(home)
    config = OmegaConf.load(folder / "multirun.yaml")
    config.hydra.overrides.task = [
        "stage.max_steps=7" if override == "stage.max_steps=6" else override for override in config.hydra.overrides.task
    ]
    OmegaConf.save(config, folder / "multirun.yaml")
    done = train(home, f"sweep.resume={folder}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {len((folder / job / "metrics.csv").read_text().splitlines()) for job in "0123"} == {8}
    assert sorted(path.name.split("-")[0] for path in (folder / ".aside").iterdir()) == ["0", "1", "2", "3"]


SBATCH = """#!/bin/sh
cp "$1" script.sh.part && mv script.sh.part script.sh
echo "Submitted batch job 123"
"""


def test_slurm_is_given_a_script_for_the_whole_array(tmp_path):
    """As far as a machine without Slurm goes: a stand-in for sbatch keeps what it is given."""
    bins = tmp_path / "bin"
    bins.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", "#!/bin/sh\n"), ("sacct", "#!/bin/sh\n")):
        (bins / name).write_text(text)
        (bins / name).chmod(0o755)
    line = [*COMMAND, "-m", "hydra/launcher=slurm", "hydra.launcher.partition=gpu", *TINY, "seed=1,2,3"]
    process = subprocess.Popen(
        line, cwd=tmp_path, env=os.environ | {"PATH": f"{bins}:{os.environ['PATH']}"}, stdout=subprocess.DEVNULL
    )
    try:
        while not (tmp_path / "script.sh").exists():
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    script = (tmp_path / "script.sh").read_text()
    for wanted in ("--array=0-2%3", "--partition=gpu", "--gpus-per-node=1", "--job-name=omni-train", "--time=240"):
        assert f"#SBATCH {wanted}" in script


@pytest.mark.slow
def test_two_sweeps_at_once_never_share_a_folder(tmp_path):
    line = [*COMMAND, "-m", *TINY, "stage.max_steps=2", "seed=1,2"]
    running = [subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    plans = list(tmp_path.glob("outputs/sweeps/*/*/multirun.yaml"))
    assert len(plans) == 2
    assert all(statuses(plan.parent) == {"0": "passed", "1": "passed"} for plan in plans)
