"""hub_speech, from folders and from both hubs on loopback; the clips are tones."""

import hashlib
import io
import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from omni import download
from omni.config.compose import compose
from omni.corpora import hub_files, hub_speech
from omni.corpora.hub_speech import HubSpeech
from omni.corpora.speech_tables import split_in
from omni.data.clips import ManifestClips
from omni.data.manifest import ManifestError
from omni.errors import OmniError

ALL = {"train": "data/train-00000-of-00001", "validation": "data/validation-00000-of-00001", "test": "data/test-0"}
CASES = Path(__file__).parents[1] / "audio" / "cases"
HUBS = pytest.mark.parametrize("hub", ["huggingface", "modelscope"])


def sound(seconds: float, kind: str = "FLAC", rate: int = 16_000) -> bytes:
    content = io.BytesIO()
    soundfile.write(content, 0.3 * np.sin(0.2 * np.arange(int(rate * seconds))), rate, format=kind)
    return content.getvalue()


def streamed(seconds: float) -> bytes:
    """A flac from a pipe: of 36 bits for its number of samples all are 0, that is, unknown."""
    content = bytearray(sound(seconds))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    return bytes(content)


def table(rows: list[tuple[bytes | None, str | None]], *, audio: str = "audio", text: str = "text") -> bytes:
    """Parquet as `datasets` writes it."""
    content = io.BytesIO()
    sounds = [{"bytes": data, "path": f"{number}.flac"} for number, (data, _) in enumerate(rows)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {audio: pa.array(sounds, kind), text: pa.array([said for _, said in rows], pa.string())}
    pq.write_table(pa.table(columns | {"speaker_id": pa.array(range(len(rows)))}), content)
    return content.getvalue()


def speech(**given: list) -> dict[str, bytes]:
    """The files of a data set of parquet."""
    rows = {split: [(sound(0.2), f"{split} one"), (sound(0.3), f"{split} two")] for split in ALL} | given
    return {"README.md": b"# Speech"} | {f"{ALL[split]}.parquet": table(rows[split]) for split in rows}


def audiofolder(metadata: str = "metadata.csv") -> dict[str, bytes]:
    files = {}
    for split in ALL:
        rows = [{"file_name": f"{number}.wav", "text": f"{split}, {number}"} for number in range(2)]
        if metadata.endswith("csv"):
            lines = ["file_name,text", *(f'{row["file_name"]},"{row["text"]}"' for row in rows)]
        else:
            lines = list(map(json.dumps, rows))
        files[f"{split}/{metadata}"] = "\n".join(lines).encode()
        files |= {f"{split}/{number}.wav": sound(0.2 + 0.1 * number, "WAV") for number in range(2)}
    return files


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


class World:
    """A folder of one's own with a data set in it, and where it is prepared."""

    def __init__(self, folder: Path):
        self.folder, self.own, self.said = folder / "made", folder / "own", []

    def clips(self, **keys) -> HubSpeech:
        given = {"folder": str(self.folder)} | ({} if "repo" in keys else {"path": str(self.own)}) | keys
        return HubSpeech(**given)

    def prepare(self, laid: dict[str, bytes] | None = None, **keys) -> HubSpeech:
        if laid is not None:
            lay(self.own, laid)
        self.said.clear()
        self.clips(**keys).prepare(self.said.append)
        return self.clips(**keys)

    @property
    def made(self) -> Path:
        """What is made of `own`."""
        return self.clips().folder

    def left_out(self) -> str:
        return next(line for line in self.said if "left out" in line)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


# --- parquet


def test_parquet_becomes_files_and_a_manifest(world):
    clips = world.prepare(speech())
    assert [(sample.text, len(sample.waveform)) for sample in clips] == [("train one", 3_200), ("train two", 4_800)]
    assert [clip.seconds for clip in clips.clips] == pytest.approx([0.2, 0.3])
    assert [clip.text for clip in clips.of("val").clips] == ["validation one", "validation two"]
    assert [clip.text for clip in clips.of("test").of("val").of("test").clips] == ["test one", "test two"]
    assert clips.key(1) == hashlib.sha256(sound(0.3)).hexdigest()
    audio = world.made / "audio" / "data" / "train-00000-of-00001"
    assert [path.name for path in sorted(audio.iterdir())] == ["000000.flac", "000001.flac"]
    assert (audio / "000000.flac").read_bytes() == sound(0.2)
    anyones = ManifestClips(path=str(world.made / "manifest.jsonl"), split="test")
    assert [sample.text for sample in anyones] == ["test one", "test two"]


def test_sounds_as_browsers_phones_and_telephones_record_them(world):
    cases = {name: (CASES / name).read_bytes() for name in ("mediarecorder.webm", "gsm.wav", "chained.ogg")}
    clips = world.prepare(speech(train=[(content, name) for name, content in cases.items()]))
    assert [sample.text for sample in clips] == list(cases)
    for sample, clip, seconds in zip(clips, clips.clips, (3.151, 3.16, 6.303), strict=True):
        assert clip.seconds == pytest.approx(seconds, abs=0.001)
        assert len(sample.waveform) / 16_000 == pytest.approx(seconds, abs=0.001)
    files = {"a.webm": cases["mediarecorder.webm"], "b.oga": cases["chained.ogg"], "c.m4a": b"\0\0\0\x1cftypM4A "}
    files["metadata.csv"] = b"file_name,text\na.webm,one\nb.oga,two\nc.m4a,three\n"
    own = lay(world.own.parent / "recorded", files)
    clips = HubSpeech(path=str(own), folder=str(world.folder), val=None, test=None)
    clips.prepare(world.said.append)
    assert [clip.text for clip in clips.listed()] == ["one", "two"]
    assert any("c.m4a: has a damaged or truncated header" in line for line in world.said)


def test_a_manifest_is_made_once_and_anew_when_the_keys_change(world):
    files = speech()
    files[f"{ALL['train']}.parquet"] = table([(sound(0.2), "other")], text="sentence")
    world.prepare(files, files="*val*", train="validation", val=None, test=None)
    manifest = world.made / "manifest.jsonl"
    world.prepare(files="*val*", train="validation", val=None, test=None)
    assert world.said == [f"{manifest} is there"]
    other = {"val": None, "test": None, "text_column": "sentence", "files": "*train*"}
    with pytest.raises(
        OmniError, match=r"was made otherwise \(.*dataset.text_column was 'text', is 'sentence'.*prepare"
    ):
        len(world.clips(**other))
    assert [clip.text for clip in world.prepare(**other).clips] == ["other"]


def test_a_kill_leaves_no_manifest_that_passes_for_another(world, monkeypatch):
    world.prepare(speech())

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(hub_speech, "replace_text", killed)
    with pytest.raises(KeyboardInterrupt):
        world.prepare(val=None)
    for keys in ({}, {"val": None}):
        with pytest.raises(OmniError, match=r"python -m omni.prepare dataset=hub_speech"):
            len(world.clips(**keys))


@pytest.mark.parametrize("damage", [b'{"audio": "x', b"", b'{"audio": "x", "text": "y", "seconds": 5e14}\n'])
def test_a_damaged_manifest_is_made_anew(world, damage):
    world.prepare(speech())
    (world.made / "manifest.jsonl").write_bytes(damage)
    with pytest.raises(OmniError, match=r"manifest.jsonl: is damaged \(.*\). Run.*omni.prepare dataset=hub_speech"):
        len(world.clips())
    assert [clip.text for clip in world.prepare().clips] == ["train one", "train two"]


@pytest.mark.parametrize("damage", ["", "3", "[]"])
def test_a_manifest_with_a_damaged_record_is_made_anew(world, damage):
    world.prepare(speech())
    (world.made / "made_from.json").write_text(damage)
    with pytest.raises(OmniError, match=r"manifest.jsonl: is not there. Run"):
        len(world.clips())
    assert len(world.prepare()) == 2


def test_two_folders_of_one_name_are_two_data_sets(world):
    files = {"a.wav": sound(0.2), "metadata.csv": b"file_name,text\na.wav,first\n"}
    keys = [{"path": str(lay(world.own / at / "speech", files)), "val": None, "test": None} for at in "ab"]
    lay(Path(keys[1]["path"]), {"metadata.csv": b"file_name,text\na.wav,second\n"})
    for key in keys:
        world.prepare(**key)
    assert [world.clips(**key).clips[0].text for key in keys] == ["first", "second"]
    assert [path.name.split("-")[0] for path in world.folder.iterdir()] == ["speech", "speech"]


def test_a_data_set_and_its_folder_can_be_moved_together(world, tmp_path, monkeypatch):
    keys = {"path": "own", "folder": "made"}
    monkeypatch.chdir(tmp_path)
    world.prepare(audiofolder(), **keys)
    (tmp_path / "elsewhere").mkdir()
    for path in (world.own, world.folder):
        path.rename(tmp_path / "elsewhere" / path.name)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [sample.text for sample in world.clips(**keys)] == ["train, 0", "train, 1"]


def test_unprepared_clips_say_what_to_run(world):
    for use in (len, lambda clips: clips[0], lambda clips: clips.key(0)):
        with pytest.raises(OmniError, match=r"manifest.jsonl: is not there. Run.*omni.prepare dataset=hub_speech"):
            use(world.clips())


def test_rows_that_cannot_be_used_are_counted_and_named(world):
    rows = [
        (sound(0.2), "a"),
        (None, "b"),
        (sound(0.2), None),
        (b"noise", "c"),
        (sound(0.2), " "),
        (sound(0.3), "d\ne"),
        (streamed(0.3), "f"),
    ]
    clips = world.prepare(speech(train=rows))
    assert [clip.text for clip in clips.clips] == ["a", "d e"]
    told, path = world.left_out(), f"{ALL['train']}.parquet"
    assert "5 left out" in told
    for row, said in ((6, "does not say in its header how long it is"), (3, "is not wav")):
        assert re.search(f"{path}, row {row}: .*{said}", told)
    for row, said in ((1, "has no sound in it"), (2, "has no text"), (4, "has no text")):
        assert f"{path}, row {row}: {said}" in told


def test_when_no_clip_is_left_it_is_an_error(world):
    nothing = {split: [(None, "a")] for split in ALL}
    with pytest.raises(OmniError, match=r"manifest.jsonl: no clip is left"):
        world.prepare(speech(**nothing))
    assert "row 0: has no sound in it" in world.left_out()


def test_shorter_and_longer_clips_are_left_out_without_another_prepare(world):
    world.prepare(speech())
    assert [clip.text for clip in world.clips(max_seconds=0.25).clips] == ["train one"]
    assert [clip.text for clip in world.clips(min_seconds=0.25).of("test").clips] == ["test two"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"text_column": "txt"}, r"dataset.text_column: .* has no column 'txt'. There are: audio, text, speaker_id"),
        ({"audio_column": "wav"}, r"dataset.audio_column: .* has no column 'wav'. There are: audio, text, speaker_id"),
        (
            {"audio_column": "text"},
            r"dataset.audio_column: 'text' of .* is string, and sound is {bytes, path} or bytes",
        ),
        ({"text_column": "speaker_id"}, r"dataset.text_column: 'speaker_id' of .* is int64, no text. There are: audio"),
        (
            {"val": "dev"},
            r"dataset.val: no file is of 'dev'. There are: .*validation \(1 files\); or null to hold some",
        ),
        ({"test": "eval"}, r"dataset.test: no file is of 'eval'. .* or null to do without"),
        ({"files": "fr/*"}, r"dataset.path: among what matches dataset.files='fr/\*' are neither .* README.md"),
    ],
)
def test_keys_that_do_not_fit_say_what_there_is(world, keys, said):
    with pytest.raises(OmniError, match=said):
        world.prepare(speech(), **keys)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"path": None}, r"dataset: name either dataset.repo=OWNER/NAME, on a hub, or dataset.path=FOLDER"),
        ({"repo": "a/b", "path": "c"}, r"dataset: name either dataset.repo"),
        ({"hub": "gitlab"}, r"dataset.hub: 'gitlab' is none of huggingface, modelscope"),
    ],
)
def test_keys_that_cannot_be(world, keys, said):
    with pytest.raises(OmniError, match=said):
        world.clips(**keys)


