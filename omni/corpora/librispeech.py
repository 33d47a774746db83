"""`librispeech`: read English audio books, 16 kHz flac, in LibriSpeech's own layout; a copy one has, or fetched.

Panayotov et al., "Librispeech: an ASR corpus based on public domain audio books", ICASSP 2015; CC BY 4.0. No speaker
of one part speaks in another.

torchaudio's LIBRISPEECH is not used: it fetches without resuming, unpacks over what is there, opens a transcript file
for each clip, and knows neither lengths nor hashes. Its table of hashes is.
"""

import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from omni.atomic import locked
from omni.corpora.listed_clips import (
    LeftOut,
    ListedClips,
    Row,
    UnpreparedError,
    is_made_from,
    measure,
    read_list,
    stamp,
    write_list,
)
from omni.corpora.transfer import Report, fetch_file
from omni.data.fingerprint import sha256_of
from omni.data.manifest import Clip
from omni.errors import OmniError

TOP = "LibriSpeech"
# torchaudio.datasets.librispeech of torchaudio 2.11, which has them from the archives at openslr.org.
SHA256 = {
    "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    "dev-other": "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
    "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    "test-other": "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
    "train-clean-100": "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    "train-clean-360": "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
    "train-other-500": "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
}


class LibriSpeech(ListedClips):
    """The clips of one split.

    Args:
        folder: holds LibriSpeech/, or is that folder itself; what is missing there is fetched by `prepare`.
        split: "train", "val", "test", or the name of one part, such as "test-other".
        train, val, test: the parts that each split is made of.
        max_seconds: leave out longer clips.
        mirror: the URL below which `PART.tar.gz` lies.

    Raises:
        OmniError: a split or part that there is not.
    """

    def __init__(
        self,
        *,
        folder: str,
        split: str = "train",
        train: Sequence[str] = ("train-clean-100",),
        val: Sequence[str] = ("dev-clean",),
        test: Sequence[str] = ("test-clean",),
        max_seconds: float = 36.0,
        mirror: str = "https://www.openslr.org/resources/12",
    ):
        self.folder, self.split, self.mirror = Path(folder).expanduser(), split, mirror
        self.splits = {"train": list(train), "val": list(val), "test": list(test)}
        for key, parts in self.splits.items():
            for part in parts:
                if part not in SHA256:
                    raise OmniError(f"dataset.{key}: {part!r} is no part of LibriSpeech: {', '.join(SHA256)}")
        if split not in self.splits and split not in SHA256:
            raise OmniError(f"split: {split!r} is neither train, val, test nor a part: {', '.join(SHA256)}")
        super().__init__(
            lambda: [clip for part in self.parts for clip in self.listed(part)],
            source=self.list_of(self.parts[0]) if self.parts else self.folder,
            min_seconds=0.1,
            max_seconds=max_seconds,
        )

    @property
    def parts(self) -> list[str]:
        """The parts of this split."""
        return self.splits.get(self.split, [self.split])

    @property
    def root(self) -> Path:
        """The folder of the parts."""
        inside = any((self.folder / part).is_dir() for part in SHA256)
        return self.folder if inside else self.folder / TOP

    def list_of(self, part: str) -> Path:
        """The manifest of a part, which `prepare` writes beside it."""
        return self.root / f"{part}.jsonl"

    def listed(self, part: str) -> list[Clip]:
        """The clips of a part. Raises UnpreparedError when its list cannot be used."""
        run = f"python -m omni.prepare dataset=librispeech dataset.folder={self.folder}"
        return read_list(self.list_of(part), f"Run, with the same overrides: {run}")

    def of(self, split: str) -> "LibriSpeech":
        """The clips of another split, or of one part."""
        given = {"mirror": self.mirror, "max_seconds": self.max_seconds}
        return LibriSpeech(folder=str(self.folder), split=split, **self.splits, **given)

    def prepare(self, report: Report) -> None:
        """Fetch, unpack and list the parts of all splits, unless they are there.

        Raises:
            OmniError: a folder that holds something else, an archive that cannot be had or is another one, a part
                without clips, a folder that cannot be written.
        """
        try:
            self.refuse_strange_folder()
            for part in dict.fromkeys([*chain(*self.splits.values()), *self.parts]):
                self.prepare_part(part, report)
        except OSError as error:
            raise OmniError(
                f"{error.filename or self.folder}: cannot be written or read ({error.strerror}). Make room and "
                "mend its rights. A copy that is not yours can be linked into a folder of your own: mkdir -p "
                f"data/librispeech/{TOP} && ln -s {self.root}/*-* data/librispeech/{TOP}/, and "
                "dataset.folder=data/librispeech"
            ) from error

    def refuse_strange_folder(self) -> None:
        """Raise OmniError for a folder with other things in it: a slip of the pen must not cost 7 GB."""
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise OmniError(f"dataset.folder: {self.folder} is no folder. Name the one that holds {TOP}/")
        held = sorted(path.name for path in self.folder.iterdir() if path.name[0] != ".")
        if held and TOP not in held and not any(name.startswith(tuple(SHA256)) for name in held):
            raise OmniError(
                f"dataset.folder: {self.folder} is no LibriSpeech (it holds {', '.join(held[:5])}). Name the folder "
                f"that holds {TOP}/, or a new one to fetch it into."
            )

    def prepare_part(self, part: str, report: Report) -> None:
        if not self.is_prepared(part):
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / ".lock"):
                if not self.is_prepared(part):  # another may have seen to it meanwhile
                    self.make_part(part, report)
                    return
        report(f"{self.root / part} is there")

    def is_prepared(self, part: str) -> bool:
        """Whether the folder is there, and a list that was made of what is in it now."""
        if not (self.root / part).is_dir() or self.fetched(part).exists():
            return False
        rows = [*transcripts(self.root, part, LeftOut())]
        try:
            return is_made_from(self.list_of(part), self.stamp(rows)) and bool(self.listed(part))
        except UnpreparedError:  # the list is damaged
            return False

    def stamp(self, rows: list[Row]) -> str:
        return stamp(self.root, [row["audio"] for row in rows], rows)

    def make_part(self, part: str, report: Report) -> None:
        """Fetch a part unless its folder is there, and list it."""
        if not (self.root / part).is_dir():
            self.fetch(part, report)
        shutil.rmtree(self.fetched(part), ignore_errors=True)  # also of a process that was killed
        report(f"{part}: measuring the clips")
        left_out = LeftOut()
        rows = [*transcripts(self.root, part, left_out)]
        try:
            count = write_list(self.list_of(part), measure(rows, self.root, left_out), self.stamp(rows))
        finally:
            left_out.tell(report, part)
        report(f"{self.list_of(part)}: {count:,} clips")

    def fetched(self, part: str) -> Path:
        """The folder that an archive is fetched into, so that it is not taken for one that was put there by hand."""
        return self.folder / f".{part}.fetching"

    def fetch(self, part: str, report: Report) -> None:
        """Put the folder of a part in its place, from an archive that lies in `folder` or is fetched."""
        own = self.folder / f"{part}.tar.gz"
        archive = own if own.is_file() else self.fetched(part) / own.name
        if archive == own and (found := sha256_of(own)) != SHA256[part]:
            raise OmniError(
                f"{own}: its sha256 is {found}, the published one is {SHA256[part]}. Delete it and prepare again."
            )
        if not archive.is_file():  # else a process that was killed has fetched it
            archive.parent.mkdir(exist_ok=True)
            remedy = f"Name a mirror with dataset.mirror=URL, or put {own.name} into {self.folder}; then prepare again."
            url = f"{self.mirror.rstrip('/')}/{own.name}"
            fetch_file(url, archive, sha256=SHA256[part], report=report, remedy=remedy)
        report(f"{own.name}: unpacking")
        unpack(archive, self.root, part)
        if archive == own:
            report(f"{own} is no longer needed")


