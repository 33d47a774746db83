"""amazon_queen, from a small package: `apt-get` and `dpkg-deb` are played by scripts, and a package is a plain tar."""

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from omni.corpora import amazon_queen as module
from omni.corpora.amazon_queen import AmazonQueen, read_rows
from omni.corpora.debian_packages import Package
from omni.data.cached import CachedClips
from omni.data.manifest import ManifestError
from omni.data.shards import Shards
from omni.errors import OmniError
from omni.text.tokenizer import ByteTokenizer

ROOT = Path(module.__file__).parents[2]
APT_GET = """#!/bin/sh
echo "$@" >> {folder}/asked
eval "what=\\${{$#}}"
[ "$what" = update ] && exit 0
cp {folder}/archive/"${{what%%=*}}"_*.deb . 2>/dev/null && exit 0
echo "E: Unable to locate package ${{what%%=*}}" >&2; exit 100
"""
DPKG_DEB = '#!/bin/sh\n[ "$1" = --fsys-tarfile ] && cat "$2"\n'
ROWS = [
    ("hello", "joe", "train", 0.0),
    ("paired with another sound", "joe", "train", 0.9),
    ("just so", "and", "train", 0.4),
    ("never heard of", "lou", "val", 0.9),
    ("nor of this", "faye", "test", 0.8),
    ("by whom?", "", "unlabelled", 0.0),
    ("hello", "joe", "overlap", 0.0),
]


class World:
    """A machine with the game's package, and omni's folder with the manifest and the notice in it."""

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.said = folder, []
        for name, script in (("apt-get", APT_GET.format(folder=folder)), ("dpkg-deb", DPKG_DEB)):
            (folder / "bin").mkdir(exist_ok=True)
            (folder / "bin" / name).write_text(script)
            (folder / "bin" / name).chmod(0o755)
        self.archive, rows = self.record()
        manifest, notice = folder / "manifest.jsonl.gz", folder / "notice.txt"
        manifest.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
        notice.write_text("All are allowed to play.")
        package = self.publish({"usr/share/scummvm/queen/queen.1c": self.archive, "usr/share/doc/queen.1c.txt": b"no"})
        monkeypatch.setattr(module, "MANIFEST", manifest)
        monkeypatch.setattr(module, "NOTICE", notice)
        monkeypatch.setattr(module, "ARCHIVE_SHA256", hashlib.sha256(self.archive).hexdigest())
        monkeypatch.setattr(module, "PACKAGE", package)
        monkeypatch.setenv("PATH", f"{folder}/bin", prepend=os.pathsep)

    def record(self) -> tuple[bytes, list[dict]]:
        """An archive of tones, each a tenth of a second longer than the last, and the rows that describe it."""
        archive, rows = b"QTBL" * 9, []
        for number, (text, speaker, split, cer) in enumerate(ROWS):
            sound, seconds = io.BytesIO(), 0.2 + 0.1 * number
            tone = 0.3 * np.sin(0.2 * np.arange(int(11_025 * seconds)))
            soundfile.write(sound, tone, 11_025, format="FLAC")
            part = {"offset": len(archive), "bytes": len(sound.getvalue())}
            told = {"text": text, "speaker": speaker, "split": split, "cer": cer, "whisper": f"{text}!"}
            rows.append({"id": f"aq_{number}", "seconds": seconds, **part, **told})
            archive += sound.getvalue()
        return archive, rows

    def publish(self, files: dict[str, bytes]) -> Package:
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(f"./{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        (self.folder / "archive").mkdir(exist_ok=True)
        (self.folder / "archive" / "queen_1.0_all.deb").write_bytes(content.getvalue())
        return Package("queen", "1.0", "free", hashlib.sha256(content.getvalue()).hexdigest())

    def clips(self, **keys) -> AmazonQueen:
        return AmazonQueen(folder=str(self.folder / "game"), **keys)

    def prepare(self) -> None:
        self.said.clear()
        self.clips().prepare(self.said.append)

    def asked(self) -> int:
        return len((self.folder / "asked").read_text().splitlines())

    def there(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "game").iterdir())


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def test_the_archive_is_fetched_once_with_its_notice_and_its_clips_are_heard(world):
    world.prepare()
    assert world.there() == ["LICENSE.txt", "queen.1c"]
    assert (world.folder / "game" / "LICENSE.txt").read_text() == "All are allowed to play."
    assert (world.folder / "game" / "queen.1c").read_bytes() == world.archive
    clips = world.clips()
    assert [(sample.id, sample.text) for sample in clips] == [("aq_0", "hello"), ("aq_2", "just so")]
    assert [len(sample.waveform) for sample in clips] == pytest.approx([3_200, 6_400], abs=2)
    assert clips.whisper == ["hello!", "just so!"]
    asked = world.asked()
    (world.folder / "game" / "LICENSE.txt").unlink()  # as where the archive was put by hand
    world.prepare()
    assert world.said == [f"{world.folder}/game/queen.1c is there"]
    assert world.asked() == asked
    assert world.there() == ["LICENSE.txt", "queen.1c"]


