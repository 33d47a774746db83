"""librispeech, from archives of a few tones, fetched from a server on loopback."""

import hashlib
import io
import json
import shutil
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from omni import download
from omni.config.compose import compose
from omni.corpora import librispeech as module
from omni.corpora import listed_clips, transfer
from omni.corpora.librispeech import LibriSpeech
from omni.data.cached import CachedClips
from omni.data.clips import ManifestClips
from omni.data.shards import Shards
from omni.errors import OmniError
from omni.text.tokenizer import ByteTokenizer

PARTS = {
    "train-clean-100": {"19-198-0000": "NORTHANGER ABBEY", "19-198-0001": "IT ISN'T SO", "26-495-0000": "I SAID NO"},
    "dev-clean": {"84-121-0000": "GO"},
    "test-clean": {"61-70-0000": "HE BEGAN", "61-70-0001": "A CONFUSED COMPLAINT"},
    "test-other": {"367-130-0000": "LOBSTERS"},
}


def flac(seconds: float) -> bytes:
    sound = io.BytesIO()
    soundfile.write(sound, 0.3 * np.sin(0.2 * np.arange(int(16_000 * seconds))), 16_000, format="FLAC")
    return sound.getvalue()


def part_files(part: str, texts: dict[str, str]) -> dict[str, bytes]:
    """The files of a part, by their path; each clip is a tenth of a second longer than the last."""
    files = {}
    for number, (name, text) in enumerate(texts.items()):
        speaker, chapter, _ = name.split("-")
        at = f"LibriSpeech/{part}/{speaker}/{chapter}"
        files[f"{at}/{name}.flac"] = flac(0.2 + 0.1 * number)
        transcript = f"{at}/{speaker}-{chapter}.trans.txt"
        files[transcript] = files.get(transcript, b"") + f"{name} {text}\n".encode()
    return files


def archive(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as packed:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return content.getvalue()


ARCHIVES = {
    part: archive({"LibriSpeech/LICENSE.TXT": b"CC BY 4.0", **part_files(part, texts)}) for part, texts in PARTS.items()
}


class World:
    """A folder, a mirror with the archives, and their hashes as the published ones."""

    def __init__(self, folder: Path, mirror, monkeypatch):
        self.folder, self.mirror, self.said = folder, mirror, []
        mirror.files.update({f"12/{part}.tar.gz": data for part, data in ARCHIVES.items()})
        monkeypatch.setattr(module, "SHA256", {p: hashlib.sha256(data).hexdigest() for p, data in ARCHIVES.items()})
        monkeypatch.setattr(transfer, "PAUSE", 0.01)

    def clips(self, **keys) -> LibriSpeech:
        return LibriSpeech(**{"folder": str(self.folder), "mirror": f"{self.mirror.url}/12/"} | keys)

    def prepare(self, **keys) -> None:
        self.said.clear()
        self.clips(**keys).prepare(self.said.append)

    def unpack(self, *parts: str) -> None:
        """A copy that somebody has already."""
        for part in parts:
            for name, data in part_files(part, PARTS[part]).items():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self.folder / name).write_bytes(data)

    @property
    def part_file(self) -> Path:
        """What there is of an archive that is being fetched."""
        return self.folder / ".train-clean-100.fetching" / "train-clean-100.tar.gz.part"

    def archives(self) -> list[Path]:
        return list(self.folder.rglob("*.tar.gz*"))

    def there(self) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.glob("*"))


@pytest.fixture
def world(tmp_path, mirror, monkeypatch):
    return World(tmp_path / "data", mirror, monkeypatch)


def refuse(_: str) -> None:
    raise AssertionError("nothing was to be done")


