import pytest

from omni.errors import OmniError
from omni.record.gate import bound, judge

SUMMARY = {"loss": {"first": 5.5, "last": 5.0, "best": 4.0}, "recall": {"first": 0.1, "last": 0.4, "best": 0.5}}


def test_a_fall_counts_from_first_to_last():
    (verdict,) = judge(SUMMARY, {"loss_drop": 0.5})
    assert verdict == {"metric": "loss_drop", "threshold": 0.5, "value": 0.5, "passed": True}
    assert not judge(SUMMARY, {"loss_drop": 0.51})[0]["passed"]


def test_a_metric_counts_by_its_last_value():
    assert judge(SUMMARY, {"recall": 0.4})[0]["passed"]
    assert not judge(SUMMARY, {"recall": 0.45})[0]["passed"]


def test_what_should_be_low_has_a_ceiling():
    assert judge(SUMMARY, {"loss": 5.0})[0]["passed"]
    assert not judge(SUMMARY, {"loss": 4.9})[0]["passed"]
    assert [bound(name) for name in ("loss", "wer", "recall", "loss_drop")] == ["at most"] * 2 + ["at least"] * 2


def test_a_value_that_is_no_number_does_not_pass():
    broken = {"loss": {"first": 5.5, "last": None, "best": 5.5}}
    (verdict,) = judge(broken, {"loss_drop": 0.0})
    assert verdict == {"metric": "loss_drop", "threshold": 0.0, "value": None, "passed": False}


def test_each_metric_is_judged_by_itself():
    assert [each["passed"] for each in judge(SUMMARY, {"loss": 4.9, "recall": 0.4})] == [False, True]


def test_an_unknown_metric_lists_those_there_are():
    with pytest.raises(OmniError, match=r"gate.wer: no such.*; there are loss, recall, loss_drop, recall_drop"):
        judge(SUMMARY, {"wer": 0})
