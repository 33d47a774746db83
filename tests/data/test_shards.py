"""Shards of states: whole or not there, computed once whoever asks, and never taken for another encoder's.

This file is also the program that other processes run.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch
import webdataset

from omni.data import shards as module
from omni.data.shards import Shards, Wanted
from omni.errors import OmniError

EAR = {"weights": "abc", "context": "clip", "layers": [2], "dtype": "float32"}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "CLIPS", 4)
    monkeypatch.setattr(module, "WAIT", 0.02)


def clips(count: int, first: int = 0) -> list[Wanted]:
    """Clip n is a waveform that says n, and nothing else."""
    return [Wanted(f"{n:064x}", lambda n=n: torch.tensor([float(n)])) for n in range(first, first + count)]


def states(number: int) -> torch.Tensor:
    """Those of clip `number`: two layers, one to five frames."""
    return torch.randn(2, 1 + number % 5, 3, generator=torch.Generator().manual_seed(number))


class Ear:
    """Hears which clip it is. heard: of each call."""

    def __init__(self):
        self.heard: list[list[int]] = []

    def __call__(self, waveforms):
        self.heard.append([int(waveform) for waveform in waveforms])
        return [states(number) for number in self.heard[-1]]


def fill(shards: Shards, wanted: list[Wanted]) -> list[int]:
    """The clips that had to be encoded."""
    ear = Ear()
    counts = list(shards.fill(wanted, ear))
    assert counts[-1] == len(wanted)
    return sorted(chain(*ear.heard))


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_states_come_back_in_any_order_and_are_computed_once(tmp_path):
    shards, ear = Shards(tmp_path, EAR), Ear()
    assert list(shards.fill(clips(10), ear)) == [4, 8, 10]
    assert ear.heard == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    stamps = {path: path.stat().st_mtime_ns for path in shards.folder.iterdir()}
    later = Shards(tmp_path, EAR)
    assert fill(later, clips(10)) == []
    assert {path: path.stat().st_mtime_ns for path in shards.folder.iterdir()} == stamps
    for number in (7, 0, 9, 4, 7):
        read = later.read(f"{number:064x}")
        assert read.dtype == torch.float16
        assert torch.equal(read, states(number).half())
        assert later.places[f"{number:064x}"].frames == read.size(1)
    assert fill(later, clips(12, first=3)) == [10, 11, 12, 13, 14]


def test_states_beyond_what_fp16_holds_are_kept_in_fp32_and_those_that_are_not_finite_refused(tmp_path):
    def encode(waveforms):
        return [torch.tensor([[[3.0, loudest]]]) for loudest in (60_000.0, 70_000.0, -1e30)[: len(waveforms)]]

    shards = Shards(tmp_path, EAR)
    list(shards.fill(clips(3), encode))
    for number, (kind, loudest) in enumerate(
        ((torch.float16, 60_000), (torch.float32, 70_000), (torch.float32, -1e30))
    ):
        read = shards.read(f"{number:064x}")
        assert read.dtype == kind
        assert read.flatten().tolist() == pytest.approx([3, loudest], rel=1e-3)
    bad = [Wanted("9" * 64, lambda: torch.zeros(1), "the ninth")]
    with pytest.raises(OmniError, match="clip 'the ninth' are not finite"):
        list(shards.fill(bad, lambda waveforms: [torch.tensor([[[1.0, torch.nan]]])]))
    assert "9" * 64 not in Shards(tmp_path, EAR)


def test_a_sound_that_is_there_twice_is_kept_once(tmp_path):
    shards = Shards(tmp_path, EAR)
    assert fill(shards, clips(3) + clips(3)) == [0, 1, 2]
    assert len(shards.places) == 3


def test_webdataset_reads_the_shards(tmp_path):
    shards = Shards(tmp_path, EAR)
    fill(shards, clips(10))
    tars = sorted(map(str, shards.folder.glob("*.tar")))
    assert len(tars) == 3
    rows = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
    assert sorted(int(row["__key__"], 16) for row in rows) == list(range(10))
    for row in rows:
        assert torch.equal(torch.from_numpy(row["npy"]), states(int(row["__key__"], 16)).half())


def test_a_fill_that_was_killed_goes_on_where_it_was(tmp_path):
    killed = subprocess.run([sys.executable, __file__, "be_killed", str(tmp_path)], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    folder = next(tmp_path.iterdir())
    names = left_in(folder)
    assert [Path(name).suffix for name in names].count(".tmp") == 1  # half a shard
    assert [Path(name).suffix for name in names].count(".tar") == 2
    shards = Shards(tmp_path, EAR)
    assert len(shards.places) == 8
    assert fill(shards, clips(20)) == list(range(8, 20))
    assert all(torch.equal(shards.read(f"{n:064x}"), states(n).half()) for n in range(20))
    assert not [name for name in left_in(folder) if name.endswith(".tmp")]


def test_a_shard_without_its_index_is_made_again(tmp_path):
    shards = Shards(tmp_path, EAR)
    fill(shards, clips(8))
    (lost, _) = sorted(shards.folder.glob("*.tar"))
    lost.with_suffix(".json").unlink()  # killed between the two
    lost.write_bytes(b"old")
    again = Shards(tmp_path, EAR)
    assert len(fill(again, clips(8))) == 4
    assert len(left_in(shards.folder)) == 5
    assert all(torch.equal(again.read(f"{n:064x}"), states(n).half()) for n in range(8))


def test_two_processes_share_the_work(tmp_path):
    subprocess.run([sys.executable, __file__, "share", str(tmp_path)], timeout=60, check=True)
    heard, found = zip(*(json.loads((tmp_path / name).read_text()) for name in "ab"), strict=True)
    assert sorted(chain(*heard)) == list(range(40))
    assert found == (list(range(40)), list(range(40)))
    assert fill(Shards(tmp_path / "states", EAR), clips(40)) == []


def test_what_another_process_made_meanwhile_is_not_made_again(tmp_path):
    early, late = Shards(tmp_path, EAR), Shards(tmp_path, EAR)
    assert fill(early, clips(6)) == list(range(6))
    assert fill(late, clips(10)) == [6, 7, 8, 9]
    assert fill(early, clips(10)) == []


def test_another_encoders_states_are_refused_with_what_differs(tmp_path):
    mine = Shards(tmp_path, EAR)
    fill(mine, clips(4))
    other = Shards(tmp_path, EAR | {"context": "full"})
    assert other.folder != mine.folder
    assert not other.places
    copy = shutil.copytree(mine.folder, tmp_path / "copied")
    assert len(Shards(copy, EAR).places) == 4
    with pytest.raises(OmniError, match="copied holds the states of another encoder") as caught:
        Shards(copy, EAR | {"context": "full", "layers": [1, 2]})
    assert "\n  context: there clip, here full\n  layers: there [2], here [1, 2]" in str(caught.value)
    assert "weights" not in str(caught.value)
    shutil.rmtree(other.folder)
    mine.folder.rename(other.folder)
    with pytest.raises(OmniError, match="there clip, here full"):
        Shards(tmp_path, EAR | {"context": "full"})


@pytest.mark.parametrize("cut", ["short", "away"])
def test_a_shard_that_was_cut_short_is_named_with_the_way_out(tmp_path, cut):
    shards = Shards(tmp_path, EAR)
    fill(shards, clips(8))
    shard = shards.places[f"{0:064x}"].shard
    size = shard.stat().st_size
    there = 0 if cut == "away" else 5_000
    shard.unlink() if cut == "away" else os.truncate(shard, there)
    with pytest.raises(OmniError) as caught:
        Shards(tmp_path, EAR)
    index = shard.with_suffix(".json")
    assert f"{shard} has {there:,} bytes and should have {size:,}" in str(caught.value)
    assert f"delete it and {index.name}" in str(caught.value)
    shard.unlink(missing_ok=True)
    index.unlink()
    assert fill(Shards(tmp_path, EAR), clips(8)) == [0, 1, 2, 3]


def test_a_clip_that_cannot_be_read_is_left_out_and_tried_again_by_the_next_run(tmp_path):
    def damaged():
        tried.append(1)
        raise OmniError("clip 'x' is damaged")

    tried: list[int] = []
    wanted = clips(6)
    wanted[2] = Wanted(wanted[2].key, damaged)
    shards = Shards(tmp_path, EAR)
    assert fill(shards, wanted) == [0, 1, 3, 4, 5]
    assert shards.skipped == {wanted[2].key: "clip 'x' is damaged"}
    assert fill(shards, wanted) == []
    assert len(tried) == 1
    written, later = left_in(shards.folder), Shards(tmp_path, EAR)
    assert fill(later, wanted) == []
    assert later.skipped == shards.skipped
    assert wanted[2].key not in later
    assert len(tried) == 2
    assert left_in(shards.folder) == written  # there is no shard of nothing
    assert fill(Shards(tmp_path, EAR), clips(6)) == [2]  # it was too long for that run, and is not for this one


def test_how_long_a_clip_sounds_is_kept_and_an_older_index_knows_nothing_of_it(tmp_path):
    shards = Shards(tmp_path, EAR)
    key = f"{1:064x}"
    list(shards.fill([Wanted(key, lambda: torch.zeros(24_000))], lambda waveforms: [states(1)]))
    assert Shards(tmp_path, EAR).places[key].seconds == 1.5
    (index,) = set(shards.folder.glob("*.json")) - {shards.folder / module.SIGNATURE}
    told = json.loads(index.read_text())
    index.write_text(json.dumps(told | {"clips": {key: told["clips"][key][:3]}, "skipped": {f"{2:064x}": "too long"}}))
    old = Shards(tmp_path, EAR)
    assert old.places[key].seconds is None
    assert torch.equal(old.read(key), states(1).half())
    assert not old.skipped


@pytest.mark.parametrize("place", ["shard", "index"])
def test_a_full_disk_leaves_what_was_whole(tmp_path, monkeypatch, place):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    shards = Shards(tmp_path, EAR)
    fill(shards, clips(4))
    before = left_in(shards.folder)
    with monkeypatch.context() as patch:
        patch.setattr(*((webdataset.TarWriter, "write") if place == "shard" else (module, "replace_text")), full)
        with pytest.raises(
            OmniError, match=r"No space left on device\); make room.*What is done so far is kept"
        ) as said:
            fill(shards, clips(12))
    assert str(shards.folder) in str(said.value)
    assert left_in(shards.folder) == before
    assert fill(Shards(tmp_path, EAR), clips(12)) == list(range(4, 12))


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_a_disk_that_fills_up_in_the_middle_of_a_shard_leaves_none(tmp_path, small_disk):
    shards = Shards(tmp_path, EAR)
    fill(shards, clips(2))
    before = left_in(shards.folder)
    with small_disk(16), pytest.raises(OmniError, match=r"cannot be written \(File too large\)"):
        list(shards.fill(clips(8, first=8), lambda waveforms: [torch.zeros(1, 900, 3) for _ in waveforms]))
    assert left_in(shards.folder) == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OmniError, match=r"file.* cannot be written"):
        Shards(tmp_path / "file", EAR)
    shards = Shards(tmp_path / "states", EAR)
    shutil.rmtree(shards.folder)
    with pytest.raises(OmniError, match=rf"{shards.folder} cannot be written \(No such file"):
        fill(shards, clips(2))


def be_killed(folder: Path) -> None:
    """Fill two shards and a half, and die."""

    class Dying(webdataset.TarWriter):
        def write(self, sample):
            super().write(sample)
            if int(sample["__key__"], 16) == 9:
                os.kill(os.getpid(), signal.SIGKILL)

    webdataset.TarWriter = Dying
    list(Shards(folder, EAR).fill(clips(20), Ear()))


def share(folder: Path) -> None:
    """Two processes fill a folder; each writes down which clips it heard, and which it can read in the end."""
    ear, child = Ear(), os.fork()
    mine, theirs = (folder / "b.hears", folder / "a.hears") if child == 0 else (folder / "a.hears", folder / "b.hears")

    def together(waveforms):
        mine.touch()
        until = time.monotonic() + 20
        while not theirs.exists():  # neither goes on before both have something to do
            assert time.monotonic() < until
            time.sleep(0.01)
        return ear(waveforms)

    shards = Shards(folder / "states", EAR)
    list(shards.fill(clips(40), together))
    found = [n for n in range(40) if torch.equal(shards.read(f"{n:064x}"), states(n).half())]
    mine.with_suffix("").write_text(json.dumps([[*chain(*ear.heard)], found]))
    if child:
        os.waitpid(child, 0)


if __name__ == "__main__":
    module.CLIPS, module.WAIT = 4, 0.02
    {"be_killed": be_killed, "share": share}[sys.argv[1]](Path(sys.argv[2]))
