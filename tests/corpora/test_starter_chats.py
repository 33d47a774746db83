"""Conversations made from what there is, and none of them both trained on and held out."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from omni.corpora import debian_text, starter_chats
from omni.corpora.starter_chats import StarterChats, explained, repeated, spoken, write_lines
from omni.data.conversations import Conversations
from omni.errors import OmniError

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
    assert list(spoken(dialogue)) == [("10", hungry), ("10", new), ("10", hungry + new)]
    assert ("10", ["Repeat after me: Go away!", "Go away!"]) in list(repeated(dialogue))
    assert len(list(repeated(dialogue))) == len(DIALOGUE)


def test_words_are_explained():
    entries = [
        'cat (noun): feline mammal usually having thick soft fur; "cats meow". Also: true cat.\n'
        "cat (verb): beat with a cat-o'-nine-tails or something.\n"
        "Rome (noun): the capital of Italy, on the Tiber."
    ]
    ((word, (question, answer)),) = explained(entries)
    assert word == "cat"
    assert "cat" in question
    assert answer == "Feline mammal usually having thick soft fur."


def test_nothing_that_is_held_out_is_said_in_training(tmp_path):
    rows = []
    for scene in range(99):
        for exchange in range(7):
            about = f"{scene} and {exchange}" if exchange else f"{scene % 30}"  # some lines stand in several scenes
            for who in "jp":
                row = {"id": f"aq_{scene:02}{exchange:04}{who}1", "speaker": "joe", "split": "train", "cer": 0.0}
                rows.append(row | {"text": f"Now {who} speaks of {about}."})
    (tmp_path / "dialogue.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    letters = "abcdefghij"
    entries = [f"w{a}{b} (noun): the thing that goes by the number {a}{b}." for a in letters for b in letters]
    lines = write_lines(str(tmp_path / "dialogue.jsonl.gz"), entries)
    assert len(lines) == len(set(lines))
    (tmp_path / "chats.jsonl").write_text("".join(lines))
    train, val = (Conversations(path=str(tmp_path / "chats.jsonl"), split=split).rows for split in ("train", "val"))
    assert len(train) + len(val) == len(lines)
    trained = {message["content"] for row in train for message in row["messages"]}
    kept = {message["content"] for row in val for message in row["messages"]}
    assert not trained & kept
    assert not {turn.removeprefix("Repeat after me: ") for turn in kept} & trained
    assert any(turn.startswith("Repeat") for turn in kept)
    assert any("number" in turn for turn in kept)
    assert any(len(row["messages"]) > 2 for row in val)
    assert 20 * len(val) > len(lines) > 0


def test_the_starter_conversations_are_missed_prepared_and_left_as_they_are(tmp_path, dialogue, monkeypatch):
    chats, told = StarterChats(folder=str(tmp_path)), []
    with pytest.raises(OmniError, match=r"python -m omni.prepare dataset=starter_chats"):
        chats.rows("train", None, 64)
    monkeypatch.setattr(starter_chats, "prepare_debian_text", lambda *args, **keys: None)
    monkeypatch.setattr(debian_text, "DIALOGUE", dialogue)
    entry = {"text": "cat (noun): feline mammal usually having thick soft fur.", "source": "dict-wn"}
    pq.write_table(pa.Table.from_pylist([entry, {"text": "x", "source": "fortunes"}]), tmp_path / "documents.parquet")
    chats.prepare(told.append)
    assert told == [f"{chats.path}: 10 conversations"]
    assert len(Conversations(path=chats.path)) == 10
    assert "secret" not in (tmp_path / "conversations.jsonl").read_text()
    written = (tmp_path / "conversations.jsonl").stat().st_mtime_ns
    chats.prepare(told.append)
    assert told[1:] == [f"{chats.path} is there"]
    assert (tmp_path / "conversations.jsonl").stat().st_mtime_ns == written
