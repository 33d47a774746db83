"""The 200 frozen questions: all there, balanced, of a size to commit, unknown to training, and made by the recipe."""

import hashlib
import json
import shutil
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from omni.data.manifest import ManifestError
from omni.errors import OmniError
from omni.evaluation.choices import check
from omni.instructions import benchmark
from omni.instructions import pool as pool_module
from omni.instructions.benchmark import QUESTIONS, SEED, AudioBenchMini, rebuild
from omni.instructions.draft import Pool
from omni.instructions.factory import make_item
from omni.instructions.pool import HELD_OUT, SPEAKERS, sentences, words
from omni.instructions.questions import (
    FROZEN,
    labels_of,
    normalised,
    off_limits,
    question_of,
    refuse_overlap,
    spoken_in,
)
from omni.instructions.sources import Sources
from omni.instructions.wording import CATEGORIES, WORDINGS


@pytest.fixture(scope="module")
def clips():
    return AudioBenchMini().clips


def test_a_manifest_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"none\.jsonl: is not there; start in omni's own folder"):
        AudioBenchMini(path=str(tmp_path / "none.jsonl"))


def balance(letters):
    return [sum(letter == which for letter in letters) for which in range(4)]


def test_two_hundred_questions_are_balanced(clips):
    questions = [question_of(clip) for clip in clips]
    check(questions)
    assert len({clip.id for clip in clips}) == len({clip.sha256 for clip in clips}) == QUESTIONS == 200
    assert Counter(question.category for question in questions) == dict.fromkeys(CATEGORIES, 25)
    assert balance([question.answer for question in questions]) == [50, 50, 50, 50]
    for category in CATEGORIES:
        letters = balance([question.answer for question in questions if question.category == category])
        assert max(letters) - min(letters) <= 1
    assert {clip.split for clip in clips} == {"test"}


def test_all_kinds_are_asked_in_the_words_of_the_test(clips):
    kinds = Counter(labels_of(clip)["kind"][0] for clip in clips)
    assert set(kinds) == set(WORDINGS)
    assert min(kinds.values()) >= 8
    assert all(clip.question in WORDINGS[labels_of(clip)["kind"][0]].test for clip in clips)


def test_every_sound_is_the_one_that_was_frozen(clips):
    content = {path: path.read_bytes() for path in {clip.audio for clip in clips}}
    assert sum(map(len, content.values())) <= 12_000_000
    for clip in clips:
        part = content[clip.audio][clip.offset : clip.offset + clip.bytes]
        assert hashlib.sha256(part).hexdigest() == clip.sha256, clip.id
    dataset = AudioBenchMini()
    for index in range(0, QUESTIONS, 25):
        assert len(dataset[index].waveform) / 16_000 == pytest.approx(clips[index].seconds, abs=1e-3)


def test_an_engine_that_training_never_hears_is_among_them(clips):
    engines = Counter(engine for clip in clips for engine in labels_of(clip)["engine"][0].split("+"))
    assert engines[HELD_OUT] >= 20
    assert {"espeak-ng", "flite", "synthesis"} <= set(engines)


def test_training_has_none_of_its_voices_words_and_sentences(clips, pools):
    kept = {name for clip in clips for name in spoken_in(clip)}
    # Acted lines may be a single word, "Sorry!", that a training voice says too: of these the pool is told.
    drawn = {name for clip in clips if labels_of(clip)["engine"] != ["amazon_queen"] for name in spoken_in(clip)}
    assert len(drawn) > 100
    for split in ("train", "val"):
        pool = pools[split]
        assert not kept & {normalised(f"{voice.engine}/{voice.name}") for voice in pool.voices}
        assert not drawn & set(pool.words)
        assert pool.off_limits == kept
    assert not kept & {normalised(text) for text in pools["train"].sentences}
    trained = {speaker for names in SPEAKERS["train"].values() for speaker in names}
    assert not {voice.rpartition("+")[2] for voice in kept if voice.startswith("espeak-ng/")} & trained