def test_a_folder_that_is_not_there_and_a_damaged_table(world):
    with pytest.raises(OmniError, match=r"dataset.path: .*own is not there"):
        world.prepare()
    files = speech()
    with pytest.raises(OmniError, match=r"test-0.parquet: is no whole parquet file"):
        world.prepare(files | {"data/test-0.parquet": files["data/test-0.parquet"][:-9]})


def test_one_file_is_a_data_set_and_plain_bytes_are_sounds(world):
    columns = {"audio": [sound(0.2, "WAV"), sound(0.3, "OGG")], "text": ["a", "b"]}
    world.own.mkdir()
    pq.write_table(pa.table(columns), world.own / "mine.parquet")
    clips = world.prepare(path=str(world.own / "mine.parquet"), val=None, test=None)
    assert [(clip.audio.suffix, clip.text, clip.split) for clip in clips.clips] == [(".wav", "a", "train")]
    assert [(clip.audio.suffix, clip.text) for clip in clips.of("val").clips] == [(".ogg", "b")]


def test_one_in_fifty_is_held_out_where_there_is_no_validation(world):
    files = {"data/train-0.parquet": table([(sound(0.2), f"clip {number}") for number in range(60)])}
    clips = world.prepare(files, val=None, test=None)
    assert [clip.text for clip in clips.of("val").clips] == ["clip 1", "clip 51"]
    assert len(clips) == 58
    with pytest.raises(ManifestError, match=r"split 'test' has no clips. The manifest has: train \(58\), val \(2\)"):
        clips.of("test")


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00005.parquet", "train"),
        ("clean/train.100/0000.parquet", "train.100"),
        ("clean/train.360/0000.parquet", "train"),
        ("test_set/train/0001.wav", "train"),
        ("data/validation-00.parquet", "validation"),
        ("en/dev/x.parquet", "dev"),
        ("training/contest.parquet", None),
    ],
)
def test_a_split_is_a_word_in_the_path(path, split):
    assert split_in(path, ["train", "train.100", "validation", "dev", "test"]) == split


