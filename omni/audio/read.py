"""File -> waveform: the one door through which recorded sound enters.

soundfile (libsndfile) decodes, torchaudio resamples. A damaged file is refused rather than quietly shortened:
libsndfile cuts a truncated wav, ogg or mp3 to what it finds and says nothing, and a model trained on half a
sentence with the whole transcript learns to make things up.
"""

import functools
import io
import struct
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import torch
import torchaudio.transforms

from omni.audio import SAMPLE_RATE
from omni.errors import OmniError

SILENCE_PEAK = 1e-4  # -80 dB of full scale, three steps of 16-bit sound: below it there is only dither
SOURCE_RATES = (1_000, 768_000)  # Hz; a header outside this range is damaged

MOST_NUMBERS = 8 * 48_000
"""A second in all channels; a flac of silence that has a thousand times its size in numbers is no recording."""

UNKNOWN_FRAMES = 2**40  # libsndfile reports 2**63 - 1 frames for a header that leaves its length open
STREAMED_WAV = 0x7FFF_F000  # a recorder writing to a pipe cannot know its size and puts this or more
MP3_BYTES_PER_SECOND = 40_000  # 320 kbit/s, the most an mp3 has
MP3_UNREAD = 1_600  # bytes, the largest frame and an ID3v1 tag; a decoder that leaves more has left sound behind

UNRECOGNISED = 1  # libsndfile's code for a format it does not know

CONVERT = "convert it with `ffmpeg -i IN -ac 1 -ar 16000 OUT.wav`."
FETCH = "Copy or download it again."


class AudioError(OmniError):
    """Sound that cannot be used as asked. One line: which file or clip, what is wrong, the way out."""


def read(
    path: str | Path, *, offset: int = 0, bytes: int | None = None, max_seconds: float | None = None
) -> torch.Tensor:
    """Read a wav, flac, mp3 or ogg of any rate and channel count as mono 16 kHz.

    path: the file, or an archive in which `bytes` bytes at `offset` are one whole sound file (without
    `bytes`, all that follows). max_seconds: refuse anything longer, by its header where it has an exact one.
    Returns the waveform, float32 (samples,), within [-1, 1]: channels averaged, resampled, then clamped.
    Raises AudioError for a file that is missing, empty, no audio, damaged, truncated, too long or holds NaN.

    Truncation is seen where the format allows: wav, flac, ogg except exactly between two pages, mp3 with a
    Xing header. An mp3 without one does not say how long it is; cut short, it is simply a shorter mp3.
    """
    path = Path(path)
    part = "" if bytes is None and not offset else f" (byte {offset}, {bytes or 'all'} bytes)"
    try:
        with _open(path, offset, bytes) as source:
            return _waveform(source, max_seconds)
    except AudioError as error:
        raise AudioError(f"{path}{part}: {error}") from error.__cause__
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror}). Check its rights.") from error


def read_bytes(sound: bytes, *, what: str, max_seconds: float | None = None) -> torch.Tensor:
    """As `read`, of a whole sound file in memory; `what` is its name for the message."""
    try:
        return _waveform(io.BytesIO(sound), max_seconds)
    except AudioError as error:
        raise AudioError(f"{what}: {error}") from error.__cause__


def check_audible(waveform: torch.Tensor, *, min_seconds: float, what: str) -> None:
    """Refuse a waveform that has nothing to teach: silence, or less than `min_seconds` of sound.

    waveform: float (samples,) at 16 kHz. what: the clip's name for the message.
    Reading leaves this to the caller because silence is a legitimate control in evaluation.
    Raises AudioError.
    """
    seconds = len(waveform) / SAMPLE_RATE
    if not len(waveform) or seconds < min_seconds:
        needed = f"lasts {seconds:.3f} s, less than the {min_seconds:g} s needed"
        raise AudioError(f"{what}: {needed}. Leave it out, or lower min_seconds.")
    peak = waveform.abs().max().item()
    if peak < SILENCE_PEAK:
        raise AudioError(f"{what}: is silent (peak {peak:.1e}, needs {SILENCE_PEAK:g}). Leave it out or record again.")


def _open(path: Path, offset: int, length: int | None) -> BinaryIO:
    """The bytes of one sound file as a stream that starts at 0."""
    if path.is_dir():
        raise AudioError("is a folder. Name an audio file inside it.")
    if not path.exists():
        raise AudioError("no such file. Check the path, or fetch the data first.")
    if not path.is_file():
        raise AudioError("is a pipe or a device. Write the sound to a file first.")
    size = path.stat().st_size
    if size == 0:
        raise AudioError("is empty (0 bytes). Copy or download it again.")
    if length is None and offset == 0:
        return path.open("rb")
    if offset < 0 or (length is not None and length <= 0):
        raise AudioError("is no byte range: `offset` starts at 0, `bytes` at 1. Mend the manifest row.")
    if offset + (length or 1) > size:
        raise AudioError(f"reaches past the archive's {size} bytes. Fetch the archive again, or mend the manifest row.")
    with path.open("rb") as archive:
        archive.seek(offset)
        return io.BytesIO(archive.read(-1 if length is None else length))


def _waveform(source: BinaryIO, max_seconds: float | None) -> torch.Tensor:
    samples, rate = _decode(source, max_seconds)
    waveform = resample(torch.from_numpy(samples).mean(dim=1), rate)
    if not waveform.isfinite().all():
        raise AudioError("holds NaN or infinite samples. Export it again, or leave it out.")
    return waveform.clamp(-1.0, 1.0)


