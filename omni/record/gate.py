"""Whether a run reached what its stage asks for."""

from collections.abc import Iterable, Mapping
from typing import Any

from omni.errors import OmniError
from omni.record.metrics import LOWER, better

Summary = dict[str, dict[str, float | None]]

Verdict = Mapping[str, Any]
"""On one metric: metric, threshold, value, passed."""


def bound(metric: str) -> str:
    """How a gate reads its threshold: "at most" for what should be low, "at least" for all else and for falls."""
    return "at most" if better(metric) == LOWER and not metric.endswith("_drop") else "at least"


def judge(summary: Summary, asked: Mapping[str, float]) -> list[Verdict]:
    """The verdicts for run.json, one for each metric and its threshold in `asked`.

    A metric is a logged one, whose last value counts, or the fall of one from first to last: `loss_drop`.

    Raises:
        OmniError: nothing of that name was logged.
    """
    refuse_unknown(asked, summary)
    return [judge_one(summary, metric, threshold) for metric, threshold in asked.items()]


def value_of(summary: Summary, metric: str) -> float | None:
    """A logged metric's last value, or the fall of one; None where it was not finite."""
    if metric in summary:
        return summary[metric]["last"]
    ends = summary[metric.removesuffix("_drop")]
    return None if None in (ends["first"], ends["last"]) else ends["first"] - ends["last"]


def judge_one(summary: Summary, metric: str, threshold: float) -> Verdict:
    value = value_of(summary, metric)
    low = bound(metric) == "at most"
    passed = value is not None and (value <= threshold if low else value >= threshold)
    return {"metric": metric, "threshold": threshold, "value": value, "passed": passed}


def refuse_unknown(asked: Iterable[str], logged: Iterable[str], key: str = "stage.gate.") -> None:
    """Raise OmniError when a metric is neither among the logged ones nor the fall of one; `key` is where it stands."""
    known = [*logged, *(f"{name}_drop" for name in logged)]
    for metric in asked:
        if metric not in known:
            raise OmniError(f"{key}{metric}: no such metric is logged; there are {', '.join(known)}")


def in_words(verdict: Verdict) -> str:
    """A metric, what it came to, and what was asked."""
    metric = str(verdict.get("metric"))
    value, asked = (figure(verdict.get(key)) for key in ("value", "threshold"))
    return f"{metric} {value}, asked {bound(metric)} {asked}"


def figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def tell(verdict: Verdict) -> str:
    """A verdict in a line."""
    return f"{'PASS' if verdict['passed'] else 'FAIL'}  {in_words(verdict)}"
