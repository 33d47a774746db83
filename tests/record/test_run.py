import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pytest

import omni
from omni.errors import OmniError
from omni.record import provenance
from omni.record.facts import SKIPPED_TOLD, tell_skipped
from omni.record.folder import point_latest
from omni.record.run import Run, read_run

FACTS = {"stage": "w2_align", "seed": 7, "device": "cpu", "parameters": {"all": 10, "trainable": 3}}


def start(folder: Path, **facts: object) -> Run:
    run = Run.start(folder, config_yaml="seed: 7\n", facts=FACTS | facts)
    run.begin()
    point_latest(run.folder)
    return run


def child(code: str, *arguments: object) -> subprocess.Popen:
    imports = """
        import os, sys, time
        from pathlib import Path
        from omni.record.folder import point_latest
        from omni.record.run import Run
    """
    source = textwrap.dedent(imports) + textwrap.dedent(code)
    line = [sys.executable, "-c", source, *map(str, arguments)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


HOLD = """
    with Run.start(sys.argv[1], config_yaml="a: 1\\n", facts={"stage": "w1"}) as run:
        run.begin()
        print("held", flush=True)
        time.sleep(60)
"""


def held(folder: Path) -> subprocess.Popen:
    process = child(HOLD, folder)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_run_leaves_its_facts_config_and_diff(tmp_path: Path) -> None:
    with start(tmp_path / "a" / "b") as run:
        assert read_run(run.folder)["status"] == "running"
    data = read_run(tmp_path / "a" / "b")
    assert data["status"] == "passed"
    assert data | FACTS == data
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*[+-]\d\d:\d\d", data["created"])
    assert data["versions"]["omni"] == omni.__version__
    assert data["versions"]["torch"]
    assert data["pid"] == os.getpid()
    assert data["host"]
    assert data["platform"]
    assert data["argv"][0] == "python"
    assert data["error"] is None
    assert data["resumed"] == 0
    assert (tmp_path / "a/b/config.yaml").read_text() == "seed: 7\n"
    assert (tmp_path / "a/b/git.diff").exists()
    assert not (tmp_path / "a/b/error.txt").exists()


def test_a_run_that_never_begins_leaves_nothing(tmp_path: Path) -> None:
    with suppress(ValueError), Run.start(tmp_path / "a", config_yaml="", facts={}) as run:
        run.update(device="cpu")
        raise ValueError("no such weights")
    assert not list(tmp_path.iterdir())
    with Run.start(tmp_path / "a", config_yaml="", facts={}) as run:
        run.update(device="cpu")
        run.begin()
    assert read_run(tmp_path / "a")["device"] == "cpu"
    with pytest.raises(OmniError, match="already holds a run"):
        Run.start(tmp_path / "a", config_yaml="", facts={})


def test_run_json_is_indented_and_in_a_stable_order(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        before = list(read_run(tmp_path))
        run.update(later=1, seed=8)
        run.finish("passed", metrics={"loss": {"first": 2.0, "last": 1.0}}, gate=[{"passed": True}])
    data = read_run(tmp_path)
    assert [key for key in data if key != "later"] == before
    assert before[:2] == ["status", "error"]
    assert before[-1] == "pid"
    assert data["seed"] == 8
    assert data["metrics"]["loss"]["last"] == 1.0
    assert data["gate"] == [{"passed": True}]
    assert '\n  "status": "passed"' in (tmp_path / "run.json").read_text()


def test_values_json_does_not_know_stay_valid_json(tmp_path: Path) -> None:
    import numpy as np

    odd = {"nan": math.nan, "inf": [math.inf], "path": Path("/a"), "np": np.float32(0.5), "many": np.ones(2)}
    start(tmp_path, odd=odd).close()
    kept = json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)["odd"]
    assert kept == {"nan": None, "inf": [None], "path": "/a", "np": 0.5, "many": "[1. 1.]"}


def test_keys_of_its_own_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="status"):
        start(tmp_path, status="passed")
    with start(tmp_path) as run, pytest.raises(ValueError, match="pid"):
        run.update(pid=1)


def test_an_unknown_status_is_refused(tmp_path: Path) -> None:
    with start(tmp_path) as run, pytest.raises(ValueError, match="done"):
        run.finish("done")