def test_the_archives_are_fetched_once_unpacked_and_heard(world):
    world.prepare()
    assert world.there() == [".lock", "LibriSpeech"]
    assert sorted(path.name for path in (world.folder / "LibriSpeech").glob("[!.]*")) == sorted(
        ["LICENSE.TXT", *(f"{part}{end}" for part in PARTS if part != "test-other" for end in ("", ".jsonl"))]
    )
    clips = world.clips()
    assert [(sample.id, sample.text) for sample in clips] == [
        ("19-198-0000", "northanger abbey"),
        ("19-198-0001", "it isn't so"),
        ("26-495-0000", "i said no"),
    ]
    assert [len(sample.waveform) / 16_000 for sample in clips] == pytest.approx([0.2, 0.3, 0.4])
    assert [clip.seconds for clip in clips.clips] == pytest.approx([0.2, 0.3, 0.4])
    assert [clip.speaker for clip in clips.clips] == ["19", "19", "26"]
    assert clips.key(2) == hashlib.sha256(flac(0.4)).hexdigest()
    assert len(world.mirror.asked) == 3
    world.prepare()
    assert world.said == [
        f"{world.folder}/LibriSpeech/{part} is there" for part in ("train-clean-100", "dev-clean", "test-clean")
    ]
    assert len(world.mirror.asked) == 3


def test_splits_are_parts_and_parts_are_splits(world):
    world.prepare(split="test-other")
    clips = world.clips()
    assert [clip.text for clip in clips.of("val").clips] == ["go"]
    assert [clip.text for clip in clips.of("test").of("test-other").clips] == ["lobsters"]
    both = world.clips(test=["test-other", "test-clean"]).of("test")
    assert [clip.id for clip in both.clips] == ["367-130-0000", "61-70-0000", "61-70-0001"]
    assert both.of("train").splits["test"] == ["test-other", "test-clean"]
    with pytest.raises(OmniError, match=r"split: 'tset' is neither train, val, test nor a part: train-clean-100"):
        world.clips(split="tset")
    with pytest.raises(OmniError, match=r"dataset.val: 'dev' is no part of LibriSpeech: "):
        world.clips(val=["dev"])


def test_longer_clips_are_left_out_of_all_splits(world):
    world.prepare()
    clips = world.clips(max_seconds=0.25)
    assert [clip.id for clip in clips.clips] == ["19-198-0000"]
    assert [clip.id for clip in clips.of("test").clips] == ["61-70-0000"]


def test_the_list_is_a_manifest_for_anyone(world):
    world.prepare()
    path = world.folder / "LibriSpeech" / "test-clean.jsonl"
    clips = ManifestClips(path=str(path), split="test-clean")
    assert [sample.text for sample in clips] == ["he began", "a confused complaint"]


def test_a_folder_that_is_there_is_listed_and_nothing_is_fetched(world):
    world.unpack(*PARTS)
    world.prepare()
    assert world.mirror.asked == []
    assert len(world.clips()) == 3
    inside = world.folder / "LibriSpeech"
    LibriSpeech(folder=str(inside)).prepare(world.said.append)
    assert len(LibriSpeech(folder=str(inside))) == 3


def test_what_a_folder_lacks_is_fetched_into_it(world):
    world.unpack("train-clean-100", "dev-clean")
    world.prepare(folder=str(world.folder / "LibriSpeech"))
    assert [asked.split("/")[-1] for asked in world.mirror.asked] == ["test-clean.tar.gz"]
    assert len(world.clips(split="test")) == 2


def test_a_folder_of_someone_else_is_linked(world, tmp_path):
    world.unpack(*PARTS)
    own = tmp_path / "own" / "LibriSpeech"
    own.mkdir(parents=True)
    for part in PARTS:
        (own / part).symlink_to(world.folder / "LibriSpeech" / part)
    world.prepare(folder=str(own.parent))
    assert [sample.text for sample in world.clips(folder=str(own.parent), split="val")] == ["go"]
    assert not list((world.folder / "LibriSpeech").glob("*.jsonl"))


def test_a_folder_that_cannot_be_written_says_how_to_link_it(world):
    world.unpack(*PARTS)
    (world.folder / ".lock").mkdir()  # root, who may run this, may write anywhere
    with pytest.raises(OmniError, match=r"\.lock: cannot be written or read \(Is a directory\).*ln -s .*LibriSpeech"):
        world.prepare()


