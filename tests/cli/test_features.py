"""Encoder states as a user meets them: made ahead by omni.prepare, and whatever may be wrong with clips and disk."""

import io
import json
import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from omni import prepare
from omni.config.compose import compose
from omni.train import train
from omni.training.distributed import World

TINY = ["encoder=whisper_random", "backbone=gpt_d2", "device=cpu", "dataset=manifest", "dataset.path=all.jsonl"]
KEPT = [*TINY, "features=features"]
TEXTS = {0: "naïve 🦉🎧", 1: "鯨魚在唱歌", 2: "\u202eright to left\x07", 3: "e\u0301 \U000e0041"}


def write_clips(folder: Path, count: int, *, damaged: tuple[int, ...] = (), seconds: dict[int, float] | None = None):
    """Noises of 0.1 s and a little in one archive; two in three in train."""
    random, rows = np.random.default_rng(0), []
    with (folder / "sounds.bin").open("wb") as archive:
        for number in range(count):
            samples = random.uniform(-0.5, 0.5, int(16_000 * (seconds or {}).get(number, 0.1 + 0.02 * (number % 7))))
            sound, start = io.BytesIO(), archive.tell()
            soundfile.write(sound, samples, 16_000, format="WAV")
            archive.write(b"no sound" * 50 + bytes([number]) if number in damaged else sound.getvalue())
            row = {"id": f"clip{number}", "audio": "sounds.bin", "text": TEXTS.get(number, f"number {number}")}
            split = "train" if number % 6 < 4 else "val" if number % 6 == 4 else "test"
            rows.append(row | {"offset": start, "bytes": archive.tell() - start, "split": split})
    (folder / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def indices(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in folder.glob("features/*/*.json") if path.name != "encoder.json"]


def seen(folder: Path) -> Counter:
    """How often each state is kept."""
    return Counter(key for index in indices(folder) for key in index["clips"])


@pytest.fixture
def prepared(tmp_path, monkeypatch, caplog):
    """Calls the command in this process; returns what it says."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, logger="omni")

    def run(*words: str) -> list[str]:
        caplog.clear()
        monkeypatch.setattr(sys, "argv", ["omni.prepare", *words])
        prepare.main()
        return [message for message in caplog.messages if message.startswith("features")]

    return run


def refused(prepared, capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        prepared(*words)
    assert stopped.value.code == 1
    return capsys.readouterr().err


def test_prepare_encodes_every_split_once(tmp_path, prepared, capsys):
    write_clips(tmp_path, 60)
    first = prepared(*KEPT)
    assert [line.split(" clips in features/")[0] for line in first] == [
        *("features: train: 40", "features: val: 10", "features: test: 10")
    ]
    assert all("were missing" in line for line in first)
    assert "encode train  clip 40/40" in capsys.readouterr().out
    assert len(seen(tmp_path)) == 60
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("features/*/*")}
    assert all(line.endswith("all were there") for line in prepared(*KEPT))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("features/*/*")} == stamps
    assert "encode" not in capsys.readouterr().out
    assert not prepared(*TINY)


def test_splits_are_those_that_the_dataset_has(tmp_path, prepared, monkeypatch):
    write_clips(tmp_path, 4)  # train alone
    assert [line.split(":")[1] for line in prepared(*KEPT)] == [" train"]
    write_clips(tmp_path, 6)
    mine = "from omni.data.clips import ManifestClips\nclass Mine(ManifestClips):\n    splits = ('test',)\n"
    (tmp_path / "mine_clips.py").write_text(mine)
    monkeypatch.syspath_prepend(str(tmp_path))
    said = prepared(*KEPT, "dataset._target_=mine_clips.Mine")
    assert [line.split(":")[1] for line in said] == [" train", " test"]


def test_changed_copies_of_train_alone_are_encoded_too(tmp_path, prepared, monkeypatch):
    write_clips(tmp_path, 60)
    first = prepared(*KEPT, "augment=speech")
    assert [line.split(" clips in features/")[0] for line in first] == [
        *("features: train: 120", "features: val: 10", "features: test: 10")
    ]
    assert len(seen(tmp_path)) == 140
    assert all(line.endswith("all were there") for line in prepared(*KEPT))  # of those, the clips as they are
    mine = "from omni.data.clips import ManifestClips\nclass Alone(ManifestClips):\n    of = property()\n"
    (tmp_path / "alone_clips.py").write_text(mine)
    monkeypatch.syspath_prepend(str(tmp_path))
    said = prepared(*KEPT, "augment=speech", "dataset._target_=alone_clips.Alone")
    assert [line.split(":")[1] for line in said] == [" train"]


def test_a_split_whose_sounds_are_gone_is_said_before_anything_trains_on_the_others(tmp_path, prepared, capsys):
    write_clips(tmp_path, 6)
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    rows = [row | {"audio": "gone.bin"} if row["split"] == "val" else row for row in rows]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "1 of 1 audio files do not exist" in refused(prepared, capsys, *KEPT)


def test_two_commands_at_once_share_the_work(tmp_path):
    write_clips(tmp_path, 400)
    line = [sys.executable, "-m", "omni.prepare", *KEPT]
    both = [subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
    said = [process.communicate(timeout=300)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert set(seen(tmp_path).values()) == {1}
    assert len(seen(tmp_path)) == 400
    assert not [path for path in tmp_path.glob("features/*/.*") if path.suffix == ".tmp"]


def test_training_leaves_out_what_is_damaged_reads_every_script_and_hears_long_clips(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, logger="omni")
    write_clips(tmp_path, 160, damaged=(9,), seconds={3: 31.0})
    short = ["logger=csv", "stage.max_steps=30", "stage.batch_size=8", "stage.gate=null"]
    train(World(), compose([*KEPT, *short]), tmp_path / "run", [])
    told, said = json.loads((tmp_path / "run" / "run.json").read_text()), caplog.text
    assert list(told["skipped"]) == ["clip9"]
    assert "is not wav, flac, mp3 or ogg" in told["skipped"]["clip9"]
    assert "left out clip9" in said
    assert 0 <= told["waited_for_data"] < 0.5
    assert f"waited for data {100 * told['waited_for_data']:.1f} % of the time" in said
    assert max(place[2] for index in indices(tmp_path) for place in index["clips"].values()) == 1550
    assert told["metrics"]["loss"]["last"] < 10


def test_too_many_damaged_clips_are_an_error_that_names_them(tmp_path, prepared, capsys):
    write_clips(tmp_path, 60, damaged=(1, 2))
    said = refused(prepared, capsys, *KEPT)
    assert said.startswith("error: dataset: 2 of 40 clips cannot be read:\n")
    assert "clip 'clip1': sounds.bin" in said
    assert "Traceback" not in said


def test_no_clip_is_left(tmp_path, prepared, capsys):
    write_clips(tmp_path, 12)
    said = refused(prepared, capsys, *KEPT, "dataset.min_seconds=3")
    assert said.startswith("error: dataset: 8 of 8 clips cannot be read:\n")
    assert "less than the 3 s needed. Leave it out, or lower min_seconds" in said
    assert all("were missing" in line for line in prepared(*KEPT))  # another run's limits are its own
    assert "less than the 3 s needed" in refused(prepared, capsys, *KEPT, "dataset.min_seconds=3")
    said = refused(prepared, capsys, *KEPT, "dataset.split=dev")
    assert "split 'dev' has no clips. The manifest has: test (2), train (8), val (2)" in said


def test_a_shard_cut_short_is_named_and_its_way_out_works(tmp_path, prepared, capsys):
    write_clips(tmp_path, 12)
    prepared(*KEPT)
    shard = sorted(tmp_path.glob("features/*/*.tar"))[0]
    os.truncate(shard, 100)
    said = refused(prepared, capsys, *KEPT)
    assert f"{shard.relative_to(tmp_path)} has 100 bytes and should have" in said
    assert f"delete it and {shard.stem}.json, and its clips are encoded again" in said
    shard.unlink()
    shard.with_suffix(".json").unlink()
    assert sum("were missing" in line for line in prepared(*KEPT)) == 1
    assert len(seen(tmp_path)) == 12


def test_a_disk_that_fills_up_is_said_and_the_same_command_goes_on(tmp_path, prepared, capsys, small_disk):
    write_clips(tmp_path, 150, seconds={number: 1.0 for number in range(0, 150, 6)})  # the second shard is the larger
    with small_disk(256):
        said = refused(prepared, capsys, *KEPT)
    assert "cannot be written (File too large); make room, or name another folder. What is done so far is kept" in said
    assert not list(tmp_path.glob("features/*/*.tmp"))
    assert not list(tmp_path.glob("features/*/.*.tmp"))
    prepared(*KEPT)
    assert len(seen(tmp_path)) == 150
