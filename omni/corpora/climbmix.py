"""`climbmix`: nanochat's own corpus, shuffled web text in shards of some 100 MB, from Hugging Face or a mirror.

The data set is `karpathy/climbmix-400b-shuffle`; its last shard is nanochat's validation, and it is here too, so that
bits per byte can be compared. HF_ENDPOINT names a mirror.
"""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from omni.atomic import locked
from omni.data.documents import TextFiles
from omni.data.fingerprint import sha256_of
from omni.data.text import Corpus
from omni.download import NotHereError, download
from omni.errors import OmniError

REPOSITORY = "karpathy/climbmix-400b-shuffle"
LAST = 6542
"""The number of the validation shard; those for training come before it."""
TRIES = 3  # of a file; each goes on where the one before broke off
# The hub's client, so that mirrors, tokens and redirections are its business; chunks as in omni.download.
DATASET = """from huggingface_hub import constants, hf_hub_download
    constants.DOWNLOAD_CHUNK_SIZE = 1 << 18
    hf_hub_download(repo, files[0], repo_type="dataset", local_dir=target)"""


class ClimbMix(Corpus):
    """The first `shards` training shards and the validation shard.

    What else lies in the folder does not count: more can be fetched while a run goes on.
    """

    def __init__(self, *, folder: str, shards: int):
        super().__init__(path=[str(Path(folder) / name) for name in names(shards)])
        self.folder, self.shards = folder, shards

    def documents(self, split: str, seed: int = 0) -> TextFiles:
        """The documents of "train" or "val". Raises OmniError when a shard is not there."""
        missing = [Path(path).name for path in self.path if not Path(path).is_file()]
        if missing:
            raise OmniError(
                f"{self.folder}: {len(missing)} of {len(self.path)} files are not there ({', '.join(missing[:3])} ...)."
                " Run: python -m omni.prepare dataset=climbmix"
            )
        return super().documents(split, seed)

    def prepare(self, report: Callable[[str], None]) -> None:
        """See `prepare_climbmix`."""
        prepare_climbmix(self.folder, shards=self.shards, report=report)


def names(shards: int) -> list[str]:
    """The files of a corpus of so many training shards, validation last."""
    if not 1 <= shards <= LAST:
        raise OmniError(f"dataset.shards: is {shards}; there are {LAST} to train on, and one is the least")
    return [f"shard_{number:05d}.parquet" for number in (*range(shards), LAST)]


def prepare_climbmix(folder: str | Path, *, shards: int, report: Callable[[str], None]) -> dict[str, int]:
    """Fetch what is not in `folder` yet, or not whole; returns the size in bytes of each file.

    A file appears under its name once its footer can be read, and its SHA-256 is the hub's where the hub gives one.
    Several that prepare the same folder take turns, file by file.
    Raises OmniError when the hub does not answer for PATIENCE seconds, lacks a file, or breaks off too often.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = names(shards)
    missing = [name for name in wanted if not is_whole(folder / name)]
    for done, name in enumerate(missing, start=1):
        with locked(folder / ".lock"):
            if not is_whole(folder / name):  # another may have fetched it meanwhile
                fetch(name, folder)
        report(f"{name} is there ({done} of {len(missing)})")
    return {name: (folder / name).stat().st_size for name in wanted}


def is_whole(path: Path) -> bool:
    """Whether a parquet file is there to its end, where its footer is."""
    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowException):
        return False
    return True


def fetch(name: str, folder: Path) -> None:
    """Download one file into `folder`, by way of a folder of its own, which stays for the next time where it breaks
    off. Raises OmniError after TRIES tries."""
    partial = folder / f".{name}.tmp"
    for tries_left in reversed(range(TRIES)):
        try:
            download(DATASET, REPOSITORY, [name], partial, partial)
            check(partial, name)
            break
        except NotHereError as error:
            if not tries_left:
                raise OmniError(
                    f"{name} of {REPOSITORY} cannot be fetched: {error} Check the network, or name a mirror with "
                    "HF_ENDPOINT, then run the same command again: files that are whole are not fetched twice."
                ) from None
    (partial / name).replace(folder / name)
    shutil.rmtree(partial)


def check(partial: Path, name: str) -> None:
    """Delete what came and raise NotHereError when it is cut off, or its SHA-256 not the one the hub gave as its ETag;
    another kind of ETag says nothing."""
    given = (partial / ".cache" / "huggingface" / "download" / f"{name}.metadata").read_text()
    expected, found = re.findall(r"^[0-9a-f]{64}$", given, flags=re.MULTILINE), sha256_of(partial / name)
    if any(sha256 != found for sha256 in expected) or not is_whole(partial / name):
        shutil.rmtree(partial)
        raise NotHereError(f"its sha256 is {found}, not {expected[0]}." if expected else "it is no whole parquet file.")
