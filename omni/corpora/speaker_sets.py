"""`voxceleb1` and `vctk`: speech of many speakers of whom something is known; their gender or accent is asked for.

- VoxCeleb1: Nagrani, Chung, Zisserman, Interspeech 2017; 1,251 celebrities in videos. Gender as its table has it.
- VCTK 0.92: Yamagishi, Veaux, MacDonald, 2019; 110 speakers of English read newspapers. Accents as its table has them.
"""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from omni.corpora.labelled_clips import NOT_TOLD, LabelledClips, Recording, Wordings, ask_about
from omni.corpora.listed_clips import SHOWN, LeftOut, Row
from omni.errors import OmniError

GENDERS = {"f": "female", "m": "male"}
VOX1_COLUMNS = {"VoxCeleb1 ID": "", "Gender": "m or f", "Set": "dev or test"}
VOX1_VAL = ("00", "50")  # last digits of a speaker's number
WORDINGS = {
    "gender": Wordings(
        train=(
            "Is the speaker male or female?",
            "Is this the voice of a man or of a woman?",
            "What is the gender of the speaker?",
            "Who speaks, a male or a female speaker?",
        ),
        val=("Which gender does the voice have?",),
        test=("Does a male or a female speaker talk here?",),
    ),
    "accent": Wordings(
        train=(
            "Which accent does the speaker have?",
            "What accent is this?",
            "Which accent of English do you hear?",
            "With which accent is this spoken?",
        ),
        val=("Which accent is the speech in?",),
        test=("What accent does the voice speak with?",),
    ),
}


class VoxCeleb1(LabelledClips):
    """VoxCeleb1, which has no transcripts. Its own 40 test speakers are test; every 50th of the others is val."""

    option = "voxceleb1"
    asked = "gender"
    layout = ("id*/*/*.wav", "wav/id*/*/*.wav")
    name = re.compile(r"(?:wav/)?(?P<speaker>id\d{5})/[^/]+/\d{5}\.wav")
    example = "wav/id10001/1zcIwhmdeo4/00001.wav"

    def rows(self, left_out: LeftOut) -> list[Row]:
        matches = self.found()
        known = read_vox1_meta(self.folder / "vox1_meta.csv")
        refuse_unknown({match["speaker"] for match in matches} - known.keys(), self.folder / "vox1_meta.csv")
        recordings = []
        for match in matches:
            person = known[match["speaker"]]
            recordings.append(
                Recording(
                    audio=match[0],
                    split="test"
                    if person["Set"] == "test"
                    else "val"
                    if match["speaker"][-2:] in VOX1_VAL
                    else "train",
                    speaker=match["speaker"],
                    answer=GENDERS[person["Gender"]],
                    labels=(GENDERS[person["Gender"]], *filter(None, [person.get("Nationality")])),
                )
            )
        return ask_about(recordings, tuple(GENDERS.values()), WORDINGS["gender"])


def read_vox1_meta(path: Path) -> dict[str, dict[str, str]]:
    """The rows of vox1_meta.csv, which tabs divide, by speaker.

    Raises OmniError when it is not there, lacks a column, or has another word in one.
    """
    rows = csv.DictReader(read_table(path), delimiter="\t")
    people = {}
    for row in rows:
        for column, words in VOX1_COLUMNS.items():
            if row.get(column) is None or (words and row[column] not in words.split(" or ")):
                there = ", ".join(rows.fieldnames or ())
                raise OmniError(
                    f"{path}:{rows.line_num}: {column!r} is {row.get(column)!r}, needs {words or 'a speaker'}; tabs "
                    f"divide the columns, which are: {there}"
                )
        people[row["VoxCeleb1 ID"]] = row
    return people


class Speaker(NamedTuple):
    """A line of VCTK's speaker-info.txt."""

    age: str
    gender: str
    accent: str


