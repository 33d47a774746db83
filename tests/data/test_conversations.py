"""Conversations: bad lines are named, every hundredth is held out, and some are made from what there is."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from omni.data import conversations as module
from omni.data.conversations import Chats, Conversations, StarterChats, explained, repeated, spoken
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


DIALOGUE = [
    ("aq_100006j1", "joe", "Could I have a hamburger?"),
    ("aq_100006p1", "chef", "Lunch is over."),
    ("aq_100006p2", "chef", "Go away!"),
    ("aq_100007j1", "joe", "I am new here."),
    ("aq_100007p1", "chef", "So I see."),
    ("aq_110001j1", "joe", "Nobody answers this."),
]


@pytest.fixture
def dialogue(tmp_path):
    rows = [{"id": id, "speaker": who, "text": text, "split": "train", "cer": 0.1} for id, who, text in DIALOGUE]
    rows += [rows[0] | {"split": "test", "text": "secret"}, rows[0] | {"cer": 0.9, "text": "mismatched"}]
    path = tmp_path / "dialogue.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return str(path)


def test_what_joe_says_is_answered(dialogue):
    hungry, new = ["Could I have a hamburger?", "Lunch is over. Go away!"], ["I am new here.", "So I see."]
    assert list(spoken(dialogue)) == [hungry, new, hungry + new]
    assert ["Repeat after me: Go away!", "Go away!"] in list(repeated(dialogue))
    assert len(list(repeated(dialogue))) == len(DIALOGUE)


def test_words_are_explained():
    entries = [
        'cat (noun): feline mammal usually having thick soft fur; "cats meow". Also: true cat.\n'
        "cat (verb): beat with a cat-o'-nine-tails or something.\n"
        "Rome (noun): the capital of Italy, on the Tiber."
    ]
    ((question, answer),) = explained(entries)
    assert "cat" in question
    assert answer == "Feline mammal usually having thick soft fur."


def test_the_starter_conversations_are_prepared_and_missed(tmp_path, dialogue, monkeypatch):
    chats = StarterChats(folder=str(tmp_path), dialogue=dialogue)
    with pytest.raises(OmniError, match=r"python -m omni.prepare dataset=starter_chats"):
        chats.rows("train", None, 64)
    monkeypatch.setattr(module, "prepare_debian_text", lambda *args, **keys: None)
    entry = {"text": "cat (noun): feline mammal usually having thick soft fur.", "source": "dict-wn"}
    pq.write_table(pa.Table.from_pylist([entry, {"text": "x", "source": "fortunes"}]), tmp_path / "documents.parquet")
    said = []
    StarterChats.prepare(folder=str(tmp_path), packages="", dialogue=dialogue, report=said.append)
    assert said == ["10 conversations"]
    found = Conversations(path=chats.path)
    assert len(found) == 10
    assert "secret" not in (tmp_path / "conversations.jsonl").read_text()