def _decode(source: BinaryIO, max_seconds: float | None) -> tuple[np.ndarray, int]:
    """The samples, float32 (frames, channels), and their rate in Hz."""
    size = source.seek(0, io.SEEK_END)
    promised = _promised_bytes(source)
    if promised > size:
        raise AudioError(f"is truncated, {promised} bytes promised and {size} there. {FETCH}")
    counted = _mp3_counts_frames(source)
    with _open_sound(source) as sound:
        rate, frames = sound.samplerate, sound.frames
        # Without a Xing header libsndfile guesses an mp3's length from its first frame, and may be wrong by
        # any factor: then only the size bounds it from below.
        guessed = sound.format == "MP3" and not counted
        _check_length(size / MP3_BYTES_PER_SECOND if guessed else frames / rate, max_seconds)
        if max_seconds is not None and not guessed and frames * sound.channels > max_seconds * MOST_NUMBERS:
            raise AudioError(f"has {sound.channels} channels of {rate} Hz, more than any recording. Export it again.")
        try:
            # In one piece: soundfile seeks after each read, and an mp3 decoder that seeks loses its place (at
            # 22.05 kHz, samples off by a quarter of full scale).
            samples = sound.read(dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise AudioError(f"is damaged or truncated ({error}). {FETCH}") from error
    there = len(samples) / rate
    if not there:
        raise AudioError("holds no samples. Record or export it again.")
    if guessed and len(samples) == frames and size - source.tell() > MP3_UNREAD:
        raise AudioError(
            f"is a variable-rate mp3 without a Xing header, and only its first {there:.1f} s can be read. "
            "Add the header with `ffmpeg -i IN -c copy OUT.mp3`."
        )
    if not guessed and len(samples) < frames:
        raise AudioError(f"is truncated, {frames / rate:.2f} s promised and {there:.2f} s there. {FETCH}")
    _check_length(there, max_seconds)
    return samples, rate


def _open_sound(source: BinaryIO) -> soundfile.SoundFile:
    source.seek(0)
    try:
        sound = soundfile.SoundFile(source)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: named .raw, which has no header
        if getattr(error, "code", UNRECOGNISED) == UNRECOGNISED:
            raise AudioError(f"is not wav, flac, mp3 or ogg. If it is audio, {CONVERT}") from error
        raise AudioError(f"has a damaged or truncated header. {FETCH}") from error
    if not SOURCE_RATES[0] <= sound.samplerate <= SOURCE_RATES[1]:
        raise AudioError(f"has {sound.samplerate} Hz in its header, as no recording has. Export it again.")
    if sound.frames >= UNKNOWN_FRAMES:
        raise AudioError(f"does not say in its header how long it is, as a streamed flac. To mend it, {CONVERT}")
    return sound


def _check_length(seconds: float, max_seconds: float | None) -> None:
    if max_seconds is not None and seconds > max_seconds:
        raise AudioError(
            f"lasts {seconds:.1f} s or more, the limit is {max_seconds:g} s. Split it, or raise max_seconds."
        )


def _promised_bytes(source: BinaryIO) -> int:
    """The size that a wav's data chunk or an ogg's last page asks of the file; 0 where nothing says so."""
    source.seek(0)
    head = source.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        while len(chunk := source.read(8)) == 8:
            kind, size = struct.unpack("<4sI", chunk)
            if kind == b"data":
                return source.tell() + size if size < STREAMED_WAV else 0
            source.seek(size + size % 2, io.SEEK_CUR)
        return 0
    end = 0  # RFC 3533: a page is 27 bytes, the last of which counts the lengths that follow, then the segments
    while True:
        source.seek(end)
        page = source.read(27)
        if page[:4] != b"OggS":
            return end
        lengths = source.read(page[26]) if len(page) == 27 else b""
        end += 27 + (page[26] if len(page) == 27 else 0) + sum(lengths)


def _mp3_counts_frames(source: BinaryIO) -> bool:
    """Whether an mp3 carries a Xing or Info header, and so knows its length."""
    source.seek(0)
    head = source.read(10)
    if head[:3] == b"ID3" and len(head) == 10:  # a tag comes first; its size is four bytes of seven bits
        size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        source.seek(10 + size)
    else:
        source.seek(0)
    first_frame = source.read(64)
    return b"Xing" in first_frame or b"Info" in first_frame


def resample(waveform: torch.Tensor, rate: int) -> torch.Tensor:
    """A waveform (samples,) of `rate` Hz at 16 kHz; the only way there, so that no source is known by its filter."""
    # The kernel has a row for each step of the reduced ratio: 160 for 44.1 kHz, but 16,000 (a gigabyte) for
    # 16,001 Hz. The nearest ratio of small numbers is exact for every usual rate, inaudibly off for others.
    ratio = Fraction(rate, SAMPLE_RATE).limit_denominator(1_000)
    return waveform if ratio == 1 else _resampler(ratio)(waveform)


@functools.lru_cache(maxsize=8)  # making the kernel costs as much as resampling three seconds with it
def _resampler(ratio: Fraction) -> torchaudio.transforms.Resample:
    # Width 32 keeps speech within 2e-5 of exact; torchaudio's default of 6 leaves 5e-4 and is no faster.
    return torchaudio.transforms.Resample(ratio.numerator, ratio.denominator, lowpass_filter_width=32)
