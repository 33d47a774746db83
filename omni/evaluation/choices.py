"""Questions with two to eight choices, answered by what the model finds likeliest, and by the letters that it writes.

A choice is scored as the assistant's whole answer: the log-probability of its tokens and of the end of the turn, a
token, so that long choices are not punished. Models have favourite places (Zheng et al. 2023, arXiv:2309.03882), so
each choice stands once in each place: its score is the mean over the cyclic orders.

Shape letters: N questions, M choices of the question that has most, R rows (a question in one order each), L text
tokens, S soft tokens, C backbone width.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omni.errors import OmniError
from omni.evaluation.retrieval import padded
from omni.generation.engine import Engine
from omni.generation.prompt import segments
from omni.generation.sampling import Settings
from omni.model.gpt import GPT
from omni.model.kv_cache import KVCache
from omni.text.chat import AUDIO, render_prompt
from omni.text.question import LETTERS, ask
from omni.text.tokenizer import Tokenizer

FEWEST, MOST = 2, len(LETTERS)
"""Choices of a question."""
ROWS = 32
"""In a batch; 64 are no faster."""
LETTER = re.compile(
    rf"\s*(?:(?:the\s+)?answer(?:\s+is)?\s*:?\s*)?\(?([{LETTERS}])(?:[.):]|\s*$)", re.IGNORECASE | re.MULTILINE
)
"""A letter that is set off or stands alone, as the article in "a dog" does not."""
BRIEF = Settings(temperature=0.0, max_tokens=8)


@dataclass(frozen=True)
class Question:
    """A question about a sound.

    answer: the right one's place in `choices`. text: what is said or heard in it, for a model that reads instead of
    hearing. engine: what made the sound; several are joined by "+". f0, rms, seconds: as measured, in Hz (0 where
    nothing is voiced), of a full scale of 1, and in seconds from its first sound to its last. kind: of question, within
    a category.
    """

    id: str
    category: str
    question: str
    choices: tuple[str, ...]
    answer: int
    text: str
    engine: str
    f0: float
    rms: float
    seconds: float
    kind: str = ""


Front = Tensor | str | None
"""What stands in front of a question: soft tokens (S, C), a text to read, or nothing."""


class Row(NamedTuple):
    """A question (its number) in one of its orders: the ids of its prompt without AUDIO, where it stood, and what is
    heard there, soft tokens (S, C)."""

    question: int
    ids: list[int]
    place: int
    heard: Tensor


def check(questions: Sequence[Question]) -> None:
    """Raises OmniError, which names the question, unless each has two to eight different choices and an answer among
    them."""
    for question in questions:
        count = len(question.choices)
        if not FEWEST <= count <= MOST:
            raise OmniError(f"question {question.id!r}: has {count} choices, needs {FEWEST} to {MOST}")
        if len(set(question.choices)) < count:
            raise OmniError(f"question {question.id!r}: its choices {list(question.choices)} must all differ")
        if question.answer not in range(count):
            raise OmniError(f"question {question.id!r}: answer {question.answer!r} must be from 0 to {count - 1}")


def chance(questions: Sequence[Question]) -> float:
    """The share that is answered right by who draws lots."""
    return float(np.mean([1 / len(question.choices) for question in questions]))


def prompt(question: Question, front: Front, tokenizer: Tokenizer, *, turn: int = 0, letter: bool = False) -> list[int]:
    """The ids of one user turn, AUDIO where soft tokens go; a text to read is quoted. The choices go round by `turn`
    places; with `letter` a letter is asked for."""
    choices = (*question.choices[turn:], *question.choices[:turn])
    content = [{"type": "text", "text": ask(question.question, choices, letter=letter)}]
    if isinstance(front, str):
        content.insert(0, {"type": "text", "text": f'"{front}"\n'})
    elif front is not None:
        content.insert(0, {"type": "audio"})
    return render_prompt({"messages": [{"role": "user", "content": content}]}, tokenizer)


@torch.inference_mode()
def score(backbone: GPT, questions: Sequence[Question], fronts: Sequence[Front], tokenizer: Tokenizer) -> np.ndarray:
    """The log-probability in nats a token of each choice, behind what stands in front of its question: (N, M), minus
    infinity where a question has fewer choices.

    A prompt is read once and its answers go on from there. (200 questions with 3 s of sound each: 9 s of one core for
    14 M parameters in bf16.)

    Raises:
        OmniError: a question that is longer than the model's context; a model that has diverged.
    """
    rows = [
        row(number, question, front, turn, backbone, tokenizer)
        for number, (question, front) in enumerate(zip(questions, fronts, strict=True))
        for turn in range(len(question.choices))
    ]
    for one in rows:
        if len(one.ids) + len(one.heard) > backbone.sequence_len:
            raise OmniError(
                f"question {questions[one.question].id!r}: {len(one.heard)} soft tokens and {len(one.ids)} text tokens "
                f"do not fit the model's context of {backbone.sequence_len}; shorten the sound or the choices"
            )
    counts = np.array([len(question.choices) for question in questions])
    scores = np.zeros((len(questions), max(counts)))

    def size(row: Row) -> tuple[int, int]:
        return len(row.ids), counts[row.question]

    rows.sort(key=lambda row: (*size(row), len(row.heard)))
    for (_, count), like in groupby(rows, size):  # in a cache all text counts, so none may be padded
        group = list(like)
        for first in range(0, len(group), ROWS):
            batch = group[first : first + ROWS]
            found = score_batch(backbone, batch, [questions[row.question].choices for row in batch], tokenizer)
            np.add.at(scores[:, :count], [row.question for row in batch], found / count)
    if not np.isfinite(scores).all():
        raise OmniError("the model gives no finite probabilities: it has diverged; take an earlier checkpoint")
    return np.where(np.arange(max(counts)) < counts[:, None], scores, -np.inf)


def row(number: int, question: Question, front: Front, turn: int, backbone: GPT, tokenizer: Tokenizer) -> Row:
    ids = prompt(question, front, tokenizer, turn=turn)
    place = ids.index(AUDIO) if AUDIO in ids else 0
    heard = front if isinstance(front, Tensor) else torch.zeros(0, backbone.n_embd)
    return Row(number, [i for i in ids if i != AUDIO], place, heard.to(backbone.lm_head.weight.device))


def score_batch(backbone: GPT, rows: list[Row], choices: list[tuple[str, ...]], tokenizer: Tokenizer) -> np.ndarray:
    """Nats a token of each row's choices (R, choices); all rows have as much text and as many choices."""
    device, end = backbone.lm_head.weight.device, tokenizer.specials["<|assistant_end|>"]
    ids_RL = torch.tensor([row.ids for row in rows], device=device)
    soft_RSC = pad_sequence([row.heard for row in rows], batch_first=True)
    places_R1 = torch.tensor([[row.place] for row in rows], device=device)
    cache = backbone.new_cache(rows=len(rows), columns=soft_RSC.size(1) + ids_RL.size(1))
    backbone.states(
        ids_RL[:, :-1],
        audio_features=soft_RSC,
        audio_lengths=torch.tensor([len(row.heard) for row in rows], device=device),
        audio_positions=places_R1 + torch.arange(soft_RSC.size(1), device=device),
        kv_cache=cache,
    )
    scores = []
    for place in range(len(choices[0])):
        said = [
            torch.tensor([row.ids[-1], *tokenizer.encode(its[place])]) for row, its in zip(rows, choices, strict=True)
        ]
        idx_RL, targets_RL = padded(said, end, device)
        with rewound(cache):
            losses = backbone(idx_RL, targets_RL, kv_cache=cache, reduction="none").view(idx_RL.shape)
        scores.append(-losses.sum(1).double().cpu().numpy() / [len(text) for text in said])
    return np.stack(scores, axis=1)


@contextmanager
def rewound(cache: KVCache) -> Iterator[None]:
    """What is read in the block is forgotten after it: of several answers each follows the question alone."""
    end, lengths, previous_BC = cache.end, [*cache.lengths], cache.previous_BC
    yield
    cache.end, cache.lengths, cache.previous_BC = end, lengths, previous_BC


def write_letters(
    backbone: GPT, questions: Sequence[Question], soft: Sequence[Tensor], tokenizer: Tokenizer
) -> list[str]:
    """What the model writes, greedily, when it is asked for a letter behind soft tokens (S, C)."""
    prompts = []
    for question, heard in zip(questions, soft, strict=True):
        prompts.append(segments(prompt(question, heard, tokenizer, letter=True), [heard]))
    return [row.text for row in Engine(backbone, tokenizer).complete(prompts, BRIEF)]


def parse_letter(said: str, choices: int) -> int | None:
    """The place of the choice, of so many, that a text names by its letter ("B", "b)", "Answer: B"); None where it
    names none."""
    found = LETTER.match(said)
    place = LETTERS.index(found[1].upper()) if found else choices
    return place if place < choices else None
