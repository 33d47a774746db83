"""Emotion corpora, as small trees of their own layouts; the clips are tones."""

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile

from omni.config.compose import compose
from omni.corpora.emotion_speech import WORDINGS, CremaD, EmoDB, Ravdess
from omni.data.clips import ManifestClips
from omni.data.manifest import NoSplitError
from omni.errors import OmniError


def tone(path: Path, seconds: float = 0.2, rate: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(0.2 * np.arange(int(rate * seconds))), rate)


def ravdess(folder: Path, actors=(1, 2, 19, 21, 24)) -> Path:
    for actor, emotion, statement in product(actors, range(1, 9), (1, 2)):
        tone(folder / f"Actor_{actor:02d}/03-01-{emotion:02d}-01-{statement:02d}-01-{actor:02d}.wav", rate=48_000)
    return folder


def crema_d(folder: Path) -> Path:
    for actor, emotion in product((1001, 1008, 1009), ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")):
        tone(folder / f"AudioWAV/{actor}_DFA_{emotion}_XX.wav")
    for name in ("1040_ITH_SAD_X", "1076_MTI_SAD_XX", "1002_IEO_ANG_HI"):
        tone(folder / f"AudioWAV/{name}.wav")
    return folder


def emodb(folder: Path) -> Path:
    for speaker, emotion in product(("03", "08", "12", "13", "15", "16"), "WLEAFTN"):
        tone(folder / f"wav/{speaker}a01{emotion}a.wav")
    return folder


CORPORA = {Ravdess: ravdess, CremaD: crema_d, EmoDB: emodb}
EACH = pytest.mark.parametrize("corpus", CORPORA, ids=lambda corpus: corpus.option)


def prepared(corpus, folder: Path, **keys):
    said = []
    corpus(folder=str(folder), **keys).prepare(said.append)
    return corpus(folder=str(folder), **keys), said


def labels_of(clips) -> dict[str, tuple]:
    return {clip.id: (clip.answer, clip.speaker, clip.labels, clip.text) for clip in clips.clips}


def test_ravdess_reads_its_names(tmp_path):
    clips, _ = prepared(Ravdess, ravdess(tmp_path))
    strong = tmp_path / "Actor_02/03-01-06-02-02-02-02.wav"
    tone(strong)
    clips, _ = prepared(Ravdess, tmp_path)
    told = labels_of(clips)
    fearful, dogs = ("fearful", "actor 2", ("fearful", "female", "strong")), "Dogs are sitting by the door."
    assert told["Actor_02/03-01-06-02-02-02-02"] == (*fearful, dogs)
    assert told["Actor_01/03-01-02-01-01-01-01"][:3] == ("calm", "actor 1", ("calm", "male", "normal"))
    assert told["Actor_01/03-01-02-01-01-01-01"][3] == "Kids are talking by the door."
    assert [len(clips.of(split)) for split in ("train", "val", "test")] == [33, 16, 32]


def test_crema_d_reads_its_names(tmp_path):
    clips, said = prepared(CremaD, crema_d(tmp_path))
    told = labels_of(clips)
    assert told["AudioWAV/1001_DFA_HAP_XX"] == ("happy", "1001", ("happy",), "Don't forget a jacket.")
    assert told["AudioWAV/1002_IEO_ANG_HI"] == ("anger", "1002", ("anger", "high"), "It's eleven o'clock.")
    assert told["AudioWAV/1040_ITH_SAD_X"][0] == "sad"
    assert "AudioWAV/1076_MTI_SAD_XX" not in told
    assert any("1076_MTI_SAD_XX.wav: is silent" in line for line in said)
    assert {clip.speaker for clip in clips.of("val").clips} == {"1008"}
    assert {clip.speaker for clip in clips.of("test").clips} == {"1009"}


def test_emodb_reads_its_names(tmp_path):
    clips, _ = prepared(EmoDB, emodb(tmp_path))
    told = labels_of(clips)
    assert told["wav/08a01Fa"] == ("happiness", "08", ("happiness", "female"), "Der Lappen liegt auf dem Eisschrank.")
    assert told["wav/03a01La"][:3] == ("boredom", "03", ("boredom", "male"))
    assert {clip.speaker for clip in clips.of("val").clips} == {"12", "13"}
    assert {clip.speaker for clip in clips.of("test").clips} == {"15", "16"}


@EACH
def test_clips_ask_for_the_emotion_and_sound(corpus, tmp_path):
    clips, _ = prepared(corpus, CORPORA[corpus](tmp_path))
    sample, clip = clips[0], clips.clips[0]
    assert len(sample.waveform) == 3_200
    assert clip.question in WORDINGS.train
    assert (sample.question, sample.choices, sample.answer) == (clip.question, clip.choices, clip.answer)
    for clip in clips.clips:
        assert len(clip.choices) == 4
        assert clip.answer in clip.choices
        assert set(clip.choices) <= set(corpus.emotions.values())
        assert clip.answer in clip.labels
    assert {clip.answer for clip in clips.clips} == set(corpus.emotions.values())
    assert Counter(clip.question for clip in clips.of("test").clips).keys() == set(WORDINGS.test)


@EACH
def test_no_speaker_of_one_split_speaks_in_another(corpus, tmp_path):
    clips, _ = prepared(corpus, CORPORA[corpus](tmp_path))
    speakers = [{clip.speaker for clip in clips.of(split).clips} for split in ("train", "val", "test")]
    assert all(speakers)
    assert sum(map(len, speakers)) == len(set.union(*speakers))


@EACH
def test_the_list_is_a_manifest_and_is_made_once(corpus, tmp_path):
    clips, _ = prepared(corpus, CORPORA[corpus](tmp_path))
    own = ManifestClips(path=str(tmp_path / "emotion.jsonl"), split="test")
    assert own.clips == clips.of("test").clips
    assert own.key(0) == clips.of("test").key(0)
    stamp = (tmp_path / "emotion.jsonl").stat().st_mtime_ns
    assert prepared(corpus, tmp_path)[1] == [f"{tmp_path / 'emotion.jsonl'} is there"]
    assert (tmp_path / "emotion.jsonl").stat().st_mtime_ns == stamp


def test_a_clip_that_came_later_is_listed(tmp_path):
    prepared(EmoDB, emodb(tmp_path))
    tone(tmp_path / "wav/03b10Wc.wav")
    clips, said = prepared(EmoDB, tmp_path)
    assert "wav/03b10Wc" in labels_of(clips)
    assert "measuring 43 clips" in said[0]


def test_songs_are_left_out_and_copies_below_are_not_looked_for(tmp_path):
    ravdess(tmp_path)
    ravdess(tmp_path / "audio_speech_actors_01-24", actors=(1,))
    tone(tmp_path / "Actor_01/03-02-03-01-01-01-01.wav")
    clips, said = prepared(Ravdess, tmp_path)
    assert len(clips) == 32
    assert any("1 left out" in line and "03-02-03-01-01-01-01.wav: is sung" in line for line in said)


def test_a_longer_clip_is_left_out_and_a_damaged_one_named(tmp_path):
    emodb(tmp_path)
    tone(tmp_path / "wav/03b01Wa.wav", seconds=3)
    (tmp_path / "wav/03b02Wa.wav").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    clips, said = prepared(EmoDB, tmp_path, max_seconds=1.0)
    assert not {"wav/03b01Wa", "wav/03b02Wa"} & labels_of(clips).keys()
    assert any("03b02Wa.wav: is a Git LFS pointer" in line for line in said)
    assert "wav/03b01Wa" in labels_of(EmoDB(folder=str(tmp_path), max_seconds=5.0))
    assert clips.of("test").max_seconds == 1.0


@EACH
def test_a_folder_that_is_not_there_or_holds_something_else(corpus, tmp_path):
    with pytest.raises(OmniError, match=rf"dataset.folder: .*none is not there. .* of {corpus.option}; .*questions.md"):
        corpus(folder=str(tmp_path / "none")).prepare(print)
    with pytest.raises(OmniError, match=rf"has no .*wav, as {corpus.option} has \(it holds nothing\)"):
        corpus(folder=str(tmp_path)).prepare(print)
    (tmp_path / "strange.txt").touch()
    with pytest.raises(OmniError, match=r"\(it holds strange.txt\)"):
        corpus(folder=str(tmp_path)).prepare(print)


@pytest.mark.parametrize(
    ("corpus", "name"),
    [
        (Ravdess, "Actor_01/03-01-09-01-01-01-01.wav"),
        (Ravdess, "Actor_01/03-01-06-01-01-01-25.wav"),
        (Ravdess, "Actor_01/happy.wav"),
        (CremaD, "AudioWAV/1001_DFA_JOY_XX.wav"),
        (CremaD, "AudioWAV/1001_XYZ_ANG_XX.wav"),
        (EmoDB, "wav/03a01Xa.wav"),
        (EmoDB, "wav/04a01Fa.wav"),
    ],
)
def test_a_name_that_does_not_parse_is_named(corpus, name, tmp_path):
    tone(CORPORA[corpus](tmp_path) / name)
    tone(tmp_path / name.replace(Path(name).name, f"._{Path(name).name}"))  # some archives hold such beside each file
    with pytest.raises(OmniError, match=rf"1 of \d+ files are not called as in {corpus.option}, .*: {name}. Move"):
        corpus(folder=str(tmp_path)).prepare(print)


def test_clips_that_are_not_prepared_say_how(tmp_path):
    emodb(tmp_path)
    clips = EmoDB(folder=str(tmp_path))
    with pytest.raises(OmniError, match=r"emotion.jsonl: is not there. .*omni.prepare dataset=emodb dataset.folder="):
        len(clips)


def test_a_split_that_has_no_clips_is_named(tmp_path):
    prepared(Ravdess, ravdess(tmp_path, actors=(1,)))
    with pytest.raises(NoSplitError, match=r"split 'val' has no clips. The manifest has: train \(16\)"):
        Ravdess(folder=str(tmp_path), split="val")


def test_a_folder_that_may_not_be_written_tells_a_way(tmp_path, small_disk):
    emodb(tmp_path)
    with small_disk(1), pytest.raises(OmniError, match=r"cannot be written .*ln -s .*dataset.folder=data/emodb"):
        EmoDB(folder=str(tmp_path)).prepare(print)
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_linked_corpus_is_listed_beside_the_links(tmp_path):
    emodb(tmp_path / "theirs")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/wav").symlink_to(tmp_path / "theirs/wav")
    clips, _ = prepared(EmoDB, tmp_path / "own")
    assert len(clips) == 14
    assert not list((tmp_path / "theirs").glob("*.jsonl"))


@EACH
def test_the_yaml_and_the_class_have_the_same_defaults(corpus):
    keys = dict(compose([f"dataset={corpus.option}"]).dataset)
    assert keys.pop("_target_").endswith(f".{corpus.__name__}")
    assert keys.pop("folder") == f"data/{corpus.option}"
    assert keys == {"split": "train", "max_seconds": corpus(folder="x").max_seconds}
