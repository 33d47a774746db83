import json
import math
import time
from pathlib import Path

import pytest

from omni.errors import OmniError
from omni.record.columns import cells
from omni.record.outcome import clean, read_outcomes
from omni.record.table import Table, figure, plus_minus, read_table

BASE = {
    "encoder": {"_target_": "omni.model.encoder.WhisperEncoder", "width": 512},
    "projector": {"in_dim": 512, "out_dim": 128, "stack": 1},
    "backbone": {"n_layer": 2, "n_embd": 128},
    "logger": {"csv": {"_target_": "omni.record.metrics.CsvLogger"}},
    "stage": {"name": "w1", "lr": 0.003, "batch_size": 5, "gate": None},
    "resume": None,
}


def nested(config: dict, changes: dict) -> dict:
    copy = json.loads(json.dumps(config))
    for key, value in changes.items():
        *path, last = key.split(".")
        node = copy
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return copy


def fake(folder: Path, loss: float | None = 1.0, *, seed: int = 1, rows: str | None = None, **about) -> Path:
    """A run folder; dotted keys under `set`, the rest goes into run.json."""
    folder.mkdir(parents=True)
    config = nested(BASE, {"seed": seed} | about.pop("set", {}))
    ends = {"loss": {"first": 5.0, "last": loss, "best": loss}} if rows is None else None
    run = {"status": "passed", "error": None, "stage": config["stage"]["name"], "seconds": 2.0, "seed": seed}
    run |= {"metrics": ends, "gate": None, "argv": ["-m", "omni.train"], "git": {"sha": "a" * 40, "dirty": False}}
    # JSON is YAML.
    (folder / "config.yaml").write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
    (folder / "run.json").write_text(json.dumps(run | about), encoding="utf-8")
    if rows is not None:
        (folder / "metrics.csv").write_text(rows)
    return folder


def names(table: Table) -> list[str]:
    return [table.row_name(row) for row in table.rows]


def test_seeds_are_folded_into_mean_deviation_and_n(tmp_path: Path) -> None:
    for number, (loss, lr) in enumerate([(1.0, 0.1), (3.0, 0.1), (5.0, 0.2)]):
        fake(tmp_path / str(number), loss, seed=number, set={"stage.lr": lr}, seconds=10.0 * (number + 1))
    table = read_table([tmp_path])
    assert table.keys == ["stage.lr"]
    first, second = table.rows
    assert (first.mean, first.n, first.best, first.seconds) == (2.0, 2, 1.0, 15.0)
    assert first.deviation == pytest.approx(math.sqrt(2))
    assert (second.mean, second.deviation, second.n) == (5.0, None, 1)
    assert [row.values["stage.lr"] for row in table.rows] == ["0.1", "0.2"]
    assert names(table) == ["0, 1", "2"]
    assert table.best is first
    assert "sample deviation" in table.notes[0]


@pytest.mark.parametrize(
    ("metric", "order"), [("loss", ["low", "high"]), ("accuracy", ["high", "low"]), ("loss_shuffled", ["high", "low"])]
)
def test_the_best_row_follows_the_metric(tmp_path: Path, metric: str, order: list[str]) -> None:
    for name, value in (("high", 0.9), ("low", 0.1)):
        ends = {metric: {"first": 0.5, "last": value, "best": value}}
        fake(tmp_path / name, set={"stage.lr": name}, metrics=ends)
    table = read_table([tmp_path], metric)
    assert names(table) == order
    assert table.best is table.rows[0]


def test_a_metric_that_is_better_neither_way_has_no_best_row_and_no_best_value(tmp_path: Path) -> None:
    for name, value in (("high", 9.0), ("low", 1.0)):
        ends = {"grad_norm": {"first": 5.0, "last": value, "best": 9.0}}
        fake(tmp_path / name, set={"stage.lr": name}, metrics=ends)
    table = read_table([tmp_path], "grad_norm")
    assert table.best is None
    assert names(table) == ["high", "low"]
    assert [(row.mean, row.best) for row in table.rows] == [(9.0, None), (1.0, None)]


