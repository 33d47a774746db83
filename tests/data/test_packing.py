"""Packed rows: full, best fit, every document once, and the very rows again after a resume on any processes."""

import random
from collections import Counter
from itertools import pairwise

import pytest
import torch

from omni.data.packing import READ_AHEAD, PackedConversations, PackedRows
from omni.errors import OmniError
from omni.text.bpe import SPECIALS
from omni.text.chat import render
from omni.text.tokenizer import IGNORE, ByteTokenizer

BOS = ByteTokenizer.bos


class Texts:
    """A stream of given documents, the same order each epoch."""

    fingerprint = "texts"

    def __init__(self, texts):
        self.texts, self.skipped = texts, {}

    def __len__(self):
        return len(self.texts)

    def read(self, places):
        return [self.texts[place % len(self.texts)] for place in places]


def packed(texts, row_tokens=10, **keys):
    return PackedRows(Texts(texts), ByteTokenizer(), row_tokens=row_tokens, **keys)


def spell(row):
    ids, graded = row
    assert len(ids) == len(graded)
    return "".join("|" if i == BOS else chr(i) for i in ids)


def mixed(count=60, longest=30, seed=0):
    """Documents that can be told apart: each begins with its own character."""
    draw = random.Random(seed)
    return [chr(32 + i) + "." * draw.randrange(longest) for i in range(count)]


def test_the_largest_that_fits_goes_in_and_then_the_shortest_is_cropped():
    # A row of 11 tokens: "|bbbbbb" (7) and "|aa" (3) leave 1; none fits, so the shortest gives its first.
    rows = packed(["aa", "cccc", "ddddd", "bbbbbb"], buffer=4)
    assert spell(rows.row()) == "|bbbbbb|aa|"
    assert [place for _, place in rows.waiting] == [2]  # "|cccc" was the shortest left, and lost all but its BOS
    rows = packed(["fffffff", "hhhhhhhhh"], buffer=2)
    assert spell(rows.row()) == "|hhhhhhhhh|"


def test_a_document_longer_than_a_row_fills_one():
    rows = packed(["x" * 50, "short"], buffer=2)
    assert spell(rows.row()) == "|" + "x" * 10


def test_tensors():
    ids, targets = packed(mixed()).take(7)
    assert ids.shape == targets.shape == (7, 10)
    assert ids.dtype == targets.dtype == torch.int64
    assert torch.equal(ids[:, 1:], targets[:, :-1])
    assert (targets != IGNORE).all()
    assert (ids[:, 0] == BOS).all()


class Watched(PackedRows):
    """Notes the place of each document that goes into a row."""

    def _pop(self, index):
        self.popped.append(self.waiting[index][1])
        return super()._pop(index)


def test_every_document_goes_into_one_row_an_epoch():
    texts = mixed()
    rows = Watched(Texts(texts), ByteTokenizer(), row_tokens=40, buffer=20)
    rows.popped = []
    for _ in range(100):
        rows.row()
        assert sorted([*rows.popped, *rows.pieces]) == list(range(rows.place))
    assert rows.place > 2 * len(texts)


@pytest.mark.parametrize("texts", [["aaa", "bbbb"], ["x"], ["a" * 30, "b"]])
def test_a_corpus_smaller_than_a_row_fills_rows_too(texts):
    rows = packed(texts, row_tokens=49)
    for _ in range(9):
        ids, graded = rows.row()
        assert len(ids) == sum(graded) == 50
        assert {piece for piece in spell((ids, graded)).split("|")[1:-1] if piece} <= set(texts)


def test_read_once_every_document_comes_once_and_the_rest_of_the_last_row_is_not_graded():
    texts = mixed(longest=8)
    rows = Watched(Texts(texts), ByteTokenizer(), row_tokens=20, once=True)
    rows.popped = []
    ids, targets = rows.take(1000)
    assert sorted(rows.popped) == list(range(60))
    assert len(rows.take(5)[0]) == 0
    assert (targets[:-1] != IGNORE).all()
    left = (targets[-1] == IGNORE).sum()
    assert 0 < left < 20
    assert (ids[-1, -left + 1 :] == BOS).all()


def test_nothing_is_lost_without_cropping():
    texts = [chr(65 + i) * 4 for i in range(20)]
    rows = packed(texts, row_tokens=9, buffer=6)
    found = Counter("".join(spell(rows.row()) for _ in range(50)).split("|"))
    del found[""]
    assert found.keys() == set(texts)
    assert max(found.values()) - min(found.values()) <= 1


def test_a_resumed_stream_gives_the_very_rows_from_every_row_on():
    texts = mixed(seed=1)
    rows = packed(texts, buffer=16)
    states, spelled = [], []
    for _ in range(60):
        states.append(rows.state_dict())
        spelled.append(spell(rows.row()))
    place = rows.place
    for number, state in enumerate(states):
        again = packed(texts, buffer=16)
        again.load_state_dict(state)
        assert [spell(again.row()) for _ in range(60 - number)] == spelled[number:]
        assert again.place == place


def test_a_state_is_not_changed_by_going_on():
    rows = packed(mixed(), buffer=16)
    rows.row()
    state = rows.state_dict()
    frozen = repr(state)
    rows.take(20)
    assert repr(state) == frozen


def test_resuming_on_another_number_of_processes_loses_and_repeats_nothing():
    texts = mixed(seed=2)
    uninterrupted = packed(texts, buffer=16)
    wanted = [spell(uninterrupted.row()) for _ in range(24)]

    def run(processes, rows, state):
        """Each process packs everything and keeps its share; what any of them saves is the state of all."""
        kept, states = [], []
        for rank in range(processes):
            packer = packed(texts, buffer=16)
            if state:
                packer.load_state_dict(state)
            dealt = [spell(packer.row()) for _ in range(rows)]
            kept.append(dealt[rank::processes])
            states.append(packer.state_dict())
        assert all(other == states[0] for other in states)
        return [row for turn in zip(*kept, strict=True) for row in turn], states[0]

    first, state = run(2, 8, None)
    second, state = run(1, 8, state)
    third, _ = run(2, 8, state)
    assert first + second + third == wanted


