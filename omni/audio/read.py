"""File -> waveform: the one door through which recorded sound enters.

soundfile (libsndfile) decodes wav, flac, ogg and mp3, PyAV (ffmpeg) all else; torchaudio resamples. A damaged file is
refused rather than quietly shortened: both cut a truncated one to what they find and say nothing, and a model trained
on half a sentence with the whole transcript learns to make things up.
"""

import functools
import hashlib
import io
import logging
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import soundfile
import torch
import torchaudio.transforms

from omni.audio import SAMPLE_RATE
from omni.errors import OmniError

log = logging.getLogger(__name__)

SILENCE_PEAK = 1e-4  # -80 dB of full scale, three steps of 16-bit sound: below it there is only dither
INTEGER_PEAK = 32.0  # 30 dB above full scale: samples that were never divided by that of their integers
CANCELLED = 0.05  # of the power that the mean of unrelated channels has; L = x, R = -0.7 x has 0.06
SOURCE_RATES = (1_000, 768_000)  # Hz; a header outside this range is damaged

MOST_NUMBERS = 8 * 48_000
"""A second in all channels; a flac of silence that has a thousand times its size in numbers is no recording."""

MOST_PARTS = 1_000  # recordings in one file; of a few bytes each, millions would fit
UNKNOWN_FRAMES = 2**40  # libsndfile reports 2**63 - 1 frames for a header that leaves its length open
STREAMED_WAV = 0x7FFF_F000  # a recorder writing to a pipe cannot know its size and puts this or more

BY_SOUNDFILE = {"WAV", "WAVEX", "FLAC", "OGG", "MP3"}
CONTAINERS = "aac,aiff,amr,asf,au,caf,flac,matroska,mov,mp3,nistsphere,ogg,w64,wav,wv"
"""What ffmpeg may take a file for. Others, such as a playlist, would have it open what they name."""
EXACT = {"aiff", "au", "nistsphere", "wv"}  # ffmpeg's names of containers whose header counts the samples

STARTS = [
    re.compile(start, re.DOTALL)
    for start in (
        rb"fLaC\0\0\0\x22",
        rb"\0\0\0.ftyp",
        rb"\x1aE\xdf\xa3.{1,8}B\x86\x81\x01",  # webm, mka
        rb"0&\xb2u\x8ef\xcf\x11",  # wma
        rb"riff\x2e\x91\xcf\x11",  # w64
        *(rb"RF64.{4}WAVE", rb"FORM.{4}AIF", rb"caff\0\x01\0\0", rb"NIST_1A\n", rb"#!AMR", rb"\.snd\0\0\0"),
    )
]
"""How a recording starts, where nothing in it says where it ends: another may follow."""

