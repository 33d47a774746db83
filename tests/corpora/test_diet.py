"""The starter's diet, from a small prepared debian_text."""

import pytest
import torch

from omni.corpora import debian_text
from omni.corpora.diet import DIALOGUE_ROUNDS, Diet
from omni.errors import OmniError
from omni.text.tokenizer import ByteTokenizer

GIVEN = {"tokenizer": ByteTokenizer(), "batch_size": 2, "row_tokens": 32, "seed": 1}
KEYS = {"soft": 0.4, "hard": 0.1, "copies": 3, "ripening": 9}


@pytest.fixture
def folder(tmp_path):
    texts = {f"A bird sang {i} songs.\nThe night was long and the road was wet.": "fortunes" for i in range(300)}
    for i in range(120):
        ends = f"Chef: Not again, said the chef.\nJoe: So ends scene {i // 2}."
        texts[f"Joe: Scene {i} is about to begin.\n{ends}"] = "amazon_queen"
    debian_text.write(texts, tmp_path)
    (tmp_path / "facts.json").write_text('{"recipe": 2}')
    return tmp_path


def feed(folder, **keys):
    table = torch.randn(320, 8, generator=torch.Generator().manual_seed(0))
    return Diet(folder=str(folder), **KEYS | keys).feed(embeddings=lambda: table, **GIVEN)


def test_text_and_copies_are_served_in_their_shares(folder):
    served = feed(folder)
    batches = [next(served) for _ in range(20)]
    assert [sum(batch.kind == kind for batch in batches) for kind in ("text", "soft", "hard")] == [10, 8, 2]
    assert all("audio_features" in batch.inputs for batch in batches if batch.kind == "soft")
    assert all(len(batch.names) == 3 for batch in batches if batch.kind != "text")
    plain = [next(feed(folder, soft=0.0, hard=hard)).kind for hard in (0.0, 1.0)]
    assert plain == ["text", "hard"]


def test_what_is_held_out_is_not_copied(folder):
    held_out = "\n".join(Diet(folder=str(folder), **KEYS).documents("val")).split("\n")
    lines = [line.partition(": ")[2] for line in held_out if ": " in line]
    assert len(lines) > 2
    copied = feed(folder).feeds["soft"].sentences
    assert not set(lines) & set(copied)
    spoken = [line for line in copied if line.startswith("So ends scene")]
    assert len(spoken) > 50 * DIALOGUE_ROUNDS
    assert all(spoken.count(line) == DIALOGUE_ROUNDS for line in spoken)
    assert "The night was long and the road was wet." in copied


def test_a_diet_goes_on_where_it_was(folder):
    whole, again = feed(folder), feed(folder)
    for _ in range(7):
        next(whole)
    again.load_state_dict(whole.state_dict())
    for _ in range(9):
        one, other = next(whole), next(again)
        assert (one.kind, one.names) == (other.kind, other.names)
        assert all(torch.equal(one.inputs[key], other.inputs[key]) for key in one.inputs)


def test_soft_and_hard_copies_ripen_together(folder):
    feeds = feed(folder, ripening=100).feeds
    assert [feeds[kind].ripening for kind in ("soft", "hard")] == [100, 25]
    assert feed(folder, soft=0.0, ripening=100).feeds["hard"].ripening == 100


@pytest.mark.parametrize(
    "keys", [{"soft": 0.8, "hard": 0.3}, {"hard": -0.1}, {"copies": 0}, {"ripening": -1}, {"soft": float("nan")}]
)
def test_what_cannot_be_is_refused(folder, keys):
    with pytest.raises(OmniError, match=f"dataset.{next(iter(keys))}"):
        feed(folder, **keys)
