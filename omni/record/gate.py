"""Whether a run reached what its stage asks for."""

import math
from collections.abc import Iterable
from typing import Any

from omni.errors import OmniError
from omni.record.metrics import lower_is_better

Summary = dict[str, dict[str, float | None]]


def bound(metric: str) -> str:
    """How a gate reads its threshold: "at most" for what should be low, "at least" for all else and for falls."""
    return "at most" if lower_is_better(metric) and not metric.endswith("_drop") else "at least"


def judge(summary: Summary, *, metric: str, threshold: float) -> dict[str, Any]:
    """The verdict for run.json: metric, threshold, value, passed.

    `metric` is a logged metric, whose last value counts, or its fall from first to last: `loss_drop`.

    Raises:
        OmniError: nothing of that name was logged.
    """
    refuse_unknown(metric, summary)
    if metric in summary:
        value = summary[metric]["last"]
    else:
        ends = summary[metric.removesuffix("_drop")]
        value = None if None in (ends["first"], ends["last"]) else ends["first"] - ends["last"]
    low = bound(metric) == "at most"
    passed = value is not None and (value <= threshold if low else value >= threshold)
    return {"metric": metric, "threshold": threshold, "value": value, "passed": passed}


def refuse_unknown(metric: str, logged: Iterable[str]) -> None:
    """Raise OmniError when `metric` is neither among the logged ones nor the fall of one."""
    known = [*logged, *(f"{name}_drop" for name in logged)]
    if metric not in known:
        raise OmniError(f"stage.gate.metric: {metric!r} is not logged; there are {', '.join(known)}")


def tell(verdict: dict[str, Any]) -> str:
    """A verdict in a line."""
    value = math.nan if verdict["value"] is None else verdict["value"]
    asked = f"asked {bound(verdict['metric'])} {verdict['threshold']:.4g}"
    return f"{'PASS' if verdict['passed'] else 'FAIL'}  {verdict['metric']} {value:.4g}, {asked}"
