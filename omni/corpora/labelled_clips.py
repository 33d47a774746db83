"""Recordings with labels, in a corpus's own layout -> clips with a question whose answer is one of the labels.

The right answer's place and the wrong ones come from hashes of paths: the same files make the same questions anywhere.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from omni.corpora.listed_clips import (
    SHOWN,
    LeftOut,
    ListedClips,
    Row,
    UnpreparedError,
    is_made_from,
    measure,
    read_list,
    stamp,
    write_list,
)
from omni.corpora.transfer import Report
from omni.data.fingerprint import fingerprint
from omni.data.manifest import Clip, select_split
from omni.errors import OmniError

NOT_TOLD = "(not transcribed)"
"""The text of a clip whose words nobody wrote down: a manifest has no empty ones."""
CHOICES = 4


class Wordings(NamedTuple):
    """Of one question, by split: no model is tested in the words that it was trained on."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class Recording:
    """A sound of a corpus: its path from the corpus's folder on; the label that is asked for; all labels that there
    are; what is said."""

    audio: str
    split: str
    speaker: str
    answer: str
    labels: tuple[str, ...]
    text: str = NOT_TOLD


class LabelledClips(ListedClips):
    """The clips of one split of a corpus that lies here. A subclass says where its sounds lie and what to ask of them.

    Args:
        folder: holds the corpus in its own layout; `prepare` writes the list of its clips into it.
        split: "train", "val" or "test".
        max_seconds: leave out longer clips.

    Raises:
        NoSplitError: a split without clips.
    """

    option: str
    """The corpus's name in conf/dataset/."""
    asked: str
    """What is asked for, which names the list."""
    layout: tuple[str, ...]
    """Where its sounds may lie, as patterns."""
    name: re.Pattern[str]
    """What a sound's path looks like, from the corpus's folder on."""
    example: str
    """Such a path."""

    def __init__(self, *, folder: str, split: str = "train", max_seconds: float = 30.0):
        self.folder = Path(folder).expanduser()
        self.manifest = self.folder / f"{self.asked}.jsonl"
        super().__init__(
            lambda: select_split(self.listed(), split), source=self.manifest, min_seconds=0.1, max_seconds=max_seconds
        )

    def of(self, split: str) -> "LabelledClips":
        """The clips of another split."""
        return type(self)(folder=str(self.folder), split=split, max_seconds=self.max_seconds)

    def listed(self) -> list[Clip]:
        """The clips of all splits. Raises UnpreparedError when the list cannot be used."""
        run = f"python -m omni.prepare dataset={self.option} dataset.folder={self.folder}"
        return read_list(self.manifest, f"Run, with the same overrides: {run}")

    def rows(self, left_out: LeftOut) -> list[Row]:
        """The rows of the list, without seconds and sha256. Raises OmniError for what is not the corpus."""
        raise NotImplementedError

    def prepare(self, report: Report) -> None:
        """List the clips, unless a list of these files and labels is there: nothing is fetched.

        Raises:
            OmniError: a folder that is not there or holds another thing, no clip left, a list that cannot be written.
        """
        left_out = LeftOut()
        try:
            rows = self.rows(left_out)
            made_from = stamp(self.folder, [row["audio"] for row in rows], rows)
            with suppress(UnpreparedError):
                if is_made_from(self.manifest, made_from) and self.listed():
                    report(f"{self.manifest} is there")
                    return
            report(f"{self.folder}: measuring {len(rows):,} clips")
            try:
                count = write_list(self.manifest, measure(rows, self.folder, left_out), made_from)
            finally:
                left_out.tell(report, str(self.folder))
        except OSError as error:
            raise OmniError(
                f"{error.filename or self.folder}: cannot be written or read ({error.strerror}). A corpus that is not "
                f"yours can be linked into a folder of your own: mkdir -p data/{self.option} && ln -s "
                f"{self.folder.absolute()}/* data/{self.option}/, and dataset.folder=data/{self.option}"
            ) from error
        report(f"{self.manifest}: {count:,} clips")

    def found(self) -> list[re.Match[str]]:
        """The paths of the corpus's sounds, in order, taken apart by `name`.

        Raises OmniError for a folder that is not there or holds none, and for paths that are none of the corpus's.
        """
        if not self.folder.is_dir():
            raise OmniError(
                f"dataset.folder: {self.folder} is not there. Name the folder that holds {self.layout[0]} of "
                f"{self.option}; omni does not fetch it (see docs/questions.md)."
            )
        files = {file for pattern in self.layout for file in self.folder.glob(pattern) if file.name[0] != "."}
        paths = sorted(file.relative_to(self.folder).as_posix() for file in files)
        if not paths:
            held = ", ".join(sorted(file.name for file in self.folder.iterdir())[:SHOWN]) or "nothing"
            raise OmniError(
                f"dataset.folder: {self.folder} has no {' or '.join(self.layout)}, as {self.option} has (it holds "
                f"{held}). Name the folder that has."
            )
        matches = [(path, self.name.fullmatch(path)) for path in paths]
        strange = [path for path, match in matches if match is None]
        if strange:
            raise OmniError(
                f"{self.folder}: {len(strange):,} of {len(paths):,} files are not called as in {self.option}, where "
                f"one is {self.example}: {', '.join(strange[:SHOWN])}. Move them elsewhere, or mend their names."
            )
        return [match for _, match in matches if match]


def ask_about(recordings: Iterable[Recording], classes: Sequence[str], wordings: Wordings) -> list[Row]:
    """Rows of a manifest, in the order of the recordings, with a question each and up to four of the classes to choose
    from.

    In a split, the clips of each class have their answer in each place equally often, give or take one; the wrong
    ones, and their order, are drawn from the other classes.
    """
    recordings = list(recordings)
    taken: dict[tuple[str, str], int] = {}
    places: dict[str, int] = {}
    for one in sorted(recordings, key=lambda one: fingerprint([one.audio])):
        number = taken.get((one.split, one.answer), classes.index(one.answer))  # or rare classes would all begin with A
        taken[one.split, one.answer] = number + 1
        places[one.audio] = number
    return list(asked(recordings, classes, wordings, places))


def asked(
    recordings: Iterable[Recording], classes: Sequence[str], wordings: Wordings, places: dict[str, int]
) -> Iterator[Row]:
    """See `ask_about`. places: of the right answer, by path, in a round of all."""
    for one in recordings:
        others = [other for other in classes if other != one.answer]
        choices = sorted(others, key=lambda other, one=one: fingerprint([one.audio, other]))[: CHOICES - 1]
        choices.insert(places[one.audio] % (len(choices) + 1), one.answer)
        questions = getattr(wordings, one.split)
        yield {
            "id": Path(one.audio).with_suffix("").as_posix(),
            "audio": one.audio,
            "text": one.text,
            "split": one.split,
            "speaker": one.speaker,
            "question": questions[int(fingerprint([one.audio, "wording"]), 16) % len(questions)],
            "choices": choices,
            "answer": one.answer,
            "labels": list(one.labels),
        }
