import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import omni.record.wandb as module
from omni.record.wandb import WandbLogger

KEY = "b" * 40


def run(tmp_path: Path, code: str, **environment: str) -> subprocess.CompletedProcess:
    """The code in a fresh process that knows no key and no settings but those given."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    clean |= {"HOME": str(tmp_path / "home"), "NETRC": str(tmp_path / "netrc"), "http_proxy": ""}
    source = "import sys, time\nfrom omni.record.wandb import WandbLogger\n" + textwrap.dedent(code)
    line = [sys.executable, "-c", source, str(tmp_path)]
    # Its own input is closed: a prompt would fail instead of waiting.
    return subprocess.run(
        line,
        env=clean | environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def records(folder: Path) -> list[dict]:
    """Every offline run below the folder, as what its transaction log holds."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime):
        run = {"history": [], "config": {}, "id": path.stem.removeprefix("run-")}
        for data in leveldb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.HasField("run"):
                run |= {"project": record.run.project, "name": record.run.display_name}
                run |= {"group": record.run.run_group}
            run["config"] |= values([*record.run.config.update, *record.config.update])
            if record.HasField("history"):
                run["history"].append(values(record.history.item))
            if record.HasField("exit"):
                run["exit"] = record.exit.exit_code
        found.append(run)
    return found


def values(items: list) -> dict:
    return {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}


