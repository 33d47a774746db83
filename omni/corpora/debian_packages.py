"""Debian packages as archives of files: fetched by apt-get without root, checked, and read without being unpacked."""

import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from omni.data.fingerprint import sha256_of
from omni.errors import OmniError

NEEDED = (
    "This data set comes in Debian packages, and there is no apt-get or dpkg-deb to fetch and open them. Take another: "
    "dataset=climbmix or text of your own, clips of your own by dataset=manifest."
)
APT = "-q -o APT::Sandbox::User=root -o Acquire::Retries=2 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20"
Files = list[tuple[str, bytes]]
"""Names and contents of files in a package."""


@dataclass(frozen=True)
class Package:
    """One line of data/debian_text.json."""

    name: str
    version: str
    licence: str
    sha256: str


class Apt:
    """apt-get without root: it asks as the system is set up, then by package lists of our own, fetched at most once.

    Args:
        folder: an empty one, for the lists and what is downloaded.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        for part in ("lists", "archives"):
            (folder / part / "partial").mkdir(parents=True)
        self.own = ["-o", f"Dir::State={folder}", "-o", f"Dir::Cache={folder}", "-o", "Dir::State::status=/dev/null"]

    def download(self, package: Package) -> Path | None:
        """The package's file, in the listed version or else in this release's. None when it has no such package.

        Raises OmniError when apt-get cannot tell, or cannot fetch it.
        """
        exact = f"{package.name}={package.version}"
        if self.ask("download", exact):
            missing_lists = self.missing_lists
            if self.ask(*self.own, "download", exact):
                # Without all lists a dead network would look like a release that lacks the package.
                said = missing_lists or self.ask(*self.own, "download", package.name)
                if "Unable to locate package" in said:
                    return None
                if said:
                    raise OmniError(
                        f"{package.name}: apt-get could not download it: {said}. Check the network and run the same "
                        "command again, or put the .deb file by hand where the others are."
                    )
        return next(self.folder.glob("*.deb"))

    @cached_property
    def missing_lists(self) -> str:
        """'' when lists of our own are there, all of them, else what apt-get said."""
        # By itself, update is content with the lists that it can get, be it none.
        return self.ask(*self.own, "-o", "APT::Update::Error-Mode=any", "update")

    def ask(self, *arguments: str) -> str:
        """'' when it went well, else what apt-get said last."""
        command = ["apt-get", *APT.split(), *arguments]
        given = {"cwd": self.folder, "env": os.environ | {"LC_ALL": "C"}, "stdin": subprocess.DEVNULL}
        try:
            done = subprocess.run(command, **given, capture_output=True, text=True, errors="replace")
        except FileNotFoundError:
            raise OmniError(NEEDED) from None
        if done.returncode == 0:
            return ""
        for part in self.folder.glob("*.deb"):
            part.unlink()
        return " ".join(done.stderr.split())[-300:] or f"exit status {done.returncode}"


def fetch_packages(packages: Iterable[Package], folder: Path, report: Callable[[str], None]) -> dict[str, Path]:
    """Each package's file in `folder`, by name, downloaded if need be; packages that this release lacks are left out.

    Raises OmniError for one that cannot be fetched, or is not what the list says.
    """
    with tempfile.TemporaryDirectory(dir=folder) as work:
        apt = Apt(Path(work))
        found = {package.name: fetch(package, folder, apt, report) for package in packages}
    return {name: path for name, path in found.items() if path}


def fetch(package: Package, folder: Path, apt: Apt, report: Callable[[str], None]) -> Path | None:
    """One package of `fetch_packages`: the listed version where it is there or still to be had."""
    there = sorted(folder.glob(f"{package.name}_*.deb"), key=lambda path: (version_of(path) == package.version, path))
    if not there:
        report(f"fetching {package.name} {package.version}")
        fetched = apt.download(package)
        if fetched is None:
            report(f"{package.name} is left out: this release has no such package")
            return None
        there = [fetched.rename(folder / fetched.name)]
    path = there[-1]
    if version_of(path) != package.version:
        report(f"{path.name} is another version than the listed {package.version}: the text will differ a little")
    elif sha256_of(path) != package.sha256:
        raise OmniError(f"{path}: its sha256 is not the one in the list. Delete the file and prepare again.")
    return path


def version_of(path: Path) -> str:
    return path.name.split("_")[1].replace("%3a", ":")


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
            while unpack.stdout.read(1 << 20):  # what stands behind the archive's end, or dpkg-deb would not end well
                pass
        if unpack.returncode:
            raise tarfile.TarError(f"dpkg-deb ended with {unpack.returncode}")
    except FileNotFoundError:
        raise OmniError(NEEDED) from None
    except tarfile.TarError as error:
        raise OmniError(f"{deb}: cannot be unpacked ({error}). Delete the file and prepare again.") from error