def test_unprepared_clips_say_what_to_run(world):
    run = r"train-clean-100.jsonl: is not there. Run.*python -m omni.prepare dataset=librispeech dataset.folder="
    for use in (len, lambda clips: clips[0], lambda clips: clips.key(0)):
        with pytest.raises(OmniError, match=run):
            use(world.clips())
    keys = {"encoder": None, "tokenizer": ByteTokenizer(), "device": torch.device("cpu")}
    with pytest.raises(OmniError, match=run):  # as a stage meets it
        CachedClips(world.clips(), shards=Shards(world.folder / "states", {}), **keys)


def test_a_line_without_its_clip_is_counted_and_named(world):
    world.unpack(*PARTS)
    chapter = world.folder / "LibriSpeech" / "train-clean-100" / "19" / "198"
    (chapter / "19-198-0000.flac").unlink()
    (chapter / "19-198-0001.flac").write_bytes(b"fLaC, but no more")
    with (chapter / "19-198.trans.txt").open("a") as file:
        file.write("19-198-0002 NEVER READ\n")
    world.prepare()
    told = next(line for line in world.said if "left out" in line)
    assert told.startswith("train-clean-100: 3 left out")
    assert "19-198.trans.txt:1: 19-198-0000.flac is not there" in told
    assert "19-198.trans.txt:3: 19-198-0002.flac is not there" in told
    assert "19-198-0001.flac: is not wav" in told
    assert [clip.id for clip in world.clips().clips] == ["26-495-0000"]


def test_a_line_without_text_is_named(world):
    world.unpack(*PARTS)
    (world.folder / "LibriSpeech/test-clean/61/70/61-70.trans.txt").write_text("61-70-0000\n61-70-0001 SO\n")
    world.prepare()
    assert any("61-70.trans.txt:1: has no text" in line for line in world.said)
    assert [clip.text for clip in world.clips(split="test").clips] == ["so"]


def test_when_no_clip_is_left_it_is_an_error(world):
    world.unpack(*PARTS)
    for clip in (world.folder / "LibriSpeech" / "dev-clean").rglob("*.flac"):
        clip.unlink()
    with pytest.raises(OmniError, match=r"dev-clean.jsonl: no clip is left"):
        world.prepare()
    assert any("84-121-0000.flac is not there" in line for line in world.said)
    assert not (world.folder / "LibriSpeech" / "dev-clean.jsonl").exists()


def test_a_clip_that_came_later_is_listed(world):
    world.unpack(*PARTS)
    lost = world.folder / "LibriSpeech/train-clean-100/26/495/26-495-0000.flac"
    content = lost.read_bytes()
    lost.unlink()
    world.prepare()
    assert len(world.clips()) == 2
    lost.write_bytes(content)
    world.prepare()
    assert len(world.clips()) == 3


def test_a_clip_that_is_no_sound_does_not_have_the_others_measured_again(world, monkeypatch):
    world.unpack(*PARTS)
    damaged = world.folder / "LibriSpeech/train-clean-100/19/198/19-198-0001.flac"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:20])
    world.prepare()
    looked_at, opened = [], listed_clips.opened
    monkeypatch.setattr(listed_clips, "opened", lambda path: (looked_at.append(path), opened(path))[1])
    world.prepare()
    assert world.said[0] == f"{world.folder}/LibriSpeech/train-clean-100 is there"
    assert looked_at == []
    damaged.write_bytes(content)
    world.prepare()
    assert len(world.clips()) == 3


def test_a_text_or_a_sound_that_was_changed_is_listed_anew(world):
    world.unpack(*PARTS)
    world.prepare()
    chapter = world.folder / "LibriSpeech/dev-clean/84/121"
    (chapter / "84-121.trans.txt").write_text("84-121-0000 STAY HERE\n")
    (chapter / "84-121-0000.flac").write_bytes(flac(0.9))
    world.prepare()
    (sample,) = world.clips(split="val")
    assert (sample.text, len(sample.waveform)) == ("stay here", 14_400)