def test_a_folder_that_holds_a_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    start(tmp_path).close()
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(OmniError, match=rf"{tmp_path} already holds a run.*resume={tmp_path}"):
        start(tmp_path)
    assert (tmp_path / "run.json").read_bytes() == before


def test_an_exception_is_recorded_with_its_traceback(tmp_path: Path) -> None:
    def explode() -> None:
        with start(tmp_path) as run:
            run.finish("passed")
            raise ValueError("too hot\nand dry")

    with pytest.raises(ValueError, match="too hot"):
        explode()
    text = (tmp_path / "error.txt").read_text()
    assert text.startswith("ValueError: too hot\nand dry\n\nTraceback")
    assert "in explode" in text
    assert read_run(tmp_path)["status"] == "failed"
    assert read_run(tmp_path)["error"] == "ValueError: too hot"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), KeyboardInterrupt("stopped after step 9")])
def test_an_interruption_is_no_failure(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), start(tmp_path):
        raise error
    data = read_run(tmp_path)
    assert data["status"] == "interrupted"
    assert data["error"] == (str(error) or "KeyboardInterrupt")
    assert not (tmp_path / "error.txt").exists()


@pytest.mark.parametrize("code", [0, 3])
def test_a_run_that_is_left_by_sys_exit_has_not_passed(tmp_path: Path, code: int) -> None:
    with pytest.raises(SystemExit), start(tmp_path):
        sys.exit(code)
    assert read_run(tmp_path)["status"] == "failed"


def test_a_killed_run_can_be_resumed_and_a_live_one_cannot(tmp_path: Path) -> None:
    process = held(tmp_path)
    with pytest.raises(OmniError, match=rf"still running \(pid {read_run(tmp_path)['pid']} on "):
        Run.resume(tmp_path)
    os.kill(read_run(tmp_path)["pid"], signal.SIGKILL)
    process.wait()
    assert read_run(tmp_path)["status"] == "running"
    (tmp_path / "error.txt").write_text("old")
    with Run.resume(tmp_path) as run:
        run.begin()
        data = read_run(tmp_path)
        assert data["status"] == "running"
        assert data["resumed"] == 1
        assert data["pid"] == os.getpid()
        assert data["stage"] == "w1"
        assert not (tmp_path / "error.txt").exists()
        run.finish("passed")
    with Run.resume(tmp_path) as run:
        run.begin()
        assert read_run(tmp_path)["resumed"] == 2


def test_a_resume_that_does_not_begin_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        run.finish("passed", metrics={"loss": {}}, gate=[{"passed": True}])
    (tmp_path / "error.txt").write_text("old")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ZeroDivisionError), Run.resume(tmp_path) as run:
        run.update(device=1 / (run.data["resumed"] * 0))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_forked_worker_does_not_keep_the_lock_of_a_killed_run(tmp_path: Path) -> None:
    process = child(
        """
        with Run.start(sys.argv[1], config_yaml="", facts={}) as run:
            run.begin()
            if os.fork() == 0:
                print("held", flush=True)
            time.sleep(60)
        """,
        tmp_path,
    )
    assert process.stdout.readline() == "held\n"
    pid = read_run(tmp_path)["pid"]
    workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(pid, signal.SIGKILL)
    process.wait()
    try:
        assert workers
        Run.resume(tmp_path).close()
    finally:
        for worker in workers:
            os.kill(int(worker), signal.SIGKILL)


def test_seconds_add_up_over_resumes_and_an_old_verdict_goes(tmp_path: Path) -> None:
    with start(tmp_path) as run:
        time.sleep(0.15)
        run.finish("failed", metrics={"loss": {}}, gate=[{"passed": False}])
    first = read_run(tmp_path)["seconds"]
    assert 0.15 <= first < 2
    with Run.resume(tmp_path) as run:
        run.begin()
        assert read_run(tmp_path)["gate"] is None
        assert read_run(tmp_path)["metrics"] is None
        time.sleep(0.15)
    assert first + 0.15 <= read_run(tmp_path)["seconds"] < first + 2


