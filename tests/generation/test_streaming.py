"""Text and tool calls, token by token."""

import pytest

from omni.generation.streaming import TextStream, ToolCalls
from omni.text.tokenizer import ByteTokenizer

NAMES = ["python_start", "python_end", "output_start", "output_end", "assistant_end"]


class ChatTokenizer(ByteTokenizer):
    """Bytes, and the specials of a chat from 257 on."""

    vocab_size = 257 + len(NAMES)

    def __init__(self):
        super().__init__()
        self.specials |= {f"<|{name}|>": 257 + i for i, name in enumerate(NAMES)}


START, END, OUTPUT_START, OUTPUT_END, _ = range(257, 262)


@pytest.mark.parametrize("text", ["plain", "naïve", "日本", "🎉", "👩‍🚀 a🎉b"])
def test_characters_split_over_tokens_arrive_whole(text):
    stream, pieces = TextStream(ByteTokenizer()), []
    for token in text.encode():
        pieces.append(stream.read(token))
        assert "�" not in pieces[-1]
    assert "".join(pieces) + stream.close() == text
    assert [piece for piece in pieces if piece] == list(text)


def test_half_a_character_at_the_end_and_bytes_that_are_none():
    stream = TextStream(ByteTokenizer())
    assert [stream.read(token) for token in "é🎉".encode()[:4]] == ["", "é", "", ""]
    assert stream.close() == "�"
    tokens = [0xFF, ord("a"), 0xC3, ord("b"), 256, 0xF0, 0x9F]
    stream = TextStream(ByteTokenizer())
    assert "".join(map(stream.read, tokens)) + stream.close() == ByteTokenizer().decode(tokens)


def read_all(tokens: list[int]) -> list[list[int]]:
    calls = ToolCalls(ChatTokenizer())
    return [calls.read(token) for token in tokens]


def test_a_call_is_answered():
    *silent, answer = read_all([ord("x"), START, *b"6*7", END])
    assert silent == [[]] * 5
    assert answer == [OUTPUT_START, *b"42", OUTPUT_END]


def test_what_is_no_call_is_not_answered():
    assert not any(read_all([START, *b"import os", END, *b"1+1", END]))
    assert not any(read_all([*b"1+1", END]))
    assert read_all([START, *b"1+", START, *b"2+2", END])[-1] == [OUTPUT_START, *b"4", OUTPUT_END]


def test_a_tokenizer_without_one_of_the_tokens_makes_no_calls():
    for lacking in NAMES[:4]:
        tokenizer = ChatTokenizer()
        del tokenizer.specials[f"<|{lacking}|>"]
        calls = ToolCalls(tokenizer)
        assert not any(calls.read(token) for token in [START, *b"6*7", END, *b"6*7"])
    calls = ToolCalls(ByteTokenizer())
    assert not any(calls.read(token) for token in [*b"6*7", 256, 257, 258])
