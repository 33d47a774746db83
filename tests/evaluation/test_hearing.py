"""Models that hear and models that do not, and whether a look tells them apart.

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
from omni.evaluation.hearing import HearingLook
from omni.model.gpt import GPT
from omni.model.omni import Omni
from omni.model.projector import StackMLP
from omni.text.tokenizer import ByteTokenizer

BOS, WIDTH = ByteTokenizer.bos, 32
LETTERS = "abcdef "


def tiny(**keys) -> GPT:
    return GPT(sequence_len=256, vocab_size=257, n_layer=2, n_head=2, n_kv_head=1, n_embd=WIDTH, **keys)


class OneHot(torch.nn.Module):
    """Stands in for an encoder where a waveform is made of letters, a sample each, and 0 is silence."""

    frame_rate = 10
    calls = 0

    def forward(self, waveforms):
        self.calls += 1
        (letters,) = waveforms
        return F.one_hot(letters.long(), 1 + len(LETTERS))[None, None, :, 1:].float(), torch.tensor([len(letters)])


WORDS = [" ".join(word) for length in (2, 3) for word in permutations("abcdef", length)]
np.random.default_rng(0).shuffle(WORDS)
HELD_OUT, TRAINING = WORDS[:40], WORDS[40:]


def clips(said: list[str], heard: list[str] | None = None, encoder: OneHot | None = None) -> EncodedClips:
    """Of words, which sound like themselves unless something else is heard."""
    sounds = [torch.tensor([1.0 + LETTERS.index(letter) for letter in word]) for word in heard or said]
    samples = [Sample(word, sound, word) for word, sound in zip(said, sounds, strict=True)]
    given = {"tokenizer": ByteTokenizer(), "device": torch.device("cpu")}
    return EncodedClips(samples, encoder=encoder or OneHot(), **given)


def fresh() -> Omni:
    torch.manual_seed(0)
    projector = StackMLP(in_dim=len(LETTERS), out_dim=WIDTH, stack=1)
    return Omni(encoder=OneHot(), projector=projector, backbone=tiny(window_pattern="L"))


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


def test_a_fresh_model_is_deaf_and_a_look_leaves_it_and_randomness_alone():
    model = fresh()
    before, randomness = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    scores, samples = look(model, clips(HELD_OUT))
    assert torch.equal(torch.get_rng_state(), randomness)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert tuple(scores) == HearingLook.metrics
    assert scores["recall_1"] < 0.2
    assert scores["loss_matched"] == pytest.approx(math.log(257), abs=0.01)
    assert scores["audio_gain_low"] <= 0 <= scores["audio_gain_high"]
    assert [sample.split("|")[0] for sample in samples] == HELD_OUT[: hearing.SAMPLES]


def test_a_model_that_learned_to_hear_hears(hears):
    scores, samples = look(hears, clips(HELD_OUT))
    assert 1 < scores["audio_gain_low"] < scores["audio_gain"] < scores["audio_gain_high"]
    assert scores["audio_gain"] == pytest.approx(scores["loss_shuffled"] - scores["loss_matched"])
    assert scores["recall_1"] > 0.9
    told = [scores[f"loss_{condition}"] for condition in ("matched", "shuffled", "silence", "none")]
    assert min(told) == told[0] < 0.5
    assert samples == [f"{word}|{word}" for word in HELD_OUT[: hearing.SAMPLES]]


def test_the_matched_loss_is_that_of_training(hears):
    scores, _ = look(hears, clips(HELD_OUT))
    with torch.no_grad():
        loss = hears(**collate(list(clips(HELD_OUT)), bos=BOS).inputs)
    assert scores["loss_matched"] == pytest.approx(loss.item(), rel=1e-3)


def test_audio_that_tells_nothing_of_the_text_has_no_gain(hears):
    """Then a clip's own audio is another's like any: the interval holds zero about 19 times in 20."""
    orders = [np.random.default_rng(seed).permutation(HELD_OUT) for seed in range(10)]
    found = [look(hears, clips(HELD_OUT, list(order)))[0] for order in orders]
    assert sum(scores["audio_gain_low"] < 0 < scores["audio_gain_high"] for scores in found) >= 8
    assert min(scores["loss_matched"] for scores in found) > 2  # it listens, in vain


def test_a_few_clips_of_all_are_looked_at_and_are_read_once(monkeypatch):
    monkeypatch.setattr(hearing, "CLIPS", 5)
    monkeypatch.setattr(hearing, "SAMPLES", 2)
    encoder = OneHot()
    looking = HearingLook(fresh(), clips(HELD_OUT, encoder=encoder), tokenizer=ByteTokenizer())
    assert looking() == looking()
    assert encoder.calls == 5
    assert [sample.split("|")[0] for sample in looking()[1]] == [HELD_OUT[0], HELD_OUT[8]]


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


def test_transcripts_too_short_or_too_few_to_tell_apart_have_no_recall():
    assert math.isnan(look(fresh(), clips(["a b", "b c", "c d"]))[0]["recall_1"])
    assert math.isnan(look(fresh(), clips(["a b c", "a b c", "c d"]))[0]["recall_1"])


def test_a_few_are_ranked_among_all_that_are_looked_at(hears, monkeypatch):
    seen, loss_matrix = [], hearing.loss_matrix
    monkeypatch.setattr(hearing, "RANKED", 3)
    monkeypatch.setattr(hearing, "CANDIDATES", 10)
    monkeypatch.setattr(
        hearing, "loss_matrix", lambda *given, **keys: seen.append(given) or loss_matrix(*given, **keys)
    )
    assert look(hears, clips(HELD_OUT))[0]["recall_1"] == 1
    ((_, soft, texts),) = seen
    words = [word for word in HELD_OUT if len(word) == 5][:10]
    found = [ByteTokenizer().decode(text.tolist()) for text in texts]
    assert found[:3] == [words[0], words[3], words[6]]  # spread, and in front
    assert sorted(found) == sorted(words)
    assert [len(row) for row in soft] == [5, 5, 5]
