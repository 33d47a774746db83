"""Feeds of several kinds taken in turn, and copies of sentences that are soft, stretched and worn."""

import gc
import time
from collections import Counter

import numpy as np
import pytest
import torch

from omni.data.batch import Batch
from omni.data.clips import ManifestClips, audio_smoke
from omni.data.copies import BLANK, Copies, Wear, soften, split_sentences
from omni.data.features import EncodedClips, Example
from omni.data.feed import ClipFeed, Turns
from omni.errors import OmniError
from omni.text.tokenizer import IGNORE, ByteTokenizer

TEXTS = ["the cat sat on the mat", "a dog ran home today", "You couldn't pilot a bag!", "it is late, go to bed"] * 9
CLEAN = Wear(rate=(4.0, 4.0), blanks=0.0, spelled=0.0, spoken=0.0, confusion=0.0, lost=0.0, noise=0.0)


def copies(soft: bool = True, wear: Wear | None = None, seed: int = 1, ripening: int = 0) -> Copies:
    table = torch.randn(320, 64, generator=torch.Generator().manual_seed(0))
    keys = {"tokenizer": ByteTokenizer(), "embeddings": lambda: table, "batch_size": 4}
    return Copies(TEXTS, soft=soft, seed=seed, wear=wear, ripening=ripening, **keys)


def test_only_the_sentence_is_graded_and_it_ends():
    batch = next(copies())
    idx, targets = batch.inputs["idx_BL"], batch.inputs["targets_BL"]
    tokenizer = ByteTokenizer()
    for row in range(4):
        graded = targets[row][targets[row] != IGNORE].tolist()
        assert graded[-1] == tokenizer.bos
        assert tokenizer.decode(graded[:-1]) in TEXTS
        assert idx[row, : len(graded)].tolist() == [tokenizer.bos, *graded[:-1]]
    assert batch.graded == int((targets != IGNORE).sum())
    rows, columns, _ = batch.inputs["audio_features"].shape
    assert (rows, columns % 32) == (4, 0)
    assert 0 <= columns - int(batch.inputs["audio_lengths"].max()) < 32


def test_the_first_copies_of_a_ripening_feed_are_plain_and_the_last_are_worn():
    feed = copies(ripening=1000)
    table = feed.embeddings()
    normed = table / table.square().mean(-1, keepdim=True).sqrt()
    batch = next(feed)
    for row in range(4):
        ids = batch.inputs["idx_BL"][row]
        said = ids[1 : int((batch.inputs["targets_BL"][row] >= 0).sum())]
        soft = batch.inputs["audio_features"][row, : batch.inputs["audio_lengths"][row]]
        torch.testing.assert_close(soft, normed[said])
    feed.load_state_dict({"number": 1000})
    ripe, worn = next(feed), copies()
    worn.load_state_dict({"number": 1000})
    assert torch.equal(ripe.inputs["audio_features"], next(worn).inputs["audio_features"])


def test_an_unworn_copy_spells_the_sentence_in_soft_tokens():
    feed = copies(wear=CLEAN)
    table = feed.embeddings()
    batch = next(feed)
    normed = table / table.square().mean(-1, keepdim=True).sqrt()
    for row in range(4):
        soft = batch.inputs["audio_features"][row, : batch.inputs["audio_lengths"][row]]
        nearest = [int(i) for i, scale in zip((soft @ normed.T).argmax(-1), soft.abs().amax(-1), strict=True) if scale]
        graded = batch.inputs["targets_BL"][row]
        # A letter lasts 0.6 to 1.5 soft tokens, so each is heard about once, some twice, few not at all.
        heard, wanted = set(nearest), set(graded[graded >= 0].tolist()) - {256}
        assert len(heard & wanted) >= 0.8 * len(wanted)
        assert len(heard - wanted) <= 2


def test_a_copy_from_tokens_stands_in_front_of_the_sentence_and_is_not_graded():
    batch = next(copies(soft=False, wear=CLEAN))
    assert "audio_features" not in batch.inputs
    for idx, targets in zip(batch.inputs["idx_BL"].tolist(), batch.inputs["targets_BL"].tolist(), strict=True):
        start = idx.index(256)
        assert start > 0
        assert set(targets[:start]) == {IGNORE}
        assert set(idx[:start]) <= {token for token in targets if token >= 0}


