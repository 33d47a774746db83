"""What differs between two sides, by experiment: run folders, snapshots, git revisions, the working tree."""

import html
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import yaml

from omni.config.side import Side, merge_base_side, open_side
from omni.errors import OmniError

ABSENT = object()
LONG = 12
"""Lines from which on a pull-request comment folds them."""
COMMENT_LIMIT = 60_000
"""Characters; GitHub refuses a comment of more than 65,536."""


@dataclass(frozen=True)
class Change:
    """One key: before and after, ABSENT where there is no such key."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        if self.before is ABSENT:
            return f"+ {self.key}: {text_of(self.after)}"
        if self.after is ABSENT:
            return f"- {self.key}: {text_of(self.before)}"
        return f"  {self.key}: {text_of(self.before)} -> {text_of(self.after)}"


@dataclass(frozen=True)
class Entry:
    """One stage or experiment: its changes, or why there is nothing to compare."""

    name: str
    changes: list[Change]
    only_in: str | None = None
    broken: str | None = None

    @property
    def note(self) -> str | None:
        said = [f"only in {self.only_in}" if self.only_in else "", self.broken or ""]
        return "; ".join(filter(None, said)) or None


@dataclass(frozen=True)
class Comparison:
    """`old` against `new`."""

    old: Side
    new: Side
    entries: list[Entry]

    @property
    def different(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.changes or entry.note]

    @property
    def is_same(self) -> bool:
        return not self.different and not self.old.error and not self.new.error


def compare(first: str, second: str = ".", *, from_merge_base: bool = False) -> Comparison:
    """Render both sides and compare them.

    Each is a run folder, a snapshot file, a git revision, or "." for the working tree.

    Raises:
        OmniError: a side that is none of these, or no merge base where asked for.
    """
    open_old = partial(merge_base_side, first, second) if from_merge_base else partial(open_side, first)
    with ThreadPoolExecutor(2) as pool:  # each waits for a process of its own
        old, new = pool.submit(open_old), pool.submit(open_side, second)
        old, new = old.result(), new.result()
    return Comparison(old, new, list(entries_of(old, new)))


def entries_of(old: Side, new: Side) -> Iterator[Entry]:
    """Pair the sides' configurations. Raises OmniError when a tree has none for a run."""
    if old.error or new.error:
        return
    if old.own_names is None and new.own_names is None:
        for name in sorted(old.configs | new.configs, key=lambda name: (not name.startswith("stage/"), name)):
            yield entry(name, old, new, old.configs.get(name), new.configs.get(name))
        return
    (left,), (right,) = (tuple(side.configs.values())[:1] or (None,) for side in (old, new))
    name = "configuration"
    if old.own_names is None:
        name, left = partner(right, new, old)
    elif new.own_names is None:
        name, right = partner(left, old, new)
    yield entry(name, old, new, left, right)


def partner(config: dict[str, Any], single: Side, tree: Side) -> tuple[str, dict[str, Any] | str]:
    """The stage or experiment of a tree that a single configuration came from; of several the nearest."""
    names = single.own_names or [name for name, other in tree.configs.items() if is_stage_of(name, other, config)]
    there = [name for name in names if name in tree.configs]
    if not there:
        asked = " or ".join(names) or f"stage {(config.get('stage') or {}).get('name')!r}"
        raise OmniError(f"{single.label} is of {asked}, and {tree.label} has only {', '.join(tree.configs)}")

    def distance(name: str) -> float:
        other = tree.configs[name]
        return len(list(changes(config, other))) if isinstance(other, dict) else float("inf")

    name = min(there, key=distance)
    return name, tree.configs[name]


def is_stage_of(name: str, stage: dict[str, Any] | str, config: dict[str, Any]) -> bool:
    """Whether a rendered stage calls itself what a run's configuration says it is."""
    if not name.startswith("stage/") or not isinstance(stage, dict):
        return False
    names = [part.get("name") if isinstance(part := side.get("stage"), dict) else None for side in (stage, config)]
    return names[0] == names[1]


def entry(name: str, old: Side, new: Side, left: Any, right: Any) -> Entry:
    """Compare two configurations; a text in place of one is why it does not render, None that there is none."""
    only_in = old.label if right is None else new.label if left is None else None
    broken = "; ".join(
        f"does not render in {side.label}: {config}"
        for side, config in ((old, left), (new, right))
        if isinstance(config, str)
    )
    comparable = not only_in and not broken
    return Entry(name, list(changes(left, right)) if comparable else [], only_in, broken or None)


