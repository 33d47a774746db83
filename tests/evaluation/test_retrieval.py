"""Every text behind every clip, and who comes first."""

import math

import numpy as np
import pytest
import torch

from omni.evaluation import retrieval as room
from omni.evaluation.conditions import text_losses
from omni.evaluation.retrieval import loss_matrix, ranks, recall, retrieval, tellable
from omni.model.gpt import GPT

BOS = 256


@pytest.fixture(scope="module")
def model() -> GPT:
    """A small model whose every path carries signal, with windows of 128 and 256."""
    torch.manual_seed(0)
    model = GPT(sequence_len=256, vocab_size=257, n_layer=2, n_head=2, n_kv_head=1, n_embd=32, window_pattern="SL")
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight") or name == "lm_head.weight":
            torch.nn.init.normal_(parameter, std=0.2)
    torch.nn.init.constant_(model.smear_lambda, 0.8)
    torch.nn.init.uniform_(model.smear_gate.weight, -1, 1)
    return model.eval()


def test_each_pair_has_the_loss_it_has_alone(model):
    soft = [torch.randn(length, 32) for length in (5, 140, 1)]
    texts = [torch.tensor([BOS, *torch.randint(0, 256, (length,))]) for length in (3, 0, 9, 4)]
    found = loss_matrix(model, soft, texts, bos=BOS)
    pairs = [[text_losses(model, [row], [text], bos=BOS)[0] / len(text) for text in texts] for row in soft]
    assert found.shape == (3, 4)
    assert np.ptp(found[:, 0]) > 0.01  # what is heard matters
    np.testing.assert_allclose(found, pairs, rtol=1e-4)


def test_scoring_leaves_the_model_as_it_was(model):
    loss_matrix(model, [torch.randn(2, 32)], [torch.tensor([BOS, 1])], bos=BOS)
    model(torch.tensor([[1, 2]]), torch.tensor([[2, 3]])).backward()
    assert model.transformer.wte.weight.grad is not None
    model.zero_grad()


def test_ranks_of_clips_and_the_other_way_round():
    matrix = np.array([[1.0, 2.0, 3.0], [1.0, 3.0, 2.0], [5.0, 4.0, 4.5]])
    assert ranks(matrix).tolist() == [1, 3, 2]
    assert ranks(matrix.T).tolist() == [2, 2, 3]  # 1 twice in the first column


def test_a_model_that_cannot_tell_comes_last():
    assert ranks(np.full((4, 4), 2.0)).tolist() == [4, 4, 4, 4]
    assert ranks(np.full((4, 4), np.nan)).tolist() == [4, 4, 4, 4]


def test_recall_is_the_share_at_the_top():
    found = np.array([1, 5, 6, 1, 100])
    assert [recall(found, most) for most in (1, 5, 100)] == [0.4, 0.6, 1.0]
    assert math.isnan(recall(np.array([], dtype=int), 1))


def test_only_pairs_that_are_wanted_are_computed(model):
    soft = [torch.randn(length, 32) for length in (5, 2, 3)]
    texts = [torch.tensor([BOS, *torch.randint(0, 256, (length,))]) for length in (3, 9, 4)]
    wanted = np.array([[True, False, True], [False, False, False], [False, True, False]])
    found = loss_matrix(model, soft, texts, bos=BOS, wanted=wanted)
    assert (np.isnan(found) == ~wanted).all()
    np.testing.assert_allclose(found[wanted], loss_matrix(model, soft, texts, bos=BOS)[wanted], rtol=1e-4)


def test_like_and_short_transcripts_are_not_told_apart():
    assert tellable(["one two three", "two words", "One TWO three", "a b c d", "", "one two three four"]) == [0, 3, 5]


def texts_of(said: list[str]) -> list[torch.Tensor]:
    return [torch.tensor([BOS, *text.encode()]) for text in said]


SAID = [f"{a} {b} c" for a in "abcdef" for b in "ghij"]


def test_each_draw_is_ranked_among_itself_and_no_pair_is_computed_twice(model, monkeypatch):
    monkeypatch.setattr(room, "CANDIDATES", 10)
    soft, texts = [torch.randn(3, 32) for _ in SAID], texts_of(SAID)
    pairs = []
    monkeypatch.setattr(room, "loss_matrix", lambda *given, **keys: pairs.append(keys) or loss_matrix(*given, **keys))
    found = retrieval(model, soft, texts, SAID, bos=BOS)
    whole, firsts, medians = loss_matrix(model, soft, texts, bos=BOS), [], []
    for seed in range(5):
        chosen = np.random.default_rng(seed).choice(len(SAID), 10, replace=False)
        mine = ranks(whole[np.ix_(chosen, chosen)].T)
        firsts.append((mine <= 5).mean())
        medians.append(np.median(mine))
    assert found["to_audio"]["recall_5"] == pytest.approx(np.mean(firsts))
    assert found["to_audio"]["median_rank"] == pytest.approx(np.mean(medians))
    assert (found["candidates"], found["draws"]) == (10, 5)
    assert found["chance"] == {"recall_1": 0.1, "recall_5": 0.5, "median_rank": 5.5}
    assert pairs[0]["wanted"].sum() < 5 * 10 * 10


def test_a_model_that_cannot_hear_finds_by_chance(model):
    soft = [torch.randn(3, 32) for _ in SAID]
    found = retrieval(model, soft, texts_of(SAID), SAID, bos=BOS)
    assert found["candidates"] == len(SAID)
    for way in ("to_text", "to_audio"):
        assert found[way]["recall_1"] < 0.25
        assert 6 < found[way]["median_rank"] < 19


def test_with_nothing_to_tell_apart_nothing_is_looked_for(model):
    assert retrieval(model, [torch.randn(1, 32)] * 2, texts_of(["a b c", "a B c"]), ["a b c", "a B c"], bos=BOS) is None
