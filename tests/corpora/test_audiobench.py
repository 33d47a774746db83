"""audiobench, from folders and from a hub on loopback; the clips are tones."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from omni.config.compose import compose
from omni.corpora import hub_files
from omni.corpora.audiobench import AudioBench
from omni.corpora.labelled_clips import NOT_TOLD
from omni.data.clips import ManifestClips
from omni.data.manifest import NoSplitError
from omni.errors import OmniError

BYTES = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ARRAY = pa.struct([("array", pa.list_(pa.float32())), ("sampling_rate", pa.int64()), ("path", pa.string())])


def sound(seconds: float = 0.2) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, 0.3 * np.sin(0.2 * np.arange(int(16_000 * seconds))), 16_000, format="FLAC")
    return content.getvalue()


def table(rows: list[dict], **kinds: pa.DataType) -> bytes:
    """Parquet with columns as AudioBench has them; kinds: of those that are others, None for one that is not there."""
    known = {"context": BYTES, "instruction": pa.string(), "answer": pa.string()} | kinds
    columns = {name: pa.array([row.get(name) for row in rows], kind) for name, kind in known.items() if kind}
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    return content.getvalue()


def row(instruction: str | None = "What is heard?", answer: str | None = "a tone", **more) -> dict:
    return {"context": {"bytes": sound(), "path": None}, "instruction": instruction, "answer": answer} | more


class World:
    """A folder of one's own with a data set in it, and where it is prepared."""

    def __init__(self, folder: Path):
        self.folder, self.own, self.said = folder / "made", folder / "own", []

    def clips(self, **keys) -> AudioBench:
        return AudioBench(**{"folder": str(self.folder)} | ({} if "repo" in keys else {"path": str(self.own)}) | keys)

    def prepare(self, content: bytes | None = None, **keys) -> AudioBench:
        if content is not None:
            path = self.own / "data/test-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self.said.clear()
        self.clips(**keys).prepare(self.said.append)
        return self.clips(**keys)

    def left_out(self) -> str:
        return next(line for line in self.said if "left out" in line)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_open_questions_become_clips(world):
    clips = world.prepare(table([row(), row("Who speaks?", "nobody")]))
    assert [(clip.question, clip.choices, clip.answer) for clip in clips.clips] == [
        ("What is heard?", None, "a tone"),
        ("Who speaks?", None, "nobody"),
    ]
    assert [clip.id for clip in clips.clips] == [f"data/test-00000-of-00001/{number:06d}" for number in range(2)]
    assert clips.clips[0].text == NOT_TOLD
    sample = clips[1]
    assert (sample.question, sample.answer, len(sample.waveform)) == ("Who speaks?", "nobody", 3_200)
    assert clips.key(0) == hashlib.sha256(sound()).hexdigest()


def test_choices_in_a_string_as_in_muchomusic(world):
    rows = [row("Which genre?", "(B) Pop music", choices="(A) Reggae (B) Pop music (C) Latin rock (D) Ska")]
    clip = world.prepare(table(rows, choices=pa.string())).clips[0]
    assert (clip.choices, clip.answer) == (("Reggae", "Pop music", "Latin rock", "Ska"), "Pop music")


def test_choices_in_a_list_and_attributes_as_in_mmau_mini(world):
    names = ("id", "task", "category", "sub-category", "difficulty")
    attributes = dict(zip(names, ("x", "sound", "Reasoning", "Source", "easy"), strict=True))
    rows = [row("Who?", "(A) Man", choices=["(A) Man", "(B) Woman"], other_attributes=attributes)]
    kinds = {
        "choices": pa.list_(pa.string()),
        "other_attributes": pa.struct([(name, pa.string()) for name in names]),
    }
    clip = world.prepare(table(rows, **kinds)).clips[0]
    assert (clip.choices, clip.answer) == (("Man", "Woman"), "Man")
    assert clip.labels == ("sound", "Reasoning", "Source", "easy")


