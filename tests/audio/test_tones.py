import hashlib
import json
import os
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from omni.audio.read import check_audible, read
from omni.audio.tones import SMOKE_CLIPS, _sine, synthesise, write_smoke_clips
from omni.errors import OmniError

MANIFEST = Path(__file__).parents[2] / "data" / "audio_smoke" / "manifest.jsonl"
BY_ID = {clip.id: clip for clip in SMOKE_CLIPS}


def pitch(samples, start, seconds=0.2):
    """The strongest frequency (Hz) of a stretch that starts at `start` seconds."""
    first, length = round(start * 16_000), round(seconds * 16_000)
    stretch = samples[first : first + length] * np.hanning(length)
    return np.argmax(np.abs(np.fft.rfft(stretch, 32_000))) / 2


def loudness(samples):
    """Peak of each 50 ms."""
    return np.abs(samples.astype(int)).reshape(100, 800).max(axis=1)


def test_the_files_match_the_committed_hashes(tmp_path):
    write_smoke_clips(tmp_path)
    assert (tmp_path / "manifest.jsonl").read_bytes() == MANIFEST.read_bytes()
    rows = [json.loads(line) for line in MANIFEST.read_text().splitlines()]
    assert [row["id"] for row in rows] == [clip.id for clip in SMOKE_CLIPS]
    for row, clip in zip(rows, SMOKE_CLIPS, strict=True):
        content = (tmp_path / row["audio"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
        assert row == {
            "id": clip.id,
            "audio": f"{clip.id}.wav",
            "text": clip.caption,
            "seconds": 5.0,
            "split": "train",
            "sha256": row["sha256"],
        }


def test_five_clips_of_five_seconds_that_the_reader_takes(tmp_path):
    write_smoke_clips(tmp_path)
    assert len(list(tmp_path.glob("*.wav"))) == len(SMOKE_CLIPS) == 5
    for clip in SMOKE_CLIPS:
        samples = synthesise(clip)
        assert samples.dtype == np.int16
        assert samples.shape == (80_000,)
        with wave.open(str(tmp_path / f"{clip.id}.wav")) as sound:
            assert sound.getparams()[:4] == (1, 2, 16_000, 80_000)
        waveform = read(tmp_path / f"{clip.id}.wav")
        assert np.array_equal((waveform.numpy() * 32_768).astype(np.int16), samples)
        check_audible(waveform, min_seconds=5.0, what=clip.id)


def test_captions_are_short_plain_and_distinct():
    captions = [clip.caption for clip in SMOKE_CLIPS]
    assert len(set(captions)) == 5
    for caption in captions:
        assert 16 <= len(caption.encode()) <= 24
        assert caption.replace(" ", "").isalpha()
        assert caption == caption.lower()


def test_a_low_steady_tone():
    samples = synthesise(BY_ID["low_tone"])
    assert {pitch(samples, start) for start in (0.5, 2.0, 4.5)} == {110.0}
    assert np.ptp(loudness(samples)[1:-1]) < 0.02 * samples.max()


def test_five_short_high_beeps():
    samples = synthesise(BY_ID["high_beeps"])
    on = loudness(samples) > 0.1 * samples.max()
    assert np.count_nonzero(np.diff(on.astype(int)) == 1) == 5
    assert on.mean() < 0.4
    assert pitch(samples, 0.45) == 1_760.0


def test_a_tone_gliding_upwards():
    samples = synthesise(BY_ID["rising_glide"])
    pitches = [pitch(samples, start, 0.1) for start in np.arange(0.1, 4.8, 0.5)]
    assert all(np.diff(pitches) > 50)
    assert pitches[0] < 300
    assert pitches[-1] > 1_500


def test_two_alternating_notes():
    samples = synthesise(BY_ID["two_notes"])
    assert [pitch(samples, 0.5 * note + 0.15) for note in range(10)] == [440.0, 660.0] * 5


def test_a_chord_fading_away():
    samples = synthesise(BY_ID["fading_chord"])
    spectrum = np.abs(np.fft.rfft(samples[:32_000] * np.hanning(32_000)))
    strongest = np.argsort(spectrum[: 2 * 450])[::-1] / 2
    assert {264.0, 330.0, 396.0} <= set(strongest[:9])
    seconds = loudness(samples).reshape(5, 20).max(axis=1)
    assert all(np.diff(seconds) < 0)
    assert seconds[-1] < 0.1 * seconds[0]


def test_no_clip_clicks():
    # A step between samples larger than the steepest overtone makes it would be heard as a click.
    for clip in SMOKE_CLIPS:
        samples = synthesise(clip).astype(int)
        assert samples.max() < 16_384
        assert abs(samples[0]) < 200
        assert abs(samples[-1]) < 200
        highest = max(note.to_hertz or note.hertz for note in clip.notes)
        assert np.abs(np.diff(samples)).max() < 16_384 * 2 * np.pi * highest * 1.5 / 16_000 + 2


def test_the_sine_is_a_sine():
    phase = np.arange(-(2**33), 2**33, 1_234_567, dtype=np.int64)
    assert np.abs(_sine(phase) - np.sin(2 * np.pi * phase / 2**32)).max() < 4e-6


def test_only_what_is_missing_or_differs_is_written(tmp_path):
    write_smoke_clips(tmp_path / "new" / "folder")
    paths = sorted((tmp_path / "new" / "folder").iterdir())
    whole = [path.read_bytes() for path in paths]
    for path in paths:
        os.utime(path, (1, 1))
    paths[0].unlink()
    paths[1].write_bytes(whole[1][:-2])
    paths[2].write_bytes(whole[3])
    write_smoke_clips(paths[0].parent)
    assert [path.read_bytes() for path in paths] == whole
    assert [path.stat().st_mtime == 1 for path in paths] == [False, False, False, True, True, True]


def test_files_are_readable_by_others(tmp_path):
    umask = os.umask(0o022)
    try:
        write_smoke_clips(tmp_path)
    finally:
        os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


def test_processes_at_once(tmp_path):
    # Each looks at every clip right after writing: one that is half written by another would show.
    code = (
        "import sys, hashlib, pathlib; from omni.audio.tones import *; folder = pathlib.Path(sys.argv[1]);"
        "write_smoke_clips(folder);"
        "files = [(folder / f'{clip.id}.wav').read_bytes() for clip in SMOKE_CLIPS];"
        "print(*(hashlib.sha256(file).hexdigest() for file in files))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "clips")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(5)]
    answers = {process.communicate()[0] for process in running}
    assert {process.returncode for process in running} == {0}
    expected = [json.loads(line)["sha256"] for line in MANIFEST.read_text().splitlines()]
    assert answers == {" ".join(expected) + "\n"}
    expected = [*(f"{name}.wav" for name in BY_ID), "manifest.jsonl"]
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == sorted(expected)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OmniError, match=r"low_tone.wav: cannot be written \(.+\)\. Clear its way"):
        write_smoke_clips(tmp_path / "file")
    (tmp_path / "low_tone.wav").mkdir()
    with pytest.raises(OmniError, match=r"low_tone.wav: cannot be written"):
        write_smoke_clips(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
