"""Every text behind every clip, and who comes first."""

import numpy as np
import pytest
import torch

from omni.evaluation.hearing import text_losses
from omni.evaluation.retrieval import loss_matrix, ranks, recall
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
