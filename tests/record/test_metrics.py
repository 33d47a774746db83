import json
import logging
import math
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from omni.errors import OmniError
from omni.record.metrics import CsvLogger, Loggers, better, cut_metrics, read_metrics, summarise


def written(folder: Path, rows: list[tuple[int, dict[str, float]]]) -> Path:
    logger = CsvLogger(folder)
    for step, values in rows:
        logger.log(step, values)
    logger.finish("passed")
    return folder / "metrics.csv"


def test_floats_read_back_bit_for_bit(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1e-308, -0.0, 123456789.123456789, math.pi]
    path = written(tmp_path, [(step, {"loss": value}) for step, value in enumerate(values)])
    assert [value.hex() for _, value in read_metrics(path)["loss"]] == [value.hex() for value in values]


def test_each_row_is_on_disk_at_once(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path)
    assert logger.path.read_text() == "step\n"
    logger.log(1, {"loss": 2.5, "lr": 0.1})
    assert logger.path.read_text() == "step,loss,lr\n1,2.5,0.1\n"
    logger.log(2, {"lr": 0.2})
    assert logger.path.read_text() == "step,loss,lr\n1,2.5,0.1\n2,,0.2\n"


def test_a_new_metric_becomes_a_last_column(tmp_path: Path) -> None:
    rows = [(1, {"loss": 2.0}), (2, {"val, loss": 3.0, "loss": 1.0}), (3, {"a": 1.0, "loss": 0.5})]
    path = written(tmp_path, rows)
    assert path.read_text() == 'step,loss,"val, loss",a\n1,2.0,,\n2,1.0,3.0,\n3,0.5,,1.0\n'
    assert read_metrics(path) == {
        "loss": [(1, 2.0), (2, 1.0), (3, 0.5)],
        "val, loss": [(2, 3.0)],
        "a": [(3, 1.0)],
    }


def test_nan_and_infinity_are_written_as_such(tmp_path: Path) -> None:
    path = written(tmp_path, [(1, {"a": math.nan, "b": math.inf, "c": -math.inf})])
    assert path.read_text().splitlines()[1] == "1,nan,inf,-inf"
    assert math.isnan(read_metrics(path)["a"][0][1])


@pytest.mark.parametrize("name", ["step", "", "a\nb", "a\rb"])
def test_a_name_no_column_can_have_is_refused(tmp_path: Path, name: str) -> None:
    logger = CsvLogger(tmp_path)
    with pytest.raises(ValueError, match="not a metric's name"):
        logger.log(1, {name: 1.0})
    assert logger.path.read_text() == "step\n"


def test_a_file_is_continued_after_its_last_whole_line(tmp_path: Path) -> None:
    path = written(tmp_path, [(1, {"loss": 2.0, "lr": 0.1})])
    with path.open("a") as file:
        file.write("2,1.")
    written(tmp_path, [(2, {"lr": 0.3, "loss": 1.5})])
    assert path.read_text() == "step,loss,lr\n1,2.0,0.1\n2,1.5,0.3\n"


def test_a_process_killed_while_logging_leaves_a_file_that_goes_on(tmp_path: Path) -> None:
    code = """
        import sys
        from omni.record.metrics import CsvLogger
        logger = CsvLogger(sys.argv[1])
        for step in range(10**9):
            logger.log(step, {"loss": step / 7, f"m{step // 5000}": 1.0})
            if step == 12000:
                print("go", flush=True)
    """
    line = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "go\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    losses = read_metrics(tmp_path / "metrics.csv")["loss"]
    assert len(losses) >= 12000
    assert losses == [(step, step / 7) for step in range(len(losses))]
    cut_metrics(tmp_path, 9000)
    written(tmp_path, [(9001, {"loss": 1.0})])
    assert [step for step, _ in read_metrics(tmp_path / "metrics.csv")["loss"]] == list(range(9002))


def test_cut_drops_later_rows_and_a_half_line_and_keeps_exact_bytes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    kept = b"step,loss\n1,2.50\n2, 1e0\n10,\n"
    path.write_bytes(kept + b"11,3.0\n12,4.0\n3,0.")
    cut_metrics(tmp_path, 10)
    assert path.read_bytes() == kept


@pytest.mark.parametrize("content", [b"", b"step,lo"])
def test_a_file_without_a_whole_header_starts_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "metrics.csv"
    cut_metrics(tmp_path, 3)
    assert not path.exists()
    path.write_bytes(content)
    assert read_metrics(path) == {}
    cut_metrics(tmp_path, 3)
    assert path.read_bytes() == b""
    written(tmp_path, [(4, {"loss": 1.0})])
    assert path.read_text() == "step,loss\n4,1.0\n"


