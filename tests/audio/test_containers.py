"""What browsers, phones and telephones record: read whole, joined where it is several, or refused with the reason."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch

from omni.audio.read import AudioError, opened, read, read_bytes, read_header, resample

CASES = Path(__file__).parent / "cases"
RATE = 16_000


def voice(rate, seconds=1.5):
    """A gliding voice, float32 (samples,), unlike itself at any shift."""
    time = np.arange(int(rate * seconds)) / rate
    phase = 2 * np.pi * np.cumsum(150 + 60 * np.sin(2 * np.pi * 0.7 * time**1.3)) / rate
    wave = sum(np.sin(k * phase) / k for k in range(1, 8)) * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * time))
    return (0.2 * wave).astype(np.float32)


def by_ffmpeg(container, codec, rate, *, samples=None, layout="mono", bit_rate=None, **options):
    """A file as ffmpeg writes it."""
    file, samples = io.BytesIO(), voice(rate) if samples is None else samples
    with av.open(file, "w", format=container, container_options=options) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        stream.time_base = Fraction(1, rate)
        if bit_rate:
            stream.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="flt", layout=layout)
        frame.sample_rate = rate
        taken = (stream.codec_context.format or stream.codec_context.codec.audio_formats[0]).name
        resampler = av.AudioResampler(taken, layout, rate, stream.codec_context.frame_size or 1024)
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            output.mux(stream.encode(part))
    return file.getvalue()


def by_soundfile(container, subtype="PCM_16", rate=RATE, samples=None):
    file = io.BytesIO()
    soundfile.write(file, voice(rate) if samples is None else samples, rate, format=container, subtype=subtype)
    return file.getvalue()


def likeness(waveform, original):
    """The correlation where both fit best; codecs delay by some hundred samples."""
    found, wanted = waveform.numpy(), np.asarray(original)
    shifts = np.fft.irfft(np.fft.rfft(found, 2**18) * np.fft.rfft(wanted, 2**18).conj())
    shift = int(
        np.argmax(shifts[:4_000])
        if shifts[:4_000].max() > shifts[-4_000:].max()
        else -4_000 + np.argmax(shifts[-4_000:])
    )
    found, wanted = found[max(shift, 0) :], wanted[max(-shift, 0) :]
    length = min(len(found), len(wanted))
    assert length > 0.9 * len(original)
    return np.corrcoef(found[:length], wanted[:length])[0, 1]


def refused(sound, **options):
    with pytest.raises(AudioError, match=r"^clip 7: [^\n]+\. [^\n]+$") as caught:
        read_bytes(sound, what="clip 7", **options)
    return str(caught.value)


MADE = {
    "m4a": lambda: by_ffmpeg("ipod", "aac", 22_050),
    "fragmented mp4": lambda: by_ffmpeg(
        "mp4", "aac", 22_050, movflags="frag_keyframe+empty_moov", frag_duration="300000"
    ),
    "alac": lambda: by_ffmpeg("ipod", "alac", 22_050),
    "aac": lambda: by_ffmpeg("adts", "aac", 22_050),
    "webm": lambda: by_ffmpeg("webm", "libopus", 48_000),
    "live webm": lambda: by_ffmpeg("webm", "libopus", 48_000, live="1"),
    "mka": lambda: by_ffmpeg("matroska", "aac", 22_050),
    "wma": lambda: by_ffmpeg("asf", "wmav2", 22_050, bit_rate=48_000),
    "ms adpcm": lambda: by_ffmpeg("wav", "adpcm_ms", 8_000),
    "yamaha adpcm": lambda: by_ffmpeg("wav", "adpcm_yamaha", 8_000),
    "g726": lambda: by_ffmpeg("wav", "g726", 8_000, bit_rate=32_000),
    "g722": lambda: by_ffmpeg("wav", "g722", RATE),
    "mp3 in wav": lambda: by_ffmpeg("wav", "libmp3lame", RATE),
    "mp2": lambda: by_ffmpeg("mp2", "mp2", RATE, bit_rate=64_000),
    "mp3 without Xing": lambda: by_ffmpeg("mp3", "libmp3lame", RATE, write_xing="0", id3v2_version="0"),
    "mp3 behind a tag": lambda: by_ffmpeg("mp3", "libmp3lame", 22_050, write_xing="0"),
    "wavpack": lambda: by_ffmpeg("wv", "wavpack", RATE),
    "gsm": lambda: by_soundfile("WAV", "GSM610", 8_000),
    "aiff": lambda: by_soundfile("AIFF"),
    "aifc": lambda: by_soundfile("AIFF", "FLOAT"),
    "au": lambda: by_soundfile("AU"),
    "w64": lambda: by_soundfile("W64", "PCM_24"),
    "rf64": lambda: by_soundfile("RF64"),
    "caf": lambda: by_soundfile("CAF"),
    "sph": lambda: by_soundfile("NIST"),
}
MORE = {
    "wav": lambda: by_soundfile("WAV"),
    "flac": lambda: by_soundfile("FLAC"),
    "vorbis": lambda: by_soundfile("OGG", "VORBIS"),
    "opus": lambda: by_soundfile("OGG", "OPUS"),
    "mp3": lambda: by_soundfile("MP3", "MPEG_LAYER_III"),
}


@pytest.mark.parametrize("kind", MADE)
def test_a_file_is_read_whole_and_refused_when_it_is_cut(kind):
    sound = MADE[kind]()
    waveform = read_bytes(sound, what="clip")
    assert likeness(waveform, voice(RATE)) > 0.98
    assert read_header(io.BytesIO(sound))[1] == pytest.approx(len(waveform) / RATE, abs=0.001)
    assert "the limit is 1 s" in refused(sound, max_seconds=1)
    for kept in (len(sound) - 2, int(0.93 * len(sound)), int(0.51 * len(sound))):
        said = refused(sound[:kept])
        assert "truncated" in said
        assert "convert" not in said


@pytest.mark.parametrize("kind", sorted((MADE | MORE).keys() - {"wavpack"}))
def test_recordings_one_after_another_are_all_read(kind):
    sound = (MADE | MORE)[kind]()
    one, two = (read_bytes(sound * count, what="clip") for count in (1, 2))
    assert abs(len(two) - 2 * len(one)) <= 1
    assert torch.allclose(two[: len(one) - 1_000], one[:-1_000], atol=1e-6)
    assert likeness(two[len(one) :], voice(RATE)) > 0.98
    cut = sound + sound[: int(0.51 * len(sound))]
    assert "truncated" in refused(cut)
    assert "the limit is 2 s" in refused(sound * 2, max_seconds=2)


def test_what_is_not_alike_is_not_joined():
    for container, subtype in (("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("WAV", "PCM_16")):
        one = by_soundfile(container, subtype)
        assert "of different rates or channels" in refused(one + by_soundfile(container, subtype, 22_050))
        stereo = by_soundfile(container, subtype, samples=np.stack([voice(RATE)] * 2, 1))
        assert "of different rates or channels" in refused(one + stereo)
    mono, stereo = (
        by_ffmpeg("adts", "aac", 22_050, layout=layout, samples=voice(22_050)[: 2 * 1_024 * 8])
        for layout in ("mono", "stereo")
    )
    assert "cannot be decoded" in refused(mono + stereo)
    assert "recordings one after another, the limit" in refused(by_soundfile("WAV", samples=voice(RATE)[:10]) * 1_001)


def test_a_cut_recording_before_another_is_refused():
    for kind in ("flac", "vorbis", "opus", "mp3", "m4a", "webm"):
        sound = (MADE | MORE)[kind]()
        assert "truncated" in (said := refused(sound[: int(0.51 * len(sound))] + sound)) or "damaged" in said


def test_an_mp3_behind_one_that_counts_its_own_frames_alone_is_read():
    counted, plain = MORE["mp3"](), MADE["mp3 without Xing"]()
    for sound in (counted + plain, plain + counted):
        assert len(read_bytes(sound, what="clip")) / RATE == pytest.approx(3.0, abs=0.25)


@pytest.mark.parametrize("kind", ["mp3", "mp3 without Xing", "mp2"])
def test_tags_at_the_end_are_no_damage_but_damage_is(kind):
    sound = (MADE | MORE)[kind]()
    art = np.random.default_rng(0).bytes(5_000)
    header = b"APETAGEX" + struct.pack("<4I8x", 2_000, len(art) + 32, 1, 0x8000_0000)
    waveform = read_bytes(sound, what="clip")
    for tag in (b"TAG" + bytes(125), header + art, bytes(3_000), b"ID3\x04\0\0\0\0\x04\0" + bytes(512)):
        assert torch.equal(read_bytes(sound + tag, what="clip"), waveform)
    damaged = sound[:2_000] + np.random.default_rng(1).bytes(600) + sound[2_600:]
    assert "damaged" in (said := refused(damaged)) or "truncated" in said


def test_the_cases():
    """A sentence of a speech synthesiser as a browser, a phone and telephones record it."""
    sentence = read(CASES / "mediarecorder.webm")
    twice = torch.cat([sentence, sentence])
    assert torch.allclose(read(CASES / "chained.ogg"), twice, atol=1e-3)  # ogg opus, two in a file
    for name in ("iphone.m4a", "phone.mp4", "g726.wav"):
        assert likeness(read(CASES / name), sentence[: len(read(CASES / name))]) > 0.985
    with soundfile.SoundFile(CASES / "gsm.wav") as other:  # another decoder, which is told how long the clip is
        samples = resample(torch.from_numpy(other.read(25_280, dtype="float32")), 8_000)
    assert likeness(read(CASES / "gsm.wav"), samples) > 0.999


def test_eight_channels_are_read():
    layout, channels = "7.1", np.stack([voice(48_000) * (1 + i) / 8 for i in range(8)], 1)
    expected = voice(RATE) * 4.5 / 8
    for sound in (
        by_ffmpeg("webm", "libopus", 48_000, layout=layout, samples=channels),  # planar, which PyAV itself cannot turn
        by_soundfile("AIFF", rate=48_000, samples=channels),
    ):
        waveform = read_bytes(sound, what="clip")
        assert likeness(waveform, expected) > 0.98
        assert waveform.std() == pytest.approx(expected.std(), rel=0.05)


def test_a_wav_whose_recorder_died_is_read_to_its_end():
    sound = by_soundfile("WAV")
    for size in (0, 36):
        died = sound[:4] + struct.pack("<I", size) + sound[8:40] + bytes(4) + sound[44:]
        assert torch.equal(read_bytes(died, what="clip"), read_bytes(sound, what="clip"))
        assert read_header(io.BytesIO(died)) == ("wav", 1.5)
    empty = by_soundfile("WAV", samples=np.zeros(0)) + b"LIST" + struct.pack("<I", 64) + b"INFO" + bytes(60)
    assert "holds no samples" in refused(empty[:4] + struct.pack("<I", len(empty) - 8) + empty[8:])


@pytest.mark.parametrize("container", ["WAV", "AIFF", "CAF"])
def test_floating_point_on_the_scale_of_integers_is_refused(container):
    for scale in (2**7, 2**15, 2**31):
        assert "on the scale of integers" in refused(by_soundfile(container, "FLOAT", samples=voice(RATE) * scale))
    loud = read_bytes(by_soundfile(container, "FLOAT", samples=voice(RATE) * 8), what="clip")
    assert loud.abs().max() == 1.0


def test_of_channels_that_cancel_the_louder_is_taken_and_that_is_said(caplog):
    left = voice(RATE)
    for right, wanted in ((-left, left), (-1.1 * left, -1.1 * left), (-0.4 * left, 0.3 * left), (0 * left, left / 2)):
        caplog.clear()
        sound = by_soundfile("WAV", "FLOAT", samples=np.stack([left, right], 1))
        assert torch.allclose(read_bytes(sound, what="clip 7"), torch.from_numpy(wanted))
        assert ("clip 7: its channels cancel each other" in caplog.text) == (np.abs(right).max() > 0.9 * left.max())


def ogg_page(content, flags, number):
    page = b"OggS\0" + struct.pack("<BqIIIBB", flags, 960 * number, 1, number, 0, 1, len(content)) + content
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFF_FFFF
    return page[:22] + struct.pack("<I", crc) + page[26:]


def test_what_is_no_sound_or_in_another_codec_is_called_that():
    webm, wav = MADE["webm"](), bytearray(by_soundfile("WAV"))
    wav[20:22] = b"\x34\x12"
    ogg = [ogg_page(bytes(90), 4 * (number == 9), number) for number in range(1, 10)]
    for sound, reason in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "is a Git LFS pointer"),
        (b"\xef\xbb\xbf<!DOCTYPE html>\n<html>" + bytes(100), "is an HTML page"),
        (b"<html lang='en'><head>", "is an HTML page"),
        (bytes(wav), "a wav of codec 0x1234"),
        (ogg_page(b"CELT    " + bytes(52), 2, 0) + b"".join(ogg), "an ogg of codec CELT"),
        (webm.replace(b"A_OPUS", b"A_ZPUS"), "webm or mka of codec A_ZPUS,"),
        (b"%PDF-1.4" + bytes(3_000), "is not wav, flac, mp3 or ogg"),
        (bytes(3_000), "is not wav, flac, mp3 or ogg"),
        (
            b"\xff\xe4\x22\x79" + np.random.default_rng(0).bytes(3_000),
            "is not wav, flac, mp3 or ogg",
        ),  # as a frame begins
    ):
        assert reason in refused(sound)


def test_a_playlist_opens_nothing(tmp_path):
    (tmp_path / "secret.wav").write_bytes(by_soundfile("WAV"))
    for text in ("#EXTM3U\n#EXTINF:1,\nfile://{}\n", "ffconcat version 1.0\nfile {}\n"):
        assert "is not wav" in refused(text.format(tmp_path / "secret.wav").encode())


def test_a_name_says_nothing_and_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for kind, name in (("aiff", "a.raw"), ("webm", "b.wav"), ("m4a", "~c.mp3")):
        (tmp_path / name).write_bytes(sound := MADE[kind]())
        assert torch.equal(read(tmp_path / name), read_bytes(sound, what="clip"))
    assert torch.equal(read("~/b.wav"), read(tmp_path / "b.wav"))
    monkeypatch.chdir(tmp_path)
    assert len(read("~c.mp3"))


def test_any_fault_of_a_decoder_names_the_clip(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"a")
    with pytest.raises(AudioError, match=r"a.wav: cannot be decoded \(it broke\)"), opened(tmp_path / "a.wav"):
        raise RuntimeError("it\nbroke")


def test_damage_in_any_container_is_read_or_refused():
    rng = np.random.default_rng(1)
    sounds = [make() for make in MADE.values()]
    for _ in range(80):
        content = np.frombuffer(sounds[rng.integers(len(sounds))], np.uint8).copy()
        content[rng.integers(0, rng.choice([400, len(content)]), 4)] = rng.integers(0, 256, 4)
        try:
            waveform = read_bytes(content[: rng.integers(1, 3 * len(content))].tobytes(), what="clip", max_seconds=10.0)
        except AudioError:
            continue
        assert waveform.abs().max() <= 1.0
