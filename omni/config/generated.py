"""Committed files that are made from others: written, or compared with what they should be."""

import difflib
from pathlib import Path

from omni.atomic import replace_text
from omni.config.paths import conf_dir
from omni.errors import OmniError


def checkout() -> Path:
    """The top folder of the checkout omni runs from.

    Raises:
        OmniError: omni runs from an installed copy, which holds neither tests nor docs.
    """
    root = conf_dir().parent
    if not (root / "tests").is_dir():
        raise OmniError(f"generated files belong to a checkout, and {root} is none; run this in a clone")
    return root


def stale(root: Path, wanted: dict[str, str], pattern: str) -> dict[str, str | None]:
    """What must change below `root`: path -> its new text, or None for a file of `pattern` that is not wanted."""
    there = {path.relative_to(root).as_posix() for path in root.glob(pattern)}
    gone = {name: None for name in sorted(there - set(wanted))}
    return {name: text for name, text in wanted.items() if read(root / name) != text} | gone


def update(root: Path, wanted: dict[str, str], pattern: str) -> list[str]:
    """Write and remove files until all are as wanted; returns a line for each. Raises OSError."""
    changes = stale(root, wanted, pattern)
    for name, text in changes.items():
        if text is None:
            (root / name).unlink()
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            replace_text(root / name, text)
    return [f"{'removed' if text is None else 'wrote'} {name}" for name, text in changes.items()]


def drift(root: Path, wanted: dict[str, str], pattern: str) -> str:
    """The unified diff from the files that are there to those wanted; empty when all is up to date."""
    lines: list[str] = []
    for name, text in stale(root, wanted, pattern).items():
        before = read(root / name)
        sides = ("/dev/null" if before is None else name, "/dev/null" if text is None else name)
        lines += difflib.unified_diff((before or "").splitlines(), (text or "").splitlines(), *sides, lineterm="")
    return "\n".join(lines)


def read(path: Path) -> str | None:
    """A file's text, None where there is none."""
    return path.read_text() if path.is_file() else None