KBITS = {  # of an MPEG frame, by layer; 0 for both of MPEG 2
    2: (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    0: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}

XING = re.compile(rb"(?:Xing|Info)\0\0\0[\x01\x03\x05\x07\x09\x0b\x0d\x0f](.{4})", re.DOTALL)
"""In a first frame: how many follow."""

CONVERT = "convert it with `ffmpeg -i IN -ac 1 -ar 16000 OUT.wav`."
FETCH = "Copy or download it again."


class AudioError(OmniError):
    """Sound that cannot be used as asked. One line: which file or clip, what is wrong, the way out."""


def read(
    path: str | Path,
    *,
    offset: int = 0,
    bytes: int | None = None,
    max_seconds: float | None = None,
    sha256: str | None = None,
) -> torch.Tensor:
    """Read a sound file of any rate and channel count as mono 16 kHz: wav, flac, mp3, ogg, and of what ffmpeg knows
    m4a, mp4, webm, mka, wma, aac, amr, mp2, aiff, au, caf, rf64, sph, w64 and wv.

    path: the file, or an archive in which `bytes` bytes at `offset` are one whole sound file (without
    `bytes`, all that follows). max_seconds: refuse anything longer, by its header where it has an exact one.
    sha256: refuse other bytes than those.
    Returns the waveform, float32 (samples,), within [-1, 1]: channels averaged, resampled, then clamped. Where
    channels cancel each other, the loudest is taken, with a warning. Recordings one after another are joined.
    Raises AudioError for a file that is missing, empty, no audio, damaged, truncated, too long, holds NaN or samples
    on the scale of integers, and for whatever a decoder fails at.

    Truncation is seen where the format allows: not exactly between two pages of an ogg, two blocks of a streamed webm,
    or two frames of aac, amr, mp2 and an mp3 without a Xing header, which is then simply a shorter one.
    """
    with opened(path, offset=offset, bytes=bytes) as source:
        if sha256 is not None:
            source = io.BytesIO(source.read())
            if (found := hashlib.sha256(source.getbuffer()).hexdigest()) != sha256:
                raise AudioError(f"its sha256 is {found}, not {sha256} as it was. Fetch it again, or list it anew.")
        return _waveform(source, max_seconds, str(path))


def read_bytes(sound: bytes, *, what: str, max_seconds: float | None = None) -> torch.Tensor:
    """As `read`, of a whole sound file in memory; `what` is its name for the message."""
    with named(what):
        return _waveform(io.BytesIO(sound), max_seconds, what)


def read_header(source: BinaryIO) -> tuple[str, float]:
    """The kind of a sound file, as names end in it, and its seconds, more than 0: by its header where that is exact,
    else decoded. Raises AudioError, and whatever a decoder does: see `named`."""
    source = _with_size(source)
    starts, _, counted = _survey(source)
    sound = _open_sound(source, counted)
    if sound is not None and len(starts) == 1:
        kind, seconds = sound.format.lower(), sound.frames / sound.samplerate
    else:
        samples, rate = _decode(source, None)
        source.seek(0)
        with av.open(source, options={"format_whitelist": CONTAINERS}) as container:
            kind, seconds = container.format.name.split(",")[0], len(samples) / rate
    if seconds < 0.001:
        raise AudioError("holds no sound. Record or export it again.")
    return kind, round(seconds, 3)


@contextmanager
def opened(path: str | Path, *, offset: int = 0, bytes: int | None = None) -> Iterator[BinaryIO]:
    """What `read` reads, as a stream that starts at 0. Whatever goes wrong with it is an AudioError that names it."""
    path = Path(os.path.expanduser(path))  # noqa: PTH111 - Path's own fails for a file called ~a.wav
    with named(str(path) if bytes is None and not offset else f"{path} (byte {offset}, {bytes or 'all'} bytes)"):
        if path.is_dir():
            raise AudioError("is a folder. Name an audio file inside it.")
        if not path.exists():
            raise AudioError("no such file. Check the path, or fetch the data first.")
        if not path.is_file():
            raise AudioError("is a pipe or a device. Write the sound to a file first.")
        size = path.stat().st_size
        if size == 0:
            raise AudioError("is empty (0 bytes). Copy or download it again.")
        if offset < 0 or (bytes is not None and bytes <= 0):
            raise AudioError("is no byte range: `offset` starts at 0, `bytes` at 1. Fix the manifest row.")
        if offset + (bytes or 1) > size:
            raise AudioError(f"reaches past the archive's {size} bytes. Fetch it again, or fix the manifest row.")
        with path.open("rb") as file:
            if bytes is None and not offset:
                file.raw.name = ""  # both decoders would guess by it, and the content decides
                yield file
            else:
                file.seek(offset)
                yield io.BytesIO(file.read(-1 if bytes is None else bytes))


@contextmanager
def named(what: str) -> Iterator[None]:
    """Whatever goes wrong with a sound is an AudioError that says its name."""
    try:
        yield
    except AudioError as error:
        raise AudioError(f"{what}: {error}") from error.__cause__
    except OSError as error:
        raise AudioError(f"{what}: cannot be read ({error.strerror}). Check its rights.") from error
    except Exception as error:
        reason = " ".join(str(error).split())
        raise AudioError(f"{what}: cannot be decoded ({reason}). If it plays elsewhere, {CONVERT}") from error


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


def _waveform(source: BinaryIO, max_seconds: float | None, what: str) -> torch.Tensor:
    samples, rate = _decode(source, max_seconds)
    channels_FC = torch.from_numpy(samples)
    mono_F, powers_C = channels_FC.mean(dim=1), channels_FC.square().mean(dim=0)
    if mono_F.square().mean() * len(powers_C) < CANCELLED * powers_C.mean():
        loudest = int(powers_C.argmax())
        log.warning("%s: its channels cancel each other (opposite phase); channel %d is taken alone", what, loudest + 1)
        mono_F = channels_FC[:, loudest]
    waveform = resample(mono_F, rate)
    if not waveform.isfinite().all():
        raise AudioError("holds NaN or infinite samples. Export it again, or leave it out.")
    if (peak := waveform.abs().max()) > INTEGER_PEAK:
        scale = f"has floating-point samples on the scale of integers (up to {peak:.0f}, and full scale is 1)"
        raise AudioError(f"{scale}. Divide them, those of 16 bits by 32768, or export it again.")
    return waveform.clamp(-1.0, 1.0)


def _decode(source: BinaryIO, max_seconds: float | None) -> tuple[np.ndarray, int]:
    """The samples, float32 (frames, channels), and their rate in Hz; of several recordings, one after another."""
    source = _with_size(source)
    starts, promised, counted = _survey(source)
    size = source.seek(0, io.SEEK_END)
    if len(starts) > MOST_PARTS:
        raise AudioError(f"is {len(starts):,} recordings one after another, the limit is {MOST_PARTS:,}. Split it.")
    if len(starts) > 1:
        parts, kinds, frames = [], set(), 0
        for start, end in pairwise([*starts, size]):
            source.seek(start)
            samples, rate = _decode(io.BytesIO(source.read(end - start)), max_seconds)
            parts, kinds, frames = [*parts, samples], kinds | {(rate, samples.shape[1])}, frames + len(samples)
            _check_size(frames, samples.shape[1], rate, max_seconds)
        if len(kinds) > 1:
            raise AudioError("is several recordings one after another, of different rates or channels. Split it.")
        return np.concatenate(parts), rate
    if promised > size:
        raise AudioError(f"is truncated, {promised} bytes promised and {size} there. {FETCH}")
    sound = _open_sound(source, counted)
    if sound is None:
        if 0 < promised < size:  # a tag at the end is not for the decoder
            source.seek(0)
            source = io.BytesIO(source.read(promised))
        samples, rate = _by_pyav(source, max_seconds)
    else:
        rate, frames = sound.samplerate, sound.frames
        _check_size(frames, sound.channels, rate, max_seconds)
        try:
            # In one piece: soundfile seeks after each read, and an mp3 decoder that seeks loses its place (at
            # 22.05 kHz, samples off by a quarter of full scale).
            samples = sound.read(dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:
            raise AudioError(f"is damaged or truncated ({error}). {FETCH}") from error
        if len(samples) < frames:
            lengths = f"{frames / rate:.2f} s promised and {len(samples) / rate:.2f} s there"
            raise AudioError(f"is truncated, {lengths}. {FETCH}")
    if not len(samples):
        raise AudioError("holds no samples. Record or export it again.")
    return samples, rate


def _open_sound(source: BinaryIO, counted: bool) -> soundfile.SoundFile | None:
    """soundfile's reader, None for what PyAV has to read."""
    source.seek(0)
    try:
        sound = soundfile.SoundFile(source)
    except soundfile.SoundFileError as error:
        if counted:  # PyAV would make the best of it
            raise AudioError(f"has a damaged or truncated header. {FETCH}") from error
        return None
    if sound.format not in BY_SOUNDFILE or not sound.seekable() or (sound.subtype.startswith("MPEG") and not counted):
        return None
    _check_rate(sound.samplerate)
    if sound.frames >= UNKNOWN_FRAMES:
        raise AudioError(f"does not say in its header how long it is, as a streamed flac. To fix it, {CONVERT}")
    return sound


def _by_pyav(source: BinaryIO, max_seconds: float | None) -> tuple[np.ndarray, int]:
    blocks, frames, rate = [np.zeros((0, 1), np.float32)], 0, SAMPLE_RATE
    source.seek(0)
    try:
        with av.open(source, options={"format_whitelist": CONTAINERS}) as container:
            stream = container.streams.best("audio")
            if stream is None or stream.codec_context is None:
                raise AudioError(_unreadable(source))
            packed = av.AudioResampler(format="flt")  # PyAV reads past the planes of eight channels
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise AudioError(f"is damaged or truncated after {frames / rate:.2f} s. {FETCH}")
                for block in (block for frame in packet.decode() for block in packed.resample(frame)):
                    channels = block.layout.nb_channels
                    blocks = blocks if frames else []
                    blocks.append(block.to_ndarray().reshape(-1, channels))
                    frames, rate = frames + block.samples, block.sample_rate
                    _check_size(frames, channels, rate, max_seconds)
            promised = float((stream.duration or 0) * stream.time_base)
            if container.format.name in EXACT and frames < round(promised * rate):
                raise AudioError(f"is truncated, {promised:.2f} s promised and {frames / rate:.2f} s there. {FETCH}")
    except av.FFmpegError as error:
        reason = f"is damaged or truncated after {frames / rate:.2f} s. {FETCH}" if frames else _unreadable(source)
        raise AudioError(reason) from error
    _check_rate(rate)
    return np.concatenate(blocks), rate


def _unreadable(source: BinaryIO) -> str:
    """Why neither library reads a file, by how it begins."""
    source.seek(0)
    head = source.read(4096)
    if head.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the sound itself. Fetch that with `git lfs pull`."
    if re.match(rb"\W*(<\?xml.{,200})?<(!doctype html|html)\b", head, re.DOTALL | re.IGNORECASE):
        return "is an HTML page, such as a server's error or log-in page, not a sound. Download the sound itself."
    if head[:4] == b"OggS" and (codec := re.match(rb"\W*(\w+)", head[27 + head[26] :])):
        name = "an ogg of codec " + codec[1].decode()
    elif codec := re.match(rb"RIFF.{4}WAVE.*?fmt .{4}(..)", head, re.DOTALL):
        name = f"a wav of codec 0x{int.from_bytes(codec[1], 'little'):04x}"
    elif STARTS[2].match(head) and (codec := re.search(rb"\x86(.)(A_[A-Z0-9_/.]+)", head, re.DOTALL)):
        name = "a webm or mka of codec " + codec[2][: codec[1][0] & 0x7F].decode()
    elif any(start.match(head) for start in STARTS):
        return f"has a damaged or truncated header, or no sound in it. {FETCH}"
    else:
        return f"is not wav, flac, mp3 or ogg, nor another kind of sound that is read. If it is audio, {CONVERT}"
    return f"is {name}, which is not read, or is damaged. If it plays elsewhere, {CONVERT}"


def _check_rate(rate: int) -> None:
    if not SOURCE_RATES[0] <= rate <= SOURCE_RATES[1]:
        raise AudioError(f"has {rate} Hz in its header, as no recording has. Export it again.")


def _check_size(frames: int, channels: int, rate: int, max_seconds: float | None) -> None:
    if max_seconds is not None and frames > max_seconds * rate:
        seconds = f"lasts {frames / rate:.1f} s or more, the limit is {max_seconds:g} s"
        raise AudioError(f"{seconds}. Split it, or raise max_seconds.")
    if max_seconds is not None and frames * channels > max_seconds * MOST_NUMBERS:
        raise AudioError(f"has {channels} channels of {rate} Hz, more than any recording. Export it again.")


def _with_size(source: BinaryIO) -> BinaryIO:
    """A wav whose recorder died before it wrote down the size of what it had recorded, with that size."""
    source.seek(0)
    head = re.match(rb"RIFF(.{4})WAVE.*?data(\0{4})", source.read(4096), re.DOTALL)
    size = source.seek(0, io.SEEK_END)
    if head is None or not int.from_bytes(head[1], "little") + 8 <= head.end() < size:
        return source
    source.seek(0)
    content = bytearray(source.read())
    content[head.start(2) : head.end(2)] = struct.pack("<I", min(size - head.end(), STREAMED_WAV))
    return io.BytesIO(content)


def _survey(source: BinaryIO) -> tuple[list[int], int, bool]:
    """Where the recordings in a file start, the size they ask of it (0 where nothing says so), and whether they count
    their own samples."""
    source.seek(0)
    head = source.read(16)
    if head[:4] == b"RIFF":
        return *_riff(source), False
    if head[:4] == b"OggS":
        return *_ogg(source), False
    start = next((start for start in STARTS if start.match(head)), None)
    if start is None:
        return _mpeg(source)
    source.seek(0)
    starts = [found.start() for found in start.finditer(source.read())]
    if head[:4] == b"\x1aE\xdf\xa3":
        return starts, _matroska(source), False
    if head[4:8] == b"ftyp" or head[:4] == b"0&\xb2u":
        return starts, _boxes(source, 0 if head[4:8] == b"ftyp" else 16), False
    return starts, 0, head[:4] == b"fLaC"


def _riff(source: BinaryIO) -> tuple[list[int], int]:
    starts, end, head = [], 0, b"RIFF"
    while head[:4] == b"RIFF":
        starts.append(end)
        source.seek(end)
        end += 8 + int.from_bytes(source.read(8)[4:], "little")
        end += end % 2
        source.seek(end)
        head = source.read(4)
    source.seek(12)
    while len(chunk := source.read(8)) == 8:
        kind, size = struct.unpack("<4sI", chunk)
        if kind == b"data":
            return starts, source.tell() + size if size < STREAMED_WAV else 0
        source.seek(size + size % 2, io.SEEK_CUR)
    return starts, 0


def _ogg(source: BinaryIO) -> tuple[list[int], int]:
    starts, end, begun = [0], 0, True
    while True:  # RFC 3533: a page is 27 bytes, the last of which counts the lengths that follow, then the segments
        source.seek(end)
        page = source.read(27)
        if page[:4] != b"OggS":
            if b"OggS\0" in page + source.read():
                raise AudioError(f"is damaged at byte {end}. {FETCH}")
            return starts, end
        if len(page) < 27:
            return starts, end + 27
        begins = bool(page[5] & 2)
        if begins and not begun:
            starts.append(end)
        begun = begins
        end += 27 + page[26] + sum(source.read(page[26]))


def _boxes(source: BinaryIO, at: int) -> int:
    """Of mp4 and wma: boxes that begin with a size and a name, or a name and a size."""
    end = 0
    while True:
        source.seek(end)
        head = source.read(24)
        if at:
            size = int.from_bytes(head[16:24], "little")
        else:
            size = int.from_bytes(head[8:16] if head[:4] == b"\0\0\0\x01" else head[:4])
        if size < 8 or not (at or head[4:8].isalnum()):
            return end
        end += size


def _matroska(source: BinaryIO) -> int:
    """RFC 8794: elements of an id, a size and content, the numbers as long as their leading zeros say."""
    end = 0
    while True:
        source.seek(end)
        head = source.read(12)
        if not head or head[0] < 0x10:
            return end
        at = 9 - head[0].bit_length()
        digits = 9 - (head[at] if len(head) > at else 0).bit_length()
        size, unknown = int.from_bytes(head[at : at + digits]), (1 << 7 * digits) - 1
        end += at + digits
        if size & unknown != unknown:  # else a live recording's, and what follows is in it
            end += size & unknown


def _mpeg(source: BinaryIO) -> tuple[list[int], int, bool]:
    starts, end, frames, counted, tagged = [0], 0, 0, 0, True
    while True:
        source.seek(end)
        head = source.read(64)
        tag = head[:3] == b"ID3" and len(head) > 10  # its size is four bytes of seven bits
        size = 10 + sum((head[6 + i] & 0x7F) << 21 - 7 * i for i in range(4)) if tag else _frame_bytes(head)
        if not size:
            break
        xing = None if tag else XING.search(head[:size])
        if (tag or xing) and not tagged:
            starts.append(end)
        if xing and not frames:
            counted = int.from_bytes(xing[1])
        tagged, frames, end = tag, frames + (not tag), end + size
    behind = head.strip(b"\0") and not head.startswith((b"TAG", b"APETAGEX", b"LYRICS"))
    if behind and frames == 1:  # by chance
        return [0], 0, False
    if behind and frames and (not counted or frames < counted):
        raise AudioError(f"is damaged at byte {end}. {FETCH}")
    if tagged and len(starts) > 1:
        end = starts.pop()
    # More frames than are counted come of another mp3 behind it, and soundfile would leave them out.
    return starts, end, 0 < frames <= counted + 2


def _frame_bytes(head: bytes) -> int:
    """The bytes of the MPEG frame, of layer 2 or 3, that begins so; 0 for what is none."""
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return 0
    version, layer, kbits, rate = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer not in (2, 3) or kbits in (0, 15) or rate == 3:
        return 0
    halvings = (2, None, 1, 0)[version]  # of the rate: MPEG 2.5, none, 2, 1
    hertz = (44_100, 48_000, 32_000)[rate] >> halvings
    bits = KBITS[layer if halvings == 0 else 0][kbits - 1] * (72_000 if layer == 3 and halvings else 144_000)
    return bits // hertz + (head[2] >> 1 & 1)


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
