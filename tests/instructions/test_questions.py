"""Rows as questions, and nothing of the frozen ones in what is trained on."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from omni.audio.tones import write_smoke_clips
from omni.config.build import build
from omni.config.paths import conf_dir
from omni.config.schema import register
from omni.data.manifest import Clip, ManifestError, read_manifest
from omni.errors import OmniError
from omni.evaluation.choices import check
from omni.instructions.questions import FROZEN, labels_of, off_limits, question_of, refuse_overlap

ROW = Clip(
    id="test-000003",
    audio=Path("a.flac"),
    text="Where is Peter?",
    seconds=1.5,
    split="test",
    speaker="espeak-ng/en+f3",
    question="Which?",
    choices=("one", "two", "three", "four"),
    answer="three",
    labels=(
        *("category:voice", "engine:espeak-ng+kokoro", "voice:espeak-ng/en+f3", "voice:kokoro/jf_alpha"),
        *("sentence:Where is Peter?", "sentence:It's over: go!", "sentence:harbour", "f0:201.5", "level:-20"),
    ),
    sha256=hashlib.sha256(b"kept").hexdigest(),
)
MINE = Clip("mine", Path("b.wav"), "Nothing of the kind.", speaker="joe", labels=("rain", "voice:espeak-ng/en+f1"))


@pytest.fixture
def frozen(tmp_path):
    path = tmp_path / FROZEN.name
    path.write_text(row_of(ROW))
    return path


def row_of(clip):
    return json.dumps({**vars(clip), "audio": str(clip.audio), "offset": None}) + "\n"


def test_a_row_is_a_question():
    found = question_of(ROW)
    assert (found.id, found.category, found.engine) == ("test-000003", "voice", "espeak-ng+kokoro")
    assert (found.question, found.choices, found.answer, found.text) == ("Which?", ROW.choices, 2, "Where is Peter?")
    assert (found.f0, found.rms, found.seconds) == (201.5, pytest.approx(0.1), 1.5)
    check([found])


def test_a_row_without_labels_is_one_too():
    found = question_of(replace(ROW, labels=None, seconds=None))
    assert (found.category, found.engine, found.f0, found.seconds) == ("all", "espeak-ng/en+f3", 0.0, 0.0)
    assert question_of(replace(ROW, labels=None, speaker=None)).engine == ""


@pytest.mark.parametrize("field", ["question", "choices", "answer"])
def test_what_a_row_lacks_is_named(field):
    with pytest.raises(OmniError, match=f"test-000003: has no {field};"):
        question_of(replace(ROW, **{field: None}))


def test_nine_choices_are_refused_before_they_are_asked():
    with pytest.raises(OmniError, match="'test-000003': has 9 choices, needs 2 to 8"):
        check([question_of(replace(ROW, choices=(*ROW.choices, *"56789")))])


def test_an_answer_outside_the_choices_is_refused_as_it_is_read(tmp_path):
    (tmp_path / "a.jsonl").write_text(row_of(replace(ROW, answer="five")))
    with pytest.raises(ManifestError, match=r'a\.jsonl:1: answer: is "five", needs one of the choices: one, two'):
        read_manifest(tmp_path / "a.jsonl")


def test_labels_by_name():
    assert labels_of(replace(ROW, labels=("a:b:c", "a:d", "rain"))) == {"a": ["b:c", "d"], "rain": [""]}
    assert labels_of(replace(ROW, labels=None)) == {}


@pytest.mark.parametrize(
    ("clip", "shared"),
    [
        (replace(MINE, text="WHERE is -- Peter"), "'WHERE is"),
        (replace(MINE, text="where  is, peter"), "'where  is, peter'"),
        (replace(MINE, text="It\u2019s over; GO"), "'It\u2019s over"),
        (replace(MINE, labels=("sentence:Where is PETER!",)), "'where is peter'"),
        (replace(MINE, labels=("category:voice", "voice:kokoro/jf_alpha")), "'kokoro/jf_alpha'"),
        (replace(MINE, speaker="kokoro/JF_alpha"), "'kokoro/JF_alpha'"),
    ],
)
def test_a_sentence_or_a_voice_of_the_test_is_not_trained_on(frozen, clip, shared):
    with pytest.raises(OmniError, match=rf"dataset: mine shares {shared}.* with question test-000003 of "):
        refuse_overlap([MINE, clip], ["1", "2"], frozen)


def test_a_sound_of_the_test_is_not_trained_on_whatever_it_is_called(frozen):
    with pytest.raises(OmniError, match=r"dataset: mine shares its sound with question test-000003 of .*; take it out"):
        refuse_overlap([replace(MINE, id="other"), MINE], ["1", ROW.sha256], frozen)


def test_what_shares_nothing_is_trained_on(frozen, tmp_path):
    part = replace(MINE, text="Where is Peter now?", speaker="espeak-ng/en+f")
    word = replace(MINE, text="Harbour.")
    refuse_overlap([MINE, part, word, replace(MINE, speaker=None, labels=None)], ["1", "2", "3", "4"], frozen)
    refuse_overlap([replace(ROW, split="train")], [ROW.sha256], tmp_path / "there is none.jsonl")


def test_what_is_tested_is_known_with_its_question(frozen, tmp_path):
    assert off_limits(frozen)["where is peter"] == "test-000003"
    assert len(off_limits(frozen)) == 5
    assert off_limits(tmp_path / "none.jsonl") == {}


def composed(*overrides):
    register()
    with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
        return compose("train", overrides=["encoder=whisper_random", "backbone=gpt_d2", "device=cpu", *overrides])


@pytest.fixture
def own_clips(tmp_path, monkeypatch):
    """A manifest of one's own, whose third clip has a text of the test in other letters."""
    monkeypatch.chdir(tmp_path)
    FROZEN.parent.mkdir(parents=True)
    FROZEN.write_text(row_of(ROW))
    write_smoke_clips("clips")
    path = tmp_path / "clips" / "manifest.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2]["text"] = "where is Peter"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return composed("dataset=manifest", f"dataset.path={path}"), rows[2].get("id", Path(rows[2]["audio"]).stem)


def test_training_on_clips_of_ones_own_is_refused_too(own_clips, tmp_path):
    cfg, name = own_clips
    cfg.features = str(tmp_path / "features")
    with pytest.raises(OmniError, match=f"{name} shares 'where is Peter' with question test-000003"):
        build(cfg)


def test_training_with_states_in_memory_is_refused_too(own_clips):
    with pytest.raises(OmniError, match="shares 'where is Peter'"):
        build(own_clips[0])
