"""Models that hear, that are deaf, and that cheat, and whether the score tells them apart."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from omni.errors import OmniError
from omni.evaluation import audiobench as room
from omni.evaluation.audiobench import confusion, evaluate_questions, judge, others, right, share, summarize
from omni.evaluation.choices import Question, prompt
from omni.model.gpt import GPT
from omni.text.bpe import BPETokenizer
from omni.text.chat import AUDIO
from omni.text.tokenizer import IGNORE

TOKENIZER = BPETokenizer.load(Path(__file__).parents[1] / "golden" / "nanochat_d4" / "tokenizer")
END = TOKENIZER.specials["<|assistant_end|>"]
WIDTH = 32
SETS = {"quality": ("normal", "whispered", "creaky", "telephone"), "counting": ("two", "three", "four", "five")}
SOUNDS = dict(zip(sum(SETS.values(), ()), torch.eye(8, WIDTH) * 5, strict=True))
"""What each answer sounds like."""


def questions(n: int, engine: str = "flite") -> list[Question]:
    """Of both categories in turn, with each answer in each place."""
    made = []
    for i in range(n):
        category = ("quality", "counting")[i % 2]
        choices, turn, answer = SETS[category], i // 8 % 4, i // 2 % 4
        turned = (*choices[turn:], *choices[:turn])
        told = {"text": f"heard {choices[(answer + turn) % 4]}", "f0": 100.0, "rms": 0.1, "seconds": 1.0}
        made.append(Question(f"q{i}", category, "Which?", turned, answer, engine=engine, **told))
    return made


def sounds(asked: list[Question]) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [
        SOUNDS[each.choices[each.answer]] + 0.1 * torch.randn(2 + i % 3, WIDTH, generator=random)
        for i, each in enumerate(asked)
    ]


def silences(asked: list[Question]) -> list[torch.Tensor]:
    return [torch.full((2 + i % 3, WIDTH), 0.3) for i in range(len(asked))]


@pytest.fixture(scope="module")
def hearing(one_thread) -> GPT:
    """Trained for some steps to answer what it hears."""
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_kv_head": 1, "n_embd": WIDTH, "window_pattern": "L"}
    model, asked = GPT(sequence_len=128, vocab_size=TOKENIZER.vocab_size, **sizes), questions(64)
    heard = sounds(asked)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(100):
        ids, targets, fronts = [], [], []
        for i in torch.randperm(len(asked)).tolist()[:16]:
            fronts.append(heard[i])
            text = [t for t in prompt(asked[i], heard[i], TOKENIZER, turn=step % 4) if t != AUDIO]
            said = [*TOKENIZER.encode(asked[i].choices[asked[i].answer]), END]
            ids.append(torch.tensor([*text, *said[:-1]]))
            targets.append(torch.tensor([IGNORE] * (len(text) - 1) + said))
        front = pad_sequence(fronts, batch_first=True)
        model(
            pad_sequence(ids, batch_first=True),
            pad_sequence(targets, batch_first=True, padding_value=IGNORE),
            audio_features=front,
            audio_lengths=torch.tensor([len(row) for row in fronts]),
            audio_positions=(2 + torch.arange(front.size(1))).expand(len(front), -1),
        ).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def evaluate(model: GPT, asked: list[Question], soft=None, silent=None, training: list[Question] = ()) -> room.Result:
    soft, silent = soft or sounds(asked), silent or silences(asked)
    return evaluate_questions(model, asked, soft, silent, TOKENIZER, training=training)


def test_a_model_that_hears_passes(hearing):
    asked = questions(64)
    result = evaluate(hearing, asked, training=questions(32, engine="espeak-ng"))
    figures = result.figures
    assert figures["passed"]
    assert figures["matched"]["value"] > 0.95
    assert 0.19 <= figures["controls"]["shuffled"] <= 0.31
    assert max(figures["controls"][name] for name in ("text_only", "silence", "majority", "probe")) < 0.4
    assert figures["difference"]["low"] > 0.5
    assert figures["difference"]["value"] == pytest.approx(
        figures["matched"]["value"] - figures["controls"]["shuffled"]
    )
    assert [figures["categories"][name]["matched"]["questions"] for name in SETS] == [32, 32]
    assert figures["unseen"]["engines"] == ["flite"]
    assert all(row["chosen"] == row["answer"] for row in result.rows)
    first = result.rows[0]
    assert first["answer"] == asked[0].choices[asked[0].answer]
    assert (first["id"], first["category"], first["engine"]) == ("q0", "quality", "flite")
    assert max(first["probabilities"]) == first["probabilities"][asked[0].answer] > 0.3
    assert sum(first["probabilities"]) == pytest.approx(1, abs=1e-3)


def test_sounds_that_are_not_its_own_are_no_help(hearing):
    asked = questions(64)
    swapped = [sounds(asked)[i] for i in others(asked, 0)]
    figures = evaluate(hearing, asked, swapped).figures
    assert not figures["passed"]
    assert not figures["checks"]["matched"]["passed"]
    assert figures["matched"]["value"] < 0.35
    assert figures["controls"]["probe"] is None
    assert figures["unseen"] is None


def test_a_model_to_which_all_sounds_are_alike_is_deaf(hearing):
    figures = evaluate(hearing, questions(64), [torch.full((3, WIDTH), 0.3)] * 64).figures
    assert figures["difference"] == {"value": 0, "low": 0, "high": 0}
    assert not figures["checks"]["difference"]["passed"]
    assert not figures["passed"]


def test_each_condition_is_told_what_it_is_called(monkeypatch):
    asked, told = questions(16), []

    def listen(model, asked, fronts, tokenizer):
        told.append(list(fronts))
        return np.eye(4)[[question.answer for question in asked]]

    monkeypatch.setattr(room, "score", listen)
    monkeypatch.setattr(room, "write_letters", lambda model, asked, fronts, tokenizer: ["A"] * 16)
    soft, silent = sounds(asked), silences(asked)
    figures = evaluate(SimpleNamespace(sequence_len=128), asked, soft, silent).figures
    own, *rest = told
    assert own == soft
    assert rest.count([None] * 16) == 1
    assert rest.count([question.text for question in asked]) == 1
    assert sum(fronts is not None and fronts[0] is silent[0] for fronts in rest) == 1
    places = {row.data_ptr(): place for place, row in enumerate(soft)}
    shuffled = [fronts for fronts in rest if isinstance(fronts[0], torch.Tensor) and fronts[0].data_ptr() in places]
    assert len(shuffled) == 10
    for fronts in shuffled:
        came = [places[row.data_ptr()] for row in fronts]
        assert sorted(came) == list(range(16))
        assert all(i != j for i, j in enumerate(came))
        assert all(asked[i].category == asked[j].category for i, j in enumerate(came))
    assert figures["controls"]["majority"] == figures["letters"]["value"] == 0.25
    assert figures["letters"]["parsed"] == 1


def test_shuffles_are_seeded_and_differ_and_who_is_alone_stays():
    asked = [*questions(16), replace(questions(1)[0], category="alone")]
    assert others(asked, 3).tolist() == others(asked, 3).tolist() != others(asked, 4).tolist()
    assert others(asked, 3)[16] == 16


@pytest.mark.parametrize("n", [4, 5, 34])
def test_nobody_gets_its_own_sound(n):
    asked = questions(n)
    categories = [question.category for question in asked]
    for seed in range(40):
        other = others(asked, seed).tolist()
        assert sorted(other) == list(range(n))
        assert all(i != j and categories[i] == categories[j] for i, j in enumerate(other))
    about = [str(i // 6) for i in range(n)]  # three of a category about one sound
    if n == 34:
        for seed in range(40):
            assert all(about[i] != about[j] for i, j in enumerate(others(asked, seed, about)))


def test_another_sound_that_is_too_long_for_the_question_is_cut_off_and_one_of_its_own_refused(hearing):
    asked = questions(4)
    soft = sounds(asked)
    fits = room.room(asked[2], hearing, TOKENIZER)
    longest = torch.randn(fits, WIDTH)
    assert (
        evaluate(
            hearing,
            [*asked[:2], replace(asked[2], question="Which is it then, do you think?"), asked[3]],
            [longest, *soft[1:]],
        ).figures["questions"]
        == 4
    )
    with pytest.raises(OmniError, match="do not fit"):
        evaluate(hearing, asked, [*soft[:2], torch.randn(128, WIDTH), soft[3]])
    assert room.room(replace(asked[0], text="a word " * 200), hearing, TOKENIZER) == 0


def test_chance_follows_the_number_of_choices():
    asked = [replace(q, choices=("yes", "no"), answer=i % 2, engine="") for i, q in enumerate(questions(200))]
    asked[0] = replace(asked[0], choices=("yes", "no", "it depends"))
    rights = {name: np.array([1.0, 0.0] * 100) for name in RIGHT} | {"matched": np.ones(200)}
    scores = np.where(np.eye(3)[[q.answer for q in asked]], 0.0, -1.0)
    scores[1:, 2] = -np.inf
    found = summarize(asked, scores, ["B"] * 200, rights, training=[])
    assert found.figures["chance"] == pytest.approx((199 / 2 + 1 / 3) / 200)
    assert found.figures["passed"]
    assert found.figures["checks"]["matched"]["needs"] == "at least 65%"
    assert found.figures["categories"]["counting"]["chance"] == 0.5
    assert found.figures["categories"]["counting"]["confusion"]["counts"] == [[0, 0], [0, 100]]
    assert found.figures["categories"]["quality"]["confusion"]["labels"] == list("ABC")
    assert found.figures["engines"] == {}
    assert [len(row["probabilities"]) for row in found.rows[:2]] == [3, 2]


RIGHT = {"matched": 0.5, "shuffled": 0.25, "text_only": 0.25, "silence": 0.25, "transcript": 0.6}


def summary(shares: dict[str, float], n: int = 200, said: str = "B.") -> dict:
    """The figures of so many questions with such shares of right answers, the same in every stretch."""
    rights = {name: (np.arange(n) * 7 % n < value * n).astype(float) for name, value in (RIGHT | shares).items()}
    asked = questions(n)
    scores = np.eye(4)[[(q.answer + (not hit)) % 4 for q, hit in zip(asked, rights["matched"], strict=True)]]
    return summarize(asked, scores, [said] * n, rights, training=[]).figures


@pytest.mark.parametrize(
    ("shares", "failed"),
    [
        ({}, []),
        ({"matched": 0.4}, []),
        ({"matched": 0.395}, ["matched"]),
        ({"shuffled": 0.31}, []),
        ({"shuffled": 0.19}, []),
        ({"shuffled": 0.315}, ["shuffled"]),
        ({"shuffled": 0.18}, ["shuffled"]),
        ({"matched": 0.41, "shuffled": 0.41}, ["shuffled", "difference"]),
        ({"matched": 0.2}, ["matched", "difference"]),
    ],
)
def test_a_pass_takes_all_three(shares, failed):
    figures = summary(shares)
    assert [name for name, each in figures["checks"].items() if not each["passed"]] == failed
    assert figures["passed"] is (not failed)


def test_each_check_tells_its_figure():
    checks = judge(0.44, 0.26, {"value": 0.18, "low": 0.1, "high": 0.26}, lots=0.25, questions=200)
    assert checks["matched"] == {"value": 0.44, "needs": "at least 40%", "passed": True}
    assert checks["shuffled"] == {"value": 0.26, "needs": "19% to 31%", "passed": True}
    assert checks["difference"] == {"value": 0.18, "needs": "interval above 0", "passed": True}
    few = judge(0.64, 0.6, {"value": 0.04, "low": -0.1, "high": 0.2}, lots=0.5, questions=50)
    assert [(each["needs"], each["passed"]) for each in few.values()] == [
        *(("at least 65%", False), ("38% to 62%", True), ("interval above 0", False))
    ]


def test_what_cannot_be_parsed_is_wrong():
    assert summary({}, said="dog")["letters"]["value"] == 0
    assert summary({}, said="dog")["letters"]["parsed"] == 0
    assert summary({}, said="answer: b")["letters"]["value"] == 0.25


def test_the_majority_is_the_commonest_letter():
    asked = [replace(question, answer=2) for question in questions(30)] + questions(10)
    rights = {name: np.zeros(40) for name in RIGHT}
    found = summarize(asked, np.zeros((40, 4)), [""] * 40, rights, training=[]).figures["controls"]["majority"]
    assert found == np.mean([question.answer == 2 for question in asked])


def test_the_interval_is_wilsons():
    found = share(np.array([1.0] * 11 + [0.0] * 14))  # 0.4400, 0.2667 to 0.6293
    assert (found["value"], found["low"], found["high"]) == pytest.approx((0.44, 0.2667, 0.6293), abs=1e-4)
    assert share(np.zeros(25))["low"] == 0
    assert share(np.ones(25))["high"] == 1


def test_the_interval_of_the_difference_is_over_questions():
    n, p = 200, 0.5
    found = summary({"matched": p, "shuffled": 0.0})["difference"]
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * (p * (1 - p) / n) ** 0.5, rel=0.1)


def test_confusions_are_over_texts_where_these_are_the_same_four():
    asked = questions(16)[::2]  # places go round
    found = confusion(asked, np.array([question.answer for question in asked]))
    assert found["over"] == "choices"
    assert set(found["labels"]) == set(SETS["quality"])
    assert found["counts"] == (np.eye(4, dtype=int) * 2).tolist()
    always = confusion(asked, np.array([question.choices.index("creaky") for question in asked]))
    column = always["labels"].index("creaky")
    assert [row[column] for row in always["counts"]] == [2, 2, 2, 2]
    assert np.sum(always["counts"]) == 8


def test_else_over_letters():
    asked = questions(8)
    found = confusion(asked, np.zeros(8, dtype=int))
    assert (found["over"], found["labels"]) == ("letters", list("ABCD"))
    assert [row[0] for row in found["counts"]] == [2, 2, 2, 2]


def test_engines_are_told_apart():
    asked = questions(16) + questions(8, engine="kokoro")
    rights = {name: np.array([1.0] * 16 + [0.0] * 8) for name in RIGHT}
    found = summarize(asked, np.zeros((24, 4)), [""] * 24, rights, training=questions(8)).figures
    assert found["engines"]["flite"]["value"] == 1
    assert found["engines"]["kokoro"]["value"] == 0
    assert found["unseen"] == {"engines": ["kokoro"], **found["engines"]["kokoro"]}


def test_a_sound_of_which_a_part_was_heard_is_not_unseen():
    asked = [replace(question, engine=name) for question, name in zip(questions(3), ("a+b", "b+c", "c"), strict=True)]
    rights = {name: np.array([1.0, 0.0, 1.0]) for name in RIGHT}
    taught = [*questions(1, engine="a"), *questions(1, engine="b+d")]
    found = summarize(asked, np.zeros((3, 4)), [""] * 3, rights, training=taught).figures
    assert found["unseen"] == {"engines": ["c"], **found["engines"]["c"]}


def test_the_highest_score_answers():
    asked = questions(4)
    assert right(asked, np.array([[0, 1, 2, 3]] * 4)).tolist() == [float(q.answer == 3) for q in asked]


def test_what_has_no_sound_or_no_answer_is_refused(hearing):
    asked = questions(4)
    soft = sounds(asked)
    for missing in (None, torch.zeros(0, WIDTH)):
        with pytest.raises(OmniError, match="'q2': has no sound"):
            evaluate(hearing, asked, [*soft[:2], missing, soft[3]])
    with pytest.raises(OmniError, match="as many sounds, not 3"):
        evaluate(hearing, asked, soft[:3])
    with pytest.raises(OmniError, match="as many silences, not 2"):
        evaluate(hearing, asked, soft, silences(asked)[:2])
    with pytest.raises(OmniError, match="'q1': answer 4"):
        evaluate(hearing, [asked[0], replace(asked[1], answer=4)], soft[:2])
    with pytest.raises(OmniError, match="'q1': has 1 choices"):
        evaluate(hearing, asked, training=[replace(asked[1], choices=("a",))])
    with pytest.raises(OmniError, match="no questions"):
        evaluate(hearing, [], [torch.zeros(1)], [torch.zeros(1)])
