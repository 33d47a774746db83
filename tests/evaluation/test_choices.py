"""Choices scored in batches and one by one, and letters read from what was written."""

from pathlib import Path

import numpy as np
import pytest
import torch

from omni.errors import OmniError
from omni.evaluation import choices as room
from omni.evaluation.choices import Question, chance, check, parse_letter, prompt, score, write_letters
from omni.generation.engine import Engine
from omni.model.gpt import GPT
from omni.text.bpe import BPETokenizer
from omni.text.chat import AUDIO
from omni.text.tokenizer import IGNORE

TOKENIZER = BPETokenizer.load(Path(__file__).parents[1] / "golden" / "nanochat_d4" / "tokenizer")
END = TOKENIZER.specials["<|assistant_end|>"]
WIDTH = 32


def question(choices: tuple = ("a", "two words", "the third one", "d"), answer: int = 0, **other) -> Question:
    given = {"id": "q7", "category": "voice", "question": "What is it?", "text": "hello", "engine": "flite"}
    return Question(**given | {"f0": 120.0, "rms": 0.1, "seconds": 2.0} | other, choices=choices, answer=answer)


@pytest.fixture(scope="module")
def model() -> GPT:
    """A small model whose every path carries signal, with windows of 128 and 256."""
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_kv_head": 1, "n_embd": WIDTH, "window_pattern": "SL"}
    model = GPT(sequence_len=256, vocab_size=TOKENIZER.vocab_size, **sizes)
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight") or name == "lm_head.weight":
            torch.nn.init.normal_(parameter, std=0.2)
    torch.nn.init.constant_(model.smear_lambda, 0.8)
    torch.nn.init.uniform_(model.smear_gate.weight, -1, 1)
    return model.eval()


@torch.no_grad()
def naive(model: GPT, asked: Question, front: torch.Tensor | str | None) -> list[float]:
    """Each choice in each order by itself, in one pass without a cache."""
    scores = dict.fromkeys(asked.choices, 0.0)
    for turn in range(len(asked.choices)):
        ids = prompt(asked, front, TOKENIZER, turn=turn)
        text = [i for i in ids if i != AUDIO]
        for choice in asked.choices:
            said = [*TOKENIZER.encode(choice), END]
            idx = torch.tensor([[*text, *said[:-1]]])
            targets = torch.tensor([[IGNORE] * (len(text) - 1) + said])
            heard = {}
            if AUDIO in ids:
                places = torch.arange(len(front))[None] + ids.index(AUDIO)
                heard = {"audio_features": front[None], "audio_positions": places}
            scores[choice] -= model(idx, targets, **heard).item() / len(asked.choices)
    return [scores[choice] for choice in asked.choices]


ASKED = [
    question(),
    question(("x", "y", "z", "x y z"), question="Which of these many things could it possibly be?"),
    question(("a much longer choice than others", "no", "yes", "maybe")),
    question(("x", "y", "z", "x y z"), question="Which?"),
]


@pytest.mark.parametrize("kind", ["heard", "read", "nothing", "mixed"])
def test_each_choice_has_the_score_it_has_alone(model, monkeypatch, kind):
    monkeypatch.setattr(room, "ROWS", 3)
    torch.manual_seed(1)
    heard = [torch.randn(length, WIDTH) for length in (5, 140, 1, 30)]
    fronts = {
        "heard": heard,
        "read": ["hello", "what was said", "", "one two three"],
        "nothing": [None] * 4,
        "mixed": [heard[0], None, "hello", heard[3]],
    }[kind]
    found = score(model, ASKED, fronts, TOKENIZER)
    assert found.shape == (4, 4)
    assert np.ptp(found, axis=1).min() > 0.01
    np.testing.assert_allclose(found, [naive(model, *pair) for pair in zip(ASKED, fronts, strict=True)], rtol=1e-4)


def test_two_to_eight_choices_are_scored_beside_each_other(model):
    torch.manual_seed(1)
    asked = [question(tuple("xy")), question(), question(("one", "two", "three")), question(tuple("abcdefgh"))]
    heard = [torch.randn(length, WIDTH) for length in (5, 9, 1, 30)]
    check(asked)
    found = score(model, asked, heard, TOKENIZER)
    for each, front, scores in zip(asked, heard, found, strict=True):
        own = len(each.choices)
        np.testing.assert_allclose(scores[:own], naive(model, each, front), rtol=1e-4)
        assert (scores[own:] == -np.inf).all()
    assert chance(asked) == pytest.approx((1 / 2 + 1 / 4 + 1 / 3 + 1 / 8) / 4)


