"""omni from a wheel, from another folder, and with real weights."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = ("encoder=whisper_random", "backbone=gpt_d2", "debug=limit", "logger=csv")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with omni installed from its wheel, nothing else in it."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", folder / "site", wheel], check=True)
    return folder / "site"


def command(cwd: Path, *overrides: str, **env: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "omni.train", *overrides]
    return subprocess.run(line, cwd=cwd, env=os.environ | env, capture_output=True, text=True, timeout=300)


def test_a_wheel_trains_from_another_folder(site, tmp_path):
    code = "import omni; print(omni.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True
    )
    assert str(site) in where.stdout.decode()
    shown = command(tmp_path, "--cfg", "job", "--resolve", PYTHONPATH=str(site))
    assert shown.returncode == 0, shown.stderr
    assert "n_embd: 384" in shown.stdout
    done = command(tmp_path, *TINY, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "outputs" / "latest" / "run.json").read_text())
    assert data["git"] is None  # an installed copy belongs to no checkout
    assert (tmp_path / "data" / "audio_smoke" / "manifest.jsonl").exists()


def test_w1_with_the_real_whisper(tmp_path):
    done = command(tmp_path, "device=cpu", "logger=csv")
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "outputs" / "latest"
    with (run / "metrics.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 50
    assert 5.4 <= losses[0] <= 5.7
    assert losses[-1] <= 0.2
    assert "whisper" in json.loads((run / "run.json").read_text())["encoder"]["source"]


@pytest.mark.slow
def test_the_recipe_of_the_first_version(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "omni.train", "experiment=w1_seed", "logger=csv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((tmp_path / "outputs" / "latest" / "run.json").read_text())["metrics"]["loss"]
    assert metrics["first"] == pytest.approx(5.55, abs=0.05)
    assert metrics["last"] <= 0.2


@pytest.mark.slow
def test_twenty_commands_at_once_never_share_a_folder(tmp_path):
    line = [
        sys.executable,
        "-m",
        "omni.train",
        "encoder=whisper_random",
        "backbone=gpt_d2",
        "debug=limit",
        "logger=csv",
    ]
    running = [subprocess.Popen([*line, f"seed={seed}"], cwd=tmp_path, stdout=subprocess.DEVNULL) for seed in range(20)]
    assert [process.wait() for process in running] == [0] * 20
    runs = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/runs/*/*/run.json")]
    assert sorted(run["seed"] for run in runs) == list(range(20))
    assert {run["status"] for run in runs} == {"passed"}
