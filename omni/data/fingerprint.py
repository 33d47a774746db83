"""Whether data is what it was: a file by its SHA-256, a data set by a short hash of what it is made of."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from omni.errors import OmniError


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(parts: Iterable[object]) -> str:
    """Sixteen hex digits that stand for these texts, numbers and tuples of them."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode() + b"\n")
    return digest.hexdigest()[:16]


def refuse_other_data(trained_on: str, here: str) -> None:
    """Raise OmniError when a checkpoint's data set has another fingerprint than the one that is here."""
    if trained_on != here:
        raise OmniError(
            "dataset: it is not the one the checkpoint was trained on (its files, their sizes, its clips, sentences or "
            "the seed have changed). Bring the old one back, or start a new run from the checkpoint's weights."
        )
