"""The files of a data set on Hugging Face or ModelScope: listed first, so that only what is needed is fetched.

HF_ENDPOINT and MODELSCOPE_ENDPOINT name mirrors; tokens are the hubs' own business, as in `omni.download`.
"""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from omni.corpora.transfer import Report
from omni.data.fingerprint import sha256_of
from omni.download import NotHereError, download
from omni.errors import OmniError

TRIES = 3  # of a group of files; files that are whole are not fetched again
GROUP_BYTES, GROUP_FILES = 200_000_000, 200
"""What one child process fetches, between two reports."""

# Each writes a line a file, so that a long list is seen to grow.
LIST = {
    "huggingface": """import json
    from huggingface_hub import HfApi
    with open(target + "/files.jsonl", "w") as out:
        for file in HfApi().list_repo_tree(repo, repo_type="dataset", revision=files[0] or None, recursive=True):
            if hasattr(file, "size"):
                known = file.lfs.sha256 if file.lfs else file.blob_id
                print(json.dumps([file.path, file.size, known]), file=out, flush=True)""",
    "modelscope": """import json
    from modelscope_hub import HubApi
    api = HubApi(endpoint=HubApi().resolve_endpoint_for_read(repo, repo_type="dataset"))
    with open(target + "/files.jsonl", "w") as out:
        for file in api.list_repo_files(repo, "dataset", revision=files[0] or None):
            if not file.is_dir:
                print(json.dumps([file.path, file.size, file.sha256 or None]), file=out)""",
}
# Chunks as in omni.download; eight at a time, for data sets of many small files.
FETCH = {
    "huggingface": """from concurrent.futures import ThreadPoolExecutor
    from huggingface_hub import constants, hf_hub_download
    constants.DOWNLOAD_CHUNK_SIZE = 1 << 18
    given = {"repo_type": "dataset", "revision": files.pop(0) or None, "local_dir": target}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: hf_hub_download(repo, name, **given), files))""",
    "modelscope": """from concurrent.futures import ThreadPoolExecutor
    from modelscope_hub import HubApi
    api = HubApi(endpoint=HubApi().resolve_endpoint_for_read(repo, repo_type="dataset"))
    given = {"revision": files.pop(0) or None, "local_dir": target}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: api.download_file(repo, "dataset", name, **given), files))""",
}
ENDPOINTS = {"huggingface": "HF_ENDPOINT", "modelscope": "MODELSCOPE_ENDPOINT"}
TOKENS = {"huggingface": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: its path there, its bytes, and where the hub tells it, its SHA-256, or git's SHA-1."""

    path: str
    size: int
    hash: str | None


@dataclass(frozen=True)
class Repository:
    """A data set on a hub: "huggingface" or "modelscope"; id is OWNER/NAME, revision None the newest."""

    hub: str
    id: str
    revision: str | None

    @property
    def version(self) -> str:
        """A folder's name for the files of this hub and revision, which others may have under the same paths."""
        return self.hub if self.revision is None else f"{self.hub}@{quote(self.revision, safe='')}"

    def files(self) -> list[HubFile]:
        """Its files. Raises OmniError when the hub does not know it, does not let one in, or does not answer."""
        with tempfile.TemporaryDirectory() as work:
            try:
                download(LIST[self.hub], self.id, [self.revision or ""], Path(work), Path(work))
            except NotHereError as error:
                raise OmniError(
                    f"dataset.repo: {self.id} cannot be looked into on {self.hub}: {error} Check its name and "
                    f"dataset.revision, the network, {ENDPOINTS[self.hub]} (a mirror) and {TOKENS[self.hub]} (for what "
                    "is not open to all)."
                ) from None
            lines = (Path(work) / "files.jsonl").read_text().splitlines()
        files = [HubFile(*json.loads(line)) for line in lines]
        for file in files:
            # A hub is a stranger: a file of its must not land outside the folder it is fetched into.
            if PurePosixPath(file.path).is_absolute() or ".." in PurePosixPath(file.path).parts:
                raise OmniError(f"dataset.repo: {self.id} holds {file.path!r}, which leads out of it. Not used.")
        return files

    def fetch(self, files: Iterable[HubFile], folder: Path, report: Report) -> None:
        """Download what is not in `folder` yet, or is another than listed.

        Raises OmniError, which names the file, when it cannot be had, or is another one than listed.
        """
        missing = [file for file in files if not is_listed(folder / file.path, file)]
        for file in missing:  # or a client might take an older one for this
            (folder / file.path).unlink(missing_ok=True)
        total, done, count = sum(file.size for file in missing), 0, 0
        for group in grouped(missing):
            self.fetch_group(group, folder)
            done, count = done + sum(file.size for file in group), count + len(group)
            report(f"{self.id}: {count} of {len(missing)} files, {done / 1e6:,.1f} of {total / 1e6:,.1f} MB")

    def fetch_group(self, group: list[HubFile], folder: Path) -> None:
        """Several files of `fetch`, in at most TRIES tries."""
        folder.mkdir(parents=True, exist_ok=True)
        for tries_left in reversed(range(TRIES)):
            wanted = [file for file in group if not is_listed(folder / file.path, file)]
            try:
                download(FETCH[self.hub], self.id, [self.revision or "", *(f.path for f in wanted)], folder, folder)
                for file in wanted:
                    check(file, folder / file.path)
                return
            except NotHereError as error:
                if not tries_left:
                    lacking = [file.path for file in group if not is_listed(folder / file.path, file)]
                    raise OmniError(
                        f"{', '.join(lacking[:3])} of {self.id} cannot be fetched from {self.hub}: {error} Check the "
                        f"network, or name a mirror with {ENDPOINTS[self.hub]}, then run the same command again: files "
                        "that are whole are not fetched twice."
                    ) from None


def grouped(files: list[HubFile]) -> Iterator[list[HubFile]]:
    """The files, in groups of about GROUP_BYTES and at most GROUP_FILES."""
    group: list[HubFile] = []
    for file in files:
        group.append(file)
        if sum(each.size for each in group) >= GROUP_BYTES or len(group) == GROUP_FILES:
            yield group
            group = []
    if group:
        yield group


def is_listed(path: Path, file: HubFile) -> bool:
    """Whether a file that lies here is the one that the hub lists."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    return file.hash is None or hash_like(file.hash, path) == file.hash


def hash_like(known: str, path: Path) -> str:
    """A file's hash of the kind of a known one: Hugging Face has git's for what is too small for its large store."""
    if len(known) == 40:
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return sha256_of(path)


def check(file: HubFile, path: Path) -> None:
    """Delete a file that is not the listed one and raise NotHereError."""
    if not path.is_file():
        raise NotHereError(f"{file.path} did not come.")
    if not is_listed(path, file):
        size, found = path.stat().st_size, hash_like(file.hash or "", path)
        path.unlink()
        said = f"{file.size} bytes" + (f" of hash {file.hash}" if file.hash else "")
        raise NotHereError(f"{file.path} has {size} bytes of hash {found}, and the hub lists {said}; it was deleted.")