def test_a_damaged_archive_is_fetched_again(world):
    world.prepare()
    (world.folder / "game" / "queen.1c").write_bytes(world.archive[:-9])
    world.prepare()
    assert (world.folder / "game" / "queen.1c").read_bytes() == world.archive


@pytest.mark.parametrize("files", [{"usr/share/scummvm/queen/queen.1c": b"another"}, {"usr/share/doc/readme": b""}])
def test_another_archive_is_refused_and_nothing_is_left(world, monkeypatch, files):
    monkeypatch.setattr(module, "PACKAGE", world.publish(files))
    with pytest.raises(OmniError, match=r"^queen: its queen.1c is not the one that .*manifest.jsonl.gz was made for"):
        world.prepare()
    assert world.there() == []


def test_another_package_is_refused_and_nothing_is_left(world):
    world.publish({"usr/share/scummvm/queen/queen.1c": world.archive})
    with pytest.raises(OmniError, match=r"queen_1.0_all.deb: its sha256 is not the one in the list"):
        world.prepare()
    assert world.there() == []


def test_without_the_package_the_error_says_where_the_archive_goes(world):
    (world.folder / "archive" / "queen_1.0_all.deb").unlink()
    with pytest.raises(OmniError, match=rf"queen: this release has no such package; put queen.1c into .*{os.sep}game$"):
        world.prepare()
    assert world.there() == []


def test_splits_are_apart_and_only_train_is_cleaned(world):
    def texts(**keys):
        return [clip.text for clip in world.clips(**keys).clips]

    assert texts() == ["hello", "just so"]
    assert texts(max_cer=None) == ["hello", "paired with another sound", "just so"]
    assert texts(max_cer=0.0) == ["hello"]
    assert texts(split="val") == ["never heard of"]
    assert texts(split="test") == ["nor of this"]
    every = world.clips(max_cer=None)
    assert [clip.text for clip in every.of("val").clips] == ["never heard of"]
    assert [clip.text for clip in every.of("test").of("train").clips] == texts(max_cer=None)
    for split in ("unlabelled", "overlap", "tset"):
        with pytest.raises(ManifestError, match=f"split: '{split}' is not one of train, val, test"):
            world.clips(split=split)


def test_without_the_archive_the_error_says_what_to_run(world):
    run = r"game/queen.1c: is not there. Run: python -m omni.prepare dataset=amazon_queen$"
    with pytest.raises(OmniError, match=run):
        world.clips()[0]
    keys = {"encoder": None, "tokenizer": ByteTokenizer(), "device": torch.device("cpu")}
    with pytest.raises(OmniError, match=run):  # as a stage meets it
        CachedClips(world.clips(), shards=Shards(world.folder / "states", {}), **keys)


def test_without_the_manifest_the_error_says_where_to_start(world):
    module.MANIFEST.unlink()
    with pytest.raises(ManifestError, match=r"manifest.jsonl.gz: is not there; start in omni's own folder"):
        world.clips()


def test_nothing_that_is_held_out_is_said_in_train_nor_by_who_speaks_there():
    rows = list(read_rows(ROOT / module.MANIFEST))
    assert len({row["id"] for row in rows}) == len(rows) == 6_411

    def plain(text: str) -> str:
        return " ".join(re.findall(r"\w+", text.lower().replace("'", "")))

    train, val, test = (
        {(plain(row["text"]), row["speaker"]) for row in rows if row["split"] == split} for split in module.SPLITS
    )
    for held_out in (val, test):
        for field in (0, 1):  # what is said, and by whom
            assert {each[field] for each in held_out}
            assert not {each[field] for each in train} & {each[field] for each in held_out}
    assert not {speaker for _, speaker in val} & {speaker for _, speaker in test}
    assert "" not in {speaker for _, speaker in train | val | test}


def test_the_rows_lie_in_the_archive_one_behind_the_other():
    rows = sorted(read_rows(ROOT / module.MANIFEST), key=lambda row: row["offset"])
    for row, following in pairwise(rows):
        assert row["offset"] + row["bytes"] <= following["offset"], row["id"]
    assert all(row["text"].strip() and row["bytes"] > 0 and 0.1 < row["seconds"] < 60 for row in rows)
    assert (ROOT / module.NOTICE).read_text()
