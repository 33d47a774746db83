"""Questions with choices about sounds, as the two hundred of the AudioBench-style synthetic mini, and what their score
is worth.

A language model alone gets many a question right, so the score stands beside what is scored without hearing:

    majority    always the commonest letter
    text_only   the question without a sound
    shuffled    another sound of the same category, ten times over
    silence     as long, and silent
    transcript  what is said or heard, as text: a perfect transcriber in front of the same model
    probe       F0, loudness and length alone (see `omni.evaluation.probe`)

Shape letters: N questions, S soft tokens, C backbone width.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from omni.errors import OmniError
from omni.evaluation.choices import Question, chance, check, parse_letter, prompt, score, write_letters
from omni.evaluation.conditions import gain
from omni.evaluation.probe import probe
from omni.model.gpt import GPT
from omni.text.question import LETTERS
from omni.text.tokenizer import Tokenizer

CONTROLS = ("majority", "text_only", "shuffled", "silence", "transcript", "probe")
SHUFFLES = 10
LEAST = 0.15
"""Above chance: a pass. Of 200 questions with four choices, 80 right by luck have the probability 2e-6."""
SHUFFLED, OF = 0.06, 200
"""So near to chance must shuffled sounds lie, with so many questions; with fewer luck reaches further."""

Rights = dict[str, np.ndarray]
"""How right each question is answered (N,), 0 to 1, by condition: "matched", "letters" and the controls."""


@dataclass(frozen=True)
class Result:
    """What was found.

    figures: questions; chance; passed; checks, each with its value, what it needs and whether it passed; matched;
        letters, with the share that was parsed; difference, matched less shuffled; controls; categories, each with its
        chance and confusion; engines, by name; unseen, of the engines that no training question had (None where there
        are none). A share is {questions, value, low, high} with its 95 % interval, and a control its value alone, None
        where it was not run.
    rows: of each question, as it is: id, category, engine, question, choices, answer; chosen; probabilities, of the
        choices among each other; said, when asked for a letter.
    """

    figures: dict[str, Any]
    rows: list[dict[str, Any]]


def evaluate_questions(
    backbone: GPT,
    questions: Sequence[Question],
    soft: Sequence[Tensor],
    silent: Sequence[Tensor],
    tokenizer: Tokenizer,
    *,
    training: Sequence[Question],
    sounds: Sequence[str] | None = None,
) -> Result:
    """Ask a model in eval mode, with the soft tokens (S, C) of each question's sound and of a silence as long.

    Args:
        training: the questions the model was trained on: the probe learns from them, and they tell which engines it
            has heard. May be empty; then neither is told.
        sounds: which sound each question is about, where several may be about one.

    Raises:
        OmniError: a question without a sound, without two to eight different choices, or whose answer is none of them;
            one that is longer than the model's context; a model that has diverged.
    """
    check(questions)
    check(training)
    check_sounds(questions, soft, silent)

    def ask_with(fronts: Sequence[Tensor | str | None]) -> np.ndarray:
        return right(questions, score(backbone, questions, fronts, tokenizer))

    scores = score(backbone, questions, soft, tokenizer)
    said = write_letters(backbone, questions, soft, tokenizer)
    orders = [others(questions, seed, sounds) for seed in range(SHUFFLES)]
    rooms = [room(question, backbone, tokenizer) for question in questions]
    rights = {
        "matched": right(questions, scores),
        "text_only": ask_with([None] * len(questions)),
        # One that lasts longer than the question leaves room for is cut off: another's sound it is all the same.
        "shuffled": np.mean(
            [ask_with([soft[i][:room] for i, room in zip(order, rooms, strict=True)]) for order in orders], axis=0
        ),
        "silence": ask_with(silent),
    }
    if any(question.text for question in questions):
        rights["transcript"] = ask_with([question.text for question in questions])
    return summarize(questions, scores, said, rights, training=training)


def check_sounds(questions: Sequence[Question], soft: Sequence[Tensor], silent: Sequence[Tensor]) -> None:
    """Raises OmniError unless each question has a sound and a silence."""
    if not questions:
        raise OmniError("there are no questions to ask")
    for name, rows in (("sound", soft), ("silence", silent)):
        if len(rows) != len(questions):
            raise OmniError(f"{len(questions)} questions need as many {name}s, not {len(rows)}")
        for question, row in zip(questions, rows, strict=True):
            if row is None or not len(row):
                raise OmniError(f"question {question.id!r}: has no {name}; prepare its audio, or leave it out")


def room(question: Question, backbone: GPT, tokenizer: Tokenizer) -> int:
    """How many soft tokens fit the model's context beside a question, however it is put; none where its text alone
    does not."""
    turns = range(len(question.choices))
    asked = [prompt(question, None, tokenizer, turn=turn, letter=letter) for turn in turns for letter in (False, True)]
    read = prompt(question, question.text, tokenizer)
    if len(read) > backbone.sequence_len:
        return 0
    return max(0, backbone.sequence_len - max(map(len, asked)))


def others(questions: Sequence[Question], seed: int, sounds: Sequence[str] | None = None) -> np.ndarray:
    """For each question another of its category, about another sound, each taken once (N,); its own where more than
    half of the category are about that sound, as where it is alone.

    sounds: which one each is about; None where each has its own.
    """
    random, other = np.random.default_rng(seed), np.arange(len(questions))
    categories = np.array([question.category for question in questions])
    sounds = np.array(range(len(questions)) if sounds is None else sounds)
    for category in dict.fromkeys(categories.tolist()):
        places = random.permutation(np.flatnonzero(categories == category))
        # In a ring in which those about one sound stand together, each takes from so far ahead that none takes its own.
        _, ring, counts = np.unique(sounds[places], return_inverse=True, return_counts=True)
        places = places[np.argsort(random.permutation(len(counts))[ring], kind="stable")]
        other[places] = np.roll(places, counts.max())
    return other


def right(questions: Sequence[Question], scores: np.ndarray) -> np.ndarray:
    """Whether the choice with the highest score (N, M) is the answer: 1 or 0 (N,)."""
    return (scores.argmax(1) == [question.answer for question in questions]).astype(float)


def summarize(
    questions: Sequence[Question],
    scores: np.ndarray,
    said: Sequence[str],
    rights: Rights,
    *,
    training: Sequence[Question],
) -> Result:
    """The result, from the scores (N, M) and the letters behind each question's own sound and what the model got right
    with it and without."""
    answers = np.array([question.answer for question in questions])
    letters = [parse_letter(text, len(question.choices)) for text, question in zip(said, questions, strict=True)]
    rights = rights | {
        "majority": (answers == Counter(answers.tolist()).most_common(1)[0][0]).astype(float),
        "letters": np.array([letter == answer for letter, answer in zip(letters, answers, strict=True)], dtype=float),
    }
    if training:
        rights["probe"] = probe(training, questions)
    chosen = scores.argmax(1)
    # What is gained by hearing, as elsewhere, is what it costs to do without: here errors.
    difference = asdict(gain(1 - rights["shuffled"], 1 - rights["matched"], np.ones(len(questions))))
    checks = judge(
        rights["matched"].mean(),
        rights["shuffled"].mean(),
        difference,
        lots=chance(questions),
        questions=len(questions),
    )
    figures = {
        "questions": len(questions),
        "chance": chance(questions),
        "passed": all(each["passed"] for each in checks.values()),
        "checks": checks,
        "matched": share(rights["matched"]),
        "letters": share(rights["letters"]) | {"parsed": sum(letter is not None for letter in letters) / len(letters)},
        "difference": difference,
        "controls": controls(rights),
        "categories": by_category(questions, chosen, rights),
        **by_engine(questions, rights["matched"], {question.engine for question in training}),
    }
    return Result(figures, [*map(describe, questions, scores, said)])


def judge(
    matched: float, shuffled: float, difference: dict[str, float], *, lots: float, questions: int
) -> dict[str, dict[str, Any]]:
    """What a pass takes: each with its value, what it needs, and whether it passed. lots: what chance gets of so many
    questions."""
    least, reach = lots + LEAST, SHUFFLED * math.sqrt(max(1, OF / questions))
    low, high = max(0.0, lots - reach), min(1.0, lots + reach)
    found = {
        "matched": (matched, f"at least {least:.0%}", matched >= least),
        "shuffled": (shuffled, f"{low:.0%} to {high:.0%}", low <= shuffled <= high),
        "difference": (difference["value"], "interval above 0", difference["low"] > 0),
    }
    return {
        name: {"value": float(value), "needs": needs, "passed": bool(passed)}
        for name, (value, needs, passed) in found.items()
    }


def share(rights: np.ndarray) -> dict[str, Any]:
    """The share of right answers with its 95 % interval (Wilson 1927)."""
    n, p, z = len(rights), float(rights.mean()), 1.959964
    middle, reach = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + side * reach) / (1 + z * z / n) for side in (-1, 1))
    return {"questions": n, "value": p, "low": max(0.0, low), "high": min(1.0, high)}


def controls(rights: Rights, places: Sequence[int] | slice = slice(None)) -> dict[str, float | None]:
    return {name: float(rights[name][places].mean()) if name in rights else None for name in CONTROLS}


def by_category(questions: Sequence[Question], chosen: np.ndarray, rights: Rights) -> dict[str, dict[str, Any]]:
    found = {}
    for category in dict.fromkeys(question.category for question in questions):
        places = [place for place, question in enumerate(questions) if question.category == category]
        found[category] = {
            "chance": chance([questions[place] for place in places]),
            "matched": share(rights["matched"][places]),
            "letters": share(rights["letters"][places]),
            "controls": controls(rights, places),
            "confusion": confusion([questions[place] for place in places], chosen[places]),
        }
    return found


def confusion(questions: Sequence[Question], chosen: np.ndarray) -> dict[str, Any]:
    """How often which choice (a row) was answered by which (a column): by their texts where all questions have the same
    ones, else by their letters."""
    fixed = len({frozenset(question.choices) for question in questions}) == 1
    labels = list(questions[0].choices if fixed else LETTERS[: max(len(question.choices) for question in questions)])
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    for question, pick in zip(questions, chosen, strict=True):
        own = question.choices if fixed else LETTERS
        counts[labels.index(own[question.answer]), labels.index(own[pick])] += 1
    return {"over": "choices" if fixed else "letters", "labels": labels, "counts": counts.tolist()}


def by_engine(questions: Sequence[Question], rights: np.ndarray, heard: set[str]) -> dict[str, Any]:
    """The share of each engine, or of several together, and that of all in which none speaks that was ever heard. What
    nobody named is in none."""
    engines = np.array([question.engine for question in questions])
    names, known = sorted({*engines.tolist()} - {""}), {part for name in heard for part in name.split("+")}
    unseen = [name for name in names if known and not set(name.split("+")) & known]
    return {
        "engines": {name: share(rights[engines == name]) for name in names},
        "unseen": {"engines": unseen, **share(rights[np.isin(engines, unseen)])} if unseen else None,
    }


def describe(question: Question, scores: np.ndarray, said: str) -> dict[str, Any]:
    """A question's row; its probabilities are of the choices among each other."""
    weights = np.exp(scores - scores.max())[: len(question.choices)]
    return {
        "id": question.id,
        "category": question.category,
        "engine": question.engine,
        "question": question.question,
        "choices": list(question.choices),
        "answer": question.choices[question.answer],
        "chosen": question.choices[int(scores.argmax())],
        "probabilities": (weights / weights.sum()).round(4).tolist(),
        "said": said,
    }
