"""MMAU, as a small tree of its own layout; the clips are tones."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from omni.config.compose import compose
from omni.corpora.mmau import MMAU
from omni.data.clips import ManifestClips
from omni.data.manifest import NoSplitError
from omni.errors import OmniError


def item(name: str = "a", **more) -> dict:
    given = {"id": name, "audio_id": f"./test-mini-audios/{name}.wav", "question": "Who speaks?"}
    given |= {"choices": ["Man", "Woman", "Child", "Robot"], "answer": "Man", "dataset": "AudioSet", "task": "sound"}
    return given | {"category": "Reasoning", "sub-category": "Source", "difficulty": "easy"} | more


def mmau(folder: Path, *items: dict, file: str = "mmau-test-mini.json") -> Path:
    for name in ("a", "b"):
        path = folder / f"test-mini-audios/{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.3 * np.sin(0.2 * np.arange(3_200)), 16_000)
    content = "\n".join(map(json.dumps, items)) if file.endswith("jsonl") else json.dumps(items, indent=2)
    (folder / file).write_text(content)
    return folder


def prepared(folder: Path, **keys) -> tuple[MMAU, list[str]]:
    said = []
    MMAU(folder=str(folder), **keys).prepare(said.append)
    return MMAU(folder=str(folder), **keys), said


@pytest.mark.parametrize("file", ["mmau-test-mini.json", "mmau.jsonl"])
def test_questions_become_clips(tmp_path, file):
    more = item("b", question="What?", choices=["A dog", "a cat"], answer="A cat ", id="b2")
    clips, _ = prepared(mmau(tmp_path, item(), item("b"), more, file=file), file=file)
    assert [clip.id for clip in clips.clips] == ["a", "b", "b2"]
    clip = clips.clips[0]
    assert (clip.question, clip.choices, clip.answer) == ("Who speaks?", ("Man", "Woman", "Child", "Robot"), "Man")
    assert clip.labels == ("sound", "Reasoning", "Source", "easy")
    assert clips.clips[2].answer == "a cat"
    sample = clips.of("test")[1]
    assert (sample.answer, len(sample.waveform)) == ("Man", 3_200)


def test_the_list_is_a_manifest_and_is_made_once(tmp_path):
    clips, _ = prepared(mmau(tmp_path, item(), item("b", choices=None)))
    assert clips.clips[1].choices is None
    assert ManifestClips(path=str(clips.manifest), split="test").clips == clips.clips
    assert prepared(tmp_path)[1] == [f"{clips.manifest} is there"]
    mmau(tmp_path, item(), item("b", answer="Robot"))
    assert prepared(tmp_path)[0].clips[1].answer == "Robot"
    soundfile.write(tmp_path / "test-mini-audios/a.wav", 0.3 * np.sin(0.2 * np.arange(8_000)), 16_000)
    assert len(prepared(tmp_path)[0][0].waveform) == 8_000
    (tmp_path / "test-mini-audios/b.wav").write_bytes(b"no sound")
    assert len(prepared(tmp_path)[0]) == 1
    assert prepared(tmp_path)[1] == [f"{clips.manifest} is there"]  # what is left out is not measured again


def test_there_is_a_test_split_alone(tmp_path):
    clips, _ = prepared(mmau(tmp_path, item()))
    with pytest.raises(NoSplitError, match=r"split 'train' has no clips"):
        clips.of("train")


def test_what_cannot_be_used_is_left_out_and_named(tmp_path):
    bad = [item(answer="A ghost"), item(answer=None), item("none"), item(audio_id=3), item(audio_id="")]
    clips, said = prepared(mmau(tmp_path, item(), *bad))
    assert len(clips) == 1
    left_out = next(line for line in said if "5 left out" in line)
    assert "item 1: its answer 'A ghost' is none of its choices, Man, Woman" in left_out
    assert "item 2: has no answer" in left_out
    assert "item 3: its sound, './test-mini-audios/none.wav', is not in" in left_out


def test_a_test_without_answers_is_an_error(tmp_path):
    mmau(tmp_path, item(answer=None))
    with pytest.raises(OmniError, match=r"questions.jsonl: no clip is left for it"):
        prepared(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[{", "is neither a JSON list nor JSON lines"),
        (b"{\n", "is neither a JSON list nor JSON lines"),
        (b"\xff", "is neither a JSON list nor JSON lines"),
        (b"[3]", r"item 0: is no object but 3"),
        (b'"a"\n', r"json:1: is no object but 'a'"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, said):
    (mmau(tmp_path, item()) / "mmau-test-mini.json").write_bytes(content)
    with pytest.raises(OmniError, match=f"mmau-test-mini.json.* {said.split(' ', 1)[-1]}"):
        prepared(tmp_path)


def test_an_id_that_is_taken_and_a_folder_without_the_file(tmp_path):
    with pytest.raises(OmniError, match=r"item 1: id 'a' is taken"):
        prepared(mmau(tmp_path, item(), item()))
    with pytest.raises(OmniError, match=r"dataset.folder: .*none/mmau-test-mini.json is not there"):
        prepared(tmp_path / "none")


def test_a_sound_outside_the_folder_is_not_read(tmp_path):
    mmau(tmp_path / "own", item(), item("x", audio_id="../secret.wav"), item("y", audio_id=f"{tmp_path}/secret.wav"))
    soundfile.write(tmp_path / "secret.wav", np.full(3_200, 0.3), 16_000)
    assert [clip.id for clip in prepared(tmp_path / "own")[0].clips] == ["a"]


def test_the_yaml_and_the_class_have_the_same_defaults():
    keys = dict(compose(["dataset=mmau"]).dataset)
    assert keys.pop("_target_") == "omni.corpora.mmau.MMAU"
    clips = MMAU(folder=keys.pop("folder"))
    assert keys == {"split": "test", "file": clips.file, "max_seconds": clips.max_seconds}
