import dataclasses
import gzip
import json
import math
from pathlib import Path

import pytest

from omni.data.manifest import Clip, ManifestError, read_manifest, select_split

ROW = {"audio": "a.wav", "text": "hello"}


@pytest.fixture
def write(tmp_path):
    """Writes rows (dicts, or lines as they are) as a manifest and returns its path."""

    def write(*rows, name="manifest.jsonl"):
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        content = "\n".join(lines).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write


def refused(path):
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    return str(caught.value)


def test_a_row_of_the_two_required_fields(write):
    path = write({"audio": "clips/a.b.wav", "text": "hello"})
    assert read_manifest(str(path)) == [Clip(id="a.b", audio=path.parent / "clips" / "a.b.wav", text="hello")]
    defaults = {
        "seconds": None,
        "split": "train",
        "offset": 0,
        "bytes": None,
        "choices": None,
        "sha256": None,
    }
    clip = dataclasses.asdict(read_manifest(path)[0])
    assert {field: clip[field] for field in defaults} == defaults


@pytest.mark.parametrize("name", ["manifest.jsonl", "manifest.jsonl.gz"])
def test_a_row_of_all_fields(write, name):
    row = {
        "id": "clip 1",
        "audio": "/archives/all.bin",
        "text": "Grüße, 世界 \u2028 !",
        "seconds": 3,
        "split": "test",
        "offset": 0,
        "bytes": 12,
        "speaker": "ada",
        "question": "Who speaks?",
        "choices": ["a man", "a woman"],
        "answer": "a woman",
        "labels": ["female"],
        "sha256": "0123456789abcdef" * 4,
    }
    assert set(row) == {field.name for field in dataclasses.fields(Clip)}
    (clip,) = read_manifest(write(json.dumps(row, ensure_ascii=False), name=name))
    expected = row | {
        "audio": Path("/archives/all.bin"),
        "choices": ("a man", "a woman"),
        "labels": ("female",),
    }
    assert dataclasses.asdict(clip) == expected
    assert isinstance(clip.seconds, float)
    assert len({clip, clip}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        clip.text = "other"


def test_order_blank_lines_line_ends_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "manifest.jsonl"
    lines = [
        "",
        json.dumps({"audio": "b.wav", "text": "b"}),
        "   ",
        json.dumps({"audio": "a.wav", "text": "a"}),
        "",
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert [clip.id for clip in read_manifest(path)] == ["b", "a"]


def test_null_counts_as_absent(write):
    nothing = dict.fromkeys(("id", "seconds", "split", "offset", "bytes", "speaker", "choices", "sha256"))
    assert read_manifest(write(ROW | nothing)) == read_manifest(write(ROW))
    assert "text: is missing" in refused(write({"audio": "a.wav", "text": None}))


def test_audio_need_not_exist_and_goes_by_the_folder_it_was_named_in(write, tmp_path, monkeypatch):
    path = write(ROW)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.jsonl"
    link.symlink_to(path)
    assert read_manifest(link)[0].audio == tmp_path / "elsewhere" / "a.wav"
    monkeypatch.chdir(tmp_path)
    assert read_manifest("manifest.jsonl")[0].audio == Path("a.wav")


def test_gzip_goes_by_content(write, tmp_path):
    plain, packed = write(ROW), write(ROW, name="packed.jsonl.gz")
    unpacked_by_a_downloader = tmp_path / "plain.jsonl.gz"
    unpacked_by_a_downloader.write_bytes(plain.read_bytes())
    assert read_manifest(unpacked_by_a_downloader) == read_manifest(packed) == read_manifest(plain)
    whole = packed.read_bytes()
    for damaged in (whole[:-9], whole[:10] + b"\xff" * 20, whole[:-8] + bytes(8)):
        packed.write_bytes(damaged)
        assert "is damaged gzip" in refused(packed)


@pytest.mark.parametrize(
    ("field", "value", "needs"),
    [
        ("id", "", "a non-empty string"),
        ("id", 7, "a non-empty string"),
        ("audio", "", "the path of an audio file"),
        ("audio", ["a.wav"], "the path of an audio file"),
        ("text", "", "a non-empty string"),
        ("text", " \n", "a non-empty string"),
        ("text", 5, "a non-empty string"),
        ("text", "half a pair \ud83d", "a non-empty string"),
        ("seconds", "5", "a number above 0"),
        ("seconds", -1, "a number above 0"),
        ("seconds", 0, "a number above 0"),
        ("seconds", True, "a number above 0"),
        ("seconds", math.nan, "a number above 0"),
        ("seconds", math.inf, "a number above 0"),
        ("seconds", 10**400, "a number above 0"),
        ("split", "", "a non-empty string"),
        ("offset", -1, "a whole number, 0 or more"),
        ("offset", 1.0, "a whole number, 0 or more"),
        ("offset", True, "a whole number, 0 or more"),
        ("bytes", 0, "a whole number, 1 or more"),
        ("bytes", "9", "a whole number, 1 or more"),
        ("bytes", False, "a whole number, 1 or more"),
        ("speaker", 3, "a non-empty string"),
        ("question", [], "a non-empty string"),
        ("choices", "a, b", "a list of non-empty strings"),
        ("choices", [], "a list of non-empty strings"),
        ("choices", ["a", 2], "a list of non-empty strings"),
        ("choices", ["a", ""], "a list of non-empty strings"),
        ("answer", 0, "a non-empty string"),
        ("labels", {"pitch": "low"}, "a list of non-empty strings"),
        ("labels", [["low"]], "a list of non-empty strings"),
        ("sha256", "abc", "64 lower-case hex digits"),
        ("sha256", "A" * 64, "64 lower-case hex digits"),
        ("sha256", "a" * 64 + "\n", "64 lower-case hex digits"),
    ],
)
def test_a_bad_value_names_file_line_field_and_need(write, field, value, needs):
    partner = {"offset": {"bytes": 1}, "bytes": {"offset": 0}}.get(field, {})
    path = write("", {"audio": "b.wav", "text": "good"}, ROW | partner | {field: value})
    message = refused(path)
    assert message.startswith(f"{path}:3: {field}: is ")
    assert message.endswith(f", needs {needs}")
    assert "\n" not in message
    message.encode()  # it can be printed


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text": "hello"}, "audio: is missing, every row needs the path of an audio file"),
        ({"audio": "a.wav"}, "text: is missing, every row needs a non-empty string"),
        (ROW | {"offset": 3}, "offset: stands without `bytes`"),
        (ROW | {"bytes": 3}, "bytes: stands without `offset`"),
        (ROW | {"choices": ["a", "b"], "answer": "c"}, 'answer: is "c", needs one of the choices: a, b'),
        (ROW | {"secnods": 3}, "secnods: is no field. Did you mean 'seconds'?"),
        (ROW | {"audio_filepath": "a.wav"}, "audio_filepath: is no field. Did you mean 'audio'?"),  # NeMo's
        (ROW | {"duration": 3}, "duration: is no field. Did you mean 'seconds'?"),
        (ROW | {"sentence": "x"}, "sentence: is no field. Did you mean 'text'?"),
        (ROW | {"xyzzy": 3}, "xyzzy: is no field. There are: id, audio, text, seconds, split"),
        ('{"audio": "a.wav", "text": "hello"},', "is not JSON (Extra data"),
        ("audio,text", "is not JSON (Expecting value"),
        ("1" * 5_000, "is not JSON ("),
        ("[" * 100_000, "is not JSON ("),
        ('["a.wav", "hello"]', 'is not an object but ["a.wav", "hello"]'),
        ("null", "is not an object but null"),
    ],
)
def test_a_bad_row_names_file_line_and_problem(write, row, problem):
    path = write({"audio": "b.wav", "text": "good"}, row)
    assert refused(path).startswith(f"{path}:2: {problem}")