@pytest.mark.parametrize("damage", [b'{"audio": "x', b""])
def test_a_damaged_list_is_made_anew(world, damage):
    world.unpack(*PARTS)
    world.prepare()
    (world.folder / "LibriSpeech" / "dev-clean.jsonl").write_bytes(damage)
    with pytest.raises(OmniError, match=r"dev-clean.jsonl: is damaged \(.*\). Run.*omni.prepare dataset=librispeech"):
        len(world.clips(split="val"))
    world.prepare()
    assert len(world.clips(split="val")) == 1


def test_a_clip_that_is_named_twice_counts_once(world):
    world.unpack(*PARTS)
    with (world.folder / "LibriSpeech/dev-clean/84/121/84-121.trans.txt").open("a") as file:
        file.write("84-121-0000 STAY\n")
    world.prepare()
    assert any("84-121.trans.txt:2: 84-121-0000 is named twice" in line for line in world.said)
    assert [clip.text for clip in world.clips(split="val").clips] == ["go"]


def test_a_folder_that_is_no_librispeech_is_refused_before_anything_is_fetched(world):
    (world.folder / "holiday").mkdir(parents=True)
    with pytest.raises(OmniError, match=r"dataset.folder: .*data is no LibriSpeech \(it holds holiday\)"):
        world.prepare()
    shutil.rmtree(world.folder)
    (world.folder / "LibriSpeech" / "train-clean-100" / "19").mkdir(parents=True)
    with pytest.raises(OmniError, match=r"train-clean-100: holds no SPEAKER/CHAPTER/\*.trans.txt"):
        world.prepare()
    assert world.mirror.asked == []


# --- transfers that go wrong


def test_a_file_that_the_mirror_lacks(world):
    del world.mirror.files["12/dev-clean.tar.gz"]
    with pytest.raises(
        OmniError, match=r"dev-clean.tar.gz cannot be .*/12/dev-clean.tar.gz: HTTP 404.*dataset.mirror=URL"
    ):
        world.prepare()
    assert len(world.mirror.asked) == 2  # asking again would not help
    assert len(world.clips()) == 3  # what came before is there
    world.prepare(val=[])
    assert len(world.mirror.asked) == 3


@pytest.mark.parametrize("manner", ["broken", "faulty"])
def test_a_broken_transfer_goes_on_from_where_it_broke_off(world, manner):
    world.mirror.manner = manner
    world.prepare(val=[], test=[])
    assert len(world.clips()) == 3
    half = (len(ARCHIVES["train-clean-100"]) + 1) // 2
    assert len(world.mirror.asked) == 2
    assert world.mirror.asked[1].endswith(f"bytes={half}-" if manner == "broken" else "tar.gz")


def test_a_transfer_that_was_killed_goes_on(world):
    data = ARCHIVES["train-clean-100"]
    for there in (100, len(data)):
        world.part_file.parent.mkdir(parents=True)
        world.part_file.write_bytes(data[:there])
        world.prepare(val=[], test=[])
        assert world.mirror.asked[-1].endswith(f"bytes={there}-")
        assert len(world.clips()) == 3
        shutil.rmtree(world.folder / "LibriSpeech")


@pytest.mark.parametrize("manner", ["rangeless", "shifted"])
def test_a_mirror_without_proper_ranges_sends_it_all_again(world, manner):
    world.mirror.manner = manner
    world.part_file.parent.mkdir(parents=True)
    world.part_file.write_bytes(b"x" * 100)
    world.prepare(val=[], test=[])
    assert len(world.clips()) == 3


def test_a_part_that_is_longer_than_the_file_is_thrown_away(world):
    world.part_file.parent.mkdir(parents=True)
    world.part_file.write_bytes(ARCHIVES["train-clean-100"] + b"more")
    world.prepare(val=[], test=[])
    assert len(world.clips()) == 3