def test_the_failed_come_last_with_their_first_error_line(tmp_path: Path) -> None:
    bad = {"error": "CUDA out of memory\nand a long trace"}
    fake(tmp_path / "0", 0.1, status="failed", set={"stage.lr": 1}, **bad)
    fake(tmp_path / "1", 0.2, status="interrupted", set={"stage.lr": 2}, error="stopped after step 3")
    fake(tmp_path / "2", status="running", set={"stage.lr": 3}, rows="step,loss\n1,4.5\n2,0.3\n3,0.")
    fake(
        tmp_path / "3",
        0.5,
        status="failed",
        set={"stage.lr": 4},
        gate=[{"metric": "wer", "passed": True}, {"metric": "loss", "passed": False}],
    )
    fake(tmp_path / "4", 0.9, set={"stage.lr": 5}, gate={"metric": "loss", "passed": True})  # as runs once had it
    fake(tmp_path / "5", None, set={"stage.lr": 6}, metrics={})
    table = read_table([tmp_path])
    assert names(table) == ["4", "5", "3", "2", "1", "0"]
    assert [row.status for row in table.rows] == ["passed", "passed", "failed", "running", "interrupted", "failed"]
    assert [row.gate for row in table.rows] == ["pass", "–", "fail", "–", "–", "–"]
    assert [row.mean for row in table.rows] == [0.9, None, 0.5, 0.3, 0.2, 0.1]
    assert table.best is table.rows[0]
    assert table.troubles == [("1", "interrupted: stopped after step 3"), ("0", "failed: CUDA out of memory")]


def test_a_failed_seed_has_no_say_but_is_counted(tmp_path: Path) -> None:
    fake(tmp_path / "0", 1.0, seed=1)
    fake(tmp_path / "1", 9.0, seed=2, status="failed", error="nan")
    (row,) = read_table([tmp_path]).rows
    assert (row.mean, row.n, row.count, row.status) == (1.0, 1, "1/2", "1 passed, 1 failed")


def test_no_row_is_best_when_none_finished(tmp_path: Path) -> None:
    fake(tmp_path / "0", 1.0, set={"stage.lr": 1}, status="failed", error="a")
    fake(tmp_path / "1", 2.0, set={"stage.lr": 2}, status="interrupted", error="b")
    assert read_table([tmp_path]).best is None


def test_a_run_counts_once_however_it_is_reached(tmp_path: Path) -> None:
    run = fake(tmp_path / "outputs" / "sweeps" / "a" / "0")
    (tmp_path / "outputs" / "latest").symlink_to("sweeps/a/0")
    (tmp_path / "outputs" / "again").symlink_to("..")
    (tmp_path / "outputs" / "loop").symlink_to("loop")
    elsewhere = fake(tmp_path / "disk" / "1")
    (tmp_path / "outputs" / "big").symlink_to(tmp_path / "disk")
    fake(run / "checkpoints" / "inner")  # A run keeps what is below it to itself.
    paths = [tmp_path / "outputs", run, tmp_path / "outputs" / "latest", elsewhere / ".." / "1"]
    outcomes, skipped = read_outcomes(paths)
    assert sorted(outcome.folder for outcome in outcomes) == sorted([elsewhere.resolve(), run.resolve()])
    assert skipped == []


def test_broken_half_written_and_foreign_folders_are_reported_and_skipped(tmp_path: Path) -> None:
    fake(tmp_path / "good")
    (fake(tmp_path / "half") / "run.json").write_text('{"status": "pas')
    (fake(tmp_path / "foreign") / "run.json").write_text('{"name": "other tool"}')
    (fake(tmp_path / "listed") / "run.json").write_text("[1]")
    (fake(tmp_path / "bytes") / "run.json").write_bytes(b"\xff\xfe\x00")
    (fake(tmp_path / "deep") / "run.json").write_text("[" * 100_000)
    (fake(tmp_path / "noyaml") / "config.yaml").unlink()
    (fake(tmp_path / "badyaml") / "config.yaml").write_text("a: [1\nb: }")
    (fake(tmp_path / "text") / "config.yaml").write_text("only words")
    fake(tmp_path / "norun").joinpath("run.json").rename(tmp_path / "norun" / "run.lock")
    (tmp_path / "sweep" / "0").mkdir(parents=True)
    (tmp_path / "sweep" / "multirun.yaml").touch()
    (tmp_path / "other" / "folder").mkdir(parents=True)
    table = read_table([tmp_path, tmp_path / "other"])
    assert names(table) == ["good"]
    reasons = {skip.folder.relative_to(tmp_path).as_posix(): skip.reason for skip in table.skipped}
    expected = {
        "half": "half-written",
        "foreign": "no run status",
        "listed": "no run status",
        "bytes": "run.json cannot be read",
        "deep": "run.json",
        "noyaml": "config.yaml cannot be read",
        "badyaml": "config.yaml cannot be read",
        "text": "holds no configuration",
        "norun": "no run.json",
        "sweep/0": "before it became a run",
        "other": "no run in it",
    }
    assert reasons.keys() == expected.keys()
    for name, words in expected.items():
        assert words in reasons[name], name
        assert "\n" not in reasons[name]


