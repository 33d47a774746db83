"""Models that hear and models that do not, and whether the gain tells them apart.

The audio is one-hot: a frame for each letter of the text.
"""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from omni.data.batch import collate, draw
from omni.data.clips import Sample
from omni.data.features import EncodedClips
from omni.evaluation import hearing
from omni.evaluation.hearing import HearingLook, another, gain, project, text_losses
from omni.model.gpt import GPT
from omni.model.omni import Omni
from omni.model.projector import StackMLP
from omni.text.tokenizer import ByteTokenizer

BOS, WIDTH = ByteTokenizer.bos, 32
LETTERS = "abcdef"


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
    monkeypatch.setattr(hearing, "BATCH", 3)
    # Ragged, in no order, the last batch not full, one front longer than a window.
    fronts = [front(length) for length in (4, 1, 140, 7, 2, 9, 3)]
    texts = [text(length) for length in (6, 12, 3, 0, 8, 1, 5)]
    expected = [nats(model, *pair) for pair in zip(fronts, texts, strict=True)]
    np.testing.assert_allclose(text_losses(model, fronts, texts, bos=BOS), expected, rtol=1e-4)


@pytest.mark.parametrize("count", [2, 3, 5, 128])
def test_everyone_hears_another_and_each_is_heard_once(count):
    other = another(count)
    assert sorted(other) == list(range(count))
    assert not (other == np.arange(count)).any()


def test_who_hears_whom_is_drawn_by_the_seed():
    assert another(1).tolist() == [0]
    assert (another(50) == another(50)).all()
    assert (another(50) != another(50, seed=1)).any()


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
    shuffled = text_losses(model, [fronts[i] for i in another(64)], texts, bos=BOS)
    found = gain(shuffled, matched, np.array([len(row) for row in texts]))
    assert found.low < 0 < found.high


class OneHot:
    """Stands in for an encoder where a waveform is made of letters."""

    calls = 0

    def __call__(self, waveforms):
        self.calls += 1
        (letters,) = waveforms
        return F.one_hot(letters.long(), len(LETTERS)).float()[None, None], torch.tensor([len(letters)])


WORDS = ["".join(word) for length in (2, 3) for word in permutations("abcdef", length)]
np.random.default_rng(0).shuffle(WORDS)
HELD_OUT, TRAINING = WORDS[:40], WORDS[40:]


def clips(said: list[str], heard: list[str] | None = None, encoder: OneHot | None = None) -> EncodedClips:
    """Of words, which sound like themselves unless something else is heard."""
    sounds = [torch.tensor([float(LETTERS.index(letter)) for letter in word]) for word in heard or said]
    samples = [Sample(word, sound, word) for word, sound in zip(said, sounds, strict=True)]
    given = {"tokenizer": ByteTokenizer(), "device": torch.device("cpu")}
    return EncodedClips(samples, encoder=encoder or OneHot(), **given)


def fresh() -> Omni:
    torch.manual_seed(0)
    projector = StackMLP(in_dim=len(LETTERS), out_dim=WIDTH, stack=1)
    return Omni(encoder=None, projector=projector, backbone=tiny(window_pattern="L"))


@pytest.fixture(scope="module")
def hears(one_thread) -> Omni:
    """Trained for some steps to write down what it hears."""
    model, examples = fresh(), clips(TRAINING)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(300):
        batch = collate([examples[i] for i in draw(step, size=32, clips=len(examples), seed=0)], bos=BOS)
        model(**batch.inputs).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def look(model: Omni, examples: EncodedClips) -> tuple[dict[str, float], list[str]]:
    return HearingLook(model, examples, tokenizer=ByteTokenizer())()


def test_soft_tokens_are_those_of_each_clip_alone(monkeypatch):
    monkeypatch.setattr(hearing, "BATCH", 3)
    model, examples = fresh(), clips(WORDS[:7])
    soft = project(model, [examples[i] for i in range(7)])
    for i, row in enumerate(soft):
        with torch.no_grad():
            alone, lengths = model.projector(examples[i].states_KTD[None], torch.tensor([len(WORDS[i])]))
        assert len(row) == lengths.item() == len(WORDS[i])
        torch.testing.assert_close(row, alone[0])


def test_a_fresh_model_is_deaf_and_a_look_leaves_it_and_randomness_alone():
    model = fresh()
    before, randomness = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    scores, samples = look(model, clips(HELD_OUT))
    assert torch.equal(torch.get_rng_state(), randomness)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert tuple(scores) == HearingLook.metrics
    assert scores["loss_matched"] == pytest.approx(math.log(257), abs=0.01)
    assert scores["audio_gain_low"] <= 0 <= scores["audio_gain_high"]
    assert [sample.split("|")[0] for sample in samples] == HELD_OUT[: hearing.SAMPLES]


def test_a_model_that_learned_to_hear_hears(hears):
    scores, samples = look(hears, clips(HELD_OUT))
    assert 1 < scores["audio_gain_low"] < scores["audio_gain"] < scores["audio_gain_high"]
    assert scores["audio_gain"] == pytest.approx(scores["loss_shuffled"] - scores["loss_matched"])
    assert samples == [f"{word}|{word}" for word in HELD_OUT[: hearing.SAMPLES]]


def test_the_matched_loss_is_that_of_training(hears):
    scores, _ = look(hears, clips(HELD_OUT))
    with torch.no_grad():
        loss = hears(**collate(list(clips(HELD_OUT)), bos=BOS).inputs)
    assert scores["loss_matched"] == pytest.approx(loss.item(), rel=1e-3)


def test_audio_that_tells_nothing_of_the_text_has_no_gain(hears):
    """Then a clip's own audio is another's like any: the interval holds zero about 19 times in 20."""
    found = [look(hears, clips(HELD_OUT, [HELD_OUT[i] for i in another(40, seed)]))[0] for seed in range(1, 11)]
    assert sum(scores["audio_gain_low"] < 0 < scores["audio_gain_high"] for scores in found) >= 8
    assert min(scores["loss_matched"] for scores in found) > 2  # it listens, in vain


def test_only_the_first_clips_are_looked_at_and_are_read_once(monkeypatch):
    monkeypatch.setattr(hearing, "CLIPS", 5)
    monkeypatch.setattr(hearing, "SAMPLES", 2)
    encoder = OneHot()
    looking = HearingLook(fresh(), clips(HELD_OUT, encoder=encoder), tokenizer=ByteTokenizer())
    assert looking() == looking()
    assert encoder.calls == 5
    assert [sample.split("|")[0] for sample in looking()[1]] == HELD_OUT[:2]


class Leaky:
    """As clips on disk: to be encoded first, when those that cannot be read are left out."""

    def __init__(self, words: list[str]):
        self.clips, self.ready = clips(words), False

    def __len__(self):
        return len(self.clips) - self.ready

    def __getitem__(self, index):
        assert self.ready
        return self.clips[index]

    def encode_ahead(self, indices):
        yield from self.clips.encode_ahead(indices)
        self.ready = True


def test_clips_that_turn_out_unreadable_are_not_looked_at():
    looking = HearingLook(fresh(), Leaky(WORDS[:4]), tokenizer=ByteTokenizer())
    looking()
    assert [example.id for example in looking.heard] == WORDS[:3]
