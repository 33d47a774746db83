"""One large file over HTTP: resumed where it broke off, checked by its SHA-256, given up where the server is silent.

torchaudio's and torch.hub's downloads begin anew each time and wait for a silent server for ever; on 6 GB both hurt.
"""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from omni import download
from omni.data.fingerprint import sha256_of
from omni.download import one_line
from omni.errors import OmniError

TRIES = 3
"""In a row that bring less than ENOUGH; a line that breaks off now and then may do so as often as it likes."""
ENOUGH = 1 << 20  # bytes
PAUSE = 1.0  # seconds before the second try, twice that before the third
REPORT_EVERY = 10.0  # seconds
BLOCK = 1 << 18  # bytes

Report = Callable[[str], None]


class BrokenOffError(Exception):
    """The transfer ended too early; another try may get further."""


class NoFileError(Exception):
    """Another try would not help."""


def fetch_file(url: str, path: Path, *, sha256: str, report: Report, remedy: str) -> None:
    """Download `url` to `path`, by way of `path`.part, which stays for the next time where it breaks off.

    A server may be silent for download.PATIENCE seconds, and break off TRIES times in a row.
    remedy: the way out, for errors.
    Raises OmniError: the server lacks the file, does not answer, breaks off for good, the disk is full; or the file is
    another than `sha256` says, and is then deleted.
    """
    part = path.with_name(f"{path.name}.part")
    tries, furthest = 0, size_of(part)
    while True:
        try:
            receive(url, part, report)
            break
        except BrokenOffError as error:
            # Not beyond where this try began: a server without ranges begins at 0 each time, and might for ever.
            there = size_of(part)
            tries = 1 if there - furthest >= ENOUGH else tries + 1
            furthest = max(furthest, there)
            if tries == TRIES:
                raise OmniError(f"{path.name} cannot be fetched from {url}: {error}. {remedy}") from None
            report(f"{path.name}: {error}; trying again, {there / 1e6:,.1f} MB are there")
            time.sleep(PAUSE * tries)
        except NoFileError as error:
            raise OmniError(f"{path.name} cannot be fetched from {url}: {error}. {remedy}") from None
    report(f"{path.name}: comparing its sha256 with the published one")
    if (found := sha256_of(part)) != sha256:
        part.unlink()
        raise OmniError(f"{url}: its sha256 is {found}, the published one is {sha256}; it was deleted. {remedy}")
    part.replace(path)


def receive(url: str, part: Path, report: Report) -> None:
    """Append to `part` what it lacks. Raises BrokenOffError, NoFileError, and OmniError for a full disk."""
    start = size_of(part)
    headers = {"User-Agent": "omni", **({"Range": f"bytes={start}-"} if start else {})}
    try:
        with urlopen(Request(url, headers=headers), timeout=download.PATIENCE) as answer:
            if start and answer.status != 206:  # the server knows no ranges and sends it all
                start = 0
            elif start and not (answer.headers["Content-Range"] or "").startswith(f"bytes {start}-"):
                part.unlink()
                raise BrokenOffError("the server sent another part than the one asked for")
            length = answer.headers["Content-Length"]
            store(answer, part, start=start, total=start + int(length) if length else None, report=report)
    except HTTPError as error:
        refused(error, part, start)
    except TimeoutError:
        raise BrokenOffError(f"no answer for {download.PATIENCE:g} s") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            reason = f"no answer for {download.PATIENCE:g} s"
        raise BrokenOffError(one_line(reason) or type(error).__name__) from None
    except ValueError as error:  # not a URL at all
        raise NoFileError(one_line(error)) from None


def refused(error: HTTPError, part: Path, start: int) -> None:
    """What an HTTP status means: nothing when the file is there to its end, else an error of `receive`."""
    if error.code == 416 and start:
        # Nothing lies beyond what is there: it was whole already, or is no beginning of this file.
        if re.fullmatch(rf"bytes \*/{start}", error.headers.get("Content-Range") or ""):
            return
        part.unlink()
    kind = BrokenOffError if error.code >= 500 or error.code in (408, 416, 429) else NoFileError
    raise kind(f"HTTP {error.code} ({one_line(error.reason)})") from None


def store(answer: Any, part: Path, *, start: int, total: int | None, report: Report) -> None:
    """Write an answer's body behind the first `start` bytes of `part`. Raises BrokenOffError when it is cut short."""
    progress = Progress(part.name.removesuffix(".part"), start, total, report)
    try:
        file = part.open("ab" if start else "wb")
    except OSError as error:
        raise unwritable(part, error) from error
    with file:
        while block := answer.read1(BLOCK):
            try:
                file.write(block)
                file.flush()  # or a full disk would be met where it cannot be told from a dead line
            except OSError as error:
                with suppress(OSError):
                    file.close()
                raise unwritable(part, error) from error
            progress.add(len(block))
    if total is not None and progress.done < total:
        raise BrokenOffError(f"the transfer broke off at {progress.done:,} of {total:,} bytes")


def unwritable(part: Path, error: OSError) -> OmniError:
    return OmniError(f"{part}: cannot be written ({error.strerror}). Make room or mend its rights; what came stays.")


class Progress:
    """Says every REPORT_EVERY seconds how far a transfer is."""

    def __init__(self, name: str, start: int, total: int | None, report: Report):
        self.name, self.start, self.done, self.total, self.report = name, start, start, total, report
        self.began = self.said = time.monotonic()
        of = f", {total / 1e6:,.1f} MB" if total else ""
        report(f"fetching {name}{of}" + (f", of which {start / 1e6:,.1f} MB are there" if start else ""))

    def add(self, size: int) -> None:
        self.done += size
        now = time.monotonic()
        if now - self.said < REPORT_EVERY:
            return
        self.said = now
        rate = (self.done - self.start) / max(now - self.began, 1e-9)
        left = (
            ""
            if self.total is None
            else f" of {self.total / 1e6:,.1f} MB, {(self.total - self.done) / rate:,.0f} s left"
        )
        self.report(f"{self.name}: {self.done / 1e6:,.1f}{left or ' MB'}, {rate / 1e6:,.1f} MB/s")


def size_of(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0
