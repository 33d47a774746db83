"""The hearing report as files, from figures that are made up."""

import csv
import json
import math
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from omni.record.hearing import emergence, read_looks, write_hearing
from omni.record.hearing_pictures import draw_conditions
from omni.record.hearing_text import emerged, escape, render_short, verdict
from omni.record.style import spread

PURPLE, PINK, GREEN, BLUE, ORANGE = (122, 95, 168), (181, 85, 142), (42, 138, 74), (47, 111, 179), (217, 131, 36)
FOUND = {"recall_1": 0.968, "recall_5": 0.992, "median_rank": 1.0}
FIGURES = {
    "run": "w2_align/2026",
    "step": 1200,
    "split": "test",
    "clips": 25,
    "hears": True,
    "losses": {"matched": 1.75, "shuffled": 5.5276, "silence": 4.62, "none": 4.64, "transcript": 0.0766},
    "audio_gain": {"value": 3.7776, "low": 3.69, "high": 3.86},
    "retrieval": {
        "candidates": 100,
        "draws": 5,
        "chance": {"recall_1": 0.01, "recall_5": 0.05, "median_rank": 50.5},
        "to_text": FOUND,
        "to_audio": FOUND | {"recall_1": 0.5},
    },
    "wer": 0.6677,
    "cer": math.nan,
    "cut": 2,
    "whisper_wer": 0.2077,
    "whisper_cer": 0.178,
    "explained": [0.06, 0.04],
}
TRANSCRIPTS = [{"id": str(i), "said": f"said {i}", "heard": f"a | b {i}"} for i in range(25)]
NAMES = ["loss_matched", "loss_shuffled", "loss_silence", "loss_none", "loss_transcript"]


def looks_csv(folder: Path, lows: list[float]) -> Path:
    """A run's metrics with a look every 100 steps."""
    lines = [f"step,loss,{','.join(NAMES)},audio_gain,audio_gain_low,audio_gain_high,recall_1"]
    for look, low in enumerate(lows, 1):
        lines += [f"{look * 100 - 50},3.0" + "," * 9]
        lines += [f"{look * 100},2.0,{4 - low},4.8,4.7,4.6,0.1,{low + 0.1},{low},{low + 0.2},0.3"]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder / "metrics.csv"


def write(folder: Path, lows: list[float], **other) -> tuple[dict, list[Path], list[str]]:
    """Figures, files, and every text that was painted."""
    random, said, paint = np.random.default_rng(0), [], Text.draw
    looks = read_looks(looks_csv(folder, lows), until=10**9) if lows else {}
    loud = np.column_stack([np.linspace(1, 2, 20), np.linspace(0.9, 1.9, 20), np.linspace(1.1, 2.1, 20)])

    def listen(self: Text, renderer: object) -> None:
        said.append(self.get_text())
        paint(self, renderer)

    with patch.object(Text, "draw", listen):
        figures, files = write_hearing(
            folder / "hearing",
            FIGURES | other,
            TRANSCRIPTS,
            looks=looks,
            plane=(random.normal(size=(30, 2)), random.normal(size=(40, 2)) + 5),
            loudness=(loud, np.where(np.arange(20)[:, None] == 3, math.nan, loud * 2)),
        )
    return figures, files, said


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def amount(png: Path, color: tuple[int, int, int]) -> int:
    picture = (imread(png)[..., :3] * 255).round().astype(int)
    return int((abs(picture - color).max(axis=-1) < 12).sum())


@pytest.mark.parametrize(
    ("lows", "step"),
    [([-0.1, 0.2, 0.3], 200), ([0.1, -0.2, 0.3], 100), ([-1, -2], None), ([0.0, 0.0], None), ([math.nan, 0.5], 200)],
)
def test_hearing_emerges_at_the_first_look_whose_interval_lies_above_zero(tmp_path, lows, step):
    assert emergence(read_looks(looks_csv(tmp_path, lows), until=300)) == step


def test_looks_after_the_checkpoint_do_not_count(tmp_path):
    path = looks_csv(tmp_path, [-0.1, -0.1, 0.3])
    assert emergence(read_looks(path, until=299)) is None
    assert [step for step, _ in read_looks(path, until=299)["loss_silence"]] == [100, 200]


