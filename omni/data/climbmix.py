"""`climbmix`: nanochat's own corpus, shuffled web text in shards of some 100 MB, from Hugging Face or a mirror.

The data set is `karpathy/climbmix-400b-shuffle`; its last shard is nanochat's validation, and it is here too, so that
bits per byte can be compared. HF_ENDPOINT names a mirror.
"""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from omni.data.documents import TextFiles
from omni.data.text import Corpus
from omni.errors import OmniError
from omni.model.download import NotHereError, download

REPOSITORY = "karpathy/climbmix-400b-shuffle"
LAST = 6542
"""The number of the validation shard; those for training come before it."""
TRIES = 3  # of a file; within one, the client goes on a few times where the line broke off
# The hub's client, so that mirrors, tokens and redirections are its business; chunks as in omni.model.download.
DATASET = """from huggingface_hub import constants, hf_hub_download
    constants.DOWNLOAD_CHUNK_SIZE = 1 << 18
    hf_hub_download(repo, files[0], repo_type="dataset", local_dir=target)"""


class ClimbMix(Corpus):
    """The first `shards` training shards and the validation shard.

    What else lies in the folder does not count: a run can go on after more has been fetched.
    """

    def __init__(self, *, folder: str, shards: int):
        super().__init__(path=[str(Path(folder) / name) for name in names(shards)])
        self.folder = folder

    def documents(self, split: str, seed: int = 0) -> TextFiles:
        """The documents of "train" or "val". Raises OmniError when a shard is not there."""
        missing = [Path(path).name for path in self.path if not Path(path).is_file()]
        if missing:
            raise OmniError(
                f"{self.folder}: {len(missing)} of {len(self.path)} files are not there ({', '.join(missing[:3])} ...)."
                " Run: python -m omni.prepare dataset=climbmix"
            )
        return super().documents(split, seed)

    @staticmethod
    def prepare(*, folder: str, shards: int, report: Callable[[str], None]) -> None:
        """See `prepare_climbmix`."""
        prepare_climbmix(folder, shards=shards, report=report)


def names(shards: int) -> list[str]:
    """The files of a corpus of so many training shards, validation last."""
    if not 1 <= shards <= LAST:
        raise OmniError(f"shards: is {shards}; there are {LAST} to train on, and one is the least")
    return [f"shard_{number:05d}.parquet" for number in (*range(shards), LAST)]


def prepare_climbmix(folder: str | Path, *, shards: int, report: Callable[[str], None]) -> dict[str, int]:
    """Fetch what is not in `folder` yet; returns the size in bytes of each file.

    A file appears under its name once it is whole and its SHA-256 is the one the hub gives.
    Raises OmniError when the hub does not answer for PATIENCE seconds, lacks a file, or breaks off too often.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = names(shards)
    missing = [name for name in wanted if not (folder / name).is_file()]
    for done, name in enumerate(missing, start=1):
        fetch(name, folder)
        report(f"{name} is there ({done} of {len(missing)})")
    return {name: (folder / name).stat().st_size for name in wanted}


def fetch(name: str, folder: Path) -> None:
    """Download one file into `folder`, by way of a folder of its own. Raises OmniError after TRIES tries."""
    partial = folder / f".{name}.tmp"
    for tries_left in reversed(range(TRIES)):
        try:
            download(DATASET, REPOSITORY, [name], partial, partial)
            check(partial, name)
            (partial / name).replace(folder / name)
            return
        except NotHereError as error:
            if not tries_left:
                raise OmniError(
                    f"{name} of {REPOSITORY} cannot be fetched: {error} Check the network, or name a mirror with "
                    "HF_ENDPOINT, then run the same command again: files that are whole are not fetched twice."
                ) from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def check(partial: Path, name: str) -> None:
    """Raise NotHereError when the file's SHA-256 is not the one the hub gave as its ETag, where it is one."""
    given = (partial / ".cache" / "huggingface" / "download" / f"{name}.metadata").read_text()
    with (partial / name).open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    for expected in re.findall(r"^[0-9a-f]{64}$", given, flags=re.MULTILINE):
        if found != expected:
            raise NotHereError(f"its sha256 is {found}, not {expected}.")