def test_what_was_measured_is_kept_whatever_is_missing(tmp_path: Path) -> None:
    fake(tmp_path / "0", set={"stage.lr": 0}, rows="step,loss\n1,nan\n2,2.0\n3,inf\n")
    fake(tmp_path / "1", set={"stage.lr": 1}, metrics={"loss": {"last": math.nan, "best": 1.5}})
    fake(tmp_path / "2", set={"stage.lr": 2}, metrics="what", status="running")
    fake(tmp_path / "3", set={"stage.lr": 3}, rows="step,loss\nx,y\n", status="running")
    fake(tmp_path / "4", set={"stage.lr": 4}, rows="", status="running")
    table = read_table([tmp_path])
    by_name = dict(zip(names(table), table.rows, strict=True))
    assert [by_name[name].mean for name in "01234"] == [None] * 5
    assert [by_name[name].best for name in "01234"] == [2.0, 1.5, None, None, None]
    assert [name for name, text in table.troubles if "metrics.csv, line 2" in text] == ["3"]


def test_an_unknown_metric_lists_those_there_are(tmp_path: Path) -> None:
    ends = {"first": 1, "last": 1, "best": 1}
    fake(tmp_path / "0", metrics={"loss": ends, "accuracy": ends})
    with pytest.raises(OmniError, match=r"no run logged 'acuracy'; there are loss, accuracy. Did you mean accuracy\?"):
        read_table([tmp_path], "acuracy")


def test_without_a_loss_another_metric_is_chosen_and_nothing_at_all_is_fine(tmp_path: Path) -> None:
    fake(tmp_path / "a" / "0", metrics={"accuracy": {"first": 0, "last": 1, "best": 1}})
    assert read_table([tmp_path / "a"]).metric == "accuracy"
    fake(tmp_path / "b" / "0", metrics=None, status="running")
    table = read_table([tmp_path / "b"], "anything")
    assert table.rows[0].mean is None


def test_nothing_to_compare_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OmniError, match="is no folder"):
        read_table([tmp_path / "none"])
    with pytest.raises(OmniError, match=r"nothing to compare: .*no run in it"):
        read_table([tmp_path])


def test_what_is_the_run_s_own_makes_no_column(tmp_path: Path) -> None:
    fake(tmp_path / "0", set={"resume": "outputs/latest", "logger.wandb.name": "a"})
    fake(tmp_path / "1", seed=2, set={"logger": {}})
    table = read_table([tmp_path])
    assert table.keys == []
    assert names(table) == ["0, 1"]


def test_keys_that_only_follow_are_left_out_and_named(tmp_path: Path) -> None:
    argv = ["omni.train", "-m", "backbone=gpt_d2,gpt_d4", "projector=stack_mlp,mlp", "projector.stack=1,8"]
    for number, (layers, stack) in enumerate([(2, 1), (2, 8), (4, 1), (4, 8)]):
        width = layers * 64
        changes = {"backbone.n_layer": layers, "backbone.n_embd": width, "projector.out_dim": width}
        fake(tmp_path / str(number), number, set=changes | {"projector.stack": stack}, argv=argv)
    table = read_table([tmp_path])
    assert table.keys == ["projector.stack", "backbone.n_layer"]
    assert table.differing == ["projector.out_dim", "projector.stack", "backbone.n_layer", "backbone.n_embd"]
    (note,) = [note for note in table.notes if "tells the same runs apart" in note]
    assert note.startswith("backbone.n_layer tells the same runs apart as projector.out_dim, backbone.n_embd")


@pytest.mark.parametrize("why", ["edited", "chosen", "equal"])
def test_a_key_that_may_be_a_choice_is_shown(tmp_path: Path, why: str) -> None:
    for number, (lr, batch) in enumerate([(0.1, 5), (0.2, 10)]):
        about = {"argv": [f"stage.lr={lr}"], "git": {"sha": "b" * 40, "dirty": why == "edited"}}
        changes = {"stage.lr": lr, "stage.batch_size": batch}
        if why == "chosen":
            about["argv"].append(f"++stage.batch_size={batch}")
        if why == "equal":
            # The same value in every run, from the same command line: ${stage.lr}.
            changes["stage.batch_size"] = lr
        fake(tmp_path / f"{number}" / "run", set=changes, **about)
    keys = read_table([tmp_path]).keys
    assert keys == (["stage.lr"] if why == "equal" else ["stage.lr", "stage.batch_size"])


