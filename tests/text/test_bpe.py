import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from omni.text.bpe import LONG, SPECIALS, SPLIT, BPETokenizer
from omni.text.tokenizer import TokenizerError

NANOCHAT = Path(__file__).parents[1] / "golden" / "nanochat_d4"
GOLDEN = json.loads((NANOCHAT / "golden.json").read_text())
AWKWARD = [
    "",
    "naïve café 你好 😀👩‍👩‍👧",
    "CRLF\r\n\r\n  tabs\t\tNUL\x00\x7f\u2028end",
    "<|bos|>typed<|user_start|> <|assistant_end|>",
    "  12345 3.14159 don't DON'T we'll",
    " " * 1000 + "\n" * 1000,
    "ab" * 5000,
]
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 5,
    "Then the fox said: 1234 times 12 is 14808; isn't it?\r\n" * 5,
    "狐狸跳过懒狗，懒狗不介意。" * 10,
]


@pytest.fixture(scope="module")
def trained() -> BPETokenizer:
    return BPETokenizer.train(CORPUS, 300)


@pytest.fixture(scope="module")
def nanochat() -> BPETokenizer:
    return BPETokenizer.load(NANOCHAT / "tokenizer")


def test_nanochats_tokenizer_gives_nanochats_ids(nanochat):
    assert nanochat.vocab_size == 512
    assert set(GOLDEN["special_tokens"]) == set(nanochat.specials)
    for text, ids in zip(GOLDEN["texts"], GOLDEN["token_ids"], strict=True):
        assert nanochat.encode(text) == ids
        assert nanochat.decode(ids) == text


def test_what_is_trained_here_is_made_as_nanochat_makes_it(nanochat, trained):
    assert nanochat.vocabulary.pattern == SPLIT == trained.vocabulary.pattern
    assert list(nanochat.specials) == list(SPECIALS) == list(trained.specials)
    assert list(trained.specials.values()) == list(range(300 - 9, 300))
    assert all(trained.vocabulary.ranks[bytes([byte])] == byte for byte in range(256))


def test_the_most_frequent_pair_is_merged_first():
    tokenizer = BPETokenizer.train(["xyz", "xyz", "xyz", "xy"], 256 + 9 + 2)
    assert tokenizer.decode_bytes([256]) == b"xy"
    assert tokenizer.decode_bytes([257]) == b"xyz"


def test_text_comes_back(trained, nanochat):
    for tokenizer in (trained, nanochat):
        for text in [*AWKWARD, *CORPUS]:
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_batch_is_its_texts(trained):
    assert trained.encode_batch([*AWKWARD, *CORPUS]) == [trained.encode(text) for text in [*AWKWARD, *CORPUS]]
    assert trained.encode_batch([]) == []


def test_merges_shorten_text_and_never_join_words(trained):
    assert len(trained.encode(CORPUS[0])) < 0.8 * len(CORPUS[0])
    assert not [token for token in trained.vocabulary.ranks if b" " in token[1:]]


def test_numbers_fall_into_groups_of_two():
    numbers = BPETokenizer.train(["1234 " * 500], 256 + 9 + 2)
    assert {numbers.decode([256]), numbers.decode([257])} <= {"12", "34"}


def test_training_knows_one_result(trained):
    code = (
        "import sys, json; from omni.text.bpe import BPETokenizer; "
        "sys.stdout.write(BPETokenizer.train(json.load(sys.stdin), 300).fingerprint)"
    )
    fingerprints = {trained.fingerprint, BPETokenizer.train(iter(CORPUS), 300).fingerprint}
    for threads in ("1", "3"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(CORPUS),
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"RAYON_NUM_THREADS": threads},
        )
        fingerprints.add(run.stdout)
    assert fingerprints == {trained.fingerprint}


def test_save_and_load_change_nothing(trained, tmp_path):
    file = trained.save(tmp_path / "new" / "folder")
    again = BPETokenizer.load(tmp_path / "new" / "folder")
    assert again.vocabulary == trained.vocabulary
    assert again.fingerprint == trained.fingerprint
    assert again.encode_batch(AWKWARD) == trained.encode_batch(AWKWARD)
    before = file.read_bytes()
    assert again.save(file.parent).read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("pattern", ["", "a", "x*", r"\p{L}+|\p{N}+", r"[^\n]+", r"\S+|[ \n]", "(?=a)"])
def test_a_pattern_that_loses_text_is_refused(trained, pattern):
    ranks, _, specials = trained.vocabulary
    with pytest.raises(TokenizerError, match=r"the split pattern '.*' loses text"):
        BPETokenizer(ranks, pattern, specials)


@pytest.mark.parametrize("space", [" ", "\t", "\r\n ", "\u2003"])
def test_a_million_spaces_come_back(trained, space):
    text = f"so {space * (1_300_000 // len(space))}far"
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert trained.encode_batch(["so far", text]) == [trained.encode("so far"), ids]


def test_only_endless_spaces_are_cut(trained):
    """Up to there the ids are those of the split alone."""
    for spaces in (LONG - 1, LONG):
        text = ("one" + " " * spaces) * 3 + "two\n" * LONG
        assert trained.encode(text) == trained.encoding.encode_ordinary(text)
        assert trained.encode_batch([text]) == [trained.encode(text)]


def test_endless_spaces_can_be_trained_on():
    assert BPETokenizer.train(["no end " * 9, " " * 1_300_000], 270).vocab_size == 270


def test_a_tokenizer_travels_to_a_worker(trained):
    assert pickle.loads(pickle.dumps(trained)).encode(CORPUS[0]) == trained.encode(CORPUS[0])


def test_another_tokenizer_has_another_fingerprint(trained, nanochat):
    ranks, pattern, specials = trained.vocabulary
    assert BPETokenizer(ranks, pattern.replace("{1,2}", "{1,3}"), specials).fingerprint != trained.fingerprint
    assert nanochat.fingerprint != trained.fingerprint


def test_half_a_surrogate_pair_trains_and_encodes():
    tokenizer = BPETokenizer.train(["half \ud800 of a pair, half of a pair"], 270)
    assert tokenizer.decode(tokenizer.encode("\ud800")) == "\ufffd"


@pytest.mark.parametrize(
    ("texts", "vocab_size", "message"),
    [
        (CORPUS, 264, "vocab_size: 264 is less than 256 bytes and 9 specials"),
        ([], 300, "there is no text to learn a tokenizer from"),
        (["", ""], 300, "there is no text to learn a tokenizer from"),
        (["abc"], 300, r"3 characters of text give only 267 tokens, 300 are asked for.*set vocab_size=267"),
    ],
)
def test_too_little_to_train_on(texts, vocab_size, message):
    with pytest.raises(TokenizerError, match=message):
        BPETokenizer.train(texts, vocab_size)


def test_bytes_and_specials_alone_are_a_tokenizer():
    tokenizer = BPETokenizer.train(["abc"], 265)
    assert tokenizer.encode("abc") == [97, 98, 99]


def test_an_error_among_the_texts_comes_through():
    def texts():
        yield "some text"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        BPETokenizer.train(texts(), 300)


def test_a_full_disk_leaves_the_old_file(trained, tmp_path, monkeypatch):
    file = trained.save(tmp_path)
    before = file.read_bytes()

    def no_space(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: the tokenizer cannot be written \(No space left"):
        BPETokenizer.train(CORPUS, 290).save(tmp_path)
    assert file.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
