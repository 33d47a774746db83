"""Many who ask at once: each gets what it would have got alone, and whoever leaves takes up no room."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
import torch

from omni.audio.read import AudioError, read_bytes
from omni.errors import OmniError
from omni.generation.engine import ContextError, Engine
from omni.generation.prompt import segments
from omni.generation.sampling import Settings
from omni.model.omni import Omni
from omni.serving.assistant import Assistant
from omni.serving.batcher import Answer
from omni.serving.ears import File
from omni.serving.laps import PARTS
from omni.serving.limits import BusyError, Limits
from omni.text.chat import render_prompt

GREEDY = Settings(temperature=0, max_tokens=12)
LONG = Settings(temperature=0, max_tokens=120)


def ask(text: str, sounds: int = 0) -> list[dict]:
    content = [*({"type": "audio"} for _ in range(sounds)), {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


async def text_of(assistant: Assistant, answer: Answer) -> str:
    try:
        return "".join([text async for text in answer.texts()])
    finally:
        assistant.close(answer)


@pytest.fixture
def sound(wav) -> Callable[..., File]:
    return lambda seconds, seed=0: File("a.wav", wav(seconds, seed))


@pytest.fixture
def during(small, tokenizer):
    """Run a job with an assistant that is started, and stop it behind."""

    def run(job: Callable[[Assistant], Awaitable], **limits) -> object:
        async def whole() -> object:
            assistant = Assistant(small, tokenizer, Limits(**limits))
            assistant.start()
            try:
                return await asyncio.wait_for(job(assistant), 60)
            finally:
                await assistant.stop()
                assert not assistant.batcher.thread.is_alive()

        return asyncio.run(whole())

    return run


def alone(small: Omni, tokenizer, messages: list[dict], settings: Settings = GREEDY) -> str:
    prompt = segments(render_prompt({"messages": messages}, tokenizer), [])
    return Engine(small.backbone, tokenizer).complete([prompt], settings)[0].text


def test_in_company_each_says_what_it_says_alone(during, small, tokenizer):
    questions = [ask(f"What is {number} times {number}?" + " Tell me." * number) for number in range(8)]

    async def job(assistant):
        async def one(messages):
            return await text_of(assistant, await assistant.chat(messages, [], GREEDY))

        return await asyncio.gather(*map(one, questions))

    assert during(job, max_rows=3) == [alone(small, tokenizer, question) for question in questions]


def test_a_sound_is_heard_and_its_parts_add_up(during, sound):
    async def job(assistant):
        answer = await assistant.chat(ask("What is that?", sounds=2), [sound(1), sound(0.5, seed=1)], GREEDY)
        await text_of(assistant, answer)
        return answer

    answer = during(job)
    told = answer.laps.milliseconds()
    assert answer.heard == 13 + 7
    assert all(told[f"{part}_ms"] > 0 for part in PARTS)
    assert told["time_to_first_token_ms"] == pytest.approx(sum(told[f"{part}_ms"] for part in PARTS), abs=0.1)
    assert 0 < answer.tokens_per_second < 1e6


def test_a_sound_that_comes_again_is_not_heard_again(during, sound):
    async def job(assistant):
        told = []
        for text in ("What is that?", "And that?"):
            answer = await assistant.chat(ask(text, sounds=1), [sound(2)], GREEDY)
            await text_of(assistant, answer)
            told.append((answer.laps.parts["encode"] > 0, answer.row.recalled >= answer.heard))
        return told

    assert during(job) == [(True, False), (False, True)]


def test_what_it_says_to_a_sound_is_what_the_model_says(during, small, tokenizer, sound, wav):
    messages, lengths = ask("What is that?", sounds=1), (0.5, 1, 2)

    async def job(assistant):
        answers = [await assistant.chat(messages, [sound(seconds)], GREEDY) for seconds in lengths]
        return [await text_of(assistant, answer) for answer in answers]

    expected = []
    for seconds in lengths:
        with torch.inference_mode():
            soft, _ = small.hear(*small.encoder([read_bytes(wav(seconds), what="it")]))
        prompt = segments(render_prompt({"messages": messages}, tokenizer), [soft[0]])
        expected.append(Engine(small.backbone, tokenizer).complete([prompt], GREEDY)[0].text)
    assert during(job) == expected
    assert len(set(expected)) > 1


def test_a_transcript_is_no_longer_than_anybody_could_speak(during, sound):
    async def job(assistant):
        answer = await assistant.transcribe(sound(0.4))
        return await text_of(assistant, answer)

    assert 0 < len(during(job)) < 10 + 25


def test_who_finds_no_place_is_told_when_to_come_again(during):
    async def job(assistant):
        first = await assistant.chat(ask("One"), [], LONG)
        second = asyncio.ensure_future(assistant.chat(ask("Two"), [], GREEDY))
        await asyncio.sleep(0.01)
        with pytest.raises(BusyError, match="all 2 places") as caught:
            await assistant.chat(ask("Three"), [], GREEDY)
        assert caught.value.retry_after >= 1
        for answer in (first, await second):
            await text_of(assistant, answer)
        return await text_of(assistant, await assistant.chat(ask("Four"), [], GREEDY))

    assert isinstance(during(job, max_rows=1, max_waiting=1), str)


def test_who_leaves_frees_the_place_at_once(during):
    async def job(assistant):
        for number in range(30):
            answer = await assistant.chat(ask(f"Number {number}"), [], LONG)
            assistant.close(answer)
        gone = asyncio.ensure_future(assistant.chat(ask("Gone"), [], LONG))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        await text_of(assistant, await assistant.chat(ask("Last"), [], GREEDY))
        return assistant.taken, assistant.batcher.answers, assistant.batcher.engine.running

    assert during(job, max_rows=2, max_waiting=0) == (0, {}, [])


def test_an_answer_that_takes_too_long_ends_where_it_is(during, slow_down):
    slow_down(0.05)

    async def job(assistant):
        answer = await assistant.chat(ask("Tell me all you know"), [], LONG)
        text = await text_of(assistant, answer)
        return answer.latest, text

    latest, text = during(job, max_seconds=0.5)
    assert latest.finish == "length"
    assert 0 < latest.tokens < 120
    assert text == latest.text


def test_who_waits_too_long_for_a_place_is_told(during, slow_down):
    slow_down(0.05)

    async def job(assistant):
        first = await assistant.chat(ask("Tell me all you know"), [], LONG)
        assistant.batcher.answers[first.row].until = float("inf")
        with pytest.raises(BusyError, match="no place became free"):
            await assistant.chat(ask("And me"), [], LONG)
        assistant.close(first)
        return assistant.taken

    assert during(job, max_rows=1, max_seconds=0.4) == 0


def test_a_failure_of_the_engine_is_told_to_all_and_the_next_is_answered(during, small, monkeypatch):
    async def job(assistant):
        first = await assistant.chat(ask("One"), [], LONG)
        with monkeypatch.context() as patch:
            patch.setattr(small.backbone, "blocks", lambda *given: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await text_of(assistant, first)
            with pytest.raises(ZeroDivisionError):
                await assistant.chat(ask("Two"), [], GREEDY)
        return await text_of(assistant, await assistant.chat(ask("Three"), [], GREEDY)), assistant.taken

    text, taken = during(job)
    assert isinstance(text, str)
    assert taken == 0


def test_an_engine_that_cannot_take_a_prompt_says_so_and_lives(during, monkeypatch):
    async def job(assistant):
        with monkeypatch.context() as patch:
            patch.setattr(assistant.batcher.engine, "add", lambda *given: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await assistant.chat(ask("One"), [], GREEDY)
        return await text_of(assistant, await assistant.chat(ask("Two"), [], GREEDY)), assistant.taken

    text, taken = during(job)
    assert isinstance(text, str)
    assert taken == 0


def test_sounds_that_take_too_long_to_hear_are_given_up(during, monkeypatch, sound):
    async def job(assistant):
        hear = assistant.ears.hear
        monkeypatch.setattr(assistant.ears, "hear", lambda *given, **named: (time.sleep(0.3), hear(*given, **named))[1])
        with pytest.raises(BusyError, match="not begun in the time"):
            await assistant.chat(ask("What?", sounds=9), [sound(0.2, seed) for seed in range(9)], GREEDY)
        return assistant.taken

    assert during(job, max_seconds=0.5) == 0


def test_more_sound_than_the_context_holds_is_not_heard_to_its_end(during, sound):
    async def job(assistant):
        with pytest.raises(ContextError, match=r"a\.wav: with it"):
            await assistant.chat(ask("What?", sounds=9), [sound(8, seed) for seed in range(9)], GREEDY)
        return len(assistant.ears.heard)

    assert during(job) == 3


def test_going_down_it_does_not_wait_for_the_ears(during, monkeypatch, sound):
    async def job(assistant):
        monkeypatch.setattr(assistant.ears, "hear", lambda *given, **named: time.sleep(1))
        waiting = asyncio.ensure_future(assistant.chat(ask("What?", sounds=9), [sound(1)] * 9, GREEDY))
        await asyncio.sleep(0.1)
        assistant.drain(5)
        with pytest.raises(BusyError, match="going down"):
            await asyncio.wait_for(waiting, 0.5)
        return assistant.taken

    assert during(job) == 0


def test_going_down_it_ends_what_runs_and_takes_nothing_new(during, slow_down):
    slow_down(0.02)

    async def job(assistant):
        answer = await assistant.chat(ask("Tell me all you know"), [], LONG)
        assistant.drain(0.2)
        with pytest.raises(BusyError, match="going down"):
            await assistant.chat(ask("And me"), [], GREEDY)
        await text_of(assistant, answer)
        return answer.latest.finish, assistant.taken

    assert during(job) == ("length", 0)


@pytest.mark.parametrize(
    ("messages", "sounds", "error", "told"),
    [
        (ask("x" * 300 * 32), [], ContextError, "context of 256"),
        (ask("a b c d e f g " * 60), [], ContextError, "do not fit"),
        (ask("What?", sounds=1), [29], ContextError, "longer than the model's context"),
        (ask("What?", sounds=1), [31], AudioError, r"a\.wav: lasts 31.0 s.*at most 30 s\.$"),
        (ask("What?", sounds=1), [0.05], AudioError, r"a\.wav: lasts 0.050 s\. Send at least 0.1 s\.$"),
        (ask("What?", sounds=1), [File("my.wav", b"no sound at all")], AudioError, r"my\.wav: is not wav"),
        (ask("What?", sounds=1), [], OmniError, "a sound is missing"),
        ([*ask("One"), *ask("Two")], [], OmniError, "assistant's turn"),
    ],
    ids=["long", "tokens", "sound_fills_it", "31s", "short", "no_sound", "missing", "turns"],
)
def test_what_cannot_be_answered_is_said_and_costs_no_place(during, sound, messages, sounds, error, told):
    async def job(assistant):
        with pytest.raises(error, match=told):
            await assistant.chat(messages, [each if isinstance(each, File) else sound(each) for each in sounds], GREEDY)
        return assistant.taken

    assert during(job) == 0


def test_silence_is_said_to_be_silent(during, wav):
    silent = File("a.wav", wav(1)[:44] + bytes(32_000))

    async def job(assistant):
        with pytest.raises(AudioError, match="is silent"):
            await assistant.transcribe(silent)

    during(job)


def test_a_model_of_text_alone_says_that_it_has_no_ears(small, tokenizer, sound):
    async def job():
        assistant = Assistant(Omni(encoder=None, projector=None, backbone=small.backbone).eval(), tokenizer, Limits())
        assistant.start()
        try:
            with pytest.raises(OmniError, match="has no ears"):
                await assistant.transcribe(sound(1))
        finally:
            await assistant.stop()

    asyncio.run(job())