def test_a_run_that_died_over_its_configuration_makes_no_columns(tmp_path: Path) -> None:
    fake(tmp_path / "0", set={"stage.lr": 1})
    fake(tmp_path / "1", set={"stage.lr": 2})
    holes = {"encoder": "???", "projector.in_dim": "${encoder.width}", "stage.lr": 3}
    fake(tmp_path / "2", set=holes, status="failed", error="encoder: a value is missing", metrics=None)
    table = read_table([tmp_path])
    assert table.keys == ["stage.lr"]
    assert names(table)[-1] == "2"


def test_runs_of_different_stages_share_their_columns_and_say_so(tmp_path: Path) -> None:
    ends = {"first": 1.0, "last": 1.0, "best": 1.0}
    fake(tmp_path / "0", metrics={"loss": ends, "own": ends}, set={"stage.lr": 1})
    fake(tmp_path / "1", metrics={"loss": ends}, set={"stage.lr": 2, "stage.name": "w2", "stage.lora": 8})
    table = read_table([tmp_path])
    assert table.metric == "loss"
    assert "stage.name" in table.keys
    assert "stage.lora" not in table.keys
    assert any("different stages (w1, w2)" in note for note in table.notes)
    assert any("own was not logged by any run of w2" in note for note in read_table([tmp_path], "own").notes)


def test_the_code_is_a_column_only_where_it_is_all_that_differs(tmp_path: Path) -> None:
    old, new = ({"git": {"sha": letter * 40, "dirty": False}} for letter in "ab")
    fake(tmp_path / "0", seed=1, **old)
    fake(tmp_path / "1", seed=2, **new)
    table = read_table([tmp_path])
    assert names(table) == ["0, 1"]
    assert any("2 states of the code" in note for note in table.notes)
    fake(tmp_path / "2", seed=1, **new)
    table = read_table([tmp_path])
    assert table.keys == ["commit"]
    assert {row.values["commit"]: table.row_name(row) for row in table.rows} == {"aaaaaaa": "0", "bbbbbbb": "2, 1"}


def test_odd_values_stay_apart_and_on_one_line() -> None:
    long = ["x" * 50 + letter + "y" * 50 for letter in "ab"]
    values = ["a|b\nc", "日本語", "", None, "\x1b[31mred", "a.b.Conv", "c.d.Conv", *long]
    shown = cells("projector._target_", values)
    assert len(set(shown.values())) == len(values)
    assert all(text.isprintable() and 0 < len(text) <= 42 for text in shown.values())
    assert shown[None] == "–"
    assert cells("projector._target_", ["a.b.Conv", "a.b.MLP"])["a.b.Conv"] == "Conv"
    assert clean("a\n\tb \ud800 c") == "a b c"


def test_numbers_are_as_long_as_they_are_known(tmp_path: Path) -> None:
    for number, losses in enumerate([(1.0, 1.2), (1.23456,), (1e-7,), (123456.0, 123457.0), (0.5, 0.5)]):
        for seed, loss in enumerate(losses):
            fake(tmp_path / f"{number}{seed}", loss, seed=seed, set={"stage.lr": number})
    table = read_table([tmp_path])
    told = {row.values["stage.lr"]: plus_minus(row) for row in table.rows}
    assert told == {
        "0": "1.10 ± 0.14",
        "1": "1.235",
        "2": "1e-7",
        "3": "123,456 ± 0.707",
        "4": "0.5000 ± 0",
    }
    assert figure(None) == "–"


def test_job_ten_comes_after_job_nine(tmp_path: Path) -> None:
    for number in range(11):
        fake(tmp_path / str(number), 1.0, set={"stage.lr": number})
    assert names(read_table([tmp_path])) == [str(number) for number in range(11)]


def test_two_thousand_runs_are_read_in_seconds(tmp_path: Path) -> None:
    for number in range(2000):
        fake(tmp_path / str(number), number, seed=number % 3, set={"stage.lr": number // 3})
    began = time.monotonic()
    table = read_table([tmp_path])
    assert time.monotonic() - began < 60
    assert len(table.rows) == 667
