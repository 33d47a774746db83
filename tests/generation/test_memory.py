"""A prompt that begins like another one is read from there on, and says what it would have said."""

import pytest
import torch

from omni.generation.engine import Engine
from omni.generation.memory import PROMPTS
from omni.generation.sampling import Settings
from omni.text.tokenizer import ByteTokenizer

GREEDY = Settings(temperature=0, max_tokens=12)
SYSTEM = list(b"You are told to answer in few words, whatever it is.")


def sound(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(length, 64, generator=torch.Generator().manual_seed(seed))


def said(engine: Engine, *segments) -> tuple[list[int], int]:
    (row,) = engine.complete([list(segments)], GREEDY)
    return row.tokens, row.recalled


@pytest.mark.parametrize(
    ("first", "second", "recalled"),
    [
        ([[*SYSTEM, 1, 2, 3]], [[*SYSTEM, 4, 5]], len(SYSTEM)),
        ([[*SYSTEM, 1]], [[*SYSTEM, 1]], len(SYSTEM)),
        ([[1, 2], sound(20), SYSTEM], [[1, 2], sound(20), SYSTEM, [9]], 22 + len(SYSTEM)),
        ([[1, 2], sound(30), [7]], [[1, 2], torch.cat([sound(30)[:19], sound(9, seed=1)]), [7]], 21),
        ([SYSTEM, sound(5), [7]], [SYSTEM, sound(5), [7, 8]], len(SYSTEM) + 6),
        ([sound(30), [7]], [sound(30), [7]], 30),
        ([sound(30), [7]], [sound(30), [8, 9]], 30),
        ([SYSTEM], [[3, 3], SYSTEM], 0),
        ([SYSTEM[:9]], [[*SYSTEM[:9], 1]], 0),
    ],
    ids=[
        "system",
        "same",
        "sound",
        "sound_differs",
        "sound_inside",
        "sound_alone",
        "sound_first",
        "other",
        "too_short",
    ],
)
def test_it_says_what_it_says_without_and_reads_less(model, first, second, recalled):
    plain = Engine(model, ByteTokenizer())
    keeping = Engine(model, ByteTokenizer(), remembered=1000)
    assert said(keeping, *first) == (said(plain, *first)[0], 0)
    assert said(keeping, *second) == (said(plain, *second)[0], recalled)


def test_what_was_known_stays_as_it_was(model):
    engine = Engine(model, ByteTokenizer(), remembered=1000)
    tokens, _ = said(engine, [*SYSTEM, 1, 2])
    said(engine, [*SYSTEM, 7, 7, 7])
    assert said(engine, [*SYSTEM, 1, 2]) == (tokens, len(SYSTEM) + 1)


def test_a_longer_prompt_takes_the_place_of_its_beginning(model):
    engine = Engine(model, ByteTokenizer(), remembered=1000)
    for end in range(20, 24):
        said(engine, SYSTEM[:end])
    assert [prompt.length for prompt, _ in engine.memory.held] == [23]


def test_the_oldest_go_when_there_are_too_many_positions(model):
    engine = Engine(model, ByteTokenizer(), remembered=100)
    for first in range(4):
        said(engine, [first] * 40)
    assert [prompt.ids_L[0].item() for prompt, _ in engine.memory.held] == [2, 3]


def test_no_more_prompts_are_held_than_are_worth_comparing(model):
    engine = Engine(model, ByteTokenizer(), remembered=100_000)
    for first in range(PROMPTS + 3):
        said(engine, [first] * 17)
    assert len(engine.memory.held) == PROMPTS


def test_nothing_is_kept_unless_it_is_asked_for(model):
    engine = Engine(model, ByteTokenizer())
    said(engine, SYSTEM)
    assert engine.memory.held == []
