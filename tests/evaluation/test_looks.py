"""Looks at a model in training: what is counted is what it chose, of the questions whose sounds are there."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile
import torch

from omni.data import cached as cached_module
from omni.data.cached import CachedClips
from omni.data.clips import Clips
from omni.data.manifest import Clip
from omni.data.shards import Shards
from omni.errors import OmniError
from omni.evaluation.choices import Question, score
from omni.evaluation.conditions import project
from omni.evaluation.looks import SAMPLES, ChoiceLook, Looks
from omni.model.gpt import GPT
from omni.model.omni import Omni
from omni.model.projector import StackMLP
from omni.text.bpe import BPETokenizer

TOKENIZER = BPETokenizer.load(Path(__file__).parents[1] / "golden" / "nanochat_d4" / "tokenizer")
CATEGORIES = ("voice", "pitch", "pitch", "voice", "pitch", "pitch", "voice", "pitch")
NAMES = ("choice_accuracy", "choice_above_chance", "choice_pitch", "choice_voice")


def told(accuracy: float, pitch: float, voice: float, chance: float = 0.25) -> dict[str, float]:
    return dict(zip(NAMES, (accuracy, accuracy - chance, pitch, voice), strict=True))


class Ear:
    """Hears eight numbers a frame. heard: how many sounds so far."""

    signature: ClassVar = {"weights": "ear"}
    heard = 0

    def __call__(self, waveforms):
        self.heard += len(waveforms)
        frames = torch.tensor([len(waveform) // 320 for waveform in waveforms])
        states = torch.zeros(len(waveforms), 1, int(frames.max()), 8)
        for row, (waveform, length) in enumerate(zip(waveforms, frames, strict=True)):
            states[row, 0, :length] = waveform[: length * 320].view(length, 8, 40).sum(-1)
        return states, frames


def question(number: int, answer: int = 0) -> Question:
    choices = ("a cat", "one of the dogs", "rain", f"the number {number}")
    choices = (*choices[number % 4 :], *choices[: number % 4])
    told = {"text": "hello", "engine": "flite", "f0": 120.0, "rms": 0.1, "seconds": 0.3}
    return Question(f"q{number}", CATEGORIES[number], f"What is {number}?", choices, answer, **told)


@pytest.fixture
def clips(tmp_path) -> Clips:
    """Eight noises."""
    random, rows = np.random.default_rng(0), []
    for number in range(len(CATEGORIES)):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, random.uniform(-0.5, 0.5, 1600 + 640 * number), 16_000)
        rows.append(Clip(f"q{number}", path, "hello", seconds=0.1))
    return Clips(rows, source=tmp_path / "val.jsonl", min_seconds=0.05, max_seconds=1.0)


@pytest.fixture(scope="module")
def model() -> Omni:
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_kv_head": 1, "n_embd": 32}
    backbone = GPT(sequence_len=128, vocab_size=TOKENIZER.vocab_size, **sizes)
    for name, parameter in backbone.named_parameters():
        if name.endswith("c_proj.weight") or name == "lm_head.weight":
            torch.nn.init.normal_(parameter, std=0.2)
    return Omni(encoder=None, projector=StackMLP(in_dim=8, out_dim=32, stack=2, dropout=0.5), backbone=backbone)


def look_of(model: Omni, clips: Clips, folder: Path, questions: Sequence[Question], ear: Ear | None = None):
    ear = ear or Ear()
    keys = {"encoder": ear, "tokenizer": TOKENIZER, "device": torch.device("cpu")}
    return ChoiceLook(
        model, CachedClips(clips, shards=Shards(folder, ear.signature), **keys), questions, tokenizer=TOKENIZER
    )


def chosen(model: Omni, look: ChoiceLook) -> list[int]:
    """What the model answers, asked here."""
    model.eval()
    examples = [look.examples[i] for i in range(len(look.examples))]
    by_id = {example.id: soft for example, soft in zip(examples, project(model, examples), strict=True)}
    soft = [by_id[question.id] for question in look.questions]
    return score(model.backbone, look.questions, soft, TOKENIZER).argmax(1).tolist()


def test_its_scores_are_named_before_anything_is_heard(model, clips, tmp_path):
    look = look_of(model, clips, tmp_path / "states", [question(n) for n in range(8)], ear := Ear())
    assert look.metrics == NAMES
    assert not ear.heard
    scores, _ = look()
    assert tuple(scores) == NAMES
    assert ear.heard == 8


def test_the_share_of_right_answers_is_counted_of_all_and_of_each_category(model, clips, tmp_path):
    look = look_of(model, clips, tmp_path / "states", [question(n) for n in range(8)])
    look.listen()
    picked = chosen(model, look)
    assert len(set(picked)) > 1
    model.train()  # as it is between two steps
    right = [question(n, pick) for n, pick in enumerate(picked)]
    scores, said = look_of(model, clips, tmp_path / "states", right)()
    assert scores == told(1, 1, 1)
    assert said == [f"{q.question} {q.choices[q.answer]}|{q.choices[q.answer]}" for q in right[:SAMPLES]]
    wrong = [replace(q, answer=(q.answer + 1) % 4) for q in right]
    scores, said = look_of(model, clips, tmp_path / "states", wrong)()
    assert scores == told(0, 0, 0)
    assert said[0] == f"What is 0? {wrong[0].choices[wrong[0].answer]}|{right[0].choices[right[0].answer]}"
    mixed = [right[0], *wrong[1:3], *right[3:]]  # two of five of pitch are wrong
    scores, _ = look_of(model, clips, tmp_path / "states", mixed)()
    assert scores == pytest.approx(told(6 / 8, 3 / 5, 1))


def test_two_and_three_choices_are_asked_and_what_is_above_chance_follows(model, clips, tmp_path):
    given = [replace(question(n), choices=("male", "female", "a child")[: 2 + n % 2], answer=0) for n in range(8)]
    look = look_of(model, clips, tmp_path / "states", given)
    look.listen()
    picked = chosen(model, look)
    right = [replace(q, answer=pick) for q, pick in zip(given, picked, strict=True)]
    assert look_of(model, clips, tmp_path / "states", right)()[0] == told(1, 1, 1, chance=(1 / 2 + 1 / 3) / 2)


def test_each_question_has_its_own_sound_whatever_the_order(model, clips, tmp_path):
    first = look_of(model, clips, tmp_path / "states", [question(n) for n in range(8)])
    first.listen()
    picked = chosen(model, first)
    backwards = [question(n, picked[n]) for n in reversed(range(8))]
    look = look_of(model, clips, tmp_path / "states", backwards)
    assert look()[0]["choice_accuracy"] == 1
    assert [example.id for example in look.heard] == [q.id for q in look.questions] == [q.id for q in backwards]
    frames = {example.id: example.states_KTD.size(1) for example in look.heard}
    assert frames == {f"q{n}": 5 + 2 * n for n in range(8)}


def test_what_is_heard_once_is_kept_and_what_is_learned_changes_the_scores(model, clips, tmp_path):
    look = look_of(model, clips, tmp_path / "states", [question(n) for n in range(8)], ear := Ear())
    look.listen()
    first = look()
    assert look() == first
    assert ear.heard == 8
    questions = look.questions
    before = chosen(model, look)
    with torch.no_grad():
        model.projector.fc2.weight.mul_(-1)
    after = chosen(model, look)
    look.questions = [replace(q, answer=pick) for q, pick in zip(questions, after, strict=True)]
    assert look()[0]["choice_accuracy"] == 1
    with torch.no_grad():
        model.projector.fc2.weight.mul_(-1)
    assert chosen(model, look) == before


def test_a_sound_that_cannot_be_read_leaves_its_question_out(model, clips, tmp_path, monkeypatch):
    monkeypatch.setattr(cached_module, "MOST_SKIPPED", 0.5)
    whole = look_of(model, clips, tmp_path / "states", [question(n) for n in range(8)])
    whole.listen()
    picked = chosen(model, whole)
    clips.clips[2].audio.write_bytes(b"no sound" * 50)
    clips.clips[2] = replace(clips.clips[2], sha256=None)  # as it is read anew
    look = look_of(model, clips, tmp_path / "states", [question(n, pick) for n, pick in enumerate(picked)])
    scores, _ = look()
    assert [q.id for q in look.questions] == [f"q{n}" for n in range(8) if n != 2]
    assert scores == told(1, 1, 1)


def test_a_question_that_is_none_is_refused_before_training(model, clips, tmp_path):
    bad = replace(question(3), choices=("a",))
    with pytest.raises(OmniError, match="question 'q3': has 1 choices, needs 2 to 8"):
        look_of(model, clips, tmp_path / "states", [question(0), bad])


class Said:
    """A look whose scores are known. listened: how often."""

    def __init__(self, name: str, value: float):
        self.metrics, self.value, self.listened = (name,), value, 0

    def listen(self) -> None:
        self.listened += 1

    def __call__(self) -> tuple[dict[str, float], list[str]]:
        return {self.metrics[0]: self.value}, [f"it is {self.value}"]


def test_several_looks_are_one():
    parts = [Said("audio_gain", 0.5), Said("choice_accuracy", 0.25)]
    looks = Looks(parts)
    assert looks.metrics == ("audio_gain", "choice_accuracy")
    looks.listen()
    assert [part.listened for part in parts] == [1, 1]
    assert looks() == ({"audio_gain": 0.5, "choice_accuracy": 0.25}, ["it is 0.5", "it is 0.25"])
    assert Looks([]).metrics == ()
    assert Looks([])() == ({}, [])