def test_resume_warns_when_the_versions_differ(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start(tmp_path).close()
    data = read_run(tmp_path)
    data["versions"]["torch"] = "0.1"
    (tmp_path / "run.json").write_text(json.dumps(data))
    with caplog.at_level(logging.WARNING):
        Run.resume(tmp_path).close()
    assert "other versions" in caplog.text
    assert read_run(tmp_path)["versions"]["torch"] == "0.1"


def test_resume_through_latest_holds_on_to_its_own_folder(tmp_path: Path) -> None:
    runs = tmp_path / "outputs" / "runs"
    start(runs / "a").close()
    with Run.resume(tmp_path / "outputs" / "latest") as run:
        start(runs / "b").close()
        run.begin()
        run.update(mine=True)
    assert read_run(runs / "a")["mine"]
    assert "mine" not in read_run(runs / "b")


def test_no_run_folder_names_the_run_that_was_meant(tmp_path: Path) -> None:
    runs = tmp_path / "outputs" / "runs" / "w2"
    for number, name in enumerate(("2026-01-01", "2026-01-02")):
        start(runs / name).close()
        os.utime(runs / name / "run.json", (number, number))
    with pytest.raises(OmniError, match=rf"no run folder.*newest run in it is {runs}/2026-01-02"):
        Run.resume(tmp_path / "outputs")
    with pytest.raises(OmniError, match=rf"Did you mean {runs}/2026-01-0"):
        Run.resume(runs / "2026-01-03")
    with pytest.raises(OmniError, match="no run folder") as caught:
        read_run(tmp_path / "nothing" / "here")
    assert "mean" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b'{"status": "pas', b"[]", b'{"status": "odd"}', b"\xff\xfe"])
def test_a_broken_run_json_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(OmniError, match=r"run\.json cannot be read"):
        read_run(tmp_path)
    with pytest.raises(OmniError, match=r"run\.json cannot be read"):
        Run.resume(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "run", tmp_path / "file", Path("/proc/omni/run")):
        with pytest.raises(OmniError, match=rf"{folder} cannot be written"):
            start(folder)


FULL = """
    import resource, signal
    def fill():  # Every further write fails, as on a full disk.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
"""


def test_a_full_disk_at_the_start_names_the_folder_and_leaves_no_run(tmp_path: Path) -> None:
    code = FULL + '\n    fill()\n    Run.start(sys.argv[1], config_yaml="a", facts={}).begin()'
    _, stderr = child(code, tmp_path).communicate(timeout=30)
    assert f"OmniError: {tmp_path} cannot be written" in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]


def test_a_full_disk_at_the_end_does_not_mask_the_first_error(tmp_path: Path) -> None:
    code = """
    with Run.start(sys.argv[1], config_yaml="a", facts={}) as run:
        run.begin()
        fill()
        raise ValueError("the first")
    """
    _, stderr = child(FULL + code, tmp_path).communicate(timeout=30)
    assert stderr.rstrip().endswith("ValueError: the first")
    assert "could not be recorded" in stderr
    # The last whole run.json is still there, and no half-written file beside it.
    assert read_run(tmp_path)["status"] == "running"
    assert not list(tmp_path.glob(".*tmp"))


# Twenty interpreters cost seconds on two cores; twenty forks at a starting line cost none and collide more.
RACE = """
    gun = os.pipe()
    for number in range(20):
        if os.fork() == 0:
            os.close(gun[1])
            os.read(gun[0], 1)
            try:
                run = Run.start(sys.argv[1].format(number), config_yaml=str(number), facts={"n": number})
                run.begin()
                point_latest(run.folder)
            except Exception as error:
                os.write(1, f"lost {type(error).__name__} {error}\\n".encode())
                os._exit(0)
            os.write(1, f"won {number}\\n".encode())
            time.sleep(1)
            os._exit(0)
    os.close(gun[1])
    for _ in range(20):
        os.wait()
"""


def test_twenty_processes_in_one_folder_make_one_run(tmp_path: Path) -> None:
    stdout, stderr = child(RACE, tmp_path / "run").communicate(timeout=60)
    lines = stdout.splitlines()
    won = [line.split()[1] for line in lines if line.startswith("won")]
    assert len(lines) == 20, stderr
    assert len(won) == 1
    assert sum("lost OmniError" in line and "already holds a run" in line for line in lines) == 19
    assert read_run(tmp_path / "run")["n"] == int(won[0])
    assert (tmp_path / "run" / "config.yaml").read_text() == won[0]


