"""Losses under the five conditions, and whether the gain tells hearing from talking."""

import numpy as np
import pytest
import torch

from omni.data.features import Example
from omni.evaluation import conditions
from omni.evaluation.conditions import (
    CONDITIONS,
    Losses,
    another,
    five_losses,
    gain,
    project,
    seconds,
    silences,
    text_losses,
)
from omni.model.gpt import GPT
from omni.model.omni import Omni
from omni.model.projector import StackMLP
from omni.text.tokenizer import ByteTokenizer

BOS, WIDTH = ByteTokenizer.bos, 32


def tiny(**keys) -> GPT:
    return GPT(sequence_len=256, vocab_size=257, n_layer=2, n_head=2, n_kv_head=1, n_embd=WIDTH, **keys)


@pytest.fixture(scope="module")
def model() -> GPT:
    """A small model whose every path carries signal, with windows of 128 and 256."""
    torch.manual_seed(0)
    model = tiny(window_pattern="SL")
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight") or name == "lm_head.weight":
            torch.nn.init.normal_(parameter, std=0.2)
    torch.nn.init.constant_(model.smear_lambda, 0.8)
    torch.nn.init.uniform_(model.smear_gate.weight, -1, 1)
    return model.eval()


def text(length: int) -> torch.Tensor:
    return torch.tensor([BOS, *torch.randint(0, 256, (length,))])


@torch.no_grad()
def nats(model: GPT, front: torch.Tensor | None, text: torch.Tensor) -> float:
    """By the logits of one clip alone."""
    if front is None:
        logits = model(text[None])[0]
    elif front.is_floating_point():
        logits = model(text[None], audio_features=front[None])[0]
    else:
        logits = model(torch.cat([front, text])[None])[0, len(front) :]
    expected = [*text[1:].tolist(), BOS]
    return -sum(float(row[token]) for row, token in zip(logits.log_softmax(-1), expected, strict=True))


FRONTS = {
    "soft tokens": lambda length: torch.randn(length, WIDTH),
    "token ids": lambda length: torch.randint(0, 256, (length,)),
    "nothing": lambda length: None,
}


@pytest.mark.parametrize("front", FRONTS.values(), ids=FRONTS)
def test_losses_equal_those_of_each_clip_alone(model, monkeypatch, front):
    monkeypatch.setattr(conditions, "BATCH", 3)
    # Ragged, in no order, the last batch not full, one front longer than a window.
    fronts = [front(length) for length in (4, 1, 140, 7, 2, 9, 3)]
    texts = [text(length) for length in (6, 12, 3, 0, 8, 1, 5)]
    expected = [nats(model, *pair) for pair in zip(fronts, texts, strict=True)]
    np.testing.assert_allclose(text_losses(model, fronts, texts, bos=BOS), expected, rtol=1e-4)


@pytest.mark.parametrize("count", [2, 3, 5, 128])
def test_everyone_hears_another_and_each_is_heard_once(count):
    other = another(np.random.default_rng(0).integers(1, 9, count))
    assert sorted(other) == list(range(count))
    assert not (other == np.arange(count)).any()


def test_who_hears_whom_follows_from_their_lengths():
    assert another([7]).tolist() == [0]
    assert another([90, 1, 2, 91]).tolist() == [3, 2, 1, 0]
    assert another([5, 90, 1, 2, 91]).tolist() == [4, 0, 3, 2, 1]
    lengths = np.random.default_rng(0).integers(1, 500, 300)
    assert np.abs(lengths[another(lengths)] - lengths).mean() < 3


def test_what_only_knows_how_long_a_clip_is_does_not_hear():
    tokens = np.full(40, 5)
    matched = np.random.default_rng(0).uniform(5, 9, 40)
    nats = {"matched": matched, "shuffled": matched + 0.01, "silence": matched, "none": matched, "transcript": matched}
    assert Losses(nats, tokens).gain().low > 0
    assert not Losses(nats, tokens).hears()
    assert Losses(nats | {"silence": matched + 0.01}, tokens).hears()
    assert not Losses(nats | {"silence": matched + 0.01, "shuffled": matched}, tokens).hears()


def test_the_gain_is_in_nats_a_token_whatever_the_clip():
    found = gain(np.array([9.0, 5.0]), np.array([3.0, 4.0]), np.array([2, 6]))
    assert found.value == pytest.approx((6 + 1) / 8)
    assert (found.low, found.high) == pytest.approx((1 / 6, 3))  # one clip drawn twice


