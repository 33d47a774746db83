"""Rows of a manifest as questions with choices, and the rule that no model trains on what it is tested with."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from omni.audio.pcm import hash_of
from omni.corpora.labelled_clips import NOT_TOLD
from omni.data.manifest import Clip, read_manifest
from omni.errors import OmniError
from omni.evaluation.choices import Question

FROZEN = Path("data/audiobench_mini/test.jsonl")
"""The questions that no model may have been trained on."""
SENTENCE = 3
"""Words of what is refused as a sentence: everybody says "yes" and "thank you"."""
ROUNDED = 0.0006
"""Seconds by which two lengths may differ that are the same to the millisecond."""


def labels_of(clip: Clip) -> dict[str, list[str]]:
    """What is known about a clip, by name; see `omni.instructions.writing`."""
    found: dict[str, list[str]] = {}
    for label in clip.labels or ():
        name, _, value = label.partition(":")
        found.setdefault(name, []).append(value)
    return found


def question_of(clip: Clip) -> Question:
    """A row with choices as a question.

    Raises:
        OmniError: it does not say what is asked, among what, or what is right.
    """
    for field in ("question", "choices", "answer"):
        if getattr(clip, field) is None:
            raise OmniError(f"{clip.id}: has no {field}; a row of a benchmark has question, choices and answer")
    labels = labels_of(clip)

    def figure(name: str) -> float:
        return float(labels.get(name, ["0"])[0])

    return Question(
        id=clip.id,
        category=labels.get("category", ["all"])[0],
        question=clip.question,
        choices=clip.choices,
        answer=clip.choices.index(clip.answer),
        text="" if clip.text == NOT_TOLD else clip.text,
        engine=labels.get("engine", [clip.speaker or ""])[0],
        f0=figure("f0"),
        rms=10 ** (figure("level") / 20),
        seconds=figure("spoken") or clip.seconds or 0.0,
        kind=labels.get("kind", [""])[0],
    )


def refuse_overlap(
    clips: Sequence[Clip],
    keys: Iterable[str],
    frozen: Path = FROZEN,
    *,
    hear: Callable[[int], Tensor] | None = None,
) -> None:
    """Raise OmniError when clips to train on share a sound, a sentence or a voice with the frozen questions.

    Args:
        clips: rows of manifests. keys: the SHA-256 of each one's file, or of its part of one.
        frozen: the manifest of the questions; where it is not there nothing is asked.
        hear: the waveform of a clip by its place, to find a sound that comes in another file; those are heard that last
            as long as a question's sound, or nobody knows how long.
    """
    sounds = {clip.sha256: clip.id for clip in kept_in(frozen)}
    spoken = {name: id for name, id in off_limits(frozen).items() if "/" in name or len(name.split()) >= SENTENCE}
    waveforms = {name: clip for clip in kept_in(frozen) for name in labels_of(clip).get("waveform", ())}
    lengths = sorted(clip.seconds or 0.0 for clip in waveforms.values())
    for place, (clip, key) in enumerate(zip(clips, keys, strict=True)):
        if key in sounds:
            raise OmniError(told(clip, "its sound", sounds[key]))
        if hear is not None and lasts_as_long(clip, lengths) and (same := waveforms.get(sound_of(hear, place))):
            raise OmniError(told(clip, "its sound", same.id))
        speaker = clip.speaker or ""
        # A character of amazon_queen bears his name alone there.
        for name in (speaker_of(speaker), f"amazon_queen/{speaker}", clip.text, *spoken_in(clip)):
            if (normal := normalised(name)) in spoken:
                raise OmniError(told(clip, f"{name!r}", spoken[normal]))


def lasts_as_long(clip: Clip, lengths: Sequence[float]) -> bool:
    """Whether a clip is as long, to the millisecond, as one of some lengths in order."""
    if clip.seconds is None:
        return bool(lengths)
    place = bisect_left(lengths, clip.seconds - ROUNDED)
    return place < len(lengths) and lengths[place] <= clip.seconds + ROUNDED


def sound_of(hear: Callable[[int], Tensor], place: int) -> str | None:
    """The hash of a clip's waveform; None for one that cannot be read, which is left out of training anyway."""
    try:
        return hash_of(hear(place))
    except OmniError:
        return None


def kept_in(frozen: Path) -> list[Clip]:
    return read_manifest(frozen) if frozen.is_file() else []


def off_limits(frozen: Path = FROZEN) -> dict[str, str]:
    """The voices and sentences of the frozen questions, normalised, each with a question that has it."""
    return {name: clip.id for clip in kept_in(frozen) for name in spoken_in(clip)}


def spoken_in(clip: Clip) -> Iterator[str]:
    """The voices and sentences of a question."""
    labels = labels_of(clip)
    yield from (normalised(speaker_of(voice)) for voice in labels.get("voice", ()))
    yield from (normalised(sentence) for sentence in labels.get("sentence", ()))


def speaker_of(voice: str) -> str:
    """Who speaks: espeak-ng's variants are the same speakers in all its accents, "espeak-ng/en-us+f3" and
    "espeak-ng/en+f3"."""
    engine, _, name = voice.partition("/")
    return f"{engine}/{name.rpartition('+')[2]}" if name else voice


def normalised(text: str) -> str:
    """A text or a voice without what does not change it: capitals, spaces, marks."""
    return " ".join("".join(c if c.isalnum() or c in "/+_" else " " for c in text.lower()).split())


def told(clip: Clip, what: str, question: str) -> str:
    return (
        f"dataset: {clip.id} shares {what} with question {question} of {FROZEN}, on which models are tested, so it "
        "may not be trained on; take it out"
    )