def test_twenty_runs_at_once_leave_a_valid_latest(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    latest = outputs / "latest"
    start(outputs / "runs" / "first").close()
    process = child(RACE, outputs / "runs" / "w1" / "{}")
    while process.poll() is None:
        # Never a moment without it: another process may be reading through it.
        assert not latest.readlink().is_absolute()
    stdout, stderr = process.communicate()
    assert stdout.count("won") == 20, stdout + stderr
    assert stderr == ""
    assert latest.readlink().parts[:2] == ("runs", "w1")
    assert read_run(latest)["status"] == "running"
    assert sorted(path.name for path in outputs.iterdir()) == ["latest", "runs"]
    start(outputs / "sweeps" / "a" / "0").close()
    assert latest.readlink() == Path("sweeps/a/0")


def test_a_latest_that_is_a_real_folder_does_not_fail_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "outputs" / "latest" / "mine").mkdir(parents=True)
    with start(tmp_path / "outputs" / "run"):
        pass
    assert (tmp_path / "outputs" / "latest" / "mine").is_dir()
    assert "was not updated" in caplog.text
    assert not list((tmp_path / "outputs").glob(".latest*"))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    (root / "omni").mkdir(parents=True)
    (root / "omni" / "a.py").write_text("old\n")
    git = ["git", "-C", root, "-c", "user.name=a", "-c", "user.email=a@b"]
    for line in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *line], check=True)
    return root


def test_git_names_the_commit_and_keeps_the_changes(checkout: Path) -> None:
    git, diff = provenance.read_git(checkout / "omni")
    head = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True)
    assert git == {"sha": head.stdout.strip(), "dirty": False}
    assert diff == ""
    (checkout / "omni" / "a.py").write_text("new\n")
    (checkout / "omni" / "b.py").write_text("")
    git, diff = provenance.read_git(checkout / "omni")
    assert git["dirty"]
    assert diff.startswith("# untracked: omni/b.py\n")
    assert "-old\n+new" in diff
    subprocess.run(["git", "-C", checkout, "checkout", "-q", "omni/a.py"], check=True)
    subprocess.run(["git", "-C", checkout, "apply"], input=diff, text=True, check=True)
    assert (checkout / "omni" / "a.py").read_text() == "new\n"


def test_a_huge_diff_is_cut_and_a_stuck_git_given_up(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "omni" / "a.py").write_text("x" * 79 + "\n" * 500_000)
    monkeypatch.setattr(provenance, "DIFF_BYTES", 1000)
    git, diff = provenance.read_git(checkout / "omni")
    assert git["dirty"]
    assert diff.startswith("# cut:")
    assert len(diff) < 1200
    stuck = checkout / "bin"
    stuck.mkdir()
    (stuck / "git").write_text("#!/bin/sh\nexec sleep 30\n")
    (stuck / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{stuck}:{os.environ['PATH']}")
    monkeypatch.setattr(provenance, "GIT_SECONDS", 0.2)
    began = time.monotonic()
    assert provenance.read_git(checkout / "omni")[0] is None
    assert time.monotonic() - began < 30


def test_an_installed_copy_inside_another_checkout_has_no_git(checkout: Path) -> None:
    package = checkout / "venv" / "site-packages" / "omni"
    package.mkdir(parents=True)
    git, diff = provenance.read_git(package)
    assert git is None
    assert diff.startswith("#")


def test_without_git_there_is_a_note(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance.read_git(checkout / "omni")[0] is None


def test_what_each_step_leaves_out_is_on_record_in_the_end_but_not_written_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written = []
    monkeypatch.setattr(
        "omni.record.run.replace_text", lambda path, text: written.append(path) or path.write_text(text)
    )
    caplog.set_level(logging.WARNING)
    with suppress(ZeroDivisionError), start(tmp_path / "run") as run:
        before = len(written)
        for step in range(1, 51):
            tell_skipped(run, {f"line {number}": "no JSON" for number in range(step)})
        assert len(written) == before
        _ = 1 / 0  # however it ends
    assert caplog.text.count("left out line ") == SKIPPED_TOLD
    assert len(read_run(tmp_path / "run")["skipped"]) == 50