def test_attributes_do_not_hide_columns(world):
    rows = [row(other_attributes={"answer": "another", "question": "Another?"})]
    clip = world.prepare(table(rows, other_attributes=pa.struct([("answer", pa.string()), ("question", pa.string())])))
    assert (clip.clips[0].question, clip.clips[0].answer) == ("What is heard?", "a tone")


def test_sound_may_be_an_array_or_bytes_alone(world):
    wave = (0.3 * np.sin(0.2 * np.arange(4_800))).astype(np.float32)
    given = {"array": wave.tolist(), "sampling_rate": 16_000, "path": None}
    clips = world.prepare(table([row(context=given)], context=ARRAY))
    assert clips[0].waveform.numpy() == pytest.approx(wave, abs=1e-4)
    world.own = world.own.with_name("other")
    clips = world.prepare(table([row(context=sound(0.3))], context=pa.binary()))
    assert len(clips[0].waveform) == 4_800


def test_sound_may_be_a_file_within_the_data_set(world):
    lay = world.own / "data/clips/a.flac"
    lay.parent.mkdir(parents=True)
    lay.write_bytes(sound())
    (world.own.parent / "secret.flac").write_bytes(sound())
    paths = ["clips/a.flac", "clips/none.flac", "../../secret.flac", str(world.own.parent / "secret.flac"), None]
    clips = world.prepare(table([row(context={"bytes": None, "path": path}) for path in paths]))
    assert [clip.id[-6:] for clip in clips.clips] == ["000000"]
    assert "4 left out" in world.left_out()


def test_what_cannot_be_used_is_left_out_and_named(world):
    rows = [row(), row(None), row(answer=" "), row(context={"bytes": b"no sound", "path": None}), row(context=None)]
    rows += [row(answer="Z", choices="(A) a (B) b"), row(choices="a or b"), row("Last?")]
    clips = world.prepare(table(rows, choices=pa.string()))
    assert [clip.question for clip in clips.clips] == ["What is heard?", "Last?"]
    assert "6 left out" in world.left_out()
    for said in ("row 1: has no question", "row 2: has no answer", "is not wav", "row 4: has no sound in it"):
        assert said in world.left_out()


def test_other_column_names_can_be_told(world):
    rows = [row() | {"audio": {"bytes": sound(), "path": None}, "question": "So?"}]
    content = table(rows, context=None, instruction=None, audio=BYTES, question=pa.string())
    clips = world.prepare(content, audio_column="audio", question_column="question")
    assert [clip.question for clip in clips.clips] == ["So?"]


def test_the_manifest_is_made_once_and_any_data_set_reads_it(world):
    clips = world.prepare(table([row(), row("Again?")]))
    again = world.prepare()
    assert world.said == [f"{clips.manifest} is there"]
    assert ManifestClips(path=str(clips.manifest), split="test").clips == again.clips
    assert len(world.prepare(table([row(), row("Again?"), row("And now?")]))) == 3


def test_other_keys_make_another_manifest(world):
    first = world.prepare(table([row()]))
    other = world.clips(files="*test*")
    with pytest.raises(OmniError, match=r"manifest.jsonl: is not there. .*omni.prepare dataset=audiobench"):
        len(other)
    assert other.folder != first.folder
    assert world.clips(max_seconds=1.0).folder == first.folder


def test_there_is_a_test_split_alone(world):
    clips = world.prepare(table([row()]))
    assert clips.of("test").clips == clips.clips
    with pytest.raises(NoSplitError, match=r"split 'train' has no clips. The manifest has: test \(1\)"):
        clips.of("train")
    assert AudioBench.splits == ("test",)


