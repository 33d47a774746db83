"""What a client may ask, and what it is told when it may not."""

import base64

import pytest
from pydantic import ValidationError

from omni.errors import OmniError
from omni.serving.errors import ApiError
from omni.serving.limits import Limits
from omni.serving.requests import ChatRequest, decode

LIMITS = Limits(max_messages=3, max_tokens=100)
HELLO = {"model": "omni", "messages": [{"role": "user", "content": "Hello"}]}


def heard(sound: bytes) -> dict:
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(sound).decode(), "format": "wav"}}


def test_an_answer_is_the_likeliest_one_unless_it_is_asked_for_otherwise():
    settings = ChatRequest(**HELLO).settings(LIMITS)
    assert (settings.temperature, settings.top_p, settings.max_tokens) == (0, 1, 100)


def test_what_is_asked_for_is_what_is_drawn_by():
    asked = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "seed": 3, "stop": "\n", "max_completion_tokens": 7}
    settings = ChatRequest(**HELLO, **asked).settings(LIMITS)
    assert (settings.temperature, settings.top_p, settings.top_k, settings.seed) == (0.7, 0.9, 5, 3)
    assert (settings.until, settings.max_tokens) == (("\n",), 7)


def test_more_tokens_than_allowed_are_cut_down():
    assert ChatRequest(**HELLO, max_tokens=10_000).settings(LIMITS).max_tokens == 100


def test_sounds_come_in_the_order_in_which_the_conversation_has_them():
    content = [heard(b"one"), {"type": "text", "text": "and"}, heard(b"two")]
    messages = [{"role": "developer", "content": "Be short."}, {"role": "user", "content": content}]
    messages, sounds = ChatRequest(model="omni", messages=messages).conversation(LIMITS)
    assert sounds == [("messages.1.content.0", b"one"), ("messages.1.content.2", b"two")]
    assert messages[0] == {"role": "system", "content": "Be short."}
    assert [part["type"] for part in messages[1]["content"]] == ["audio", "text", "audio"]


NEUTRAL = {
    "n": (1, None),
    "best_of": (1,),
    "user": ("me",),
    "tools": ([], None),
    "tool_choice": ("auto", "none", None),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "logprobs": (False,),
    "top_logprobs": (0, None),
    "logit_bias": ({}, None),
    "frequency_penalty": (0, 0.0, None),
    "presence_penalty": (0,),
    "repetition_penalty": (1, 1.0),
    "top_k": (-1, 0, None),
    "min_p": (0.0,),
    "min_tokens": (0, None),
    "seed": (None,),
    "stop": ([], None),
    "stream": (False, None),
    "response_format": ({"type": "text"}, None),
    "modalities": (["text"],),
    "metadata": ({}, {"run": "1"}),
    "store": (False,),
    "service_tier": ("auto",),
    "skip_special_tokens": (True,),
}
"""What stock clients send along, with values that ask for nothing."""


def test_a_parameter_that_changes_nothing_is_let_through():
    plain = ChatRequest(**HELLO).settings(LIMITS)
    for name, values in NEUTRAL.items():
        for value in values:
            assert ChatRequest(**HELLO, **{name: value}).settings(LIMITS) == plain, (name, value)


@pytest.mark.parametrize(
    "extra",
    [
        {"n": 2},
        {"n": 0},
        {"tools": [{}]},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
        {"typo": "x"},
        {"tool_choice": "required"},
        {"frequency_penalty": 0.5},
        {"repetition_penalty": 1.1},
        {"repetition_penalty": 0},
        {"logit_bias": {"1": 5}},
        {"skip_special_tokens": False},
    ],
    ids=str,
)
def test_a_parameter_that_would_be_ignored_is_refused_by_name(extra):
    with pytest.raises(ApiError, match=next(iter(extra))) as caught:
        ChatRequest(**HELLO, **extra).settings(LIMITS)
    assert caught.value.param == next(iter(extra))


def test_too_many_stops_are_refused():
    with pytest.raises(ValidationError, match="at most 4"):
        ChatRequest(**HELLO, stop=list("abcde"))
    with pytest.raises(ApiError, match="256 characters"):
        ChatRequest(**HELLO, stop="x" * 257).settings(LIMITS)


@pytest.mark.parametrize("stop", ["", ["x", ""]])
def test_an_empty_stop_is_refused_by_its_own_name(stop):
    with pytest.raises(ApiError, match=r"^stop: ") as caught:
        ChatRequest(**HELLO, stop=stop).settings(LIMITS)
    assert caught.value.param == "stop"


def test_of_many_faults_only_the_first_is_told():
    for wrong in ({"messages": [1] * 5000}, {"messages": [{}] * 5000}, {"stop": [1] * 5000}):
        with pytest.raises(ValidationError) as caught:
            ChatRequest(**HELLO | wrong)
        assert caught.value.error_count() <= 2


def test_too_many_messages_are_refused():
    with pytest.raises(ApiError, match="messages: 4, 3 at most"):
        ChatRequest(model="omni", messages=HELLO["messages"] * 4).conversation(LIMITS)


@pytest.mark.parametrize(
    "written",
    [
        lambda sound: base64.b64encode(sound).decode(),
        lambda sound: base64.encodebytes(sound).decode(),
        lambda sound: base64.encodebytes(sound).decode().replace("\n", "\r\n"),
        lambda sound: base64.urlsafe_b64encode(sound).decode(),
        lambda sound: base64.urlsafe_b64encode(sound).decode().rstrip("="),
        lambda sound: "data:audio/wav;base64," + base64.b64encode(sound).decode(),
        lambda sound: "DATA:audio/webm;codecs=opus;base64,\n" + base64.encodebytes(sound).decode(),
    ],
    ids=["plain", "lines", "crlf", "url_safe", "unpadded", "data_uri", "data_uri_lines"],
)
def test_base64_of_every_usual_kind_is_read(written):
    for sound in (bytes(range(256)), b"\xfb\xff", b"\xfb\xff\xbe" * 50):
        assert decode(written(sound)) == sound


def test_broken_base64_is_refused_where_it_stands():
    broken = {"type": "input_audio", "input_audio": {"data": "a?b", "format": "wav"}}
    with pytest.raises(ApiError, match=r"messages\.0.*base64"):
        ChatRequest(model="omni", messages=[{"role": "user", "content": [broken]}]).conversation(LIMITS)


def test_only_the_user_brings_sound():
    with pytest.raises(ApiError, match="not the assistant"):
        ChatRequest(model="omni", messages=[{"role": "assistant", "content": [heard(b"x")]}]).conversation(LIMITS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        {"messages": [{"role": "user"}]},
        {"temperature": 3},
        {"top_p": 0},
        {"max_tokens": 0},
    ],
    ids=str,
)
def test_what_has_no_meaning_is_refused(wrong):
    with pytest.raises(ValidationError):
        ChatRequest(**HELLO | wrong)


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(OmniError, match="max_rows=0"):
        Limits(max_rows=0)
    assert Limits(max_waiting=0).max_waiting == 0