class VCTK(LabelledClips):
    """VCTK 0.92, the first of its two microphones.

    Of the speakers of each accent an eighth is val and an eighth test, one at least; of accents with fewer than three
    speakers, or unknown, all are train, and their accent is not asked for.

    Args:
        folder, split, max_seconds: see `LabelledClips`.
        ask: for "gender" or "accent"; the splits are the same.

    Raises:
        OmniError: another thing to ask for.
    """

    option = "vctk"
    layout = ("wav48_silence_trimmed/*/*_mic1.flac",)
    name = re.compile(r"wav48_silence_trimmed/(?P<speaker>[ps]\d+)/(?P<id>(?P=speaker)_\d+)_mic1\.flac")
    example = "wav48_silence_trimmed/p225/p225_001_mic1.flac"

    def __init__(self, *, folder: str, split: str = "train", ask: str = "accent", max_seconds: float = 30.0):
        if ask not in WORDINGS:
            raise OmniError(f"dataset.ask: {ask!r} is none of {', '.join(WORDINGS)}")
        self.asked = ask
        super().__init__(folder=folder, split=split, max_seconds=max_seconds)

    def of(self, split: str) -> "VCTK":
        """The clips of another split."""
        return VCTK(folder=str(self.folder), split=split, ask=self.asked, max_seconds=self.max_seconds)

    def rows(self, left_out: LeftOut) -> list[Row]:
        matches = self.found()
        known = read_speaker_info(self.folder / "speaker-info.txt")
        refuse_unknown({match["speaker"] for match in matches} - known.keys(), self.folder / "speaker-info.txt")
        splits = split_speakers(known)
        held_out = {known[name].accent for name, split in splits.items() if split != "train"}
        recordings = []
        for match in matches:
            speaker = known[match["speaker"]]
            if self.asked == "accent" and speaker.accent not in held_out:
                left_out.add(f"{self.folder / match[0]}: few speakers have its accent, {speaker.accent}")
                continue
            recordings.append(
                Recording(
                    audio=match[0],
                    split=splits[match["speaker"]],
                    speaker=match["speaker"],
                    answer=getattr(speaker, self.asked),
                    labels=(speaker.gender, speaker.accent, f"{speaker.age} years"),
                    text=read_text(self.folder / "txt" / match["speaker"] / f"{match['id']}.txt"),
                )
            )
        classes = tuple(GENDERS.values()) if self.asked == "gender" else tuple(sorted(held_out))
        return ask_about(recordings, classes, WORDINGS[self.asked])


def read_speaker_info(path: Path) -> dict[str, Speaker]:
    """VCTK's speakers by their ids; an accent such as NorthernIrish in two words. Raises OmniError."""
    speakers = {}
    for number, line in enumerate(read_table(path), start=1):
        words = line.split()
        if not words or words[0].upper() == "ID":
            continue
        if len(words) < 4 or not words[1].isdigit() or words[2].lower() not in GENDERS:
            raise OmniError(f"{path}:{number}: is {line!r}, needs a line like 'p225  23  F  English  Southern England'")
        name, age, gender, accent = words[:4]
        accent = re.sub("(?<=[a-z])(?=[A-Z])", " ", accent)
        speakers[f"p{name}" if name.isdigit() else name] = Speaker(age, GENDERS[gender.lower()], accent)
    return speakers


def split_speakers(speakers: dict[str, Speaker]) -> dict[str, str]:
    """The split of each speaker; see `VCTK`."""
    splits = dict.fromkeys(speakers, "train")
    for accent in {speaker.accent for speaker in speakers.values()} - {"Unknown"}:
        alike = sorted(name for name, speaker in speakers.items() if speaker.accent == accent)
        held = max(1, len(alike) // 8)
        if len(alike) >= 3:
            splits |= dict.fromkeys(alike[-held:], "test") | dict.fromkeys(alike[-2 * held : -held], "val")
    return splits


def read_table(path: Path) -> Iterator[str]:
    """The lines of a table of speakers. Raises OmniError when it cannot be read."""
    try:
        return iter(path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise OmniError(f"{path}: cannot be read ({why}). It comes with the corpus: lay it there.") from error


def read_text(path: Path) -> str:
    """What is said, on one line; VCTK has not written down all of it."""
    return " ".join(path.read_text(encoding="utf-8-sig").split()) or NOT_TOLD if path.is_file() else NOT_TOLD


def refuse_unknown(speakers: set[str], table: Path) -> None:
    """Raise OmniError for speakers whose sounds are there, but not their line in a table."""
    if speakers:
        shown = ", ".join(sorted(speakers)[:SHOWN])
        raise OmniError(f"{table}: has no line for {len(speakers)} of the speakers in its folder: {shown}. Mend it.")
