"""Corpora as feeds."""

import json
import re

import pytest
import torch

from omni.data.text import Corpus
from omni.text.tokenizer import ByteTokenizer

GIVEN = {"tokenizer": ByteTokenizer(), "batch_size": 2, "row_tokens": 32}
HELD_OUT = GIVEN | {"device": torch.device("cpu")}


@pytest.fixture
def corpus(tmp_path) -> Corpus:
    rows = [json.dumps({"text": f"Document {i} tells of the number {i * i}."}) for i in range(300)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    return Corpus(path=str(tmp_path / "a.jsonl"))


def feed(corpus: Corpus):
    return corpus.feed(embeddings=lambda: torch.randn(320, 8), seed=1, **GIVEN)


def test_rows_are_full_and_ask_for_the_next_token(corpus):
    batch = next(feed(corpus))
    idx, targets = batch.inputs["idx_BL"], batch.inputs["targets_BL"]
    assert idx.shape == targets.shape == (2, 32)
    assert torch.equal(idx[:, 1:], targets[:, :-1])
    assert batch.graded == 64
    assert batch.names == ["text rows 0 to 1"]


def test_a_feed_goes_on_where_it_was_and_skipping_is_taking(corpus):
    whole = feed(corpus)
    batches = [next(whole) for _ in range(6)]
    cut, again = feed(corpus), feed(corpus)
    next(cut)
    cut.skip()
    state = cut.state_dict()
    again.load_state_dict(state)
    for expected in batches[2:]:
        assert torch.equal(next(again).inputs["idx_BL"], expected.inputs["idx_BL"])


def test_held_out_text_is_always_the_same_and_never_trained_on(corpus):
    given = HELD_OUT | {"tokens": 128}
    first, second = corpus.held_out(**given), corpus.held_out(**given)
    assert len(first) == 2
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, second, strict=True))
    held_out = {number for rows, _ in first for number in numbers(rows)}
    served = feed(corpus)
    trained = {number for _ in range(300) for number in numbers(next(served).inputs["idx_BL"])}
    assert held_out <= {99, 199, 299}
    assert held_out
    assert len(trained) > 200
    assert not trained & {99, 199, 299}


def numbers(rows: torch.Tensor) -> list[int]:
    """The documents in some rows, by their own numbers."""
    return [int(n) for row in rows for n in re.findall(r"Document (\d+) ", ByteTokenizer().decode(row.tolist()))]


def test_held_out_text_comes_once_though_more_is_asked_for(corpus):
    batches = corpus.held_out(**HELD_OUT | {"tokens": 10_000})
    found = [number for rows, _ in batches for number in numbers(rows)]
    assert sorted(found) == [99, 199, 299]
    for idx, targets in batches:
        assert idx.shape == targets.shape
        assert 0 < len(idx) <= 2