def planted(clips: int, nats_a_token: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses with shuffled and with matched audio, and tokens: what hearing is worth, among noise."""
    random = np.random.default_rng(seed)
    tokens = random.integers(5, 40, clips)
    shuffled = random.normal(3, 0.3, clips) * tokens
    return shuffled, shuffled - random.normal(nats_a_token, 0.5, clips) * tokens, tokens


def test_the_interval_brackets_the_gain_and_narrows_with_clips():
    few, many = gain(*planted(30, 0.2, seed=0)), gain(*planted(480, 0.2, seed=1))
    for found in (few, many):
        assert found.low < found.value < found.high
    # 16 times the clips, a quarter of the width.
    assert (many.high - many.low) / (few.high - few.low) == pytest.approx(1 / 4, rel=0.25)


def test_long_clips_weigh_more_in_the_interval_too():
    tokens = np.array([1] * 50 + [99] * 50)
    found = gain((tokens == 1).astype(float), np.zeros(100), tokens)  # a nat a token, in the short ones alone
    assert found.value == pytest.approx(1 / 100)
    assert found.low < 1 / 100 < found.high < 0.02


def test_a_model_that_hears_a_little_is_told_from_one_that_does_not():
    assert gain(*planted(128, 0.3, seed=0)).low > 0
    deaf = gain(*planted(128, 0.0, seed=0))
    assert deaf.low < 0 < deaf.high
    assert gain(*planted(128, -0.3, seed=0)).high < 0  # misled by what it hears


def test_the_interval_holds_the_truth_in_95_of_100_cases():
    found = [gain(*planted(60, 0.1, seed)) for seed in range(200)]
    assert 0.90 <= np.mean([one.low < 0.1 < one.high for one in found]) <= 0.98


def test_a_model_whose_audio_is_zeroed_is_deaf(model):
    torch.manual_seed(0)
    # Lengths still differ, so its losses do, but not to the good of the clip's own text.
    fronts = [torch.zeros(length, WIDTH) for length in torch.randint(1, 30, (64,)).tolist()]
    texts = [text(length) for length in torch.randint(1, 20, (64,)).tolist()]
    matched = text_losses(model, fronts, texts, bos=BOS)
    shuffled = text_losses(model, [fronts[i] for i in another([len(row) for row in fronts])], texts, bos=BOS)
    found = gain(shuffled, matched, np.array([len(row) for row in texts]))
    assert found.low < 0 < found.high


def test_equal_losses_have_no_gain_and_an_interval_that_holds_zero():
    same = np.random.default_rng(0).uniform(1, 9, 50)
    found = gain(same, same, np.full(50, 3))
    assert (found.low, found.value, found.high) == (0, 0, 0)
    noise = np.random.default_rng(1).normal(0, 1, 50)
    found = gain(same + noise - noise.mean(), same, np.full(50, 3))
    assert found.low < 0 < found.high


def test_the_five_conditions_are_text_losses_behind_what_each_is_told(model):
    torch.manual_seed(1)
    soft, silent = ([torch.randn(length, WIDTH) for length in (3, 5, 2, 4)] for _ in range(2))
    texts = [text(length) for length in (4, 2, 6, 3)]
    found = five_losses(model, soft, silent, texts, bos=BOS)
    told = {
        "matched": soft,
        "shuffled": [soft[i] for i in another([3, 5, 2, 4])],
        "silence": silent,
        "none": [None] * 4,
        "transcript": [row[1:] for row in texts],
    }
    assert tuple(found.nats) == CONDITIONS == tuple(told)
    for condition, fronts in told.items():
        alone = [nats(model, *pair) for pair in zip(fronts, texts, strict=True)]
        np.testing.assert_allclose(found.nats[condition], alone, rtol=1e-4)
        assert found.means()[condition] == pytest.approx(sum(alone) / (5 + 3 + 7 + 4), rel=1e-4)
    assert found.gain().value == pytest.approx(found.means()["shuffled"] - found.means()["matched"])


class Meter(torch.nn.Module):
    """Stands in for an encoder: two states a second, the sound's energy and its length."""

    frame_rate = 2.0

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, waveforms):
        self.calls += 1
        (waveform,) = waveforms
        frames = len(waveform) // 8000
        row = torch.tensor([float(waveform.abs().sum()), float(frames)])
        return row.expand(1, 1, frames, 2).clone(), torch.tensor([frames])


def example(frames: int, name: str = "") -> Example:
    return Example(name, torch.randn(1, frames, 2, dtype=torch.float16), text(3))


def test_silences_are_as_long_as_their_clips_and_each_length_is_heard_once():
    meter, clips = Meter(), [example(3, "a"), example(5, "b"), example(3, "c")]
    found = silences(Omni(encoder=meter, projector=None, backbone=tiny()), clips)
    assert meter.calls == 2
    for silent, clip, frames in zip(found, clips, (3, 5, 3), strict=True):
        assert (silent.id, silent.states_KTD.dtype) == (clip.id, torch.float16)
        assert silent.ids_L is clip.ids_L
        assert silent.states_KTD.tolist() == [[[0.0, frames]] * frames]
    assert seconds(meter, clips) == [1.5, 2.5, 1.5]


def test_soft_tokens_are_those_of_each_clip_alone(monkeypatch):
    monkeypatch.setattr(conditions, "BATCH", 3)
    torch.manual_seed(0)
    model = Omni(encoder=None, projector=StackMLP(in_dim=2, out_dim=WIDTH, stack=2), backbone=tiny())
    clips = [example(frames) for frames in (2, 7, 1, 4, 4, 9, 3)]
    for clip, row in zip(clips, project(model, clips), strict=True):
        frames = clip.states_KTD.size(1)
        with torch.no_grad():
            alone, lengths = model.projector(clip.states_KTD[None].float(), torch.tensor([frames]))
        assert len(row) == lengths.item() == (frames + 1) // 2
        torch.testing.assert_close(row, alone[0])
