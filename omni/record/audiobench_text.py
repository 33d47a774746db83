"""A score on questions with choices in words: the verdict first, then what it rests on."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omni.record.hearing_text import left_out, model_of, percent

Figures = Mapping[str, Any]

NAME = "AudioBench-style synthetic mini"
"""What it is called in every result: it is in the manner of AudioBench, and it is not AudioBench."""
CONTROLS = {
    "shuffled": "another's sound",
    "silence": "silence as long",
    "text_only": "no sound",
    "transcript": "a transcript",
    "probe": "F0, RMS, length",
    "majority": "commonest letter",
}
"""What is asked instead of the model with its sound, by control."""
TOLD = {
    "shuffled": "the same model with the sound of another question of the category, mean of ten shuffles",
    "silence": "the same model with silence as long",
    "text_only": "the same model with the question alone",
    "transcript": "the same model with what is said or heard written out in place of the sound",
    "probe": "a logistic regression on F0, RMS and length alone, learned from the training questions",
    "majority": "always the commonest letter",
}
SHOWN = {name: name.replace("_", " ") for name in CONTROLS if name != "majority"}
"""The controls of each category, as heads of columns: a category is too small to have a commonest letter."""
CHECKS = {"matched": "its own sound", "shuffled": "another's sound", "difference": "difference"}
PICTURES = {
    "categories.png": "By category: the model with its own sound, its 95 % interval, and the controls",
    "confusion.png": "What was answered (columns) to what was right (rows)",
}


def verdict(figures: Figures) -> str:
    """The first thing to know, in a line."""
    return f"{'PASS' if figures['passed'] else 'FAIL'}  {figures['name']}: {_score(figures)}"


def render_short(figures: Figures) -> str:
    """The result to print."""
    lines = [verdict(figures), _what(figures), "", "a pass takes"]
    lines += [
        f"  {told:<18}{value:>8}  {'' if passed else 'NOT '}{needs}" for told, value, needs, passed in _checks(figures)
    ]
    lines += [
        "",
        f"{'category':<20}{'its own':>8}{'95 % interval':>17}" + "".join(f"{head:>12}" for head in SHOWN.values()),
    ]
    for name, found in figures["categories"].items():
        own, others = found["matched"], (percent(found["controls"][control]) for control in SHOWN)
        lines += [f"  {name:<18}{percent(own['value']):>8}{_bounds(own):>17}" + "".join(f"{it:>12}" for it in others)]
    lines += ["", "controls"]
    lines += [f"  {told:<18}{percent(figures['controls'][name]):>8}" for name, told in CONTROLS.items()]
    lines += ["", f"{'letters':<20}{percent(figures['letters']['value']):>8}  {_parsed(figures)}"]
    lines += ["", "sound by"] * bool(figures["engines"])
    lines += [f"  {name:<18}{right:>8}{bounds:>17}{n:>7} questions" for name, right, bounds, n in _engines(figures)]
    return "\n".join(lines)


def render_markdown(figures: Figures, pictures: Sequence[str]) -> str:
    """The result to read; `pictures` are files beside it."""
    return "\n\n".join(_paragraphs(figures, pictures)) + "\n"


def _paragraphs(figures: Figures, pictures: Sequence[str]) -> Iterator[str]:
    yield f"# {figures['name']}"
    made = " Made of synthetic and free sounds in the manner of AudioBench; it is not AudioBench."
    yield f"{_what(figures)}.{made if figures['name'] == NAME else ''}"
    yield f"**{'Passed' if figures['passed'] else 'Failed'}**: {_score(figures)}."
    rows = [[told, value, needs, "yes" if passed else "**no**"] for told, value, needs, passed in _checks(figures)]
    yield _table(["a pass takes", "found", "needs", "passed"], rows, words=("needs", "passed"))
    rows = [["its own sound", percent(figures["matched"]["value"]), "the model as it is meant"]]
    rows += [[told, percent(figures["controls"][name]), TOLD[name]] for name, told in CONTROLS.items()]
    rows += [["letters", percent(figures["letters"]["value"]), f"greedy, asked for a letter: {_parsed(figures)}"]]
    yield _table(["", "right", "what is asked"], rows, words=("what is asked",))
    rows = [
        [
            name,
            str(found["matched"]["questions"]),
            percent(found["matched"]["value"]),
            _bounds(found["matched"]),
            *(percent(found["controls"][control]) for control in SHOWN),
            percent(found["letters"]["value"]),
        ]
        for name, found in figures["categories"].items()
    ]
    head = ["category", "questions", "its own sound", "95 % interval", *(CONTROLS[name] for name in SHOWN), "letters"]
    yield _table(head, rows)
    if figures["engines"]:
        yield _table(["sound by", "right", "95 % interval", "questions"], [[*row] for row in _engines(figures)])
    for name in pictures:
        yield f"![{next(told for end, told in PICTURES.items() if name.endswith(end))}]({name})"


def _score(figures: Figures) -> str:
    row = figures["matched"]
    right = f"{percent(row['value'])} of {row['questions']:,} right (95 % interval {_bounds(row)})"
    return f"{right}, chance {figures['chance']:.0%}"


def _bounds(row: Figures) -> str:
    return f"{percent(row['low'])} to {percent(row['high'])}"


def _what(figures: Figures) -> str:
    questions = figures["questions"]
    told = f"{model_of(figures)}, {questions:,} question{'s' * (questions != 1)} of {figures['split']}"
    return told + left_out(figures)


def _parsed(figures: Figures) -> str:
    return f"{percent(figures['letters']['parsed'])} could be read as a letter"


def _checks(figures: Figures) -> list[tuple[str, str, str, bool]]:
    """What a pass takes: its name, what was found, what it needs, and whether it passed."""
    rows = [(told, figures["checks"][name]) for name, told in CHECKS.items()]
    found = {"difference": f" (it is {_bounds(figures['difference'])})"}
    return [
        (told, percent(check["value"]), check["needs"] + found.get(told, ""), check["passed"]) for told, check in rows
    ]


def _engines(figures: Figures) -> list[tuple[str, str, str, str]]:
    rows = list(figures["engines"].items())
    if unseen := figures["unseen"]:
        rows.append((f"unseen: {', '.join(unseen['engines'])}", unseen))
    return [(name, percent(row["value"]), _bounds(row), str(row["questions"])) for name, row in rows]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: Sequence[str] = ()) -> str:
    rule = ["---", *("---" if name in words else "---:" for name in head[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *rows])
