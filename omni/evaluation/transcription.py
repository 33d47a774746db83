"""What the model writes down when it hears: greedy transcripts, and their word and character error rates."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jiwer
from torch import Tensor

from omni.generation.engine import Engine
from omni.generation.sampling import Settings
from omni.model.gpt import GPT
from omni.text.tokenizer import Tokenizer

STANDARD = jiwer.transformations.wer_standardize.transforms
WORDS = jiwer.Compose([*STANDARD[:-1], jiwer.RemovePunctuation(), jiwer.RemoveMultipleSpaces(), *STANDARD[-2:]])
"""Lower case, English contractions written out, no [sounds], no punctuation, which is not said."""
LETTERS = jiwer.Compose([*WORDS.transforms[:-1], jiwer.ReduceToListOfListOfChars()])
CHARACTERS_A_SECOND = 25
"""Faster than anyone speaks: the fastest of 3,960 clips of game dialogue has 22, the median 13."""


@dataclass(frozen=True)
class ErrorRates:
    """Errors for each word, and for each character, of what was said; more than 1 when much is made up."""

    wer: float
    cer: float


def transcribe(backbone: GPT, tokenizer: Tokenizer, soft: Sequence[Tensor], *, seconds: Sequence[float]) -> list[str]:
    """What the model says, greedily, behind each clip's soft tokens (S, C), cut off where its text is longer than
    anybody could say in so many seconds (see `most`): a model that got lost may repeat itself for ever."""
    rows = Engine(backbone, tokenizer).complete([[row, [tokenizer.bos]] for row in soft], list(map(greedy, seconds)))
    return [row.text for row in rows]


def greedy(seconds: float) -> Settings:
    """The likeliest tokens, of no more text than can be said in that time."""
    # A character takes at most four tokens, and a token may bring none.
    return Settings(temperature=0.0, max_tokens=4 * most(seconds), max_characters=most(seconds))


def most(seconds: float) -> int:
    """The characters that can be said in that time."""
    return max(1, math.ceil(seconds * CHARACTERS_A_SECOND))


def error_rates(said: Sequence[str], heard: Sequence[str]) -> ErrorRates:
    """Of all texts together, by jiwer's standard transforms and without punctuation. A text with no word in it is left
    out; NaN when all are."""
    pairs = [(text, guess) for text, guess in zip(said, heard, strict=True) if has_word(text)]
    if not pairs:  # jiwer would call it perfect
        return ErrorRates(math.nan, math.nan)
    said, heard = [text for text, _ in pairs], [guess for _, guess in pairs]
    wer = jiwer.wer(said, heard, reference_transform=WORDS, hypothesis_transform=WORDS)
    cer = jiwer.cer(said, heard, reference_transform=LETTERS, hypothesis_transform=LETTERS)
    return ErrorRates(wer, cer)


def has_word(text: str) -> bool:
    """Whether a letter or a digit is left of it."""
    return any(map(str.isalnum, "".join(*WORDS(text))))