def test_what_is_heard_and_what_is_read_matters(model):
    torch.manual_seed(1)
    for front, other in ((torch.randn(5, WIDTH), torch.randn(5, WIDTH)), ("hello", "bye"), ("hello", None)):
        (one,), (two,) = (score(model, ASKED[:1], [each], TOKENIZER) for each in (front, other))
        assert abs(one - two).max() > 1e-3


def test_the_order_of_choices_does_not_matter_as_long_as_it_is_a_turn(model):
    turned = question((*ASKED[0].choices[1:], ASKED[0].choices[0]))
    first, second = score(model, [ASKED[0], turned], [None, None], TOKENIZER)
    np.testing.assert_allclose(np.roll(first, -1), second, rtol=1e-4)


def test_scoring_leaves_the_model_as_it_was(model):
    score(model, ASKED[:1], [None], TOKENIZER)
    model(torch.tensor([[1, 2]]), torch.tensor([[2, 3]])).backward()
    assert model.transformer.wte.weight.grad is not None
    model.zero_grad()


def test_a_prompt_is_a_turn_with_the_sound_in_front():
    def spell(front, **keys) -> str:
        ids = prompt(question(), front, TOKENIZER, **keys)
        return "".join("<sound>" if i == AUDIO else TOKENIZER.encoding.decode([i]) for i in ids)

    asked = "What is it?\nA. a\nB. two words\nC. the third one\nD. d"
    opened, closed = "<|bos|><|user_start|>", "<|user_end|><|assistant_start|>"
    assert spell(torch.randn(3, WIDTH)) == f"{opened}<sound>{asked}{closed}"
    assert spell(None) == f"{opened}{asked}{closed}"
    assert spell("oh, hello") == f'{opened}"oh, hello"\n{asked}{closed}'
    assert "A. the third one\nB. d\nC. a\nD. two words" in spell(None, turn=2)
    assert "letter" in spell(None, letter=True).removeprefix(asked)


def test_a_question_longer_than_the_context_is_refused(model):
    with pytest.raises(OmniError, match=r"'q7'.*240 soft tokens.*context of 256"):
        score(model, [question()], [torch.randn(240, WIDTH)], TOKENIZER)


def test_a_diverged_model_has_no_score(model):
    with pytest.raises(OmniError, match="diverged"):
        score(model, [question()], [torch.full((3, WIDTH), float("nan"))], TOKENIZER)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (question(("a",)), "has 1 choices, needs 2 to 8"),
        (question(tuple("abcdefghi")), "has 9 choices, needs 2 to 8"),
        (question(("a", "b", "a", "d")), "must all differ"),
        (question(answer=4), "answer 4"),
        (question(("a", "b"), answer=2), "answer 2"),
        (question(answer=-1), "answer -1"),
        (question(answer="a"), "answer 'a'"),
    ],
)
def test_a_question_that_cannot_be_scored_is_refused(asked, told):
    with pytest.raises(OmniError, match=f"'q7'.*{told}"):
        check([question(), asked])
    check([question()])


SAID = {
    0: ["A", " (A) a dog", "A: a dog"],
    1: ["B", "B.", "b)", "Answer: B"],
    2: ["answer is c.", "the answer is C"],
    3: ["The answer: d", "D\n\nBecause"],
    None: ["a dog", "Bird", "E", "", "dog B", "Answer: a dog"],
}


@pytest.mark.parametrize(("place", "said"), [(place, said) for place, texts in SAID.items() for said in texts])
def test_letters_are_parsed(place, said):
    assert parse_letter(said, 4) == place


def test_a_letter_counts_as_far_as_there_are_choices():
    assert [parse_letter(said, 8) for said in ("E", "h)", "I")] == [4, 7, None]
    assert [parse_letter(said, 2) for said in ("B", "C")] == [1, None]


def test_letters_are_what_the_engine_writes_behind_the_sound(model):
    torch.manual_seed(2)
    heard = [torch.randn(length, WIDTH) for length in (5, 9, 2, 30)]
    said = write_letters(model, ASKED, heard, TOKENIZER)
    for asked, front, text in zip(ASKED, heard, said, strict=True):
        bos, user, _, *rest = prompt(asked, front, TOKENIZER, letter=True)
        (row,) = Engine(model, TOKENIZER).complete([[[bos, user], front, rest]], room.BRIEF)
        assert row.text == text
        assert len(row.tokens) <= 8
    assert len(set(said)) > 1