# --- folders of audio


@pytest.mark.parametrize("metadata", ["metadata.csv", "metadata.jsonl"])
def test_a_folder_of_audio_stays_where_it_is(world, metadata):
    clips = world.prepare(audiofolder(metadata))
    assert [(sample.id, sample.text) for sample in clips] == [("train/0.wav", "train, 0"), ("train/1.wav", "train, 1")]
    assert [clip.seconds for clip in clips.clips] == pytest.approx([0.2, 0.3])
    assert [sample.text for sample in clips.of("val")] == ["validation, 0", "validation, 1"]
    assert sorted(path.name for path in world.made.iterdir()) == [
        ".lock",
        ".manifest.jsonl.made_from",
        "made_from.json",
        "manifest.jsonl",
    ]


def test_one_metadata_file_for_all_splits_or_for_none(world):
    files = {name: data for name, data in audiofolder().items() if name.endswith("wav")}
    lines = ["file_name,sentence", *(f"./{name},{name}" for name in files)]
    clips = world.prepare(files | {"metadata.csv": "\n".join(lines).encode()}, text_column="sentence", test=None)
    assert [clip.text for clip in clips.clips] == ["train/0.wav", "train/1.wav"]
    assert [clip.text for clip in clips.of("val").clips] == ["validation/0.wav", "validation/1.wav"]
    flat = {"a.wav": sound(0.2), "metadata.csv": b"file_name,text\na.wav,all are train\n"}
    clips = HubSpeech(path=str(lay(world.own.parent / "flat", flat)), folder=str(world.folder), val=None, test=None)
    clips.prepare(world.said.append)
    assert [sample.text for sample in clips.of("train")] == ["all are train"]