def changes(old: Any, new: Any, key: str = "") -> Iterator[Change]:
    """The keys that differ; a mapping that came or went as its keys, a list as one value."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            inner = f"{key}.{name}" if key else str(name)
            yield from changes(old.get(name, ABSENT), new.get(name, ABSENT), inner)
    elif old is ABSENT and isinstance(new, dict) and new:
        for name, value in new.items():
            yield from changes(ABSENT, value, f"{key}.{name}")
    elif new is ABSENT and isinstance(old, dict) and old:
        for name, value in old.items():
            yield from changes(value, ABSENT, f"{key}.{name}")
    elif old is ABSENT or new is ABSENT or text_of(old) != text_of(new):
        yield Change(key, old, new)


def text_of(value: Any) -> str:
    """A value as YAML on one line: 1, 1.0, true and '1' stay apart."""
    if isinstance(value, float):
        return repr(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
    text = text.strip().removesuffix("\n...")
    return json.dumps(value, ensure_ascii=False) if "\n" in text else text  # YAML folds a text of several lines


def as_text(comparison: Comparison) -> str:
    """What the terminal shows."""
    lines = [f"{comparison.old.label} -> {comparison.new.label}"]
    for side in (comparison.old, comparison.new):
        if side.error:
            lines.append(f"{side.label} does not render: {side.error}".replace("\n", "\n    "))
    for entry in comparison.different:
        lines += ["", entry.name if entry.note is None else f"{entry.name}: {entry.note}".replace("\n", "\n    ")]
        lines += [f"  {change}" for change in entry.changes]
    return "\n".join([*lines, "", count(comparison)])


def count(comparison: Comparison) -> str:
    """One line: how many differ, how many could not be compared, how many are the same."""
    if comparison.old.error or comparison.new.error:
        return "nothing was compared"
    different = comparison.different
    counts = {
        "changed": sum(not entry.note for entry in different),
        "on one side only": sum(bool(entry.only_in) and not entry.broken for entry in different),
        "broken": sum(bool(entry.broken) for entry in different),
    }
    said = [f"{number} {what}" for what, number in counts.items() if number]
    return ", ".join([*said, f"{len(comparison.entries) - len(different)} identical"])


def as_markdown(comparison: Comparison) -> str:
    """The same for a pull request: a table for each stage and experiment, folded when long."""
    head = [f"### Configuration: {code(comparison.old.label)} → {code(comparison.new.label)}", "", count(comparison)]
    for side in (comparison.old, comparison.new):
        if side.error:
            head += ["", f"{code(side.label)} does not render:", "", fenced(side.error)]
    sections = [section(entry) for entry in comparison.different]
    fits, size = 0, sum(len(line) + 1 for line in head)
    while fits < len(sections) and size + len(sections[fits]) < COMMENT_LIMIT:
        size += len(sections[fits]) + 1
        fits += 1
    left = [entry.name for entry in comparison.different[fits:]]
    tail = ["", f"Too long to show here: {len(left)} more, {', '.join(map(code, left[:20]))}"] if left else []
    return "\n".join([*head, *sections[:fits], *tail])


def section(entry: Entry) -> str:
    """One stage or experiment in markdown."""
    if entry.note is not None:
        said = [f"Only in {code(entry.only_in)}."] if entry.only_in else []
        said += [fenced(entry.broken)] if entry.broken else []
        return "\n\n".join([f"\n#### {code(entry.name)}", *said])
    rows = ["| key | before | after |", "|---|---|---|"]
    rows += [f"| {cell(c.key)} | {value_cell(c.before)} | {value_cell(c.after)} |" for c in entry.changes]
    table = "\n".join(rows)
    if len(entry.changes) <= LONG:
        return f"\n#### {code(entry.name)}\n\n{table}"
    title = f"<code>{html.escape(entry.name)}</code>: {len(entry.changes)} keys"
    return f"\n<details><summary>{title}</summary>\n\n{table}\n\n</details>"


def value_cell(value: Any) -> str:
    return "*absent*" if value is ABSENT else cell(text_of(value))


def cell(text: str) -> str:
    """Inside a table even code must not hold a bare pipe."""
    return code(text).replace("|", "\\|")


def code(text: str) -> str:
    """A code span, whatever backticks the text holds: a value must not become a link, a mention or HTML."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{space}{text}{space}{fence}"


def fenced(text: str) -> str:
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
