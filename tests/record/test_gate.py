import pytest

from omni.errors import OmniError
from omni.record.gate import bound, judge

SUMMARY = {"loss": {"first": 5.5, "last": 5.0, "best": 4.0}, "recall": {"first": 0.1, "last": 0.4, "best": 0.5}}


def test_a_fall_counts_from_first_to_last():
    verdict = judge(SUMMARY, metric="loss_drop", threshold=0.5)
    assert verdict == {"metric": "loss_drop", "threshold": 0.5, "value": 0.5, "passed": True}
    assert not judge(SUMMARY, metric="loss_drop", threshold=0.51)["passed"]


def test_a_metric_counts_by_its_last_value():
    assert judge(SUMMARY, metric="recall", threshold=0.4)["passed"]
    assert not judge(SUMMARY, metric="recall", threshold=0.45)["passed"]


def test_what_should_be_low_has_a_ceiling():
    assert judge(SUMMARY, metric="loss", threshold=5.0)["passed"]
    assert not judge(SUMMARY, metric="loss", threshold=4.9)["passed"]
    assert [bound(name) for name in ("loss", "wer", "recall", "loss_drop")] == ["at most"] * 2 + ["at least"] * 2


def test_a_value_that_is_no_number_does_not_pass():
    broken = {"loss": {"first": 5.5, "last": None, "best": 5.5}}
    assert judge(broken, metric="loss_drop", threshold=0.0) == {
        "metric": "loss_drop",
        "threshold": 0.0,
        "value": None,
        "passed": False,
    }


def test_an_unknown_metric_lists_those_there_are():
    with pytest.raises(OmniError, match=r"'wer' is not logged; there are loss, recall, loss_drop, recall_drop"):
        judge(SUMMARY, metric="wer", threshold=0)