def test_a_copy_is_worn_in_every_way_asked_for():
    random = np.random.default_rng(0)
    table = torch.randn(20, 8)
    copy = np.array([[3, 3, 3, 3], [BLANK] * 4, [5, 5, 3, 3]])
    clean = soften([copy], np.ones(1), table, CLEAN, random)[0]
    normed = table / table.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(clean[0], normed[3])
    assert clean[1].abs().max() == 0
    torch.testing.assert_close(clean[2], (normed[3] + normed[5]) / 2)
    for worn in ({"confusion": 1.0}, {"noise": 1.0}, {"lost": 1.0}):
        other = soften([np.repeat(copy, 50, axis=0)], np.ones(1), table, Wear(**{**CLEAN.__dict__, **worn}), random)[0]
        assert not torch.allclose(other, clean.repeat_interleave(50, 0)), worn


def test_longer_words_last_longer_and_pauses_take_time():
    tight, loose = copies(wear=CLEAN), copies(wear=Wear(**{**CLEAN.__dict__, "rate": (16.0, 16.0)}))
    short, long = (int(next(feed).inputs["audio_lengths"].sum()) for feed in (tight, loose))
    assert 1.6 < long / short < 3.4
    paused = next(copies(wear=Wear(**{**CLEAN.__dict__, "blanks": 1.0})))
    assert int(paused.inputs["audio_lengths"].sum()) > 1.2 * short


@pytest.mark.parametrize("soft", [True, False])
def test_copies_go_on_where_they_were(soft):
    first, second = copies(soft), copies(soft)
    batches = [next(first) for _ in range(4)]
    second.skip()
    second.load_state_dict({"number": 2})
    again = next(second)
    assert again.names == batches[2].names
    assert all(torch.equal(again.inputs[key], batches[2].inputs[key]) for key in again.inputs)
    assert next(copies(soft, seed=2)).names != batches[0].names


def test_spelled_and_spoken_sentences_are_cut_finer_and_lose_capitals_and_commas():
    class Words(ByteTokenizer):
        """A token a word."""

        def encode(self, text):
            return [sum(map(ord, word)) for word in text.split()]

    feed, text = copies(), "You couldn't, ever, pilot a bag!"
    feed.tokenizer = Words()

    def heard(seed, **wear):
        feed.wear = Wear(**{**CLEAN.__dict__, **wear})
        return feed.pieces(text, 1.0, np.random.default_rng(seed))

    assert heard(0) == Words().encode(text)
    assert heard(0, spoken=1.0) == Words().encode("you couldn't ever pilot a bag")
    finer = [heard(seed, spelled=1.0) for seed in range(20)]
    assert min(map(len, finer)) > len(text.split())
    letters = [sum(map(ord, text.replace(" ", "")))] * 20
    assert [sum(pieces) for pieces in finer] == letters  # nothing is lost
    assert len({len(pieces) for pieces in finer}) > 5
    assert sum(heard(seed, spoken=0.5) == heard(0) for seed in range(200)) in range(80, 121)


def test_another_data_set_than_the_checkpoints_is_refused(tmp_path):
    whole = audio_smoke(folder=str(tmp_path))
    lines = whole.source.read_text().splitlines()
    (tmp_path / "other.jsonl").write_text("\n".join([*lines[:-1], lines[-1].replace('"id": "', '"id": "x')]))
    other = ManifestClips(path=str(tmp_path / "other.jsonl"))
    assert len(other) == len(whole)

    def feeds(data, sentences):
        encoded = EncodedClips(data, encoder=None, tokenizer=ByteTokenizer(), device=torch.device("cpu"))
        heard = ClipFeed(encoded, check_fits=lambda *_, **__: None, bos=256, batch_size=2, seed=1)
        read = Copies(sentences, tokenizer=ByteTokenizer(), embeddings=lambda: None, batch_size=2, soft=True, seed=1)
        return heard, read

    sets = feeds(whole, TEXTS), feeds(whole, TEXTS), feeds(other, [*TEXTS[1:], "another"])
    for mine, same, another in zip(*sets, strict=True):
        mine.skip()
        same.load_state_dict(mine.state_dict())
        assert same.number == 1
        with pytest.raises(OmniError, match="dataset: it is not the one the checkpoint was trained on"):
            another.load_state_dict(mine.state_dict())


def test_sentences_are_what_could_be_said():
    text = "Hello there, my friend. x = y + z[3]; Go! This one is fine, too.\nSo is the last one"
    assert list(split_sentences(text)) == ["Hello there, my friend.", "This one is fine, too.", "So is the last one"]


