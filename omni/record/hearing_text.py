"""A hearing report in words: the verdict first, then what it rests on."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omni.record.style import short

Figures = Mapping[str, Any]

TRANSCRIPTS = 10
"""Shown in the report, spread over the clips."""
TOLD = {
    "matched": "its own audio",
    "shuffled": "another's, as long",
    "silence": "silence as long",
    "none": "no audio",
    "transcript": "the text itself",
}
"""What the model is told of a clip, by condition."""
WAYS = {"to_text": "a clip's transcript", "to_audio": "a transcript's clip", "chance": "by chance"}
FOUND = {"recall_1": "recall@1", "recall_5": "recall@5", "median_rank": "median rank"}
PICTURES = {
    "conditions.png": "The loss of the five conditions over training",
    "plane.png": "Soft tokens and text embeddings in the plane of their first two principal components",
    "rms.png": "How loud soft tokens and text embeddings are, through a clip",
}


def verdict(figures: Figures) -> str:
    """The first thing to know, in a line."""
    return f"{'HEARS' if figures['hears'] else 'DEAF'}  audio gain {_gain(figures)}"


def _gain(figures: Figures) -> str:
    value, low, high = (short(figures["audio_gain"][key]) for key in ("value", "low", "high"))
    return f"{value} nats a token, 95 % interval {low} to {high}"


def emerged(figures: Figures) -> str:
    """When it began to hear."""
    looks, step = figures["looks"], figures["emergence_step"]
    if not looks:
        return "When it began to hear is not known: nothing looked at it in training."
    if step is None:
        return f"In training the interval never lay above zero: {len(looks)} looks, the last at step {looks[-1]}."
    found = f"In training the interval first lay above zero at step {step}"
    found += ", the first look." if step == looks[0] else f", not yet at {looks[looks.index(step) - 1]}."
    if back := figures["back_at_zero"]:  # one look in forty at a deaf model is mistaken
        found += f" It was back at step {', '.join(map(str, back))}."
    return found


def render_short(figures: Figures) -> str:
    """The report to print."""
    lines = [verdict(figures), _what(figures), "", "nats a token"]
    lines += [f"  {told:<21}{nats(figures['losses'][name]):>7}" for name, told in TOLD.items()]
    lines += ["", emerged(figures)]
    if retrieval := figures["retrieval"]:
        rows = [(way, retrieval[key]) for key, way in WAYS.items()]
        lines += ["", f"{'found among ' + str(retrieval['candidates']):<21}{'recall@1':>9}{'recall@5':>9}{'median':>8}"]
        lines += [
            f"  {way:<21}{percent(row['recall_1']):>7}{percent(row['recall_5']):>9}{short(row['median_rank']):>8}"
            for way, row in rows
        ]
    lines += ["", f"{'transcripts':<23}{'WER':>7}{'CER':>9}"]
    lines += [f"  {who:<21}{wer:>7}{cer:>9}" for who, wer, cer in _error_rates(figures)]
    lines += [f"  {figures['cut']} of {figures['clips']} cut off: longer than could be said in that time"]
    return "\n".join(lines)


def render_markdown(figures: Figures, transcripts: Sequence[Mapping[str, str]], pictures: Sequence[str]) -> str:
    """The report to read; `pictures` are files beside it."""
    return "\n\n".join(_paragraphs(figures, transcripts, pictures)) + "\n"


def _paragraphs(figures: Figures, transcripts: Sequence[Mapping[str, str]], pictures: Sequence[str]) -> Iterator[str]:
    yield "# Does it hear?"
    yield f"{_what(figures)}."
    if figures["hears"]:
        yield f"**It hears**: what a clip's own audio is worth to its text is {_gain(figures)}. {emerged(figures)}"
    else:
        yield (
            f"**It is deaf**: what a clip's own audio is worth to its text is {_gain(figures)}. That interval, or the "
            f"one of what its audio is worth more than silence, does not lie above zero. {emerged(figures)}"
        )
    yield _table(["told", "nats a token"], [[told, nats(figures["losses"][name])] for name, told in TOLD.items()])
    if retrieval := figures["retrieval"]:
        yield f"Found among {retrieval['candidates']} by the loss alone, in {retrieval['draws']} draws:"
        rows = [[way, *(_found(retrieval[key], name) for name in FOUND)] for key, way in WAYS.items()]
        yield _table(["", *FOUND.values()], rows)
    else:
        yield "There are no two transcripts of three words or more to tell apart, so nothing was looked for."
    yield (
        "Greedy transcripts, cut off where their text is longer than anybody could say in that time "
        f"({figures['cut']} of {figures['clips']}; Whisper's too):"
    )
    yield _table(["", "WER", "CER"], [[*row] for row in _error_rates(figures)])
    shown = transcripts[:: max(1, len(transcripts) // TRANSCRIPTS)][:TRANSCRIPTS]
    yield _table(["said", "heard"], [[escape(line["said"]), escape(line["heard"])] for line in shown], numbers=False)
    for name in pictures:
        yield f"![{next(told for end, told in PICTURES.items() if name.endswith(end))}]({name})"


def _what(figures: Figures) -> str:
    clips = figures["clips"]
    return f"{model_of(figures)}, {clips} clip{'s' * (clips != 1)} of {figures['split']}{left_out(figures)}"


def model_of(figures: Figures) -> str:
    """What was asked; an exported folder has no step."""
    return figures["run"] if figures["step"] is None else f"{figures['run']} at step {figures['step']}"


def left_out(figures: Figures) -> str:
    """How many were not asked about; reports of before do not say."""
    return f", {count} left out" if (count := figures.get("left_out")) else ""


def _found(row: Mapping[str, float], name: str) -> str:
    return short(row[name]) if name == "median_rank" else percent(row[name])


def _error_rates(figures: Figures) -> list[tuple[str, str, str]]:
    rows = [("this model", percent(figures["wer"]), percent(figures["cer"]))]
    if "whisper_wer" in figures:
        rows.append(("whisper-base's own", percent(figures["whisper_wer"]), percent(figures["whisper_cer"])))
    return rows


def nats(loss: float | None) -> str:
    """A loss in thousandths; "?" for none."""
    return "?" if loss is None else f"{loss:.3f}"


def percent(share: float | None) -> str:
    """A share in three digits; "?" for none."""
    return "?" if share is None else f"{share:.1%}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: bool = True) -> str:
    rule = ["---", *["---:" if numbers else "---"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *rows])


def escape(text: str) -> str:
    """Text that stays in its cell and looks as it is."""
    plain = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\|*_`<>[]" else letter for letter in plain)
