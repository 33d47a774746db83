"""Five synthetic clips with captions, `audio_smoke`: enough to watch the whole pipeline overfit in a minute.

They are made on first use instead of committed, so they must come out bit for bit the same on every machine:
the manifest holds their SHA-256. libm's sin and exp differ in the last bit between systems, and numpy swaps
in vector versions of its own, by processor. What integers and IEEE 754 fix exactly is used instead: phases
count in integers, and the rest is +, -, *, / and rint on float64 arrays, one correctly rounded operation at a
time, which no compiler can fuse.
"""

import hashlib
import io
import json
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from omni.atomic import replace_bytes
from omni.audio import SAMPLE_RATE
from omni.errors import OmniError

SAMPLES = 5 * SAMPLE_RATE
TURN = 2**32  # one period of a phase accumulator
RAMP = 320  # samples, 20 ms: a note that starts at once clicks

# sin(pi/2 u) on [-1, 1]: its Taylor series in odd powers of u, off by 4e-6, an eighth of a 16-bit step.
SINE = (1.5707963267948966, -0.6459640975062462, 0.0796926262461670, -0.0046817541353187, 0.0001604411847874)
# Overtones 1, 2 and 3. A pure sine is tiring and, to a mel filter bank, a single line.
OVERTONES = ((1, 0.625), (2, 0.25), (3, 0.125))


@dataclass(frozen=True)
class Note:
    """One tone: `length` milliseconds from `start`, at `hertz` or gliding from it, fading out or not."""

    start: int
    length: int
    hertz: int
    to_hertz: int | None = None
    fades: bool = False


@dataclass(frozen=True)
class SmokeClip:
    """A clip of five seconds: its id (and file name), its caption, and the notes that make it."""

    id: str
    caption: str
    notes: tuple[Note, ...]


SMOKE_CLIPS = (
    SmokeClip("low_tone", "a low steady tone", (Note(0, 5_000, 110),)),
    SmokeClip(
        "high_beeps",
        "five short high beeps",
        tuple(Note(400 + 900 * beep, 250, 1_760) for beep in range(5)),
    ),
    SmokeClip("rising_glide", "a tone gliding upwards", (Note(0, 5_000, 220, to_hertz=1_760),)),
    SmokeClip(
        "two_notes",
        "two alternating notes",
        tuple(Note(500 * turn, 500, (440, 660)[turn % 2]) for turn in range(10)),
    ),
    SmokeClip(
        "fading_chord",
        "a chord fading away",
        tuple(Note(0, 5_000, hertz, fades=True) for hertz in (264, 330, 396)),  # a just major triad, 4:5:6
    ),
)


def synthesise(clip: SmokeClip) -> np.ndarray:
    """The clip's samples: int16 (80000,), mono 16 kHz, the same bits everywhere."""
    mix = np.zeros(SAMPLES)
    voices = max(sum(other.start == note.start for other in clip.notes) for note in clip.notes)
    for note in clip.notes:
        first, samples = note.start * SAMPLE_RATE // 1000, note.length * SAMPLE_RATE // 1000
        mix[first : first + samples] += _tone(note, samples) / voices
    return np.rint(mix * 16_384).astype(np.int16)  # half of full scale


def write_smoke_clips(folder: str | Path) -> None:
    """Write `<id>.wav` for each clip and their `manifest.jsonl` into `folder`, where missing or different.

    Safe when many processes do it at once: each writes aside and renames, so that a reader sees a whole file
    or none.
    Raises OmniError when the folder cannot be written, or holds the manifest of other clips.
    """
    files = {f"{clip.id}.wav": _wav(synthesise(clip)) for clip in SMOKE_CLIPS}
    files["manifest.jsonl"] = "".join(
        json.dumps(_row(clip, files[f"{clip.id}.wav"])) + "\n" for clip in SMOKE_CLIPS
    ).encode()
    for name, wanted in files.items():
        path = Path(folder) / name
        try:
            if name == "manifest.jsonl" and path.is_file() and SMOKE_CLIPS[0].id.encode() not in path.read_bytes():
                raise OmniError(f"{path}: is of other clips, so it is not replaced; choose another folder")
            if not (path.is_file() and path.read_bytes() == wanted):
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_bytes(path, wanted)
        except OSError as error:
            raise OmniError(
                f"{path}: cannot be written ({error.strerror}). Clear its way, or make the folder writable."
            ) from error


def _row(clip: SmokeClip, wav: bytes) -> dict:
    """The clip's line in the manifest."""
    return {
        "id": clip.id,
        "audio": f"{clip.id}.wav",
        "text": clip.caption,
        "seconds": SAMPLES / SAMPLE_RATE,
        "split": "train",
        "sha256": hashlib.sha256(wav).hexdigest(),
    }


def _tone(note: Note, samples: int) -> np.ndarray:
    """One note, float64 (samples,), within [-1, 1]."""
    steps = np.arange(samples, dtype=np.int64)
    glide = (note.to_hertz or note.hertz) - note.hertz
    # Phase advances by hertz / 16000 of a turn a sample; a glide adds to that in proportion to the time gone.
    increments = note.hertz * TURN // SAMPLE_RATE + glide * TURN // SAMPLE_RATE * steps // samples
    phase = np.cumsum(increments) - increments[0]
    tone = sum(weight * _sine(phase * overtone) for overtone, weight in OVERTONES)

    ramp = np.minimum(1.0, np.minimum(steps, samples - 1 - steps) / RAMP)
    tone *= ramp * ramp * (3.0 - 2.0 * ramp)
    if note.fades:
        left = (samples - steps) / samples
        tone *= left * left
    return tone


def _sine(phase: np.ndarray) -> np.ndarray:
    """Sine of a phase in units of 2**-32 turns, int64 -> float64 of the same shape."""
    quarters = ((phase + TURN // 4) % TURN - TURN // 2) / (TURN // 4)  # [-2, 2), where 1 is a quarter turn
    u = 1.0 - np.abs(quarters)  # folded: sin falls from the top of the wave as it rose to it
    square = u * u
    value = np.full_like(u, SINE[-1])
    for coefficient in reversed(SINE[:-1]):
        value = value * square + coefficient
    return value * u


def _wav(samples: np.ndarray) -> bytes:
    # The wave module writes a plain header of 44 bytes; libsndfile adds chunks that vary with its version.
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(SAMPLE_RATE)
        sound.writeframes(samples.tobytes())
    return file.getvalue()