def test_rows_of_metadata_that_cannot_be_used_are_counted_and_named(world):
    files = audiofolder()
    files["train/metadata.csv"] += b"\nlost.wav,gone\n0.wav,again\nempty.wav,\nnoise.wav,hiss\npipe.flac,whoosh\n"
    clips = world.prepare(
        files | {"train/empty.wav": sound(0.2), "train/noise.wav": b"noise", "train/pipe.flac": streamed(0.2)}
    )
    told = world.left_out()
    assert "5 left out" in told
    assert "train/pipe.flac: does not say in its header how long it is" in told
    assert "train/metadata.csv:4: train/lost.wav is not there" in told
    assert "train/metadata.csv:5: train/0.wav is named twice" in told
    assert "train/metadata.csv:6: has no text" in told
    assert "train/noise.wav: is not wav" in told
    assert len(clips) == 2
    world.prepare()
    assert world.said == [f"{world.made}/manifest.jsonl is there"]


def test_what_changes_in_a_folder_of_ones_own_is_listed_and_what_fails_leaves_the_list(world):
    world.prepare(audiofolder())
    world.prepare()
    assert world.said == [f"{world.made}/manifest.jsonl is there"]
    more = audiofolder()["train/metadata.csv"] + b"\n2.wav,a row more"
    assert len(world.prepare({"train/metadata.csv": more, "train/2.wav": sound(0.4, "WAV")})) == 3
    clips = world.prepare({"train/0.wav": sound(0.7, "WAV")})
    assert len(clips[0].waveform) == 11_200  # of another hash, too
    with pytest.raises(OmniError, match="has no 'text'"):
        world.prepare({"train/metadata.csv": b"file_name\n0.wav\n"})
    assert len(world.clips()) == 3
    (world.own / "train/2.wav").unlink()
    assert len(world.prepare({"train/metadata.csv": audiofolder()["train/metadata.csv"]})) == 2


