import subprocess
import sys
from pathlib import Path

import pytest

from omni.text.bpe import BPETokenizer
from omni.text.tokenizer import ByteTokenizer, TokenizerError, load_tokenizer, read_vocab_size

GOLDEN = Path(__file__).parents[1] / "golden" / "nanochat_d4" / "tokenizer"


def test_bytes_round_trip_through_any_unicode():
    tokenizer = ByteTokenizer()
    for text in ("", "naïve café", "你好 😀", "\x00\n\t", "a" * 1000):
        ids = tokenizer.encode(text)
        assert all(0 <= i < 256 for i in ids)
        assert tokenizer.decode([tokenizer.bos, *ids, tokenizer.bos]) == text
        assert tokenizer.encode_batch([text, ""]) == [ids, []]


def test_half_a_character_is_replaced_not_refused():
    assert ByteTokenizer().decode([0x61, 0xC3]) == "a\ufffd"
    assert ByteTokenizer().decode_bytes([0x61, 0xC3, 256]) == b"a\xc3"


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), BPETokenizer.load(GOLDEN)], ids=["bytes", "bpe"])
def test_what_both_tokenizers_promise(tokenizer):
    sizes = tokenizer.token_bytes()
    assert len(sizes) == tokenizer.vocab_size
    assert [i for i, size in enumerate(sizes) if size == 0] == sorted(tokenizer.specials.values())
    for text in ("the cat", "<|bos|> 😀 \ud83d\ude00 \ud800 <|user_start|>"):
        ids = tokenizer.encode(text)
        assert sum(sizes[i] for i in ids) == len(tokenizer.decode_bytes(ids))
        assert not set(ids) & set(tokenizer.specials.values())
        assert tokenizer.encode_batch([text])[0] == ids
    assert tokenizer.decode(tokenizer.encode("\ud83d\ude00 \ud800!")) == "😀 \ufffd!"
    # A padding target and a model whose table is larger than the vocabulary are no reason to fail.
    assert tokenizer.decode([-1, *tokenizer.encode("ab"), tokenizer.bos, tokenizer.vocab_size, 99999]) == "ab"


def test_a_tokenizer_is_loaded_by_name(tmp_path):
    assert isinstance(load_tokenizer("bytes"), ByteTokenizer)
    assert read_vocab_size("bytes") == 257
    nanochat = load_tokenizer(GOLDEN)
    file = nanochat.save(tmp_path)
    for name in (str(tmp_path), tmp_path, file, GOLDEN / "tokenizer.pkl"):
        assert load_tokenizer(name).fingerprint == nanochat.fingerprint
        assert read_vocab_size(name) == 512


def test_weights_lead_to_their_tokenizer(tmp_path, monkeypatch):
    nanochat = load_tokenizer(GOLDEN)
    step = tmp_path / "run" / "checkpoints" / "step_000010"
    step.mkdir(parents=True)
    nanochat.save(tmp_path / "run")
    checkpoint = GOLDEN.parent / "base_checkpoints" / "d4" / "model_000010.pt"
    for name in (step, step.parents[1], GOLDEN.parent, checkpoint):
        assert load_tokenizer(name).fingerprint == nanochat.fingerprint
    monkeypatch.chdir(checkpoint.parent)
    assert read_vocab_size(checkpoint.name) == 512


@pytest.mark.parametrize("load", [load_tokenizer, read_vocab_size])
def test_a_name_that_leads_nowhere_says_so(load, tmp_path):
    (tmp_path / "tokenizer.json").touch()
    with pytest.raises(TokenizerError, match=r"gone: does not exist, so there is no tokenizer; give 'bytes'"):
        load(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.pt").touch()
    for name in ("empty", "model.pt"):
        with pytest.raises(TokenizerError, match=rf"{name}: no tokenizer goes with it; give 'bytes', a folder with"):
            load(tmp_path / name)


def test_a_configuration_is_checked_without_heavy_imports():
    code = (
        "import sys; from omni.text.tokenizer import read_vocab_size; "
        f"assert read_vocab_size({str(GOLDEN)!r}) == 512; "
        "assert not {'torch', 'tiktoken', 'rustbpe', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
