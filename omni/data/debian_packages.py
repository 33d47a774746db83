"""Debian packages as archives of files: fetched by apt-get without root, checked, and read without being unpacked."""

import hashlib
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from omni.errors import OmniError

NEEDED = (
    "debian_text needs apt-get and dpkg-deb, which Debian and Ubuntu have. Elsewhere take dataset=climbmix, or files "
    "of your own."
)
APT = "-q -o APT::Sandbox::User=root -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20"


@dataclass(frozen=True)
class Package:
    """One line of data/debian_text.json."""

    name: str
    version: str
    licence: str
    sha256: str


def fetch(package: Package, folder: Path, report: Callable[[str], None]) -> Path | None:
    """The package's file in `folder`, downloaded if need be: the listed version where it is still to be had.

    None when this release of the distribution has no such package.
    """
    there = sorted(folder.glob(f"{package.name}_*.deb"))
    if not there:
        report(f"fetching {package.name} {package.version}")
        there = apt_download(package, folder)
    if not there:
        report(f"{package.name} is left out: this release has no such package")
        return None
    path = there[-1]
    if path.name.split("_")[1].replace("%3a", ":") != package.version:
        report(f"{path.name} is another version than the listed {package.version}: the text will differ a little")
    elif sha256(path) != package.sha256:
        raise OmniError(f"{path}: its sha256 is not the one in the list. Delete the file and prepare again.")
    return path


def apt_download(package: Package, folder: Path) -> list[Path]:
    """Ask apt-get, first as the system knows it, then with package lists of our own, for which nobody need be root."""
    with tempfile.TemporaryDirectory(dir=folder) as target:
        for part in ("lists", "archives"):
            (Path(target) / part / "partial").mkdir(parents=True)
        own = ["-o", f"Dir::State={target}", "-o", f"Dir::Cache={target}", "-o", "Dir::State::status=/dev/null"]
        exact = f"{package.name}={package.version}"
        said = apt_get(target, "download", exact)
        if said:
            said = apt_get(target, *own, "update") or apt_get(target, *own, "download", exact)
        if said:
            said = apt_get(target, *own, "download", package.name)
        if "Unable to locate package" in said:
            return []
        if said:
            raise OmniError(
                f"{package.name}: apt-get could not download it: {said}. Check the network and run the same command "
                f"again, or put the .deb file into {folder} by hand."
            )
        return [path.rename(folder / path.name) for path in Path(target).glob("*.deb")]


def apt_get(folder: str, *arguments: str) -> str:
    """'' when it went well, else what apt-get said last."""
    command = ["apt-get", *APT.split(), *arguments]
    try:
        done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except FileNotFoundError:
        raise OmniError(NEEDED) from None
    return "" if done.returncode == 0 else " ".join(done.stderr.split())[-300:] or f"exit status {done.returncode}"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def members(deb: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files in a package whose name matches. Raises OmniError for a damaged package."""
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    try:
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as unpack,
            tarfile.open(fileobj=unpack.stdout, mode="r|") as archive,
        ):
            for member in archive:
                if member.isreg() and re.search(pattern, member.name):
                    yield member.name, archive.extractfile(member).read()
    except FileNotFoundError:
        raise OmniError(NEEDED) from None
    except tarfile.TarError as error:
        raise OmniError(f"{deb}: cannot be unpacked ({error}). Delete the file and prepare again.") from error