def test_a_run_without_metrics_or_without_looks_has_no_emergence(tmp_path):
    assert read_looks(tmp_path / "metrics.csv", until=9) == {}
    (tmp_path / "metrics.csv").write_text("step,loss\n1,2.0\n")
    assert read_looks(tmp_path / "metrics.csv", until=9) == {}
    assert emergence({}) is None


def test_when_it_began_is_told_in_words(tmp_path):
    told = {"looks": [100, 200, 300], "emergence_step": 200, "back_at_zero": []}
    assert emerged(told).endswith("first lay above zero at step 200, not yet at 100.")
    assert emerged(told | {"emergence_step": 100}).endswith("at step 100, the first look.")
    assert emerged(told | {"emergence_step": None}).endswith("never lay above zero: 3 looks, the last at step 300.")
    assert emerged(told | {"looks": [], "emergence_step": None}).endswith("nothing looked at it in training.")
    figures, _, _ = write(tmp_path, [0.1, -0.2, 0.3, 0.0])
    assert figures["back_at_zero"] == [200, 400]
    assert emerged(figures).endswith("the first look. It was back at step 200, 400.")


def test_the_verdict_comes_first():
    assert verdict(FIGURES) == "HEARS  audio gain 3.78 nats a token, 95 % interval 3.69 to 3.86"
    deaf = FIGURES | {"hears": False, "audio_gain": {"value": 0.001, "low": -0.2, "high": 0.2}}
    assert verdict(deaf) == "DEAF  audio gain 0.001 nats a token, 95 % interval -0.2 to 0.2"