def test_documents_that_cannot_be_read_are_passed_over():
    texts = mixed()
    rows = packed([text if i % 2 else None for i, text in enumerate(texts)], buffer=8)
    seen = {piece[0] for _ in range(40) for piece in spell(rows.row()).split("|") if piece}
    assert seen <= {text[0] for text in texts[1::2]}
    assert len(seen) > 20
    resumed = packed([text if i % 2 else None for i, text in enumerate(texts)], buffer=8)
    resumed.load_state_dict(rows.state_dict())
    assert spell(resumed.row()) == spell(rows.row())


def test_a_corpus_without_a_readable_document_says_why():
    stream = Texts([None] * 300)
    stream.skipped = {"a.parquet row group 0": "OSError: damaged"}
    with pytest.raises(OmniError, match=r"a\.parquet row group 0: OSError: damaged"):
        PackedRows(stream, ByteTokenizer(), row_tokens=10).row()


def test_data_that_becomes_unreadable_ends_the_run_though_documents_wait():
    rows = packed(mixed(count=90) * 20, buffer=1000)
    rows.row()
    rows.stream.texts = [None] * 1800
    rows.stream.skipped = {"b.jsonl": "OSError: Stale file handle"}
    with pytest.raises(OmniError, match=r"an epoch has passed .*\n  b\.jsonl: OSError: Stale"):
        rows.take(1000)
    assert rows.pieces


def test_one_usable_document_among_thousands_is_enough_for_a_row():
    rows = packed([None] * 4000 + ["alone"] + [None] * 999)
    assert spell(rows.row()) == "|alone|alon"
    assert rows.place < 30_000
    assert spell(rows.row()) == "|alone|alon"


def test_an_epochs_length_between_two_that_begin_early_and_late_may_hold_nothing():
    class Shuffled(Texts):
        """One document of 1300 can be used, at another place in each epoch."""

        def read(self, places):
            return ["alone" if place in (0, 1350, 3899, 3900) else None for place in places]

    rows = PackedRows(Shuffled([None] * 1300), ByteTokenizer(), row_tokens=10)
    assert [spell(rows.row()) for _ in range(2)] == ["|alone|alon"] * 2


def test_other_documents_than_the_checkpoints_are_refused():
    rows, others = packed(mixed()), packed(mixed())
    others.stream.fingerprint = "others"
    with pytest.raises(OmniError, match=r"dataset: it is not the one the checkpoint was trained on"):
        others.load_state_dict(rows.state_dict())


def test_a_small_corpus_waits_no_longer_than_an_epoch():
    rows = packed(["aaa", "bbbb", "ccccc"])
    rows.row()
    assert len(rows.pieces) <= 3
    assert packed(mixed(count=90) * 20).buffer == 1000
    large = packed(mixed(count=90) * 20)
    large.row()
    assert large.place % READ_AHEAD == 0


class Chatter(ByteTokenizer):
    """Bytes, and the special tokens of a chat."""

    def __init__(self):
        self.specials = {name: 256 + i for i, name in enumerate(SPECIALS)}
        self.vocab_size = 256 + len(SPECIALS)


def chat(*turns):
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]}


def test_conversations_are_padded_not_cropped():
    chats = [chat("hi", "yo"), chat("who?", "me"), chat("a", "b" * 9)]
    whole = {tuple(ids): graded for ids, graded in (render(each, Chatter()) for each in chats)}
    rows = PackedConversations(Texts(chats), Chatter(), row_tokens=29)
    found, padding = Counter(), 0
    for _ in range(30):
        ids, graded = rows.row()
        assert len(ids) == len(graded) == 30
        starts = [i for i, token in enumerate(ids) if token == BOS] + [30]
        for start, end in pairwise(starts):
            if end - start == 1:
                assert graded[start] == 0
                padding += 1
            else:
                assert whole[tuple(ids[start:end])] == graded[start:end]
                found[tuple(ids[start:end])] += 1
    assert found.keys() == whole.keys()
    assert padding > 0
    ids, targets = rows.take(3)
    assert ids.shape == targets.shape == (3, 29)
    assert (targets[ids == BOS] == IGNORE).all()


def test_a_conversation_longer_than_a_row_loses_its_end_or_all():
    long = [chat("hi", "x" * 99), chat("y" * 99, "never"), chat("hi", "yo")]
    rows = PackedConversations(Texts(long), Chatter(), row_tokens=19)
    spelled = ["".join(chr(i) for i in rows.row()[0] if i < 256) for _ in range(8)]
    assert set(spelled) == {"hi" + "x" * 14, "hiyohiyo"}


def test_conversations_that_a_row_cannot_hold_are_told_with_the_key():
    rows = PackedConversations(Texts([chat("y" * 99, "never")]), Chatter(), row_tokens=19)
    with pytest.raises(OmniError, match=r"raise backbone\.sequence_len"):
        rows.row()


def test_conversations_resume_too():
    chats = [chat("q" * n, "a" * (n % 7 + 1)) for n in range(1, 40)]
    rows = PackedConversations(Texts(chats), Chatter(), row_tokens=50, buffer=8)
    rows.take(9)
    again = PackedConversations(Texts(chats), Chatter(), row_tokens=50, buffer=8)
    again.load_state_dict(rows.state_dict())
    for _ in range(20):
        assert again.row() == rows.row()
