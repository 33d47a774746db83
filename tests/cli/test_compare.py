"""The command on run folders that were made up."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-m", "omni.compare")


def fake(folder: Path, loss: float, *, seed: int = 1, lr: float = 0.1, steps: int = 60, **about) -> None:
    folder.mkdir(parents=True)
    # As large as a real one: reading YAML is what costs.
    filler = {f"group{number}": {f"key{n}": n for n in range(8)} for number in range(8)}
    config = {"seed": seed, "stage": {"name": "w1", "lr": lr}, **filler}
    lines = [f"{key}: {json.dumps(value)}" for key, value in config.items()]
    (folder / "config.yaml").write_text("\n".join(lines).replace("{", "{ ") + "\n")
    ends = {"first": 5.0, "last": loss, "best": loss}
    run = {"status": "passed", "error": None, "stage": "w1", "seconds": 2.0, "metrics": {"loss": ends}, "gate": None}
    (folder / "run.json").write_text(json.dumps(run | about))
    rows = "".join(f"{step},{loss + 4 / step},0.001\n" for step in range(1, steps + 1))
    (folder / "metrics.csv").write_text("step,loss,lr\n" + rows)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs" / "sweeps" / "w1" / "now"
    for number, (loss, lr) in enumerate([(2.0, 0.1), (2.2, 0.1), (1.0, 0.2)]):
        fake(folder / str(number), loss, seed=number, lr=lr)
    fake(folder / "3", 3.0, lr=0.3, status="failed", error="CUDA out of memory")
    (folder / "multirun.yaml").touch()
    (tmp_path / "outputs" / "latest").symlink_to("sweeps/w1/now/3")
    return folder


def reports(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".compare*")) + sorted(
        path.name for path in folder.glob("compare*")
    )


def test_a_sweep_gets_its_table_and_all_its_files(sweep: Path, tmp_path: Path, compare) -> None:
    done = compare(tmp_path, sweep)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert re.search(r"run +stage.lr +loss +best +n +seconds +gate +status", done.stdout)
    rows = [line.split() for line in lines if re.search(r"passed|failed", line)][:3]
    assert rows[0][:4] == ["★", "2", "0.2", "1.000"]
    assert rows[1][:6] == ["0,", "1", "0.1", "2.10", "±", "0.14"]
    assert rows[2][0] == "3"
    assert "3: failed: CUDA out of memory" in lines
    assert lines[-1] == f"compare.csv, compare.md, compare.png, compare.html in {sweep}"
    assert reports(sweep) == ["compare.csv", "compare.html", "compare.md", "compare.png"]


def test_where_the_files_go(sweep: Path, tmp_path: Path, compare) -> None:
    plain = ["compare.csv", "compare.md", "compare.png"]
    assert compare(tmp_path, "outputs").returncode == 0
    assert reports(tmp_path / "outputs") == plain
    here = tmp_path / "here"
    here.mkdir()
    assert compare(here, tmp_path / "outputs" / "latest").returncode == 0
    assert reports(here) == plain
    assert reports(sweep / "3") == []
    there = tmp_path / "new" / "there"
    assert compare(tmp_path, sweep / "0", sweep / "1", "--html", "--out", there).returncode == 0
    assert reports(there) == ["compare.csv", "compare.html", "compare.md", "compare.png"]
    assert reports(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{sweep}", "--metric", "los"], "no run logged 'los'; there are loss. Did you mean loss?"),
        (["nowhere"], "nowhere is no folder"),
        (["{empty}"], "nothing to compare"),
        (["{sweep}", "--out", "{file}"], "cannot be written"),
    ],
)
def test_an_error_is_one_line(sweep: Path, tmp_path: Path, arguments: list[str], words: str, compare) -> None:
    places = {"sweep": sweep, "empty": tmp_path / "empty", "file": tmp_path / "file"}
    places["empty"].mkdir()
    places["file"].touch()
    done = compare(tmp_path, *(argument.format(**places) for argument in arguments))
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert reports(tmp_path / "empty") == []
    # What could be read is shown even where it cannot be written.
    assert ("status" in done.stdout) == ("--out" in arguments)


def test_broken_folders_are_named_and_skipped(sweep: Path, tmp_path: Path, compare) -> None:
    (sweep / "1" / "run.json").write_text('{"status"')
    done = compare(tmp_path, sweep)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^skipped 1: run.json cannot be read", done.stdout, re.M)


def on_terminal(cwd: Path, columns: int, *arguments: object) -> str:
    """What a terminal of so many columns is sent."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
    line = [*COMMAND, *map(str, arguments)]
    process = subprocess.Popen(line, cwd=cwd, env=clean | {"TERM": "xterm"}, stdout=side, stderr=side)
    os.close(side)
    sent = b""
    try:
        while part := os.read(main, 4096):
            sent += part
    except OSError:  # Linux ends a closed terminal so.
        pass
    os.close(main)
    assert process.wait(60) == 0, sent
    return sent.decode()


@pytest.mark.parametrize(
    ("columns", "head"),
    [
        (120, "run stage.lr loss best n seconds gate status"),
        (50, "run stage.lr loss n status"),
        (40, "stage.lr loss status"),
        (36, "run loss status"),
    ],
)
def test_a_narrow_terminal_keeps_whole_columns(sweep: Path, tmp_path: Path, columns: int, head: str, compare) -> None:
    if columns == 50:
        sent = on_terminal(tmp_path, columns, sweep)
    else:
        sent = compare(tmp_path, sweep, COLUMNS=str(columns), FORCE_COLOR="1", TERM="xterm").stdout
    assert "\x1b[" in sent
    lines = [line.split() for line in re.sub(r"\x1b\[[0-9;]*m", "", sent).splitlines()]
    at = lines.index(head.split())
    # A rule, then a line a row.
    assert [line[-1] for line in lines[at + 2 : at + 5]] == ["passed", "passed", "failed"]
    assert ("Too narrow" in sent) == (columns < 120)


def test_a_terminal_without_unicode_gets_its_table(sweep: Path, tmp_path: Path, compare) -> None:
    done = compare(tmp_path, sweep, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "2.10 ? 0.14" in done.stdout


def test_neither_torch_nor_hydra_is_imported(sweep: Path, tmp_path: Path) -> None:
    code = """if True:
        import sys
        from omni.compare import main
        main(sys.argv[1:])
        heavy = {"torch", "hydra", "omegaconf", "wandb", "transformers", "matplotlib.pyplot"}
        sys.exit(f"imported: {heavy & sys.modules.keys()}" if heavy & sys.modules.keys() else 0)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(sweep), "--html"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert reports(sweep)


@pytest.mark.parametrize(("runs", "seconds"), [(100, 1), (2000, 15)])
def test_many_runs_are_compared_fast(tmp_path: Path, runs: int, seconds: float, compare) -> None:
    for number in range(runs):
        fake(tmp_path / "s" / str(number), 1 + number / runs, seed=number % 4, lr=number // 4, steps=100)
    began = time.monotonic()
    done = compare(tmp_path, "s", "--html")
    # Five times what is promised: a busy machine is not a slow program.
    assert time.monotonic() - began < 5 * seconds
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "s" / "compare.csv").read_text().splitlines()) == runs + 1