def test_a_transfer_that_breaks_for_good_is_given_up(world):
    world.mirror.manner = "stuck"
    with pytest.raises(
        OmniError, match=r"train-clean-100.tar.gz cannot .*: the transfer broke off at .* Name a mirror"
    ):
        world.prepare()
    assert len(world.mirror.asked) == transfer.TRIES
    assert world.part_file.stat().st_size > len(ARCHIVES["train-clean-100"]) / 2
    world.mirror.manner = "well"
    world.prepare()
    assert len(world.clips()) == 3


def test_a_line_that_breaks_often_but_brings_much_is_not_given_up(world, monkeypatch):
    monkeypatch.setattr(transfer, "ENOUGH", 1)
    world.mirror.manner = "stuck"
    world.prepare(val=[], test=[])
    assert len(world.mirror.asked) > transfer.TRIES
    assert len(world.clips()) == 3


def test_a_mirror_without_ranges_that_never_gets_further_is_given_up(world, monkeypatch):
    monkeypatch.setattr(transfer, "ENOUGH", 1)
    cuts = [500, 300]  # each more than nothing, and one more than the other

    def cut_short(self, path):
        assert len(self.asked) < 10
        data = self.files[path.lstrip("/")]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: cuts[len(self.asked) % 2]])
        self.close_connection = True

    world.mirror.route = cut_short
    with pytest.raises(OmniError, match=r"train-clean-100.tar.gz cannot .*: the transfer broke off"):
        world.prepare()
    assert transfer.TRIES <= len(world.mirror.asked) <= transfer.TRIES + 2


def test_another_archive_is_refused_and_nothing_is_unpacked(world):
    world.mirror.manner = "wrong"
    published = module.SHA256["train-clean-100"]
    with pytest.raises(
        OmniError, match=rf"train-clean-100.tar.gz: its sha256 is .*, the published one is {published}; it"
    ):
        world.prepare()
    assert not world.archives()
    world.mirror.manner = "well"
    world.prepare()


@pytest.mark.parametrize("manner", ["silent", "half"])
def test_silence_ends_within_patience(world, monkeypatch, manner):
    monkeypatch.setattr(download, "PATIENCE", 0.3)
    world.mirror.manner = "silent"
    if manner == "half":  # falls silent in the middle

        def half_then_silence(self, path):
            data = self.files[path.lstrip("/")]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[:50])
            self.over.wait(60)

        world.mirror.manner, world.mirror.route = "well", half_then_silence
    began = time.monotonic()
    with pytest.raises(
        OmniError, match=r"train-clean-100.tar.gz cannot be fetched .*: no answer for 0.3 s. Name a mirror"
    ):
        world.prepare()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("url", "said"), [("http://127.0.0.1:9", "[Rr]efused"), ("openslr", "unknown url type")])
def test_a_mirror_that_is_none(world, url, said):
    with pytest.raises(
        OmniError, match=rf"train-clean-100.tar.gz cannot be fetched from {url}/.*{said}.*dataset.mirror"
    ):
        world.prepare(mirror=url)


def test_progress_is_told(world, monkeypatch):
    monkeypatch.setattr(transfer, "REPORT_EVERY", 0.0)
    world.prepare()
    assert world.said[0].startswith("fetching train-clean-100.tar.gz, 0.0 MB")
    assert any("MB/s" in line and "s left" in line for line in world.said)
    assert f"{world.folder}/LibriSpeech/train-clean-100.jsonl: 3 clips" in world.said


def test_a_full_disk_says_so_and_keeps_what_came(world, mirror, small_disk, monkeypatch):
    mirror.files["12/train-clean-100.tar.gz"] = bytes(200_000)
    with (
        small_disk(64),
        pytest.raises(OmniError, match=r"train-clean-100.tar.gz.part: cannot be written \(File too large"),
    ):
        world.prepare()
    assert len(mirror.asked) == 1
    assert not (world.folder / "LibriSpeech").exists()