def transcripts(root: Path, part: str, left_out: LeftOut) -> Iterator[Row]:
    """The lines of a part's transcripts that have a clip, as rows of a manifest. Raises OmniError when it has none."""
    files = sorted((root / part).glob("*/*/*.trans.txt"))
    if not files:
        raise OmniError(
            f"{root / part}: holds no SPEAKER/CHAPTER/*.trans.txt as LibriSpeech does. Name another dataset.folder, or "
            "delete this one to have it fetched."
        )
    seen: set[str] = set()
    for file in files:
        clips = {path.name for path in file.parent.glob("*.flac")}
        for number, line in enumerate(file.read_bytes().decode(errors="replace").splitlines(), start=1):
            name, _, text = line.strip().partition(" ")
            if f"{name}.flac" not in clips:
                left_out.add(f"{file}:{number}: {name}.flac is not there")
            elif not text.strip():
                left_out.add(f"{file}:{number}: has no text")
            elif name in seen:
                left_out.add(f"{file}:{number}: {name} is named twice")
            else:
                seen.add(name)
                # LibriSpeech shouts: no case, no punctuation. A tokenizer of ordinary text cuts capitals into letters,
                # which its model has hardly read; lower case is its everyday words. Full stops are not made up, since
                # clips are cut at pauses, not at sentences.
                audio = (file.parent / f"{name}.flac").relative_to(root).as_posix()
                yield {
                    "id": name,
                    "audio": audio,
                    "text": text.strip().lower(),
                    "split": part,
                    "speaker": name.split("-")[0],
                }


def unpack(archive: Path, root: Path, part: str) -> None:
    """Unpack beside and rename, so that the folder of a part is there whole or not at all.

    Raises OmniError for what is no archive of this part, OSError for the disk.
    """
    work = root / f".{part}.unpacking"
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    try:
        with tarfile.open(archive, mode="r:gz") as content:
            content.extractall(work, filter="data")
        if not (work / TOP / part).is_dir():
            raise OmniError(f"{archive}: holds no {TOP}/{part}. Delete it and prepare again.")
        for path in (work / TOP).iterdir():  # the licence, the readme, who speaks
            if path.is_file() and not (root / path.name).exists():
                path.rename(root / path.name)
        (work / TOP / part).rename(root / part)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise OmniError(f"{archive}: cannot be unpacked ({error}). Delete it and prepare again.") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