def test_training_data_is_let_through_and_the_questions_themselves_are_not(prepared, clips):
    refuse_overlap(prepared.clips, [clip.sha256 for clip in prepared.clips])
    with pytest.raises(OmniError, match="shares its sound with question test-000000"):
        refuse_overlap(clips[:1], [clips[0].sha256])
    spoken = next(clip for clip in clips if labels_of(clip).get("voice"))
    with pytest.raises(OmniError, match="shares "):
        refuse_overlap([spoken], ["another sound"])
    assert len(off_limits()) > 100


@pytest.mark.parametrize("kind", ["quality", "rate_band", "count_taps"])
def test_a_question_is_made_again(clips, kind, monkeypatch):
    """By espeak-ng or none; a processor may round otherwise, so to the last bits alone."""
    named = sorted(
        {
            voice.partition("/")[2]
            for clip in clips
            for voice in labels_of(clip).get("voice", ())
            if voice.startswith(f"{HELD_OUT}/")
        }
    )
    assert len(named) == 5
    real = pool_module.find_engine
    monkeypatch.setattr(
        pool_module, "find_engine", lambda name: real(name) if name == "espeak-ng" else SimpleNamespace(voices=named)
    )
    sources = Sources(benchmark.SOURCES.engines, amazon_queen=None, animals=None, soundfont=None)
    pool = pool_module.open_pool("test", sources)
    pool = Pool(**{**vars(pool), "animals": {"cow": ()}, "play": lambda *_: None})
    number, clip = next(
        (number, clip)
        for number, clip in enumerate(clips)
        if labels_of(clip)["kind"] == [kind] and labels_of(clip)["engine"][0] in ("espeak-ng", "synthesis")
    )
    item = make_item(number, pool, seed=SEED)
    assert (item.choices, item.answer, item.draft.text) == (clip.choices, clip.answer, clip.text)
    kept = AudioBenchMini()[number].waveform
    torch.testing.assert_close(item.draft.waveform, kept, rtol=0, atol=2**-12)


@pytest.fixture
def few(tmp_path, monkeypatch, prepared):
    """Four frozen questions, out of espeak-ng alone."""
    monkeypatch.setattr(benchmark, "QUESTIONS", 4)
    monkeypatch.setattr(benchmark, "SOURCES", prepared.made.sources)
    monkeypatch.setattr(benchmark, "ProcessPoolExecutor", Here)
    path = tmp_path / "frozen" / "test.jsonl"
    benchmark.freeze(path)
    return path


class Here:
    """Workers that are this process, which has what the test has set."""

    def __init__(self, *_, **__): ...

    def __enter__(self):
        return self

    def __exit__(self, *_): ...

    map = staticmethod(map)


def test_what_was_frozen_is_made_again_and_what_is_another_is_named(few):
    told = []
    assert {clip.split for clip in AudioBenchMini(path=str(few)).clips} == {"test"}
    assert rebuild(2, told.append, few) == []
    assert told == ["4 of 4 sounds are made again to the same hash"]
    rows = [json.loads(line) for line in few.read_text().splitlines()]
    rows[2]["labels"][-1] = "waveform:" + "0" * 64
    few.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert rebuild(1, told.append, few) == ["test-000002"]
    few.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    with pytest.raises(OmniError, match=r"test\.jsonl: has 3 questions, and the recipe makes 4"):
        rebuild(1, told.append, few)


def test_a_sound_that_was_changed_is_refused(tmp_path):
    for path in (FROZEN, FROZEN.with_suffix(".flacs")):
        shutil.copy(path, tmp_path)
    with (tmp_path / FROZEN.with_suffix(".flacs").name).open("r+b") as file:
        file.seek(1_000)
        file.write(b"\0\0\0\0")
    with pytest.raises(OmniError, match=r"its sha256 is .*, not .* as it was"):
        AudioBenchMini(path=str(tmp_path / FROZEN.name))[0]


@pytest.mark.slow
def test_all_are_made_again():
    assert rebuild(2, print) == []


def test_the_test_knows_other_words_than_training():
    assert not set(words("test")) & set(words("train"))
    assert not set(sentences("test")) & set(sentences("train"))
