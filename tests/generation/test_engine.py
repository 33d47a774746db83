"""Prompts in, tokens out: rows alone and in company, tool calls, ends."""

from dataclasses import replace

import pytest
import torch

from omni.errors import OmniError
from omni.generation.engine import Engine, Row
from omni.generation.sampling import Settings
from omni.model.gpt import GPT
from omni.text.tokenizer import ByteTokenizer

SPECIALS = ["assistant_end", "python_start", "python_end", "output_start", "output_end"]
ASSISTANT_END, PYTHON_START, PYTHON_END, OUTPUT_START, OUTPUT_END = range(257, 262)
GREEDY = Settings(temperature=0, max_tokens=20)
DRAWN = Settings(temperature=1.5, top_k=50, top_p=0.95, max_tokens=30)


class ChatTokenizer(ByteTokenizer):
    """Bytes, and the specials of a chat from 257 on."""

    vocab_size = 257 + len(SPECIALS)

    def __init__(self):
        super().__init__()
        self.specials |= {f"<|{name}|>": 257 + i for i, name in enumerate(SPECIALS)}


class Parrot(GPT):
    """Says what it was told to say, whatever it hears: one row, one token a call."""

    def __init__(self, words: list[int], sequence_len: int = 64):
        super().__init__(
            sequence_len=sequence_len, vocab_size=262, n_layer=1, n_head=1, n_kv_head=1, n_embd=32, window_pattern="L"
        )
        self.words = iter(words)

    def logits(self, states):
        word = torch.tensor(next(self.words))
        return torch.nn.functional.one_hot(word, 262).float().expand(*states.shape[:-1], -1) * 9


@pytest.fixture
def engine(model) -> Engine:
    return Engine(model, ChatTokenizer(), chunk=37)


