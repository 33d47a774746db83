"""VoxCeleb1 and VCTK, as small trees of their own layouts; the clips are tones."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from omni.config.compose import compose
from omni.corpora.labelled_clips import NOT_TOLD
from omni.corpora.speaker_sets import GENDERS, VCTK, WORDINGS, Speaker, VoxCeleb1, split_speakers
from omni.errors import OmniError

META = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
INFO = "ID  AGE  GENDER  ACCENTS  REGION COMMENTS \n"
SPLITS = ("train", "val", "test")
ACCENTS = ("English", "Scottish", "NorthernIrish", "American", "Indian")


def tone(path: Path, seconds: float = 0.2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(0.2 * np.arange(int(16_000 * seconds))), 16_000)


def voxceleb1(folder: Path, *, below: str = "wav/") -> Path:
    people = {"id10001": "m\tIreland\tdev", "id10002": "f\tUSA\tdev", "id10050": "f\tUK\tdev", "id10270": "m\tUK\ttest"}
    for name in people:
        for video in ("1zcIwhmdeo4", "-7gHl2C1D_M"):
            tone(folder / f"{below}{name}/{video}/00001.wav")
    lines = [f"{name}\tA_Name\t{rest}\n" for name, rest in people.items()]
    (folder / "vox1_meta.csv").write_text(META + "".join(lines))
    return folder


def vctk(folder: Path) -> Path:
    lines = []
    for number, accent in enumerate((*ACCENTS * 3, "Welsh", "Unknown"), start=225):
        lines.append(f"p{number}  {number % 20 + 18}  {'FM'[number % 2]}    {accent}    Some  Place (a comment)\n")
        for sentence in ("001", "002"):
            tone(folder / f"wav48_silence_trimmed/p{number}/p{number}_{sentence}_mic1.flac")
            text = folder / f"txt/p{number}/p{number}_{sentence}.txt"
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text(f"Sentence {sentence} of {number}.\n")
        tone(folder / f"wav48_silence_trimmed/p{number}/p{number}_001_mic2.flac")
    (folder / "speaker-info.txt").write_text(INFO + "".join(lines))
    return folder


def prepared(corpus, folder: Path, **keys):
    said = []
    corpus(folder=str(folder), **keys).prepare(said.append)
    return corpus(folder=str(folder), **keys), said


@pytest.mark.parametrize("below", ["wav/", ""])
def test_voxceleb1_asks_for_the_gender(tmp_path, below):
    clips, said = prepared(VoxCeleb1, voxceleb1(tmp_path, below=below))
    told = {clip.id: (clip.speaker, clip.answer, clip.labels) for clip in clips.clips}
    assert told == {
        f"{below}{speaker}/{video}/00001": (speaker, *labels)
        for video in ("1zcIwhmdeo4", "-7gHl2C1D_M")
        for speaker, labels in {
            "id10001": ("male", ("male", "Ireland")),
            "id10002": ("female", ("female", "USA")),
        }.items()
    }
    assert [clip.speaker for clip in clips.of("val").clips] == ["id10050"] * 2
    assert [clip.speaker for clip in clips.of("test").clips] == ["id10270"] * 2
    assert {clip.text for clip in clips.clips} == {NOT_TOLD}
    assert {clip.question for clip in clips.clips} <= set(WORDINGS["gender"].train)
    # Each speaker's two clips have their answer in both places: two choices, dealt in turn within a class.
    assert sorted(clip.choices.index(clip.answer) for clip in clips.clips) == [0, 0, 1, 1]
    assert len(clips[0].waveform) == 3_200
    assert "8 clips" in said[-1]


def test_voxceleb1_without_its_table_or_a_speaker_s_line(tmp_path):
    voxceleb1(tmp_path)
    tone(tmp_path / "wav/id10003/1zcIwhmdeo4/00001.wav")
    with pytest.raises(OmniError, match=r"vox1_meta.csv: has no line for 1 of the speakers .*: id10003"):
        VoxCeleb1(folder=str(tmp_path)).prepare(print)
    (tmp_path / "vox1_meta.csv").unlink()
    with pytest.raises(OmniError, match=r"vox1_meta.csv: cannot be read .*lay it there"):
        VoxCeleb1(folder=str(tmp_path)).prepare(print)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (META.replace("Gender", "Sex") + "id10001\tA\tm\tUK\tdev\n", r":2: 'Gender' is None.* are: VoxCeleb1 ID, VGG"),
        (META + "id10001\tA\tx\tUK\tdev\n", r":2: 'Gender' is 'x', needs m or f"),
        (META + "id10001\tA\tm\tUK\n", r":2: 'Set' is None, needs dev or test"),
        (META.replace("\t", ",") + "id10001,A,m,UK,dev\n", r":2: 'VoxCeleb1 ID' is None, .*tabs divide"),
        ("", r"has no line for 4"),
    ],
)
def test_another_table_of_voxceleb1_names_line_and_column(tmp_path, content, said):
    (voxceleb1(tmp_path) / "vox1_meta.csv").write_text(content)
    with pytest.raises(OmniError, match=f"vox1_meta.csv(: )?{said}"):
        VoxCeleb1(folder=str(tmp_path)).prepare(print)


def test_a_file_that_is_none_of_voxceleb1(tmp_path):
    tone(voxceleb1(tmp_path) / "wav/id10001/1zcIwhmdeo4/first.wav")
    with pytest.raises(OmniError, match=r"1 of 9 files are not called as in voxceleb1, .*1zcIwhmdeo4/first.wav"):
        VoxCeleb1(folder=str(tmp_path)).prepare(print)


def test_vctk_asks_for_the_accent(tmp_path):
    clips, said = prepared(VCTK, vctk(tmp_path))
    accents = {"English", "Scottish", "Northern Irish", "American", "Indian"}
    told = {clip.id: clip for clip in clips.clips}
    clip = told["wav48_silence_trimmed/p227/p227_001_mic1"]
    assert (clip.speaker, clip.answer, clip.text) == ("p227", "Northern Irish", "Sentence 001 of 227.")
    assert clip.labels == ("male", "Northern Irish", "25 years")
    assert {clip.answer for clip in clips.clips} == accents
    assert all(len(clip.choices) == 4 and set(clip.choices) <= accents for clip in clips.clips)
    assert any("4 left out" in line and "few speakers have its accent, Welsh" in line for line in said)
    assert len(clips[0].waveform) == 3_200


def test_vctk_asks_for_the_gender_of_all_with_the_same_splits(tmp_path):
    accent, _ = prepared(VCTK, vctk(tmp_path))
    gender, _ = prepared(VCTK, tmp_path, ask="gender")
    for split in SPLITS:
        asked = {clip.speaker for clip in gender.of(split).clips}
        assert {clip.speaker for clip in accent.of(split).clips} == asked - {"p240", "p241"}
        assert gender.of(split).asked == "gender"
    assert {clip.answer for clip in gender.clips} == set(GENDERS.values())
    assert {"p240", "p241"} <= {clip.speaker for clip in gender.clips}
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["accent.jsonl", "gender.jsonl"]


def test_each_accent_is_in_each_split_by_speakers_of_its_own():
    speakers = {f"p{number}": Speaker("20", "male", accent) for number, accent in enumerate(["A"] * 24 + ["B"] * 3)}
    splits = split_speakers(speakers)
    counts = {
        accent: [
            sum(splits[name] == split for name, one in speakers.items() if one.accent == accent) for split in SPLITS
        ]
        for accent in "AB"
    }
    assert counts == {"A": [18, 3, 3], "B": [1, 1, 1]}


def test_vctk_without_some_texts(tmp_path):
    vctk(tmp_path)
    (tmp_path / "txt/p225/p225_001.txt").unlink()
    (tmp_path / "txt/p225/p225_002.txt").write_bytes(b"\xef\xbb\xbf")  # a byte order mark is no text
    clips, _ = prepared(VCTK, tmp_path, ask="gender")
    assert [clip.text for clip in clips.clips if clip.speaker == "p225"] == [NOT_TOLD] * 2


def test_older_tables_of_vctk_have_bare_numbers_and_no_head(tmp_path):
    vctk(tmp_path)
    info = tmp_path / "speaker-info.txt"
    info.write_text(info.read_text().removeprefix(INFO).replace("p2", "2"))
    assert len(prepared(VCTK, tmp_path)[0]) == 10


@pytest.mark.parametrize("line", ["p225  23  F", "p225  F  23  English", "p225  23  X  English"])
def test_another_table_of_vctk_names_the_line(tmp_path, line):
    (vctk(tmp_path) / "speaker-info.txt").write_text(f"{INFO}{line}\n")
    with pytest.raises(OmniError, match=rf"speaker-info.txt:2: is '{line}', needs a line like 'p225"):
        VCTK(folder=str(tmp_path)).prepare(print)


def test_a_file_or_speaker_that_is_none_of_vctk(tmp_path):
    tone(vctk(tmp_path) / "wav48_silence_trimmed/p225/p226_001_mic1.flac")
    with pytest.raises(OmniError, match=r"not called as in vctk, where one is .*: wav48_.*/p225/p226_001_mic1.flac"):
        VCTK(folder=str(tmp_path)).prepare(print)
    (tmp_path / "wav48_silence_trimmed/p225/p226_001_mic1.flac").unlink()
    tone(tmp_path / "wav48_silence_trimmed/s5/s5_001_mic1.flac")
    with pytest.raises(OmniError, match=r"speaker-info.txt: has no line for 1 of .*: s5"):
        VCTK(folder=str(tmp_path)).prepare(print)


@pytest.mark.parametrize("corpus", [VoxCeleb1, VCTK])
def test_a_folder_that_is_not_there_or_empty(corpus, tmp_path):
    with pytest.raises(OmniError, match=r"dataset.folder: .* is not there"):
        corpus(folder=str(tmp_path / "none")).prepare(print)
    with pytest.raises(OmniError, match=r"dataset.folder: .* has no .* \(it holds nothing\)"):
        corpus(folder=str(tmp_path)).prepare(print)


def test_another_question_is_refused():
    with pytest.raises(OmniError, match=r"dataset.ask: 'age' is none of gender, accent"):
        VCTK(folder="x", ask="age")


@pytest.mark.parametrize("corpus", [VoxCeleb1, VCTK])
def test_the_yaml_and_the_class_have_the_same_defaults(corpus):
    keys = dict(compose([f"dataset={corpus.option}"]).dataset)
    assert keys.pop("_target_").endswith(f".{corpus.__name__}")
    assert keys.pop("folder") == f"data/{corpus.option}"
    ask = keys.pop("ask", "gender")
    assert getattr(ask, "name", ask) == corpus(folder="x").asked
    assert keys == {"split": "train", "max_seconds": corpus(folder="x").max_seconds}