def test_reading_ignores_a_half_line_and_names_a_broken_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss,lr\n1,2.0,0.1\n2,1.")
    assert read_metrics(path) == {"loss": [(1, 2.0)], "lr": [(1, 0.1)]}
    for broken in ("x,1.0,1.0\n", "2,1.0\n", "2,1.0,1.0,1.0\n", "2,one,1.0\n"):
        path.write_text("step,loss,lr\n1,2.0,0.1\n" + broken)
        with pytest.raises(OmniError, match=r"metrics\.csv, line 3"):
            read_metrics(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(OmniError, match="line 1: expected a header"):
        read_metrics(path)
    with pytest.raises(OmniError, match="cannot be read"):
        read_metrics(tmp_path / "none.csv")


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    logger = CsvLogger(tmp_path)
    logger._file.close()
    logger._file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115 - closed by finish
    logger._columns = ["step", "loss"]
    with pytest.raises(OmniError, match=r"metrics\.csv cannot be written.*No space"):
        logger.log(1, {"loss": 1.0})
    logger.finish("failed")
    with pytest.raises(OmniError, match="cannot be written"):
        CsvLogger(tmp_path / "missing")


def test_summary_knows_which_way_is_better() -> None:
    points = [(1, 3.0), (2, 1.0), (3, 2.0)]
    summary = summarise({"train/loss": points, "accuracy": points, "empty": []})
    assert summary == {
        "train/loss": {"first": 3.0, "last": 2.0, "best": 1.0},
        "accuracy": {"first": 3.0, "last": 2.0, "best": 3.0},
    }
    assert {better(name) for name in ("val_loss", "WER", "eval/cer", "nll", "loss_matched")} == {"lower"}
    assert {better(name) for name in ("power", "tokens_per_second", "lossless", "loss_shuffled")} == {"higher"}
    assert {better(name) for name in ("grad_norm", "train/lr", "texture_layer_1", "loss_none")} == {None}


def test_what_is_better_neither_way_has_no_best() -> None:
    points = [(1, 3.0), (2, 1.0)]
    summary = summarise({"grad_norm": points, "loss_shuffled": points})
    assert summary["grad_norm"] == {"first": 3.0, "last": 1.0, "best": None}
    assert summary["loss_shuffled"]["best"] == 3.0


def test_summary_of_values_that_are_not_finite_is_valid_json() -> None:
    summary = summarise({"loss": [(1, math.nan), (2, 3.0), (3, -math.inf)], "b": [(1, math.inf)]})
    json.dumps(summary, allow_nan=False)
    assert summary["loss"] == {"first": None, "last": None, "best": 3.0}
    assert summary["b"]["best"] is None


class Mirror:
    def __init__(self, fails: str = "") -> None:
        self.fails, self.calls = fails, []

    def __getattr__(self, method: str):
        def call(*arguments: object) -> None:
            self.calls.append((method, *arguments))
            if method == self.fails:
                raise RuntimeError("network gone")

        return call


def test_loggers_fan_out_and_drop_a_mirror_that_raises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good, bad = Mirror(), Mirror(fails="log")
    loggers = Loggers([bad, CsvLogger(tmp_path), good])
    loggers.config({"a": 1})
    with caplog.at_level(logging.WARNING):
        loggers.log(1, {"loss": 2.0})
        loggers.log(2, {"loss": 1.0})
    loggers.finish("passed")
    assert [call[0] for call in good.calls] == ["config", "log", "log", "finish"]
    assert [call[0] for call in bad.calls] == ["config", "log"]
    assert caplog.text.count("network gone") == 1
    assert len(read_metrics(tmp_path / "metrics.csv")["loss"]) == 2


def test_loggers_let_the_csv_fail_but_still_reach_the_others(tmp_path: Path) -> None:
    csv, mirror = CsvLogger(tmp_path), Mirror()
    csv._file.close()
    csv._file = Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115 - closed by finish
    csv._columns = ["step", "loss"]
    loggers = Loggers([csv, mirror])
    with pytest.raises(OmniError, match="No space"):
        loggers.log(1, {"loss": 1.0})
    loggers.finish("failed")
    assert [call[0] for call in mirror.calls] == ["log", "finish"]
