"""Notes of the General MIDI instruments, out of the soundfont TimGM6mb.

The pip package tinysoundfont reads it: no sound card, no system library, 12 ms a note.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from omni.atomic import replace_bytes
from omni.audio import SAMPLE_RATE
from omni.audio.read import resample
from omni.corpora.debian_packages import Package, fetch_packages, members
from omni.errors import OmniError

PACKAGE = Package(
    name="timgm6mb-soundfont",
    version="1.3-5",
    licence="GPL-2",
    sha256="034abdfb296d9353433513dad5dbdcab46425ee6008fc02fe7039b46e75edc54",
)
FILE = "TimGM6mb.sf2"
RENDERED = 48_000  # Hz: made at 16 kHz, what lies above would fold down into the sound
RELEASE, FADE = 0.12, 0.02  # seconds before a note's end at which its key is let go, and from which it fades


class SoundfontError(OmniError):
    """A soundfont that is not there or is none, or an instrument that it lacks; says what to do."""


class Soundfont:
    """The soundfont in a folder, read once.

    Raises:
        SoundfontError: tinysoundfont is not installed, the file is not there or is no soundfont.
    """

    def __init__(self, folder: str | Path):
        self.path = Path(folder) / FILE
        try:
            self.content = self.path.read_bytes()
        except OSError as error:
            raise SoundfontError(f"{self.path}: cannot be read ({error.strerror}). Prepare it first.") from error
        self.synth()

    def play(self, program: int, note: int, velocity: int, seconds: float) -> Tensor:
        """One note, float32 (samples,), mono, 16 kHz, the same samples each time, faded out at its end.

        Args:
            program: a General MIDI instrument, 0 to 127; 0 is the piano.
            note: a MIDI number, 0 to 127; 60 is middle C. It sounds only where the instrument has it.
            velocity: how hard it is struck, 1 to 127.
            seconds: how long the whole lasts; the key is let go 0.12 s before.

        Raises:
            SoundfontError: the soundfont has no such instrument.
        """
        synth, font = self.synth()
        try:
            synth.program_select(0, font, 0, program)
        except RuntimeError as error:
            raise SoundfontError(f"{self.path}: has no instrument {program}. Choose among 0 to 127.") from error
        samples = round(seconds * RENDERED)
        release = min(round(RELEASE * RENDERED), samples // 2)
        synth.noteon(0, note, velocity)
        held = np.frombuffer(synth.generate(samples - release), dtype=np.float32)
        synth.noteoff(0, note)
        left = np.frombuffer(synth.generate(release), dtype=np.float32)
        mono = torch.from_numpy(np.concatenate([held, left])).reshape(-1, 2).mean(dim=1)
        fade = min(round(FADE * RENDERED), samples)
        mono[samples - fade :] *= torch.linspace(1, 0, fade)
        return resample(mono, RENDERED)[: round(seconds * SAMPLE_RATE)].clamp(-1, 1)

    def synth(self):
        """A synthesiser and the soundfont's number in it; afresh for each note, as one rings on into the next."""
        try:
            import tinysoundfont
        except ImportError as error:
            raise SoundfontError("soundfonts need tinysoundfont: pip install --no-deps tinysoundfont==0.3.7") from error
        synth = tinysoundfont.Synth(samplerate=RENDERED)
        try:
            return synth, synth.sfload(self.content)
        except Exception as error:
            raise SoundfontError(f"{self.path}: is no soundfont. Delete it and prepare again.") from error


def prepare(folder: str | Path, report: Callable[[str], None]) -> None:
    """Fetch the Debian package and take its soundfont out into `folder`, its licence beside, unless it is there.

    Raises OmniError for what cannot be fetched, or is not what it is taken for.
    """
    folder = Path(folder)
    path = folder / FILE
    if path.is_file():
        report(f"{path} is there")
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        found = fetch_packages([PACKAGE], Path(work), report)
        if not found:
            raise OmniError(f"{PACKAGE.name}: this release has no such package. Put {FILE} into {folder} by hand.")
        files = {Path(name).name: content for name, content in members(found[PACKAGE.name], rf"/({FILE}|copyright)$")}
    if FILE not in files:
        raise OmniError(f"{PACKAGE.name}: holds no {FILE}. Put one into {folder} by hand.")
    replace_bytes(folder / "copyright", files["copyright"])
    replace_bytes(path, files[FILE])
    report(f"{path}: {len(files[FILE]):,} bytes")
