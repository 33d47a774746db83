"""Sweeps: the report, the dry run, going on after a kill, parallel jobs."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf

from omni.record.folder import hold, release

TINY = ("encoder=whisper_random", "backbone=gpt_d2", "logger=csv", "device=cpu", "stage.gate=null")
COMMAND = (sys.executable, "-m", "omni.train")
KILLED = """
import os, signal
from omni import train
from omni.record.progress import Progress

update, third = Progress.update, []

def die(self, step, values):
    update(self, step, values)
    if "loss" in values and step == 3 and len(third) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    third.extend([step] if "loss" in values and step == 3 else [])

Progress.update = die
train.main()
"""


def process(cwd: Path, *overrides: str) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *overrides], cwd=cwd, capture_output=True, text=True, timeout=600)


def the_sweep(cwd: Path) -> Path:
    (plan,) = cwd.glob("outputs/sweeps/*/*/multirun.yaml")
    return plan.parent


def statuses(folder: Path) -> dict[str, str]:
    return {path.parent.name: told(path.parent)["status"] for path in sorted(folder.glob("*/run.json"))}


def told(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


@pytest.fixture(scope="module")
def home(tmp_path_factory, train) -> Path:
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


def test_in_one_process_no_job_differs_from_its_single_run(home, tmp_path, train):
    assert train(tmp_path, *TINY, "stage.max_steps=6", "projector=stack_mlp", "seed=2").returncode == 0
    alone = (tmp_path / "outputs" / "latest" / "metrics.csv").read_bytes()
    assert (the_sweep(home) / "3" / "metrics.csv").read_bytes() == alone


def test_parallel_jobs_do_not_differ_either(home, tmp_path):
    done = process(
        tmp_path, "-m", *TINY, "stage.max_steps=6", "projector=mlp,stack_mlp", "seed=1,2",
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for job in "0123":
        expected = (the_sweep(home) / job / "metrics.csv").read_bytes()
        assert (the_sweep(tmp_path) / job / "metrics.csv").read_bytes() == expected
    assert len((the_sweep(tmp_path) / "compare.csv").read_text().splitlines()) == 5


@pytest.mark.slow
def test_a_missed_gate_of_a_parallel_job_fails_the_command(tmp_path):
    done = process(
        tmp_path, "-m", *TINY[:-1], "stage.max_steps=2", "stage.gate.loss_drop=-9,9",
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
    )  # fmt: skip
    assert done.returncode == 1
    assert statuses(the_sweep(tmp_path)) == {"0": "passed", "1": "failed"}


def test_killed_in_the_middle_a_sweep_runs_only_what_was_missing(home, tmp_path, train):
    words = ["-m", *TINY, "stage.max_steps=6", "projector=mlp,stack_mlp", "seed=1,2"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], cwd=tmp_path, stdout=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    folder = the_sweep(tmp_path)
    before = {job: (folder / job / "run.json").read_bytes() for job in "01"}
    done = train(tmp_path, "sweep.resume=last")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {job: (folder / job / "run.json").read_bytes() for job in "01"} == before
    assert told(folder / "2")["resumed"] == 1
    for job in "0123":
        assert (folder / job / "metrics.csv").read_bytes() == (the_sweep(home) / job / "metrics.csv").read_bytes()
    assert statuses(folder) == dict.fromkeys("0123", "passed")


def test_a_sweep_that_is_still_running_is_not_resumed(home, train):
    held = hold(the_sweep(home), "sweep.lock")
    refused = train(home, "sweep.resume=last")
    release(held)
    assert refused.returncode == 1
    assert "a sweep is still running there" in refused.stderr


def test_a_job_killed_while_its_first_files_were_written_is_run_again(tmp_path, train):
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


@pytest.mark.slow
def test_ctrl_c_in_a_parallel_sweep_leaves_no_job_running_on_paper(tmp_path):
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    running = subprocess.Popen(
        [*COMMAND, "-m", *TINY, "stage.max_steps=100000", "seed=1,2", *parallel],
        cwd=tmp_path,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while len(list(tmp_path.glob("outputs/sweeps/*/*/*/metrics.csv"))) < 2:
        assert running.poll() is None
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 130
    assert f"go on with sweep.resume={the_sweep(tmp_path).relative_to(tmp_path)}" in stderr
    assert "interrupted" in statuses(the_sweep(tmp_path)).values()


def test_a_dry_run_lists_and_checks_every_job_and_starts_none(tmp_path, train):
    done = train(tmp_path, "-m", *TINY, "sweep.dry_run=true", "projector=mlp,conv", "encoder.layers=[9],[-1]")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("#0 projector=mlp encoder.layers=[9]  will fail: encoder.layers: [9] are not among")
    assert lines[1] == "#1 projector=mlp encoder.layers=[-1]"
    assert lines[4] == "4 jobs, 2 with problems; nothing was started (sweep.dry_run)"
    assert not (tmp_path / "outputs").exists()


def test_fail_fast_starts_nothing_when_a_job_is_wrong_and_nothing_after_one_that_failed(tmp_path, train):
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
        (["-m", "seed=1,2", "seed=3,4"], "seed=1,2 seed=3,4: the key is set twice"),
        (["-m", "dataset.path=数/a,数/b"], """'dataset.path="数/a","数/b"'"""),
        (["-m", "hydra/sweeper=by_one", "sweep.dry_run=true"], "sweep.dry_run: lists the jobs of hydra's own grid"),
        (["-m", "hydra/sweeper=by_one", "+hydra.sweeper.direction=maximize"], "hydra.sweeper.direction: leave it out"),
    ],
)
def test_bad_input(tmp_path, overrides, message, train):
    failed = train(tmp_path, *overrides)
    assert failed.returncode == 1
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr


def test_what_finished_otherwise_is_put_aside_not_lost(home, train):
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
    running = subprocess.Popen(
        line, cwd=tmp_path, env=os.environ | {"PATH": f"{bins}:{os.environ['PATH']}"}, stdout=subprocess.DEVNULL
    )
    try:
        while not (tmp_path / "script.sh").exists():
            assert running.poll() is None
            time.sleep(0.05)
    finally:
        running.kill()
        running.wait()
    script = (tmp_path / "script.sh").read_text()
    for wanted in ("--array=0-2%3", "--partition=gpu", "--gpus-per-node=1", "--job-name=omni-train", "--time=240"):
        assert f"#SBATCH {wanted}" in script


class OneByOne(Sweeper):
    """A search, as far as omni is concerned: each job follows from what the last returned. It writes no file."""

    found: ClassVar[list[list[float]]] = []

    def __init__(self, sampler, direction=None):
        self.rng = random.Random(sampler["seed"])

    def setup(self, *, hydra_context, task_function, config):
        given = {"hydra_context": hydra_context, "task_function": task_function, "config": config}
        self.launcher = Plugins.instance().instantiate_launcher(**given)

    def sweep(self, arguments):
        self.found.append([])
        for number in range(3):
            lr = self.rng.uniform(0.001, 0.002) / (2 + abs(sum(self.found[-1])))
            (done,) = self.launcher.launch([[*arguments, f"stage.lr={lr}"]], initial_job_idx=number)
            self.found[-1].append(done.return_value)


OneByOne.__module__ = "hydra_plugins.one_by_one"  # hydra takes plugins from there alone
sys.modules[OneByOne.__module__] = SimpleNamespace(OneByOne=OneByOne)
Plugins.instance().register(OneByOne)
node = {"_target_": "hydra_plugins.one_by_one.OneByOne", "sampler": {"seed": None}}
ConfigStore.instance().store(group="hydra/sweeper", name="by_one", node=node)


def test_any_sweeper_gets_a_report_and_an_objective_and_can_be_resumed(tmp_path, train):
    words = ["-m", "hydra/sweeper=by_one", *TINY, "stage.max_steps=2", "sweep.objective=loss_drop"]
    assert train(tmp_path, *words).returncode == 0
    folder = the_sweep(tmp_path)
    runs = [told(folder / job) for job in "012"]
    ends = [run["metrics"]["loss"] for run in runs]
    assert OneByOne.found[-1] == [end["last"] - end["first"] for end in ends]  # a fall is better large
    assert len((folder / "compare.csv").read_text().splitlines()) == 4
    before = {job: (folder / job / "metrics.csv").read_bytes() for job in "012"}
    shutil.rmtree(folder / "1")
    kept = {job: (folder / job / "run.json").read_bytes() for job in "02"}
    done = train(tmp_path, "sweep.resume=last")
    assert done.returncode == 0, done.stdout + done.stderr
    assert OneByOne.found[-1] == OneByOne.found[-2]
    assert {job: (folder / job / "run.json").read_bytes() for job in "02"} == kept
    assert {job: (folder / job / "metrics.csv").read_bytes() for job in "012"} == before


def test_the_objective_is_what_the_gate_asks_for_and_its_report_what_is_searched_for(tmp_path, train):
    words = ["hydra/sweeper=by_one", *TINY[:-1], "stage.max_steps=2", "sweep.name=gate", "stage.gate.loss_drop=-9"]
    assert train(tmp_path, "-m", *words).returncode == 0
    (folder,) = tmp_path.glob("outputs/sweeps/gate/*")
    assert OneByOne.found[-1] == [-told(folder / job)["gate"][0]["value"] for job in "012"]
    words = ["hydra/sweeper=by_one", *TINY, "stage.max_steps=2", "sweep.name=other", "sweep.objective=grad_norm"]
    assert train(tmp_path, "-m", *words).returncode == 0
    (folder,) = tmp_path.glob("outputs/sweeps/other/*")
    assert "| grad_norm |" in (folder / "compare.md").read_text()
    failed = train(tmp_path, *TINY, "stage.max_steps=2", "sweep.objective=los")
    assert "sweep.objective=los: no such metric is logged; there are loss, lr" in failed.stderr


def test_optuna_searches_and_goes_on(tmp_path, train):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    words = ["-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "stage.lr=interval(0.0001,0.01)"]
    done = train(tmp_path, *words, *TINY, "stage.max_steps=2")
    assert done.returncode == 0, done.stdout + done.stderr
    folder = the_sweep(tmp_path)
    assert statuses(folder) == dict.fromkeys("012", "passed")
    best = OmegaConf.load(folder / "optimization_results.yaml").best_value
    assert best == min(told(folder / job)["metrics"]["loss"]["last"] for job in "012")
    kept = {job: (folder / job / "run.json").read_bytes() for job in "012"}
    assert train(tmp_path, "sweep.resume=last").returncode == 0
    assert {job: (folder / job / "run.json").read_bytes() for job in "012"} == kept


@pytest.mark.slow
def test_two_sweeps_at_once_never_share_a_folder(tmp_path):
    line = [*COMMAND, "-m", *TINY, "stage.max_steps=2", "seed=1,2"]
    running = [subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    plans = list(tmp_path.glob("outputs/sweeps/*/*/multirun.yaml"))
    assert len(plans) == 2
    assert all(statuses(plan.parent) == {"0": "passed", "1": "passed"} for plan in plans)