# --- archives


def test_an_archive_put_there_by_hand_is_used_and_kept(world):
    world.folder.mkdir()
    own = world.folder / "train-clean-100.tar.gz"
    own.write_bytes(ARCHIVES["train-clean-100"])
    world.prepare(val=[], test=[])
    assert world.mirror.asked == []
    assert own.exists()
    assert f"{own} is no longer needed" in world.said
    assert len(world.clips()) == 3


def test_another_archive_put_there_by_hand_is_refused_and_kept(world):
    world.folder.mkdir()
    own = world.folder / "train-clean-100.tar.gz"
    own.write_bytes(b"another")
    with pytest.raises(OmniError, match=r"train-clean-100.tar.gz: its sha256 is .* Delete it and prepare again"):
        world.prepare()
    assert world.there() == [".lock", "train-clean-100.tar.gz"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (archive({"LibriSpeech/dev-clean/1/2/1-2.trans.txt": b""}), "holds no LibriSpeech/train-clean-100"),
        (ARCHIVES["train-clean-100"][:-200], "cannot be unpacked"),
        (archive({"../../out": b"bad"}), "cannot be unpacked"),
    ],
    ids=["of another set", "cut short", "reaching out"],
)
def test_nothing_is_half_there_after_an_archive_that_cannot_be_used(world, monkeypatch, content, said):
    monkeypatch.setitem(module.SHA256, "train-clean-100", hashlib.sha256(content).hexdigest())
    world.mirror.files["12/train-clean-100.tar.gz"] = content
    with pytest.raises(OmniError, match=said):
        world.prepare()
    assert not list((world.folder / "LibriSpeech").glob("*"))


def test_what_a_killed_process_left_is_cleared_away(world):
    stale = world.folder / "LibriSpeech" / ".dev-clean.unpacking" / "LibriSpeech" / "dev-clean"
    stale.mkdir(parents=True)
    (stale / "old").touch()
    world.prepare()
    assert not list((world.folder / "LibriSpeech").glob(".*ing"))
    assert not (world.folder / "LibriSpeech" / "dev-clean" / "old").exists()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_around_the_unpacking_leaves_no_archive_for_ever(world, monkeypatch, when):
    unpack = module.unpack

    def killed(*given):
        if when == "after":
            unpack(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "unpack", killed)
    with pytest.raises(KeyboardInterrupt):
        world.prepare()
    assert world.archives()
    monkeypatch.setattr(module, "unpack", unpack)
    world.prepare()
    assert len(world.mirror.asked) == 3  # each archive once
    assert not world.archives()
    assert world.there() == [".lock", "LibriSpeech"]
    assert len(world.clips()) == 3


def test_two_that_prepare_at_once_fetch_and_list_each_archive_once(world, monkeypatch):
    listed, write_list = [], module.write_list
    monkeypatch.setattr(
        module, "write_list", lambda path, *more: (listed.append(path.stem), write_list(path, *more))[1]
    )
    threads = [threading.Thread(target=world.clips().prepare, args=(lambda _: None,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(world.mirror.asked) == 3
    assert sorted(listed) == ["dev-clean", "test-clean", "train-clean-100"]
    assert len(world.clips()) == 3


# --- what ships


def test_the_published_hashes_are_torchaudios():
    from torchaudio.datasets.librispeech import _CHECKSUMS

    assert {url.split("/")[-1].removesuffix(".tar.gz"): sha for url, sha in _CHECKSUMS.items()} == module.SHA256


def test_the_yaml_is_a_data_set_of_the_standard_splits():
    keys = {key: value for key, value in compose(["dataset=librispeech"]).dataset.items() if key != "_target_"}
    clips = LibriSpeech(**keys)
    assert clips.splits == {"train": ["train-clean-100"], "val": ["dev-clean"], "test": ["test-clean"]}
    assert json.loads(json.dumps(keys["mirror"])) == "https://www.openslr.org/resources/12"
