"""The files of a data set on Hugging Face or ModelScope: listed first, so that only what is needed is fetched.

HF_ENDPOINT and MODELSCOPE_ENDPOINT name mirrors; tokens are the hubs' own business, as in `omni.download`.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

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
                print(json.dumps([file.path, file.size, file.lfs and file.lfs.sha256]), file=out, flush=True)""",
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

Report = Callable[[str], None]


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: its path there, its bytes, and its SHA-256 where the hub tells it."""

    path: str
    size: int
    sha256: str | None


@dataclass(frozen=True)
class Repository:
    """A data set on a hub: "huggingface" or "modelscope"; id is OWNER/NAME, revision None the newest."""

    hub: str
    id: str
    revision: str | None

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
        """Download what is not in `folder` yet, or has another size.

        Raises OmniError, which names the file, when it cannot be had, or is another one than listed.
        """
        missing = [file for file in files if not has_size(folder / file.path, file.size)]
        total, done, count = sum(file.size for file in missing), 0, 0
        for group in grouped(missing):
            self.fetch_group(group, folder)
            done, count = done + sum(file.size for file in group), count + len(group)
            report(f"{self.id}: {count} of {len(missing)} files, {done / 1e6:,.1f} of {total / 1e6:,.1f} MB")

    def fetch_group(self, group: list[HubFile], folder: Path) -> None:
        """Several files of `fetch`, in at most TRIES tries."""
        folder.mkdir(parents=True, exist_ok=True)
        for tries_left in reversed(range(TRIES)):
            wanted = [file for file in group if not has_size(folder / file.path, file.size)]
            try:
                download(FETCH[self.hub], self.id, [self.revision or "", *(f.path for f in wanted)], folder, folder)
                for file in wanted:
                    check(file, folder / file.path)
                return
            except NotHereError as error:
                if not tries_left:
                    lacking = [file.path for file in group if not has_size(folder / file.path, file.size)]
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


def has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def check(file: HubFile, path: Path) -> None:
    """Delete a file that is not the listed one and raise NotHereError."""
    if not path.is_file():
        raise NotHereError(f"{file.path} did not come.")
    size, found = path.stat().st_size, sha256_of(path)
    if size != file.size or found != (file.sha256 or found):
        path.unlink()
        said = f"{file.size} bytes" + (f" of sha256 {file.sha256}" if file.sha256 else "")
        raise NotHereError(f"{file.path} has {size} bytes of sha256 {found}, and the hub lists {said}; it was deleted.")
