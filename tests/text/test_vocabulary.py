"""Tokenizers on disk: exact when whole, refused when damaged, harmless when hostile."""

import json
import os
import pickle
from pathlib import Path

import pytest

from omni.text.bpe import BPETokenizer
from omni.text.vocabulary import TokenizerError, read_vocabulary

GOLDEN = Path(__file__).parents[1] / "golden" / "nanochat_d4" / "tokenizer"


class Calls:
    """Pickles as a call of `function` with `argument`."""

    def __init__(self, function, argument):
        self.call = function, (argument,)

    def __reduce__(self):
        return self.call


def good_state() -> dict:
    vocabulary = read_vocabulary(GOLDEN)
    return {
        "name": "rustbpe",
        "pat_str": vocabulary.pattern,
        "mergeable_ranks": dict(vocabulary.ranks),
        "special_tokens": dict(vocabulary.specials),
    }


def pickled_encoding(state: object) -> bytes:
    """What tiktoken would pickle for an Encoding of that state."""
    head = b"\x80\x04\x8c\x0dtiktoken.core\x8c\x08Encoding\x93)\x81"
    return head + pickle.dumps(state, protocol=4)[2:-1] + b"b."


def test_a_pickle_like_tiktokens_is_read(tmp_path):
    (tmp_path / "tokenizer.pkl").write_bytes(pickled_encoding(good_state()))
    assert read_vocabulary(tmp_path) == read_vocabulary(GOLDEN)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("place", ["alone", "nested", "eval", "exec", "first"])
def test_a_hostile_pickle_runs_nothing(place, protocol, tmp_path):
    marker = tmp_path / "was_here"
    command = f"touch {marker}"
    hostile = {
        "alone": Calls(os.system, command),
        "nested": {"mergeable_ranks": {"a": Calls(os.system, command)}},
        "eval": Calls(eval, f"__import__('os').system({command!r})"),
        "exec": Calls(exec, f"open({str(marker)!r}, 'w')"),
        "first": [Calls(os.system, command), good_state()],
    }[place]
    (tmp_path / "tokenizer.pkl").write_bytes(pickle.dumps(hostile, protocol=protocol))
    with pytest.raises(
        TokenizerError, match=r"tokenizer\.pkl: refused, nothing was run: the pickle asks for .*\.(system|eval|exec),"
    ):
        read_vocabulary(tmp_path)
    assert not marker.exists()


def test_hostile_state_of_the_one_class_runs_nothing(tmp_path):
    state = good_state() | {"pat_str": Calls(os.system, f"touch {tmp_path / 'was_here'}")}
    (tmp_path / "tokenizer.pkl").write_bytes(pickled_encoding(state))
    with pytest.raises(TokenizerError, match=r"refused, nothing was run: the pickle asks for \w+\.system,"):
        read_vocabulary(tmp_path)
    assert not (tmp_path / "was_here").exists()


def test_the_one_class_is_no_way_in(tmp_path):
    """A dotted name would reach what hangs on the class."""
    file = tmp_path / "tokenizer.pkl"
    name = b"Encoding.__init__.__globals__"
    file.write_bytes(b"\x80\x04\x8c\x0dtiktoken.core\x8c" + bytes([len(name)]) + name + b"\x93.")
    with pytest.raises(TokenizerError, match=r"asks for tiktoken\.core\.Encoding\.__init__\.__globals__"):
        read_vocabulary(file)


def test_a_pickle_cannot_name_an_encoding_to_download(tmp_path, monkeypatch):
    monkeypatch.setattr("tiktoken.registry.get_encoding", lambda name: pytest.fail(f"asked for {name}"))
    (tmp_path / "tokenizer.pkl").write_bytes(pickled_encoding("cl100k_base"))
    with pytest.raises(TokenizerError, match="not a pickled tiktoken Encoding"):
        read_vocabulary(tmp_path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04K\x01.", b"\x80\x04]\x94.", "half"])
def test_a_damaged_pickle_is_refused(content, tmp_path):
    if content == "half":
        content = (GOLDEN / "tokenizer.pkl").read_bytes()[:2000]
    (tmp_path / "tokenizer.pkl").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.pkl: not a pickled tiktoken Encoding"):
        read_vocabulary(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pat_str": None}, "token bytes, a pattern and special tokens"),
        ({"mergeable_ranks": {}}, "256 of the 256 bytes are no tokens, the first is 0"),
        ({"mergeable_ranks": {"a": 0}}, "a token is not a run of bytes"),
        ({"special_tokens": {"<|bos|>": 900}}, "must follow the 503 others without a gap"),
        ({"special_tokens": {"<|user_start|>": 503}}, r"there is no <\|bos\|>"),
        ({"special_tokens": {"<|bos|>": "503"}}, "id is not a number"),
        ({"mergeable_ranks": {bytes([i]): i + 1 for i in range(256)}}, "do not run from 0 without a gap"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(change, message, tmp_path):
    (tmp_path / "tokenizer.pkl").write_bytes(pickled_encoding(good_state() | change))
    with pytest.raises(TokenizerError, match=message):
        read_vocabulary(tmp_path)


def test_the_json_is_readable_and_exact(tmp_path):
    tokenizer = BPETokenizer.load(GOLDEN)
    lines = tokenizer.save(tmp_path).read_text().splitlines()
    assert '" the",' in lines
    assert "[255]," in lines
    assert read_vocabulary(tmp_path) == tokenizer.vocabulary


def broken_json(**change) -> bytes:
    return json.dumps(json.loads(BPETokenizer.load(GOLDEN).vocabulary.to_json()) | change).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged, it is no JSON"),
        (broken_json()[:900], "damaged, it is no JSON"),
        (b"[" * 100_000, "damaged, it is no JSON"),
        (b'{"version": "1.0", "model": {"type": "BPE"}}', "was not written by omni"),
        (b"[1]", "was not written by omni"),
        (broken_json(tokens=None), "damaged"),
        (broken_json(tokens=[7]), "damaged"),
        (broken_json(tokens=[[256]]), "damaged"),
        (broken_json(tokens=["\ud800"]), "damaged"),
        (broken_json(tokens=["a", "a"]), "bytes are no tokens"),
        (broken_json(specials=["<|user_start|>"]), "there is no"),
    ],
)
def test_a_damaged_json_is_refused(content, message, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=rf"tokenizer\.json: .*{message}"):
        read_vocabulary(tmp_path)


def test_a_token_that_stands_twice_is_refused(tmp_path):
    tokens = json.loads(BPETokenizer.load(GOLDEN).vocabulary.to_json())["tokens"]
    (tmp_path / "tokenizer.json").write_bytes(broken_json(tokens=[*tokens, tokens[300]]))
    with pytest.raises(TokenizerError, match="does a token stand twice"):
        read_vocabulary(tmp_path)


def test_a_pattern_that_is_none_names_the_file(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(broken_json(pattern="("))
    with pytest.raises(TokenizerError, match=r".*: the split pattern is no regular expression"):
        BPETokenizer.load(tmp_path)