def test_invalid_utf8_names_its_line(tmp_path):
    path = tmp_path / "latin.jsonl"
    good = json.dumps(ROW).encode()
    path.write_bytes(good + b"\n" + '{"audio": "b.wav", "text": "Grüße"}'.encode("latin-1") + b"\n")
    assert refused(path) == f"{path}:2: is not UTF-8 (byte 31 of the line). Save the file as UTF-8"


def test_a_duplicate_id_names_both_lines(write):
    path = write(ROW, {"audio": "other/a.wav", "text": "again"})
    assert refused(path) == f"{path}:2: id: 'a' is taken by line 1; give each row its own"
    pieces = [{"audio": "all.bin", "text": "x", "offset": 9 * row, "bytes": 9} for row in range(2)]
    assert "id: 'all' is taken by line 1" in refused(write(*pieces))
    assert len(read_manifest(write(*({"id": str(row)} | pieces[row] for row in range(2))))) == 2


def test_all_bad_rows_come_at_once(write):
    path = write(ROW | {"seconds": "5", "text": ""}, {"audio": "b.wav", "text": "good"}, "{", ROW | {"nothing": 1})
    lines = refused(path).splitlines()
    assert [line.removeprefix(f"{path}:")[:11] for line in lines] == [
        "1: text: is",
        "1: seconds:",
        "3: is not J",
        "4: nothing:",
    ]


def test_many_faults_are_counted(write):
    path = write(*({"audio": f"{row}.wav"} for row in range(1_000)))
    lines = refused(path).splitlines()
    assert len(lines) == 11
    assert lines[9].startswith(f"{path}:10: ")
    assert lines[10] == f"... and 990 more in {path}"
    assert len(refused(write(*({"audio": f"{row}.wav"} for row in range(10)))).splitlines()) == 10


def test_a_long_value_is_cut_short_in_the_message(write):
    assert len(refused(write(ROW | {"sha256": "z" * 10_000}))) < 300


def test_what_is_no_manifest(tmp_path):
    assert "no such manifest" in refused(tmp_path / "none.jsonl")
    assert "is a folder. Name the manifest in it" in refused(tmp_path)
    empty = tmp_path / "empty.jsonl"
    for content in (b"", b"\n \n", b"\xef\xbb\xbf\n", gzip.compress(b"")):
        empty.write_bytes(content)
        assert refused(empty).startswith(f"{empty}: has no rows")
    assert "cannot be read (File name too long)" in refused(tmp_path / ("long" * 100))


def test_select_split(write):
    rows = [{"audio": f"{row}.wav", "text": "x", "split": ("test", "train")[row % 3 > 0]} for row in range(6)]
    clips = read_manifest(write(*rows))
    assert [clip.id for clip in select_split(clips, "train")] == ["1", "2", "4", "5"]
    with pytest.raises(ManifestError) as caught:
        select_split(clips, "trian")
    assert str(caught.value) == (
        "split 'trian' has no clips. The manifest has: test (2), train (4). Did you mean 'train'?"
    )
    with pytest.raises(ManifestError, match="no clips at all"):
        select_split([], "train")


def test_the_committed_manifest_is_one():
    path = Path(__file__).parents[2] / "data" / "audio_smoke" / "manifest.jsonl"
    clips = read_manifest(path)
    assert [clip.audio.parent for clip in clips] == [path.parent] * 5
    assert all(clip.seconds == 5.0 and clip.split == "train" and clip.sha256 for clip in clips)
