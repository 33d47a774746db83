"""The AudioBench-style synthetic mini as files, from figures that are made up."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from unittest.mock import patch

import pytest
from matplotlib.image import imread
from matplotlib.text import Text

from omni.record.audiobench import log_test_use, write_audiobench
from omni.record.audiobench_text import NAME, render_markdown, render_short, verdict

ORANGE, PALE, PURPLE, GREEN = (217, 131, 36), (230, 178, 123), (122, 95, 168), (42, 138, 74)


def share(value: float, questions: int = 25) -> dict:
    return {"questions": questions, "value": value, "low": value - 0.07, "high": value + 0.08}


CONTROLS = {"majority": 0.26, "text_only": 0.27, "shuffled": 0.247, "silence": 0.24, "transcript": 0.39, "probe": 0.33}
OVER_TEXTS = {"over": "choices", "labels": ["normal", "whispered", "creaky", "through an old telephone"]}
CATEGORIES = {
    name: {
        "chance": 0.25,
        "matched": share(value),
        "letters": share(0.12),
        "controls": CONTROLS | {"text_only": 0.111},
        "confusion": over | {"counts": [[6, 0, 0, 0], [1, 4, 1, 0], [0, 17, 3, 2], [0, 0, 2, 4]]},
    }
    for name, value, over in (
        ("quality", 0.68, OVER_TEXTS),
        ("counting", 0.28, {"over": "letters", "labels": list("ABCD")}),
    )
}
FIGURES = {
    "name": NAME,
    "chance": 0.25,
    "run": "w3_audio/2026",
    "step": 1500,
    "split": "test",
    "questions": 200,
    "passed": True,
    "checks": {
        "matched": {"value": 0.455, "needs": "at least 40%", "passed": True},
        "shuffled": {"value": 0.247, "needs": "19% to 31%", "passed": True},
        "difference": {"value": 0.208, "needs": "interval above 0", "passed": True},
    },
    "matched": share(0.455, 200),
    "letters": share(0.3, 200) | {"parsed": 0.82},
    "difference": {"value": 0.208, "low": 0.131, "high": 0.285},
    "controls": CONTROLS,
    "categories": CATEGORIES,
    "engines": {"flite": share(0.5, 150), "kokoro": share(0.42, 50)},
    "unseen": {"engines": ["kokoro"], **share(0.42, 50)},
}
FAILED = {
    "passed": False,
    "checks": FIGURES["checks"] | {"matched": {"value": 0.3, "needs": "at least 40%", "passed": False}},
    "matched": share(0.3, 200),
}
ROWS = [{"id": f"q{i}", "choices": ["a", "ö", "c", "d"], "answer": "ö", "chosen": "a"} for i in range(3)]


def write(folder: Path, **other) -> tuple[dict, list[Path], list[str]]:
    """Figures, files, and every text that was painted."""
    said, paint = [], Text.draw

    def listen(self: Text, renderer: object) -> None:
        said.append(self.get_text())
        paint(self, renderer)

    with patch.object(Text, "draw", listen):
        figures, files = write_audiobench(folder / "audiobench", FIGURES | other, ROWS)
    return figures, files, said


def amount(png: Path, color: tuple[int, int, int]) -> int:
    picture = (imread(png)[..., :3] * 255).round().astype(int)
    return int((abs(picture - color).max(axis=-1) < 12).sum())


def test_all_files_are_there_and_can_be_read(tmp_path):
    figures, files, _ = write(tmp_path, controls=CONTROLS | {"probe": float("nan")})
    assert {file.name for file in files} == {file.name for file in (tmp_path / "audiobench").iterdir()}
    assert {f"audiobench_mini{end}" for end in (".json", ".md", ".jsonl")} < {file.name for file in files}
    told = json.loads((tmp_path / "audiobench" / "audiobench_mini.json").read_text(), parse_constant=pytest.fail)
    assert told == figures
    assert told["name"] == "AudioBench-style synthetic mini"
    assert told["controls"]["probe"] is None
    lines = (tmp_path / "audiobench" / "audiobench_mini.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == ROWS


def test_the_verdict_comes_first():
    told = "AudioBench-style synthetic mini: 45.5% of 200 right (95 % interval 38.5% to 53.5%), chance 25%"
    assert verdict(FIGURES) == f"PASS  {told}"
    assert render_short(FIGURES).startswith("PASS  ")
    assert render_short(FIGURES | FAILED).startswith("FAIL  AudioBench-style synthetic mini: 30.0%")


def test_ones_own_questions_have_their_own_name_and_chance(tmp_path):
    categories = {"all": CATEGORIES["quality"] | {"chance": 1 / 3}}
    own = {"name": "my questions", "chance": 1 / 3, "step": None, "left_out": 2, "engines": {}, "unseen": None}
    figures, _, said = write(tmp_path, **own, categories=categories)
    text = (tmp_path / "audiobench" / "audiobench_mini.md").read_text()
    for told in (render_short(figures), text, " ".join(said)):
        assert "AudioBench" not in told
        assert "my questions" in told
        assert "chance 25" not in told
        assert "chance, 25" not in told
    assert "chance 33%" in verdict(figures)
    assert "w3_audio/2026, 200 questions of test, 2 left out" in text
    assert "sound by" not in render_short(figures) + text
    assert any(note.endswith("dashed: chance, 33 %") for note in said)
    mixed = {"all": categories["all"], "other": categories["all"] | {"chance": 0.5}}
    assert any(note.endswith("dashed: chance") for note in write(tmp_path, categories=mixed)[2])


def test_each_check_stands_with_its_figure():
    lines = [" ".join(line.split()) for line in render_short(FIGURES | FAILED).splitlines()]
    assert "its own sound 30.0% NOT at least 40%" in lines
    assert "another's sound 24.7% 19% to 31%" in lines
    assert "difference 20.8% interval above 0 (it is 13.1% to 28.5%)" in lines


def test_what_is_printed_has_categories_then_controls():
    lines = [" ".join(line.split()) for line in render_short(FIGURES).splitlines()]
    assert lines.index("quality 68.0% 61.0% to 76.0% 24.7% 24.0% 11.1% 39.0% 33.0%") < lines.index("controls")
    for line in ("no sound 27.0%", "a transcript 39.0%", "F0, RMS, length 33.0%", "commonest letter 26.0%"):
        assert lines.index(line) > lines.index("controls")
    assert "letters 30.0% 82.0% could be read as a letter" in lines
    assert "unseen: kokoro 42.0% 35.0% to 50.0% 50 questions" in lines


def test_columns_stand_below_their_heads():
    head, *rows = [line for line in render_short(FIGURES).splitlines() if line.startswith(("category", "  quality"))]
    assert [len(row) for row in rows] == [len(head)]


def test_the_report_tells_the_figures(tmp_path):
    write(tmp_path, **FAILED)
    text = (tmp_path / "audiobench" / "audiobench_mini.md").read_text()
    for line in (
        "# AudioBench-style synthetic mini\n",
        "it is not AudioBench",
        "**Failed**: 30.0% of 200 right",
        "| its own sound | 30.0% | at least 40% | **no** |",
        "| difference | 20.8% | interval above 0 (it is 13.1% to 28.5%) | yes |",
        "| quality | 25 | 68.0% | 61.0% to 76.0% | 24.7% | 24.0% | 11.1% | 39.0% | 33.0% | 12.0% |",
        "| commonest letter | 26.0% |",
        "| unseen: kokoro | 42.0% | 35.0% to 50.0% | 50 |",
        "(audiobench_mini_confusion.png)",
    ):
        assert line in text
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    assert all(len({line.count("|") for line in table}) == 1 for table in tables)


def test_it_is_never_called_by_the_name_of_the_real_one(tmp_path):
    _, _, said = write(tmp_path)
    texts = [*said, render_short(FIGURES), render_markdown(FIGURES, [])]
    for text in texts:
        rest = text.replace(NAME, "").replace("in the manner of AudioBench; it is not AudioBench", "")
        assert "AudioBench" not in rest


def test_what_was_not_run_is_not_told(tmp_path):
    controls = CONTROLS | {"probe": None}
    categories = {name: found | {"controls": controls} for name, found in CATEGORIES.items()}
    figures, _, said = write(tmp_path, controls=controls, categories=categories, unseen=None)
    assert "unseen" not in render_short(figures)
    assert [line.split()[-1] for line in render_short(figures).splitlines() if "F0" in line] == ["?"]
    assert not [text for text in said if "F0" in text]


def test_categories_are_drawn_with_their_controls(tmp_path):
    _, _, said = write(tmp_path)
    assert {"all", "quality", "counting", "its own sound 45.5%", "another's sound 24.7%", "no sound 27.0%"} <= set(said)
    png = tmp_path / "audiobench" / "audiobench_mini_categories.png"
    assert min(amount(png, color) for color in (ORANGE, PALE)) > 10_000
    assert amount(png, PURPLE) > 100
    pale = amount(png, PALE)
    write(tmp_path, categories={"quality": CATEGORIES["quality"]})
    assert amount(png, PALE) > pale / 2 > 0  # one bar, and wider


def test_confusions_are_drawn_with_counts_and_labels(tmp_path):
    _, _, said = write(tmp_path)
    assert {"normal", "whispered", "creaky", "A", "D", "17", "quality", "counting"} <= set(said)
    assert "through an old\ntelephone" in said
    png = tmp_path / "audiobench" / "audiobench_mini_confusion.png"
    assert amount(png, GREEN) > 2000


def test_each_use_of_the_test_set_is_a_line(tmp_path):
    path = tmp_path / "deep" / "uses.jsonl"
    assert log_test_use(path, run="a", step=100, score=0.3) == 1
    assert log_test_use(path, run="ö", step=200, score=0.42) == 2
    first, second = map(json.loads, path.read_text().splitlines())
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert first == {"run": "a", "step": 100, "score": 0.3}
    assert (second["run"], second["step"], second["score"]) == ("ö", 200, 0.42)


def test_uses_at_the_same_time_are_all_kept(tmp_path):
    path = tmp_path / "uses.jsonl"
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda i: log_test_use(path, run=str(i), step=i, score=0.5), range(24)))
    assert sorted(counts) == list(range(1, 25))
    assert {json.loads(line)["step"] for line in path.read_text().splitlines()} == set(range(24))
