"""Conversations: bad lines are named, and what is held out is not trained on."""

import gzip
import json

import pytest
import torch

from omni.data.conversations import Chats, Conversations
from omni.errors import OmniError
from omni.text.bpe import BPETokenizer
from omni.text.tokenizer import IGNORE


def turns(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def write(path, rows):
    lines = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text(lines)
    return str(path)


def first(row):
    return row["messages"][0]["content"]


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(turns("Hello", "Hi")).encode())
    assert first(Conversations(path=str(path)).read([0])[0]) == "Hello"


def test_each_epoch_is_another_order_of_all_but_every_hundredth(tmp_path):
    path = write(tmp_path / "chats.jsonl", [{"messages": turns(f"{i}", "yes")} for i in range(250)])
    train = Conversations(path=path, seed=1)
    val = Conversations(path=path, split="val")
    assert len(train) == 248
    assert sorted(first(row) for row in val.read(range(2))) == ["199", "99"]
    epochs = [[first(row) for row in train.read(range(248 * n, 248 * (n + 1)))] for n in range(2)]
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted({str(i) for i in range(250)} - {"99", "199"})
    assert first(train.read([300])[0]) == epochs[1][52]


def test_bare_messages_as_nanochat_has_them_and_gzip(tmp_path):
    rows = [turns("hi", "yo"), [{"role": "system", "content": "Be brief."}, *turns("hi", "yo")]]
    path = tmp_path / "chats.jsonl.gz"
    path.write_bytes(gzip.compress("\n\n".join(map(json.dumps, rows)).encode()))
    found = Conversations(path=str(path)).read(range(2))
    assert sorted(len(row["messages"]) for row in found) == [2, 3]


def test_bad_lines_come_at_once_with_their_numbers(tmp_path):
    good = {"messages": turns("hi", "yo")}
    bad = ["{", "7", {"text": "hi"}, {"messages": turns("hi")}, {"messages": [{"role": "assistant", "content": "yo"}]}]
    path = write(tmp_path / "chats.jsonl", [good, "", *bad, good])
    with pytest.raises(OmniError) as caught:
        Conversations(path=path)
    lines = str(caught.value).split("\n")
    assert [line.split(": ")[0] for line in lines] == [f"{path}:{number}" for number in range(3, 8)]
    assert "the assistant says nothing" in lines[3]
    path = write(tmp_path / "worse.jsonl", ["{"] * 14)
    with pytest.raises(OmniError, match=r"and 4 more$"):
        Conversations(path=path)


def test_no_file_and_an_empty_split(tmp_path):
    with pytest.raises(OmniError, match="no such text file"):
        Conversations(path=f"{tmp_path}/none.jsonl")
    path = write(tmp_path / "few.jsonl", [{"messages": turns("hi", "yo")}])
    with pytest.raises(OmniError, match="1 conversations leave none for split 'val'"):
        Conversations(path=path, split="val")


def test_other_conversations_have_another_fingerprint(tmp_path):
    one = write(tmp_path / "one.jsonl", [{"messages": turns("hi", "yo")}])
    two = write(tmp_path / "two.jsonl", [{"messages": turns("hi", "no")}])
    prints = [
        Conversations(path=path, seed=seed).fingerprint for path, seed in ((one, 0), (one, 0), (two, 0), (one, 1))
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_rows_of_conversations(tmp_path):
    path = write(tmp_path / "chats.jsonl", [{"messages": turns(f"question {i}", "answer")} for i in range(30)])
    tokenizer = BPETokenizer.train(["question answer"], 265)
    ids, targets = Chats(path=path).rows("train", tokenizer, 64).take(4)
    assert ids.shape == (4, 64)
    for row in targets:
        said = tokenizer.decode([i for i in row.tolist() if i != IGNORE])
        assert said == "answer" * (len(said) // 6) != ""


def test_what_is_held_out_is_not_trained_on_where_it_stands_again(tmp_path):
    rows = [{"messages": turns(f"{i}", "yes"), "split": "train"} for i in range(99)]
    rows[3]["split"] = rows[4]["split"] = "val"
    rows += [{"messages": turns(text, "yes")} for text in ("the hundredth", "3", "the hundredth")]
    path = write(tmp_path / "chats.jsonl", rows)
    train, val = (Conversations(path=path, split=split) for split in ("train", "val"))
    assert sorted(first(row) for row in val.rows) == ["3", "4", "the hundredth"]
    assert sorted(first(row) for row in train.rows) == sorted({str(i) for i in range(99)} - {"3", "4"})


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    line = json.dumps({"messages": turns("hi", "yo")}).encode()
    path = tmp_path / "chats.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join([line] * 99))[:-12])
    with pytest.raises(OmniError, match=r"chats.jsonl.gz: cannot be read \(.*\). Fetch or write it again"):
        Conversations(path=str(path))
    (tmp_path / "chats.parquet").write_bytes(b"PAR1")
    with pytest.raises(OmniError, match=r"chats.parquet: is none of .jsonl, .jsonl.gz$"):
        Conversations(path=str(tmp_path / "chats.parquet"))


def test_held_out_conversations_come_once(tmp_path):
    path = write(tmp_path / "chats.jsonl", [{"messages": turns(f"question {i}", "answer")} for i in range(300)])
    tokenizer = BPETokenizer.train(["question answer"], 265)
    given = {"tokenizer": tokenizer, "batch_size": 2, "row_tokens": 64, "device": torch.device("cpu")}
    batches = Chats(path=path).held_out(tokens=10_000, **given)
    said = "".join(tokenizer.decode([i for i in rows.flatten().tolist() if i != IGNORE]) for _, rows in batches)
    assert said == "answer" * 3
    assert not hasattr(Chats(path=path), "documents")