def ids(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 250, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def audio(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(length, 64, generator=torch.Generator().manual_seed(seed))


PROMPTS = [[ids(3)], [audio(150), ids(9)], [ids(5), audio(40), ids(2), audio(9, 1), ids(1)], [ids(200)], [ids(38)]]


def say(*parts: str | int) -> list[int]:
    return [token for part in parts for token in (part.encode() if isinstance(part, str) else [part])]


def run(engine: Engine, *rows: Row) -> list[list[int]]:
    while not all(row.finish for row in rows):
        engine.step()
    return [row.tokens for row in rows]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_tokens_equal_those_of_the_bare_model(model, engine, prompt):
    stream = [("audio", soft) if isinstance(part, torch.Tensor) else ("text", soft) for part in prompt for soft in part]
    text = [soft for kind, soft in stream if kind == "text"]
    soft = [soft for kind, soft in stream if kind == "audio"]
    heard = {}
    if soft:
        heard["audio_features"] = torch.stack(soft)[None]
        heard["audio_positions"] = torch.tensor([[i for i, (kind, _) in enumerate(stream) if kind == "audio"]])
    with torch.no_grad():
        for _ in range(20):
            text.append(model(torch.tensor([text]), **heard)[0, -1].argmax().item())
    (row,) = engine.add(prompt, GREEDY)
    assert run(engine, row) == [text[-20:]]
    assert row.finish == "length"


@pytest.fixture(scope="module")
def settings() -> list[Settings]:
    return [replace(DRAWN, seed=i, max_tokens=10 + 7 * i) for i in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def alone(model, settings) -> list[list[int]]:
    """What each prompt's row says with an engine of its own."""
    rows = zip(PROMPTS, settings, strict=True)
    return [Engine(model, ChatTokenizer()).complete([prompt], one)[0].tokens for prompt, one in rows]


def test_a_row_says_the_same_alone_and_in_company(engine, settings, alone):
    rows = [engine.add(prompt, one)[0] for prompt, one in zip(PROMPTS, settings, strict=True)]
    assert run(engine, *rows) == alone
    assert [len(row.tokens) for row in rows] == [one.max_tokens for one in settings]


def test_rows_join_and_leave_while_others_go_on(engine, settings, alone):
    rows = []
    for prompt, one in zip(PROMPTS, settings, strict=True):
        rows += engine.add(prompt, one)
        for _ in range(8):
            engine.step()
    assert rows[0].finish == "length"  # it left before the last one came
    assert run(engine, *rows) == alone
    assert len(engine.cache) == 0


def test_samples_share_a_prompt_and_differ(engine):
    rows = engine.add(PROMPTS[2], DRAWN, samples=3)
    together = run(engine, *rows)
    assert len(set(map(tuple, together))) == 3
    assert run(engine, *engine.add(PROMPTS[2], replace(DRAWN, seed=2))) == together[2:]


def test_complete_keeps_the_order_of_its_prompts(model, engine):
    few = Engine(model, ChatTokenizer(), max_rows=2)
    prompts = [[ids(n, seed=n)] for n in range(30, 0, -5)]
    rows = few.complete(prompts, GREEDY)
    assert [row.tokens for row in rows] == [run(engine, *engine.add(prompt, GREEDY))[0] for prompt in prompts]


def test_no_more_rows_run_than_allowed(model):
    engine = Engine(model, ChatTokenizer(), max_rows=2)
    rows = [engine.add([ids(3)], replace(GREEDY, max_tokens=3 + i))[0] for i in range(4)]
    most = 0
    while not rows[-1].finish:
        engine.step()
        most = max(most, len(engine.running))
    assert most == 2
    assert len(run(engine, *engine.add([ids(3)], GREEDY, samples=3))) == 3  # more samples than that run alone


def test_a_long_prompt_does_not_hold_the_others_up(engine):
    (row,) = engine.add([ids(3)], GREEDY)
    engine.step()
    (late,) = engine.add([ids(37 * 5)], GREEDY)
    for step in range(4):
        assert list(engine.step()) == [row]
        assert len(row.tokens) == 2 + step
    assert list(engine.step()) == [row, late]


def test_prompts_that_wait_hold_no_room(model, engine, monkeypatch):
    made, new_cache = [], model.new_cache
    monkeypatch.setattr(model, "new_cache", lambda **given: made.append(given) or new_cache(**given))
    rows = [row for prompt in PROMPTS for row in engine.add(prompt, GREEDY)]
    assert made == []
    engine.step()
    assert made == [{"columns": 3}]
    run(engine, *rows)
    assert len(made) == len(PROMPTS)


def test_no_samples_are_refused(engine):
    with pytest.raises(OmniError, match="samples=0 must be 1 or more"):
        engine.add([ids(3)], GREEDY, samples=0)


def test_generate_yields_tokens_as_they_come_and_lets_others_go_on(engine):
    (other,) = engine.add([ids(4)], GREEDY)
    tokens = []
    for row, token in engine.generate(PROMPTS[1], GREEDY):
        tokens.append(token)
        assert row.tokens == tokens
    assert len(tokens) == 20
    assert other.finish == "length"


def test_a_reader_who_goes_takes_the_rows_along(engine):
    expected = list(engine.generate([ids(9)], GREEDY, samples=2))
    reader = engine.generate([ids(9)], GREEDY, samples=2)
    assert next(reader)[1] == expected[0][1]
    reader.close()
    assert not engine.running
    assert not engine.waiting


def test_rows_can_be_removed_at_any_time(engine):
    (other,) = engine.add([ids(4)], GREEDY)
    gone, stays = engine.add([ids(50)], GREEDY, samples=2)
    engine.remove(gone)  # while it waits
    engine.step()
    engine.remove(other)  # while it runs
    assert len(run(engine, stays)[0]) == 20
    engine.remove(stays)  # after its end
    assert (gone.finish, gone.tokens) == (None, [])
    assert engine.step() == {}


@pytest.mark.parametrize("end", [256, ASSISTANT_END, ord("!")])
def test_a_row_stops_at_the_end_of_a_turn_or_of_a_document_or_where_told(end):
    engine = Engine(Parrot(say("hé", end, "x")), ChatTokenizer())
    (row,) = engine.add([[65]], Settings(temperature=0, stop=(ord("!"),)))
    moves = [engine.step()[row] for _ in range(4)]
    assert moves == [*"hé".encode(), None]
    assert (row.tokens, row.text, row.finish) == ([*"hé".encode()], "hé", "stop")
    assert engine.step() == {}


def test_text_grows_by_whole_characters():
    engine = Engine(Parrot(say("a🎉", 0xF0, 0x9F)), ChatTokenizer())
    (row,) = engine.add([[65]], Settings(temperature=0, max_tokens=7))
    texts = [row.text for _ in range(7) if engine.step()]
    assert texts == ["a", "a", "a", "a", "a🎉", "a🎉", "a🎉�"]
    assert row.finish == "length"


def test_so_many_characters_end_an_answer():
    engine = Engine(Parrot(say("héllo")), ChatTokenizer())
    (row,) = engine.add([[65]], Settings(temperature=0, max_characters=2))
    assert [engine.step()[row] for _ in range(3)] == [*"hé".encode()]  # three bytes
    assert (row.text, row.finish) == ("hé", "length")
    assert engine.step() == {}


def test_complete_takes_settings_for_each_prompt(engine):
    settings = [replace(GREEDY, max_tokens=n) for n in (3, 1, 7)]
    rows = engine.complete([[ids(4)], [ids(9)], [ids(2)]], settings)
    assert [len(row.tokens) for row in rows] == [3, 1, 7]
    with pytest.raises(ValueError, match="zip"):
        engine.complete([[ids(4)], [ids(9)]], settings)


def test_a_call_of_the_calculator_is_answered():
    words = say("A", PYTHON_START, "6*7", PYTHON_END, "----", "!", ASSISTANT_END)
    engine = Engine(Parrot(words), ChatTokenizer())
    (row,) = engine.complete([[[65]]], GREEDY)
    assert row.tokens == say("A", PYTHON_START, "6*7", PYTHON_END, OUTPUT_START, "42", OUTPUT_END, "!")
    engine = Engine(Parrot(say(PYTHON_START, "import os", PYTHON_END, "ok", 256)), ChatTokenizer())
    assert engine.complete([[[65]]], GREEDY)[0].tokens == say(PYTHON_START, "import os", PYTHON_END, "ok")


def test_the_context_ends_an_answer(model, engine):
    (row,) = engine.add([ids(396)], GREEDY)
    assert len(run(engine, row)[0]) == 5  # the fifth is not read again
    assert row.finish == "length"
    with pytest.raises(OmniError, match="401 positions do not fit the model's context of 400"):
        engine.add([audio(390), ids(11)])


@pytest.mark.parametrize("prompt", [[], [[]], [audio(3)], [[250]]])
def test_prompts_that_cannot_be_read_are_refused(engine, prompt):
    with pytest.raises(OmniError, match="prompt"):
        engine.add(prompt)
    assert not engine.waiting


def test_the_engine_leaves_the_model_as_it_was(model, engine):
    engine.complete(PROMPTS, GREEDY)
    model(torch.tensor([ids(5)]), torch.tensor([ids(5)])).backward()
    assert model.transformer.wte.weight.grad is not None
    model.zero_grad()


def test_a_text_ends_an_answer_and_is_not_part_of_it():
    words = [*b"one, two. three"]
    engine = Engine(Parrot(words), ChatTokenizer())
    (row,) = engine.complete([[[1]]], replace(GREEDY, until=("five", "two.")))
    assert (row.text, row.finish) == ("one, ", "stop")


def test_what_may_become_the_end_is_not_settled_yet():
    engine = Engine(Parrot([*b"a\nb\n\nc"]), ChatTokenizer())
    settled = [row.settled for row, _ in engine.generate([[1]], replace(GREEDY, until=("\n\n",)))]
    assert settled == ["a", "a", "a\nb", "a\nb", "a\nb"]


def test_half_a_character_does_not_follow_a_text_that_ends_it():
    engine = Engine(Parrot([*b"ab", 0xC3]), ChatTokenizer())
    (row,) = engine.complete([[[1]]], replace(GREEDY, until=("b",)))
    assert row.text == "a"


def test_nothing_ends_an_answer_before_it_has_as_many_tokens_as_asked_for():
    torch.manual_seed(0)
    engine = Engine(GPT(sequence_len=64, vocab_size=262, n_layer=1, n_head=1, n_kv_head=1, n_embd=32), ChatTokenizer())
    asked = Settings(temperature=1, max_tokens=30, stop=tuple(range(200)))
    free, held = (engine.complete([[[1, 2]]], replace(asked, min_tokens=least))[0] for least in (0, 25))
    assert len(free.tokens) < 25 <= len(held.tokens)
    assert min(held.tokens[:25]) >= 200
    assert ASSISTANT_END not in held.tokens
