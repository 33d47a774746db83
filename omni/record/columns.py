"""Which configuration keys a comparison needs to show: those that differ, less those that only follow others."""

from collections import Counter
from collections.abc import Sequence

from omni.record.outcome import Outcome, clean

# They say where a run goes on and who watches, not what it computes. Seeds are folded, not shown.
NOT_COMPARED = ("resume", "trust", "logger", "sweep", "seed")


def differing_keys(outcomes: Sequence[Outcome]) -> list[str]:
    """The dotted keys that not all runs have alike, in the order of the configuration.

    Runs of several stages are compared on what they share: a key that some of them lack is then left out.
    """
    one_stage = len({outcome.stage for outcome in outcomes}) <= 1
    keys = []
    for key in dict.fromkeys(key for outcome in outcomes for key in outcome.config):
        values = {outcome.config.get(key) for outcome in outcomes if not _is_open(outcome, key)}
        shared = one_stage or None not in values
        if len(values) > 1 and shared and key.split(".")[0] not in NOT_COMPARED:
            keys.append(key)
    return keys


def _is_open(outcome: Outcome, key: str) -> bool:
    """Whether the run died before this value was known: its configuration has holes and broken references."""
    value = outcome.config.get(key)
    if value is None:
        return any(_has_hole(other) for other in outcome.config.values())
    return _has_hole(value)


def _has_hole(value: str) -> bool:
    return value == "???" or "${" in value


def choose_columns(outcomes: Sequence[Outcome], differing: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The keys to show, and {shown key: keys left out because they go with it in every run}.

    A key is left out when it tells the same runs apart as a shown one and cannot be a choice of its own: no
    command line set it, and either it always holds the other's value (`${encoder.width}`), or all runs come
    from the same code, where a key that no one set can only follow from one that someone did.
    """
    varied = _varied(outcomes)
    values = {key: tuple(outcome.config.get(key) for outcome in outcomes) for key in differing}
    partition = {key: _partition(values[key]) for key in differing}
    same_code = _same_code(outcomes)
    chosen = {key for key in differing if key in varied} | _group_keys(values, varied, partition)
    shown, along = [], {}
    for key in sorted(differing, key=lambda key: key not in chosen):
        leader = next((other for other in shown if partition[other] == partition[key]), None)
        copied = any(values[other] == values[key] for other in shown)
        if key in chosen or leader is None or not (copied or (same_code and leader in chosen)):
            shown.append(key)
        else:
            along.setdefault(leader, []).append(key)
    return sorted(shown, key=list(differing).index), along


def _same_code(outcomes: Sequence[Outcome]) -> bool:
    """One commit without changes of its own, or with whatever changes one sweep was started."""
    commits = {outcome.commit for outcome in outcomes}
    one_sweep = len({outcome.folder.parent for outcome in outcomes}) == 1
    return len(commits) == 1 and "" not in commits and (one_sweep or not commits.pop().endswith("+"))


def _varied(outcomes: Sequence[Outcome]) -> set[str]:
    """The keys and groups that the command lines set differently, or that a sweep went through."""
    varied = set()
    for key in {key for outcome in outcomes for key in outcome.overrides}:
        words = {outcome.overrides.get(key) for outcome in outcomes}
        # The jobs of a sweep share one command line: lr=1e-3,3e-4 or lr=range(1,4).
        if len(words) > 1 or any(mark in word for word in words if word for mark in ",("):
            varied.add(key)
    return varied


def _group_keys(values: dict[str, tuple], varied: set[str], partition: dict[str, tuple]) -> set[str]:
    """For each group that was chosen as a whole (projector=mlp,conv) the key that stands for it."""
    stand = set()
    for group in varied:
        keys = [key for key in values if key.startswith(f"{group}.") and key not in varied]
        others = [key for key in values if not key.startswith(f"{group}.")]
        # Best its class or name; else what no other group explains; else the first that is no copy.
        named = [key for key in keys if key.rpartition(".")[2] in ("_target_", "name")]
        own = [key for key in keys if partition[key] not in {partition[other] for other in others}]
        first = [key for key in keys if values[key] not in {values[other] for other in others}]
        stand |= set((named or own or first)[:1])
    return stand


def _partition(values: tuple) -> tuple[int, ...]:
    """Which runs hold the same value, whatever the value is."""
    first: dict = {}
    return tuple(first.setdefault(value, len(first)) for value in values)


def header(key: str) -> str:
    """The key as a column's title: a class is named by its group."""
    return key.removesuffix("._target_")


def cells(key: str, values: Sequence[str | None]) -> dict[str | None, str]:
    """{value: text of at most 40 characters}, different for different values; a missing value is a dash."""
    known = sorted({value for value in values if value is not None})
    shown = {value: _shorten(value.rpartition(".")[2] if key.endswith("_target_") else value) for value in known}
    if len(set(shown.values())) < len(known):
        shown = {value: _shorten(value) for value in known}
    count = Counter(shown.values())
    # What was cut away may be all that differs.
    numbered = {value: f"{text} ({number})" for number, (value, text) in enumerate(shown.items(), 1) if count[text] > 1}
    return {None: "–"} | shown | numbered


def _shorten(value: str) -> str:
    value = clean(value) or "''"
    return value if len(value) <= 36 else f"{value[:17]}…{value[-18:]}"