def test_parquet_that_changes_is_read_again_and_that_went_is_not_missed(world):
    world.prepare(speech())
    assert [clip.text for clip in world.prepare(speech(train=[(sound(0.2), "other")])).clips] == ["other"]
    shutil.rmtree(world.own)
    assert [sample.text for sample in world.prepare()] == ["other"]


def test_two_lists_of_the_same_sounds_count_once(world):
    clips = world.prepare(audiofolder("metadata.csv") | audiofolder("metadata.jsonl"))
    assert [sample.text for sample in clips] == ["train, 0", "train, 1"]
    assert "train/metadata.jsonl:1: train/0.wav is named twice" in world.left_out()


def test_a_folder_that_is_a_link_leads_to_the_same_sounds(world, tmp_path):
    (tmp_path / "big" / "disk").mkdir(parents=True)
    world.folder.symlink_to(tmp_path / "big" / "disk")
    assert len(world.prepare(audiofolder())[1].waveform) == 4_800
    (tmp_path / "link").symlink_to(lay(tmp_path / "other" / "disk", audiofolder()))
    assert len(world.prepare(path=str(tmp_path / "link"))[1].waveform) == 4_800


def test_the_name_of_a_sound_is_no_split(world):
    files = {f"train/{name}": sound(0.2) for name in ("eval_3.wav", "dev-1.wav", "a.wav")}
    files["dev/train-2.wav"] = sound(0.2)
    lines = ["file_name,text", *(f"{name},{name}" for name in files)]
    clips = world.prepare(files | {"metadata.csv": "\n".join(lines).encode()}, val="dev", test=None)
    assert [clip.id for clip in clips.clips] == ["train/eval_3.wav", "train/dev-1.wav", "train/a.wav"]
    assert [clip.id for clip in clips.of("val").clips] == ["dev/train-2.wav"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "metadata.csv",
            b"file,text\n0.wav,a\n",
            r"file_name: .*metadata.csv:2 has no 'file_name'. There are: file, text",
        ),
        (
            "metadata.csv",
            b"file_name,said\n0.wav,a\n",
            r"dataset.text_column: .*:2 has no 'text'. There are: file_name, s",
        ),
        ("metadata.csv", b"file_name,text\n,a\n", r"metadata.csv:2: file_name is '', needs the path"),
        ("metadata.csv", b"file_name,text\n0.wav,\xff\n", r"metadata.csv: cannot be read .* Save it as UTF-8"),
        ("metadata.jsonl", b'{"file_name": \n', r"metadata.jsonl:1: is not a JSON object"),
        ("metadata.jsonl", b"[3]\n", r"metadata.jsonl:1: is not a JSON object"),
    ],
)
def test_damaged_metadata_names_the_line(world, name, content, said):
    with pytest.raises(OmniError, match=said):
        world.prepare({"0.wav": sound(0.2), name: content}, val=None, test=None)