def test_all_files_are_there_and_json_can_be_read(tmp_path):
    figures, files, _ = write(tmp_path, [-0.1, 0.4])
    assert {file.name for file in files} == {file.name for file in (tmp_path / "hearing").iterdir()}
    assert all(file.stat().st_size for file in files)
    told = json.loads((tmp_path / "hearing" / "test.json").read_text(), parse_constant=pytest.fail)
    assert told == figures
    assert (told["cer"], told["emergence_step"]) == (None, 200)
    lines = (tmp_path / "hearing" / "test.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == TRANSCRIPTS


def test_the_report_tells_the_figures(tmp_path):
    figures, _, _ = write(tmp_path, [-0.1, 0.4])
    text = (tmp_path / "hearing" / "test.md").read_text()
    for line in (
        "| its own audio | 1.750 |",
        "| the text itself | 0.077 |",
        "| a clip's transcript | 96.8% | 99.2% | 1 |",
        "| a transcript's clip | 50.0% | 99.2% | 1 |",
        "| by chance | 1.0% | 5.0% | 50.5 |",
        "| this model | 66.8% | ? |",
        "| whisper-base's own | 20.8% | 17.8% |",
        "first lay above zero at step 200, not yet at 100.",
    ):
        assert line in text
    assert text.count("\n| said ") == 1 + 10  # the head, and ten
    assert r"| said 24 |" not in text
    assert r"a \| b 2 |" in text
    short = render_short(figures)
    assert short.splitlines()[0] == verdict(figures)
    for figure in ("1.750", "5.528", "96.8%", "50.5", "66.8%", "20.8%", "step 200"):
        assert figure in short


def test_what_is_not_there_is_not_told(tmp_path):
    given = {key: value for key, value in FIGURES.items() if "whisper" not in key}
    with patch.dict(FIGURES, given, clear=True):
        _, files, _ = write(tmp_path, [], retrieval=None)
    text = (tmp_path / "hearing" / "test.md").read_text()
    assert "whisper" not in text
    assert "no two transcripts" in text
    assert not any("conditions" in str(file) for file in files)
    assert "conditions" not in text


def test_the_conditions_are_drawn_and_the_emergence_marked(tmp_path):
    _, _, said = write(tmp_path, [-0.1, 0.4, 1.5])
    assert {"gain above 0 from step 200", "matched 2.50", "shuffled 4.80", "transcript 0.10"} <= set(said)
    png = tmp_path / "hearing" / "conditions.png"
    assert min(amount(png, color) for color in (PURPLE, PINK, GREEN, ORANGE)) > 300
    rows = read_csv(tmp_path / "hearing" / "conditions.csv")
    assert [row["step"] for row in rows] == ["100", "200", "300"]
    assert [float(row["loss_matched"]) for row in rows] == [4.1, 3.6, 2.5]
    _, _, said = write(tmp_path, [-0.1, -0.4])
    assert not [text for text in said if "gain above" in text]


def test_the_plane_names_the_share_of_its_axes(tmp_path):
    _, _, said = write(tmp_path, [])
    assert {"first component, 6% of the variance", "second component, 4% of the variance"} <= set(said)
    assert {"30 soft tokens", "40 text embeddings"} <= set(said)
    assert min(amount(tmp_path / "hearing" / "test_plane.png", color) for color in (BLUE, ORANGE)) > 100
    rows = read_csv(tmp_path / "hearing" / "test_plane.csv")
    assert [row["kind"] for row in rows] == ["soft"] * 30 + ["text"] * 40


def test_the_plane_s_legend_has_the_markers_of_its_points(tmp_path):
    with patch.object(Figure, "legend", autospec=True, side_effect=Figure.legend) as legend:
        write(tmp_path, [])
    (figure,) = {call.args[0] for call in legend.call_args_list}
    drawn = {points.get_label(): points.get_paths()[0].vertices for points in figure.axes[0].collections}
    (shown,) = figure.legends
    named = zip(shown.get_texts(), shown.legend_handles, strict=True)
    named = {text.get_text(): handle.get_paths()[0].vertices for text, handle in named}
    assert named.keys() == drawn.keys() == {"30 soft tokens", "40 text embeddings"}
    assert all(np.array_equal(named[name], drawn[name]) for name in drawn)


@pytest.mark.parametrize("other", ["shuffled", "silence", "none"])
def test_what_lies_on_its_own_audio_does_not_hide_it(tmp_path, other):
    png = tmp_path / "conditions.png"
    draw_conditions({f"loss_{name}": [(1, 2.0), (2, 2.0)] for name in ("matched", other)}, png, emergence=None)
    plot = (imread(png)[:, :980, :3] * 255).round().astype(int)
    colors = {"matched": ORANGE, "shuffled": PURPLE, "silence": (77, 154, 148), "none": (138, 144, 153)}
    assert min(int((abs(plot - colors[name]).max(axis=-1) < 12).sum()) for name in ("matched", other)) > 300


def test_loudness_is_drawn_with_its_numbers_and_gaps_stay_empty(tmp_path):
    _, _, said = write(tmp_path, [])
    assert {"soft tokens 2.00", "text 4.00", "RMS", "through the clip, %"} <= set(said)
    rows = read_csv(tmp_path / "hearing" / "test_rms.csv")
    assert [float(row["percent"]) for row in rows][:2] == [2.5, 7.5]
    assert float(rows[-1]["text_mean"]) == 4
    assert (rows[3]["text_mean"], rows[3]["soft_mean"] != "") == ("", True)


def test_splits_do_not_take_each_others_place(tmp_path):
    write(tmp_path, [], split="test")
    _, files, _ = write(tmp_path, [], split="dev/other.1")
    assert {"dev-other.1.md", "dev-other.1_plane.csv", "dev-other.1_rms.png"} <= {file.name for file in files}
    assert (tmp_path / "hearing" / "test_plane.png").is_file()


def test_transcripts_stay_in_their_cells():
    assert escape("a|b\n*c* <d>") == r"a\|b \*c\* \<d\>"


@pytest.mark.parametrize(
    ("places", "apart"),
    [
        ([0.5], [0.5]),
        ([0.1, 0.9, 0.5], [0.1, 0.9, 0.5]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.52, 0.5, 0.9], [0.56, 0.46, 0.9]),
        ([0.5, 0.5, 0.58], [0.4267, 0.5267, 0.6267]),
    ],
)
def test_labels_move_apart_no_further_than_they_must(places, apart):
    assert spread(places, 0.1) == pytest.approx(apart, abs=1e-3)