def test_longer_clips_are_left_out(world):
    rows = [row(), row("Long?", context={"bytes": sound(2), "path": None})]
    assert len(world.prepare(table(rows), max_seconds=1.0)) == 1
    assert len(world.clips()) == 2


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (
            {"context": None},
            r"dataset.audio_column: .*test-0.*parquet has no column 'context'. .*: instruction, answer",
        ),
        ({"instruction": None}, r"dataset.question_column: .* has no column 'instruction'"),
        ({"answer": None}, r"parquet has no column 'answer'. There are: context, instruction"),
        ({"context": pa.string()}, r"dataset.audio_column: 'context' of .* is string, and sound is {bytes, path}"),
        ({"answer": pa.int64()}, r"'answer' is int64, no text"),
        ({"other_attributes": pa.string()}, r"'other_attributes' is string, no struct"),
    ],
)
def test_a_file_without_the_columns_is_refused(world, kinds, said):
    given = {"context": "x"} if kinds.get("context") else {"answer": 3} if kinds.get("answer") else {}
    with pytest.raises(OmniError, match=said):
        world.prepare(table([row(**given)], **kinds))
    assert not list(world.folder.rglob("manifest.jsonl"))


def test_a_damaged_file_is_named(world):
    with pytest.raises(OmniError, match=r"test-00000-of-00001.parquet: is no whole parquet file"):
        world.prepare(table([row()])[:-20])


def test_a_folder_that_is_not_there_or_holds_no_parquet(world):
    with pytest.raises(OmniError, match=r"dataset.path: .*own is not there"):
        world.prepare()
    (world.own / "data").mkdir(parents=True)
    with pytest.raises(OmniError, match=r"dataset.path: .*dataset.files='\*' are no .parquet files; it holds nothing"):
        world.prepare()
    (world.own / "data/README.md").touch()
    with pytest.raises(OmniError, match=r"it holds data/README.md"):
        world.prepare()


def test_nothing_left_is_an_error(world):
    with pytest.raises(OmniError, match=r"manifest.jsonl: no clip is left for it"):
        world.prepare(table([row(None)]))
    assert "row 0: has no question" in world.left_out()


def test_one_file_can_be_named(world):
    world.prepare(table([row()]))
    clips = world.prepare(path=str(world.own / "data/test-00000-of-00001.parquet"))
    assert len(clips) == 1


@pytest.mark.parametrize("keys", [{}, {"repo": "a/b", "path": "c"}])
def test_either_a_repo_or_a_path(keys):
    with pytest.raises(OmniError, match=r"name either dataset.repo=OWNER/NAME, on a hub, or dataset.path=FOLDER"):
        AudioBench(**keys)


def test_a_hub_that_is_none():
    with pytest.raises(OmniError, match=r"dataset.hub: 'github' is none of huggingface, modelscope"):
        AudioBench(repo="a/b", hub="github")


@pytest.mark.parametrize("hub", ["huggingface", "modelscope"])
def test_a_data_set_is_fetched_from_a_hub_once(world, dataset_hub, monkeypatch, hub):
    monkeypatch.setattr(hub_files, "TRIES", 1)
    # MMAU-mini calls the files of its test split so.
    dataset_hub.files |= {"README.md": b"# Questions", "MMAU-mini/train-00000-of-00001.parquet": table([row()])}
    clips = world.prepare(repo="someone/speech", hub=hub)
    assert [clip.question for clip in clips.of("test").clips] == ["What is heard?"]
    assert len(clips[0].waveform) == 3_200
    assert world.said[-1] == f"{clips.folder / 'source'} is no longer needed"
    assert not any("README" in asked for asked in dataset_hub.asked)
    dataset_hub.asked.clear()
    world.prepare(repo="someone/speech", hub=hub)
    assert dataset_hub.asked == []


def test_the_yaml_and_the_class_have_the_same_defaults():
    keys = dict(compose(["dataset=audiobench", "dataset.repo=a/b"]).dataset)
    keys["hub"] = getattr(keys["hub"], "name", keys["hub"])
    assert keys.pop("_target_") == "omni.corpora.audiobench.AudioBench"
    assert keys == AudioBench(repo="a/b").keys