# --- the two hubs


@pytest.fixture
def hub_world(world, dataset_hub, monkeypatch):
    monkeypatch.setattr(hub_files, "TRIES", 1)
    dataset_hub.files |= speech()
    world.hub = dataset_hub
    return world


@HUBS
def test_a_data_set_is_fetched_from_a_hub_once(hub_world, hub):
    keys = {"repo": "someone/speech", "hub": hub, "test": None}
    clips = hub_world.prepare(**keys)
    assert [sample.text for sample in clips] == ["train one", "train two"]
    assert [clip.text for clip in clips.of("val").clips] == ["validation one", "validation two"]
    fetched = " ".join(asked for asked in hub_world.hub.asked if "tree" not in asked)
    assert ("train-00000" in fetched, "test-0" in fetched, "README" in fetched) == (True, False, False)
    assert any("2 of 2 files" in line for line in hub_world.said)
    assert hub_world.said[-1] == f"{hub_world.folder}/someone--speech/source/{hub} is no longer needed"
    hub_world.hub.asked.clear()
    hub_world.prepare(**keys)
    assert hub_world.hub.asked == []


@HUBS
def test_a_folder_of_audio_is_fetched_without_what_is_not_wanted(hub_world, hub):
    hub_world.hub.files = audiofolder()
    clips = hub_world.prepare(repo="someone/speech", hub=hub, test=None)
    assert [sample.text for sample in clips] == ["train, 0", "train, 1"]
    assert not any("test/" in asked and ".wav" in asked for asked in hub_world.hub.asked)
    assert not any("left out" in line or "no longer needed" in line for line in hub_world.said)