def leveldb_records(log: bytes) -> Iterator[bytes]:
    """The format of LevelDB's log: blocks of 32 KiB, in them pieces headed by checksum, length and kind."""
    at, whole = 7, b""  # After wandb's own head.
    while at + 7 <= len(log):
        if (room := 32768 - at % 32768) < 7:
            at += room
            continue
        length, kind = int.from_bytes(log[at + 4 : at + 6], "little"), log[at + 6]
        whole += log[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, last
            yield whole
            whole = b""


TWO = """
    loggers = []
    for name in "ab":
        logger = WandbLogger(f"{sys.argv[1]}/{name}", project="omni", name=name, group="g")
        logger.config({"seed": 1})
        loggers.append(logger)
        logger.config({})
        while not logger._jobs.empty():  # The first is open when the second begins.
            time.sleep(0.01)
    for number, logger in enumerate(loggers):
        logger.config({"later": number})
        for step in range(3):
            logger.log(step, {"loss": step + 10.0 * number})
    loggers[0].finish("passed")
    loggers[1].finish("failed")
    logger.log(9, {"loss": 0.0})
    logger.finish("failed")
"""


def test_without_a_key_two_runs_of_one_process_are_two_offline_runs(tmp_path: Path) -> None:
    result = run(tmp_path, TWO)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert result.stderr == ""
    for number, name in enumerate("ab"):
        (kept,) = records(tmp_path / name)
        assert (kept["project"], kept["name"], kept["group"]) == ("omni", name, "g")
        assert kept["config"]["seed"] == 1
        assert kept["config"]["later"] == number
        assert [(row["_step"], row["loss"]) for row in kept["history"]] == [
            (step, step + 10.0 * number) for step in range(3)
        ]
        assert kept["exit"] == number
        assert kept["id"] == (tmp_path / name / "wandb" / "omni_run_id").read_text()


ONE = """
    began = time.monotonic()
    logger = WandbLogger(sys.argv[1], project="omni", name="n", mode="MODE")
    print("made", time.monotonic() - began)
    began = time.monotonic()
    for step in range(1000):
        logger.log(step, {"loss": 1.0 * step})
    print("logged", time.monotonic() - began)
    began = time.monotonic()
    logger.finish("passed")
    print("finished", time.monotonic() - began)
"""


def seconds(result: subprocess.CompletedProcess) -> dict[str, float]:
    return {word: float(value) for word, value in re.findall(r"^(\w+) (\S+)$", result.stdout, re.M)}


def test_a_resumed_folder_keeps_its_id(tmp_path: Path) -> None:
    assert run(tmp_path, ONE.replace("MODE", "offline")).stderr == ""
    time.sleep(1)  # wandb names a run's folder by the second.
    assert run(tmp_path, ONE.replace("MODE", "offline")).stderr == ""
    first, second = records(tmp_path)
    assert first["id"] == second["id"]
    assert len(second["history"]) == 1000


def test_the_user_s_wandb_mode_wins_in_auto_only(tmp_path: Path) -> None:
    assert run(tmp_path, ONE.replace("MODE", "auto"), WANDB_MODE="disabled").stderr == ""
    assert not (tmp_path / "wandb").exists()
    result = run(tmp_path, ONE.replace("MODE", "auto"), WANDB_MODE="offline", WANDB_API_KEY=KEY)
    assert result.stderr == ""
    assert len(records(tmp_path)) == 1
    assert run(tmp_path / "..", ONE.replace("MODE", "disabled"), WANDB_MODE="offline").stderr == ""
    assert not (tmp_path / ".." / "wandb").exists()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes the connection and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(20)
        yield server.getsockname()[1]


@pytest.fixture
def refusing_server() -> Iterator[tuple[int, list[str]]]:
    """A server that answers, and knows no key."""
    seen = []

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, seen
    server.shutdown()
    server.server_close()


def assert_goes_on_offline(tmp_path: Path, result: subprocess.CompletedProcess, why: str) -> None:
    assert result.returncode == 0, result.stderr
    warnings = result.stderr.splitlines()
    assert len(warnings) == 1, result.stderr
    assert "wandb stays offline" in warnings[0]
    assert why in warnings[0]
    assert len(records(tmp_path)[0]["history"]) == 1000
    took = seconds(result)
    assert took["made"] + took["logged"] < 4
    assert took["finished"] < 10


@pytest.mark.parametrize("mode", ["auto", "online"])
def test_a_server_that_is_not_there_costs_one_warning(tmp_path: Path, mode: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        began = time.monotonic()
        environment = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": address}
        result = run(tmp_path, ONE.replace("MODE", mode), **environment)
    assert_goes_on_offline(tmp_path, result, "does not answer")
    assert time.monotonic() - began < 45


def test_a_server_that_never_answers_costs_seconds(tmp_path: Path, silent_port: int) -> None:
    began = time.monotonic()
    environment = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": f"http://127.0.0.1:{silent_port}"}
    result = run(tmp_path, ONE.replace("MODE", "auto"), **environment)
    assert_goes_on_offline(tmp_path, result, "timed out")
    assert time.monotonic() - began < 45


def test_a_key_the_server_refuses_costs_one_warning(tmp_path: Path, refusing_server: tuple[int, list[str]]) -> None:
    port, seen = refusing_server
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1:{port} login user password {KEY}\n")
    result = run(tmp_path, ONE.replace("MODE", "auto"), WANDB_BASE_URL=f"http://127.0.0.1:{port}")
    assert_goes_on_offline(tmp_path, result, "")
    assert "/graphql" in seen
    assert not [path for path in seen if "otel" in path]


@pytest.mark.parametrize(("mode", "environment"), [("auto", {"WANDB_API_KEY": "bogus"}), ("online", {})])
def test_a_bogus_or_missing_key_costs_one_warning(
    tmp_path: Path, mode: str, environment: dict, refusing_server: tuple[int, list[str]]
) -> None:
    port, seen = refusing_server
    address = f"http://127.0.0.1:{port}"
    result = run(tmp_path, ONE.replace("MODE", mode), WANDB_BASE_URL=address, **environment)
    assert_goes_on_offline(tmp_path, result, "key" if mode == "online" else "WANDB_API_KEY")
    assert "/graphql" not in seen


def test_a_broken_wandb_costs_one_warning_and_no_memory(tmp_path: Path) -> None:
    (tmp_path / "wandb").write_text("a file where wandb wants its folder")
    code = ONE.replace("MODE", "offline").replace("range(1000)", "range(1000), time.sleep(2)][0]")
    code = code.replace("in range", "in [range") + "    print('queued', logger._jobs.qsize())\n"
    result = run(tmp_path, code)
    assert result.returncode == 0
    assert result.stderr.count("wandb is off") == 1
    assert seconds(result)["queued"] == 0


def test_an_unfinished_run_does_not_hold_the_process(tmp_path: Path, silent_port: int) -> None:
    began = time.monotonic()
    code = ONE.replace("MODE", "auto").split("    for step")[0]
    environment = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": f"http://127.0.0.1:{silent_port}"}
    run(tmp_path, code, **environment)
    assert time.monotonic() - began < 45


def test_finish_leaves_a_stuck_wandb_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr(module, "FINISH_SECONDS", -1.8)
    monkeypatch.setattr(WandbLogger, "_open", lambda self: time.sleep(5))
    logger = WandbLogger(tmp_path, project="p", name="n", mode="offline")
    began = time.monotonic()
    logger.finish("passed")
    assert time.monotonic() - began < 15
    assert "still busy" in caplog.text


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="auto, online, offline, disabled"):
        WandbLogger(tmp_path, project="p", name="n", mode="on")
