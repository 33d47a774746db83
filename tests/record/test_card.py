"""A model card of reports that found nothing to measure."""

import json
import shutil
from pathlib import Path

import pytest

from omni.record.card import card

HEARING = Path("data/hearing")


@pytest.mark.parametrize(
    ("nothing", "left_out"),
    [
        ({"retrieval": None}, "its transcript found among"),
        ({"wer": None, "cer": None}, "words written down wrong"),
        ({"audio_gain": {"value": None, "low": None, "high": None}}, "what a clip's sound is worth"),
    ],
    ids=["retrieval", "wer", "audio_gain"],
)
def test_what_a_report_has_no_figure_of_is_left_out(tmp_path, nothing, left_out):
    run = tmp_path / "run"
    shutil.copytree(HEARING, run, ignore=shutil.ignore_patterns("checkpoints"))
    assert left_out in card(run)
    report = run / "hearing" / "test.json"
    report.write_text(json.dumps(json.loads(report.read_text()) | nothing))
    assert left_out not in card(run)
    assert "another clip's sound" in card(run)


def test_a_share_that_is_null_is_no_error(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(HEARING, run, ignore=shutil.ignore_patterns("checkpoints"))
    report = run / "audiobench_mini" / "audiobench_mini.json"
    figures = json.loads(report.read_text())
    figures["controls"]["shuffled"] = None
    report.write_text(json.dumps(figures))
    assert "another clip's sound ?" in card(run)