@HUBS
@pytest.mark.parametrize("stored", ["large", "small"])
def test_a_file_that_changed_on_the_hub_is_fetched_again(hub_world, hub, stored, monkeypatch):
    if stored == "small":  # Hugging Face then tells git's hash

        def listed(self, name):
            data = self.files[name]
            return {"path": name, "size": len(data), "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}

        monkeypatch.setattr(hub_world.hub, "listed", listed)
    hub_world.hub.files = audiofolder()
    hub_world.prepare(repo="someone/speech", hub=hub, test=None)
    hub_world.hub.files["train/metadata.csv"] = hub_world.hub.files["train/metadata.csv"].replace(b"train", b"tried")
    hub_world.hub.asked.clear()
    clips = hub_world.prepare(repo="someone/speech", hub=hub)  # with test, so it is made anew
    assert [sample.text for sample in clips] == ["tried, 0", "tried, 1"]
    assert not any("train/0.wav" in asked for asked in hub_world.hub.asked)


def test_each_hub_and_revision_has_a_folder_of_its_own(hub_world):
    hub_world.hub.files = audiofolder()
    for keys in ({"revision": None}, {"revision": "refs/convert/parquet"}, {"hub": "modelscope"}):
        assert len(hub_world.prepare(repo="someone/speech", test=None, **keys)) == 2
    source = hub_world.folder / "someone--speech" / "source"
    names = ["huggingface", "huggingface@refs%2Fconvert%2Fparquet", "modelscope"]
    assert sorted(path.name for path in source.iterdir()) == names
    for name in names:
        assert (source / name / "train" / "0.wav").read_bytes() == sound(0.2, "WAV")


@HUBS
def test_a_data_set_that_the_hub_does_not_know(hub_world, hub):
    with pytest.raises(OmniError, match=rf"dataset.repo: no/where cannot be looked into on {hub}: .*_ENDPOINT.*_TOKEN"):
        hub_world.prepare(repo="no/where", hub=hub)


@pytest.fixture
def noise():
    """A sound that is none, and more than the clients take in one piece."""
    return np.random.default_rng(1).bytes(700_000)


@HUBS
def test_a_broken_transfer_goes_on_from_where_it_broke_off(hub_world, hub, noise):
    hub_world.hub.files |= speech(train=[(noise, "noise"), (sound(0.2), "tone")])
    hub_world.hub.manner = "broken"
    clips = hub_world.prepare(repo="someone/speech", hub=hub, val=None, test=None)
    assert [clip.text for clip in clips.clips] == ["tone"]
    assert re.search("row 0: .*is not wav", hub_world.left_out())
    assert any("bytes=" in asked and "bytes=0" not in asked for asked in hub_world.hub.asked)


@HUBS
def test_a_transfer_that_breaks_for_good_names_the_file_and_makes_nothing(hub_world, hub, noise, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 5.0)  # a client's start counts, on a busy machine too
    keys = {"repo": "someone/speech", "hub": hub, "val": None, "test": None}
    hub_world.hub.files |= speech(train=[(noise, "noise"), (sound(0.2), "tone")])
    hub_world.hub.manner = "stuck"
    began = time.monotonic()
    lost = f"{ALL['train']}.parquet of someone/speech"
    with pytest.raises(
        OmniError, match=rf"{lost} cannot be fetched from {hub}: .*_ENDPOINT, then run the same command"
    ):
        hub_world.prepare(**keys)
    assert time.monotonic() - began < 20
    assert not list(hub_world.folder.rglob("manifest.jsonl"))
    hub_world.hub.manner = "well"
    assert [clip.text for clip in hub_world.prepare(**keys).clips] == ["tone"]


@HUBS
def test_another_hash_is_refused_and_nothing_is_made(hub_world, hub):
    hub_world.hub.manner = "wrong"
    with pytest.raises(
        OmniError, match=rf"{ALL['train']}.parquet of someone/speech cannot .*(it was deleted|(?i:hash))"
    ):
        hub_world.prepare(repo="someone/speech", hub=hub, val=None, test=None)
    assert not list(hub_world.folder.rglob("manifest.jsonl"))
    assert not list(hub_world.folder.rglob("*.parquet"))


@HUBS
def test_a_silent_hub_is_given_up_within_patience(hub_world, hub, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 1.5)
    hub_world.hub.manner = "silent"
    began = time.monotonic()
    with pytest.raises(OmniError, match=r"someone/speech cannot be looked into .*: no answer for 1.5 s"):
        hub_world.prepare(repo="someone/speech", hub=hub)
    assert time.monotonic() - began < 15


def test_a_file_that_vanished_from_the_hub_is_named(hub_world):
    listed = type(hub_world.hub).__dict__.get("listed", hub_world.hub.listed)
    gone = f"{ALL['train']}.parquet"
    size = len(hub_world.hub.files.pop(gone))
    hub_world.hub.files |= {gone: bytes(size)}
    hub_world.hub.listed = lambda self, name: (
        listed(self, name) | ({"path": "data/train-9.parquet"} if name == gone else {})
    )
    with pytest.raises(
        OmniError, match=r"data/train-9.parquet of someone/speech cannot be fetched from huggingface: .*404"
    ):
        hub_world.prepare(repo="someone/speech", val=None, test=None)


def test_another_try_is_made(hub_world, monkeypatch):
    monkeypatch.setattr(hub_files, "TRIES", 3)
    tries = []

    def flaky(get, repo, files, *folders):
        if get in hub_files.FETCH.values():
            tries.append(files)
            if len(tries) < 3:
                raise download.NotHereError("the line is down")
        download.download(get, repo, files, *folders)

    monkeypatch.setattr(hub_files, "download", flaky)
    assert len(hub_world.prepare(repo="someone/speech", val=None, test=None)) == 1
    assert len(tries) == 3


def test_a_file_that_leads_out_of_its_folder_is_refused(hub_world):
    hub_world.hub.files["data/../../train.parquet"] = b"bad"
    with pytest.raises(OmniError, match=r"someone/speech holds 'data/../../train.parquet', which leads out of it"):
        hub_world.prepare(repo="someone/speech")


def test_the_yaml_and_the_class_have_the_same_defaults(tmp_path):
    keys = {key: value for key, value in compose(["dataset=hub_speech", "dataset.repo=a/b"]).dataset.items()}
    keys["hub"] = getattr(keys["hub"], "name", keys["hub"])
    del keys["_target_"]
    assert HubSpeech(**keys).keys == HubSpeech(repo="a/b").keys