class Disk:
    """Numbered clips that take a while to read. read: in which order. lost: clips that are gone."""

    def __init__(self, seconds: float = 0.0, lost: tuple[int, ...] = ()):
        self.seconds, self.lost, self.read = seconds, lost, []

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Example:
        time.sleep(self.seconds)
        self.read.append(index)
        if index in self.lost:
            raise OmniError(f"clip {index} is gone")
        return Example(str(index), torch.full((1, 3, 2), float(index)), torch.tensor([256, index]))


def clip_feed(disk: Disk, ahead: bool) -> ClipFeed:
    return ClipFeed(disk, check_fits=lambda *_, **__: None, bos=256, batch_size=4, seed=1, ahead=ahead)


def same(one: Batch, other: Batch) -> bool:
    return one.names == other.names and all(torch.equal(one.inputs[key], other.inputs[key]) for key in one.inputs)


def test_batches_read_ahead_are_the_batches():
    plain, ahead = clip_feed(Disk(), ahead=False), clip_feed(Disk(), ahead=True)
    for number in range(30):
        if number % 3 == 1:  # one of three processes, then alone again
            assert same(next(plain), next(ahead))
        elif number < 20:
            plain.skip()
            ahead.skip()
        else:
            assert same(next(plain), next(ahead))
        assert ahead.state_dict() == plain.state_dict()
    for feed in (plain, ahead):
        feed.load_state_dict({"number": 5})
    assert same(next(plain), next(ahead))


def test_what_is_read_ahead_is_one_batch_and_nothing_in_vain():
    disk = Disk()
    feed = clip_feed(disk, ahead=True)
    feed.skip()
    for _ in range(3):  # every second batch
        next(feed)
        feed.skip()
    feed.take.thread.shutdown(wait=True)
    wanted = [index for number in (1, 3, 5, 7) for index in feed.indices(number)]
    assert Counter(disk.read) - Counter(wanted) == Counter(feed.indices(2))  # guessed when nothing was known yet
    assert not Counter(wanted) - Counter(disk.read)


def test_a_batch_is_read_while_the_one_before_is_used():
    waits = {}
    for ahead in (False, True):
        feed, waits[ahead] = clip_feed(Disk(seconds=0.01), ahead=ahead), 0.0
        next(feed)
        for _ in range(5):
            time.sleep(0.08)  # a step
            began = time.perf_counter()
            next(feed)
            waits[ahead] += time.perf_counter() - began
    assert waits[False] > 0.2
    assert waits[True] < 0.1


@pytest.mark.parametrize("ahead", [False, True])
def test_a_clip_that_is_gone_is_told_at_its_own_step(ahead):
    order = clip_feed(Disk(), ahead=False)
    feed = clip_feed(Disk(lost=(order.indices(3)[2],)), ahead=ahead)
    for _ in range(3):
        next(feed)
    for _ in range(2):  # and again when it is asked for again
        with pytest.raises(OmniError, match=r"clip \d+ is gone"):
            next(feed)
        assert feed.number == 3
    feed.skip()
    assert same(next(feed), order.batch(4))


def test_a_feed_leaves_no_thread_behind():
    feed = clip_feed(Disk(), ahead=True)
    next(feed)
    (coming,), threads = feed.take.coming.values(), set(feed.take.thread._threads)
    coming.result()
    assert threads
    del feed
    gc.collect()
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive()


class Numbers:
    def __init__(self, name: str):
        self.name, self.number = name, 0

    def __next__(self):
        self.number += 1
        return Batch({}, graded=0, names=[f"{self.name}{self.number}"])

    def skip(self):
        self.number += 1

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.number = state["number"]


def test_each_feed_has_its_share_and_the_turns_go_on():
    def turns():
        return Turns({name: Numbers(name) for name in "abc"}, {"a": 0.5, "b": 0.3, "c": 0.2})

    whole = turns()
    taken = [next(whole).names[0] for _ in range(100)]
    assert [sum(name[0] == letter for name in taken) for letter in "abc"] == [50, 30, 20]
    assert {name[0] for name in taken[:4]} == set("abc")
    first, second = turns(), turns()
    for _ in range(37):
        next(first)
    second.load_state_dict(first.state_dict())
    second.skip()
    batches = [next(second) for _ in range(62)]
    assert [batch.names[0] for batch in batches] == taken[38:]
    assert all(batch.kind == batch.names[0][0] for batch in batches)
