"""Manifests: JSON lines that say which sound goes with which text. Every data set enters through one.

A row needs `audio` and `text`; the other fields are in `Clip`. Nothing here opens the audio: a manifest of a
hundred thousand clips is checked in seconds, and a missing file is reported where it is read.
"""

import difflib
import gzip
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omni.errors import OmniError

FAULTS_SHOWN = 10


class ManifestError(OmniError):
    """A manifest that cannot be used. Each fault is one line: file:line, field, what is needed."""


class NoSplitError(ManifestError):
    """A data set has no such split."""


@dataclass(frozen=True)
class Clip:
    """One manifest row. `audio`, `offset` and `bytes` are what `omni.audio.read.read` takes.

    audio: the file, or the archive that holds the clip as `bytes` bytes at `offset`, already joined to the
    manifest's folder. seconds: None until measured. question, choices, answer: a question about the sound.
    labels: what is known about it, such as "male" or "rain". sha256: of the audio file, or of its part, lower-case hex.
    """

    id: str
    audio: Path
    text: str
    seconds: float | None = None
    split: str = "train"
    offset: int = 0
    bytes: int | None = None
    speaker: str | None = None
    question: str | None = None
    choices: tuple[str, ...] | None = None
    answer: str | None = None
    labels: tuple[str, ...] | None = None
    sha256: str | None = None


def read_manifest(path: str | Path) -> list[Clip]:
    """Read a manifest, `.jsonl` or `.jsonl.gz`, in its own order.

    A path in it is absolute, relative to the manifest's folder, or starts with ~. `id` defaults to the audio
    file's stem, `split` to "train"; null counts as absent; blank lines are skipped.
    Raises ManifestError for a manifest that is missing, unreadable or has no row, and for bad rows: all of
    them at once, each fault with its line, the first ten in full.
    """
    path = Path(path).expanduser()
    clips: list[Clip] = []
    faults: list[str] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(_content(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        row, problems = _parse(line)
        if not problems:
            clip = _clip(row, path.parent)
            if clip.id in line_of:
                problems = [f"id: {clip.id!r} is taken by line {line_of[clip.id]}; give each row its own"]
            line_of.setdefault(clip.id, number)
            clips.append(clip)
        faults += [f"{path}:{number}: {problem}" for problem in problems]
    if faults:
        shown, rest = faults[:FAULTS_SHOWN], len(faults) - FAULTS_SHOWN
        raise ManifestError("\n".join(shown + ([f"... and {rest} more in {path}"] if rest > 0 else [])))
    if not clips:
        raise ManifestError(f'{path}: has no rows. A row is one line: {{"audio": "a.wav", "text": "hello"}}')
    return clips


def select_split(clips: list[Clip], split: str | None) -> list[Clip]:
    """The clips of one split, in order; of None all. Raises NoSplitError, which names the splits, when it has none."""
    chosen = [clip for clip in clips if split in (None, clip.split)]
    if not chosen:
        counts = Counter(clip.split for clip in clips)
        there = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items())) or "no clips at all"
        raise NoSplitError(f"split {split!r} has no clips. The manifest has: {there}.{_nearest(split, counts)}")
    return chosen


def _content(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ManifestError(f"{path}: is a folder. Name the manifest in it: {path / 'manifest.jsonl'}")
        if not path.exists():
            raise ManifestError(f"{path}: no such manifest. Check the path, or prepare the data set first.")
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):  # gzip by its content: some downloaders unpack and keep the name
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ManifestError(f"{path}: is damaged gzip ({error}). Copy or download it again.") from error
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror}). Check its rights.") from error
    return content.removeprefix(b"\xef\xbb\xbf")  # the byte order mark some editors put before UTF-8


def _parse(line: bytes) -> tuple[dict[str, Any], list[str]]:
    """A row without its nulls, and what is wrong with it."""
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return {}, [f"is not UTF-8 (byte {error.start + 1} of the line). Save the file as UTF-8"]
    except (ValueError, RecursionError) as error:  # ValueError also for integers beyond 4,300 digits
        return {}, [f"is not JSON ({error}). Each line is one object, with no commas between lines"]
    if not isinstance(row, dict):
        return {}, [f"is not an object but {_shown(row)}. Each line is one {{...}}"]
    row = {field: value for field, value in row.items() if value is not None}
    return row, list(_problems(row))


def _problems(row: dict[str, Any]) -> Iterator[str]:
    for field in ("audio", "text"):
        if field not in row:
            yield f"{field}: is missing, every row needs {FIELDS[field][1]}"
    for field, value in row.items():
        if field not in FIELDS:
            known = f" Did you mean {ALIASES[field]!r}?" if field in ALIASES else _nearest(field, FIELDS)
            yield f"{field}: is no field.{known or ' There are: ' + ', '.join(FIELDS)}"
        elif not FIELDS[field][0](value):
            yield f"{field}: is {_shown(value)}, needs {FIELDS[field][1]}"
    for field, other in (("offset", "bytes"), ("bytes", "offset")):
        if field in row and other not in row:
            yield f"{field}: stands without `{other}`; a clip inside an archive needs both"
    choices, answer = row.get("choices"), row.get("answer")
    if answer is not None and _is_texts(choices) and answer not in choices:
        yield f"answer: is {_shown(answer)}, needs one of the choices: {', '.join(choices)}"


def _clip(row: dict[str, Any], folder: Path) -> Clip:
    values = {field: tuple(value) if isinstance(value, list) else value for field, value in row.items()}
    values["audio"] = folder / os.path.expanduser(row["audio"])  # noqa: PTH111 - Path's own fails for a file ~a.wav
    if "seconds" in row:
        values["seconds"] = float(row["seconds"])
    return Clip(**{"id": Path(row["audio"]).stem, **values})


def _is_text(value: Any) -> bool:
    # JSON can spell half of a surrogate pair, which no tokenizer can turn into bytes.
    return isinstance(value, str) and bool(value.strip()) and not re.search("[\ud800-\udfff]", value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


TEXT = (_is_text, "a non-empty string")
FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "id": TEXT,
    "audio": (_is_text, "the path of an audio file"),
    "text": TEXT,
    "seconds": (_is_seconds, "a number above 0"),
    "split": TEXT,
    "offset": (_is_count, "a whole number, 0 or more"),
    "bytes": (lambda value: _is_count(value) and value > 0, "a whole number, 1 or more"),
    "speaker": TEXT,
    "question": TEXT,
    "choices": (_is_texts, "a list of non-empty strings"),
    "answer": TEXT,
    "labels": (_is_texts, "a list of non-empty strings"),
    "sha256": (_is_sha256, "64 lower-case hex digits"),
}
ALIASES = {  # what others call them: NeMo, the `datasets` library, Common Voice
    **dict.fromkeys(("audio_filepath", "audio_file", "file_name", "file", "path", "wav"), "audio"),
    **dict.fromkeys(("sentence", "transcript", "transcription", "normalized_text"), "text"),
    "duration": "seconds",
}


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 40 else f"{text[:37]}..."
