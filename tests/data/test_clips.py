"""Datasets: a manifest's clips are read, and a bad one is named with its manifest, id, file and remedy."""

import hashlib
import json
import wave

import numpy as np
import pytest
import soundfile
import torch

from omni.audio.read import AudioError
from omni.data.clips import ManifestClips, audio_smoke
from omni.data.files import find
from omni.data.manifest import ManifestError

RATE = 16_000
TONE = (0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)


def manifest(folder, rows) -> str:
    path = folder / "my.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def three_hours(path):
    """A header that promises three hours, in a file with holes instead of samples."""
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(RATE)
        sound.writeframes(b"")
    size = 3 * 3600 * RATE * 2
    with path.open("r+b") as file:
        file.seek(4)
        file.write((36 + size).to_bytes(4, "little"))
        file.seek(40)
        file.write(size.to_bytes(4, "little"))
        file.truncate(44 + size)


def truncated(path):
    soundfile.write(path, TONE, RATE)
    path.write_bytes(path.read_bytes()[:9000])


BAD = {
    "empty": (lambda path: path.touch(), "is empty"),
    "text": (lambda path: path.write_text("hello, I am no sound"), "is not wav, flac, mp3 or ogg"),
    "truncated": (truncated, "is truncated"),
    "silent": (lambda path: soundfile.write(path, 0 * TONE, RATE), "is silent"),
    "nan": (lambda path: soundfile.write(path, TONE + np.nan, RATE, subtype="FLOAT"), "NaN"),
    "too_short": (lambda path: soundfile.write(path, TONE[:160], RATE), "lasts 0.010 s, less than the 0.1 s needed"),
    "three_hours": (three_hours, "lasts 10800.0 s or more, the limit is 120 s"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_clip_is_named_with_manifest_id_file_and_remedy(tmp_path, kind):
    make, message = BAD[kind]
    make(tmp_path / f"{kind}.wav")
    clips = ManifestClips(path=manifest(tmp_path, [{"audio": f"{kind}.wav", "text": "x"}]))
    with pytest.raises(AudioError) as caught:
        clips[0]
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/my.jsonl: clip '{kind}': {tmp_path}/{kind}.wav: ")
    assert message in said


def test_eight_channels_become_one(tmp_path):
    soundfile.write(tmp_path / "wide.wav", np.stack([TONE] * 8, axis=1), RATE)
    sample = ManifestClips(path=manifest(tmp_path, [{"audio": "wide.wav", "text": "a tone"}]))[0]
    assert sample.text == "a tone"
    assert sample.waveform.shape == (RATE,)
    torch.testing.assert_close(sample.waveform, torch.from_numpy(TONE), atol=1e-4, rtol=0)


def test_files_that_do_not_exist_are_all_named_before_anything_is_read(tmp_path):
    soundfile.write(tmp_path / "there.wav", TONE, RATE)
    rows = [{"audio": f"{name}.wav", "text": "x"} for name in ("there", "lost", "gone")]
    with pytest.raises(ManifestError, match=r"2 of 3 audio files do not exist") as caught:
        ManifestClips(path=manifest(tmp_path, rows))
    assert "lost.wav" in str(caught.value)
    assert "gone.wav" in str(caught.value)


def test_a_file_that_is_not_the_manifests_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", TONE, RATE)
    digest = hashlib.sha256((tmp_path / "a.wav").read_bytes()).hexdigest()
    rows = [{"id": str(i), "audio": "a.wav", "text": "x", "sha256": sha} for i, sha in enumerate((digest, "0" * 64))]
    clips = ManifestClips(path=manifest(tmp_path, rows))
    assert clips[0].text == "x"
    with pytest.raises(AudioError, match=f"clip '1': .*a.wav: its sha256 is {digest}"):
        clips[1]
    (tmp_path / "a.wav").unlink()
    with pytest.raises(AudioError, match=r"clip '0': .*a.wav: no such file"):
        clips[0]


def test_what_has_changed_since_its_key_was_told_is_not_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", TONE, RATE)
    clips = ManifestClips(path=manifest(tmp_path, [{"audio": "a.wav", "text": "x"}]))
    key = clips.key(0)
    assert key == hashlib.sha256((tmp_path / "a.wav").read_bytes()).hexdigest()
    assert len(clips[0].waveform) == RATE
    soundfile.write(tmp_path / "a.wav", 0.5 * TONE, RATE)
    with pytest.raises(AudioError, match=f"its sha256 is .*, not {key}"):
        clips[0]


def test_home_stands_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    soundfile.write(tmp_path / "a.wav", TONE, RATE)
    (tmp_path / "lists").mkdir()
    manifest(tmp_path / "lists", [{"audio": "~/a.wav", "text": "x"}])
    clips = ManifestClips(path="~/lists/my.jsonl")
    assert len(clips.of("train")[0].waveform) == RATE
    (tmp_path / "a.txt").write_text("some words")
    assert find("~/a.txt") == find("~/*.txt") == find(["~/a.txt"]) == [tmp_path / "a.txt"]


def test_the_hash_of_a_clip_in_an_archive_is_that_of_its_bytes(tmp_path):
    soundfile.write(tmp_path / "a.wav", TONE, RATE)
    sound = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "sounds.bin").write_bytes(b"x" * 100 + sound + b"y" * 100)
    row = {"audio": "sounds.bin", "text": "x", "offset": 100, "bytes": len(sound)}
    rows = [row | {"id": "whole", "sha256": hashlib.sha256(sound).hexdigest()}]
    rows += [rows[0] | {"id": "moved", "offset": 101}]
    clips = ManifestClips(path=manifest(tmp_path, rows))
    assert len(clips[0].waveform) == RATE
    with pytest.raises(AudioError, match=r"clip 'moved': .*its sha256 is"):
        clips[1]


def test_only_the_asked_split_counts(tmp_path):
    soundfile.write(tmp_path / "a.wav", TONE, RATE)
    rows = [{"id": split, "audio": "a.wav", "text": split, "split": split} for split in ("train", "val")]
    path = manifest(tmp_path, rows)
    assert [clip.text for clip in ManifestClips(path=path, split="val")] == ["val"]
    with pytest.raises(ManifestError, match="tset"):
        ManifestClips(path=path, split="tset")


def test_the_smoke_clips_are_made_on_demand(tmp_path):
    clips = audio_smoke(folder=str(tmp_path / "anywhere"))
    assert [len(sample.waveform) for sample in clips] == [80_000] * 5
    assert len({sample.text for sample in clips}) == 5


def test_another_split_of_the_same_manifest(tmp_path):
    soundfile.write(tmp_path / "a.wav", TONE, RATE)
    rows = [{"id": name, "audio": "a.wav", "text": name, "split": name} for name in ("train", "val")]
    clips = ManifestClips(path=manifest(tmp_path, rows), max_seconds=5)
    assert [clip.id for clip in clips.of("val").clips] == ["val"]
    assert clips.of("val").max_seconds == 5
    with pytest.raises(ManifestError, match="split 'test' has no clips"):
        clips.of("test")
