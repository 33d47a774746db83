import io
import math
import os
import struct

import numpy as np
import pytest
import soundfile
import torch

from omni.audio.read import AudioError, check_audible, read

RATES = (8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000)


def tone(rate, seconds=1.0, hertz=440.0, channels=1):
    """A tone of peak 0.5, float64 (samples,) or (samples, channels)."""
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)
    return wave if channels == 1 else np.repeat(wave[:, None], channels, axis=1)


def noise(rate, seconds=1.0):
    return 0.2 * np.random.default_rng(0).standard_normal(int(rate * seconds))


def encoded(samples, rate, **options):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **options)
    return file.getvalue()


def difference(waveform, expected):
    """The largest difference away from the edges, where a resampler has only half its input."""
    assert abs(len(waveform) - len(expected)) <= 1
    return np.abs(waveform.numpy()[800:-800] - expected[800 : len(waveform) - 800]).max()


FORMATS = [  # container, sample format, the rates and channels it can hold, how exact it is
    ("WAV", "PCM_U8", RATES, (1, 2, 8), 1e-2),
    ("WAV", "PCM_16", RATES, (1, 2, 8), 6e-5),
    ("WAV", "PCM_24", RATES, (1, 2, 8), 6e-5),
    ("WAV", "PCM_32", RATES, (1, 2, 8), 6e-5),
    ("WAV", "FLOAT", RATES, (1, 2, 8), 6e-5),
    ("WAV", "DOUBLE", RATES, (1, 2, 8), 6e-5),
    ("WAV", "ULAW", RATES, (1, 2, 8), 2e-2),
    ("FLAC", "PCM_16", RATES, (1, 2, 8), 6e-5),
    ("FLAC", "PCM_24", RATES, (1, 2, 8), 6e-5),
    ("OGG", "VORBIS", RATES, (1, 2, 8), 3e-2),
    ("OGG", "OPUS", (8_000, 16_000, 48_000), (1, 2, 8), 8e-2),
    ("MP3", "MPEG_LAYER_III", RATES[:-1], (1, 2), 8e-2),
]


@pytest.mark.parametrize(("container", "subtype", "rates", "channels", "error"), FORMATS)
def test_every_format_rate_and_channel_count(tmp_path, container, subtype, rates, channels, error):
    path = tmp_path / f"clip.{container.lower()}"
    for rate in rates:
        for count in channels:
            soundfile.write(path, tone(rate, channels=count), rate, format=container, subtype=subtype)
            waveform = read(path)
            assert waveform.dtype == torch.float32
            assert waveform.dim() == 1
            assert difference(waveform, tone(16_000)) < error, (rate, count)


def test_resampling_agrees_with_the_tone_made_at_16_khz(tmp_path):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(44_100, 2.0, 1_000), 44_100, subtype="DOUBLE")
    waveform = read(path)
    assert len(waveform) == 32_000
    assert difference(waveform, tone(16_000, 2.0, 1_000)) < 2e-5


def test_resampling_removes_what_16_khz_cannot_hold(tmp_path):
    path = tmp_path / "whistle.wav"
    soundfile.write(path, tone(44_100, 1.0, 12_000), 44_100, subtype="FLOAT")
    assert difference(read(path), np.zeros(16_000)) < 1e-3


@pytest.mark.parametrize("rate", [16_001, 44_056, 11_127])
def test_an_odd_rate_needs_no_giant_kernel(tmp_path, rate):
    path = tmp_path / "odd.wav"
    soundfile.write(path, tone(rate, 1.0), rate, subtype="FLOAT")
    waveform = read(path)
    assert difference(waveform, tone(16_000)) < 0.1  # the pitch is off by less than a thousandth
    assert rate != 16_001 or len(waveform) == 16_001  # taken as 16 kHz: the exact kernel would fill a gigabyte


def test_channels_are_averaged(tmp_path):
    path = tmp_path / "eight.wav"
    levels = np.arange(8) / 10
    soundfile.write(path, np.tile(levels, (16_000, 1)), 16_000, subtype="FLOAT")
    torch.testing.assert_close(read(path), torch.full((16_000,), 0.35))


def test_the_clamp_comes_after_averaging_and_resampling(tmp_path):
    path = tmp_path / "loud.wav"
    soundfile.write(path, np.array([[1.9, -0.3]] * 16_000), 16_000, subtype="FLOAT")
    torch.testing.assert_close(read(path), torch.full((16_000,), 0.8))
    soundfile.write(path, np.where(np.arange(44_100) // 50 % 2, 1.0, -1.0), 44_100, subtype="FLOAT")
    waveform = read(path)  # the resampler overshoots at each step
    assert waveform.max() == 1.0
    assert waveform.min() == -1.0


def test_an_mp3_is_read_in_one_piece(tmp_path):
    # Read in blocks, this file comes out wrong: the decoder seeks between them.
    path = tmp_path / "long.mp3"
    samples = tone(22_050, 7.0)
    soundfile.write(path, samples, 22_050)
    assert difference(read(path), tone(16_000, 7.0)) < 3e-2


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_byte_range_of_an_archive(tmp_path, container):
    clips = [encoded(tone(16_000, 1.0, hertz), 16_000, format=container) for hertz in (300, 500, 700)]
    archive = tmp_path / "clips.bin"
    archive.write_bytes(b"junk" + b"".join(clips))
    (tmp_path / "alone").write_bytes(clips[1])
    waveform = read(archive, offset=4 + len(clips[0]), bytes=len(clips[1]))
    assert torch.equal(waveform, read(tmp_path / "alone"))
    assert difference(waveform, tone(16_000, 1.0, 500)) < 8e-2
    last = read(archive, offset=4 + len(clips[0]) + len(clips[1]))  # without `bytes`, to the end
    assert difference(last, tone(16_000, 1.0, 700)) < 8e-2


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"offset": 10, "bytes": 10_000_000}, "reaches past the archive's"),
        ({"offset": 10_000_000}, "reaches past the archive's"),
        ({"offset": -1, "bytes": 10}, "is no byte range"),
        ({"offset": 0, "bytes": 0}, "is no byte range"),
        ({"offset": 10, "bytes": 2_000}, "is not wav, flac, mp3 or ogg"),
    ],
)
def test_a_bad_byte_range_is_named(tmp_path, part, message):
    path = tmp_path / "archive.bin"
    soundfile.write(path, tone(16_000), 16_000, format="WAV")
    with pytest.raises(AudioError, match=message) as caught:
        read(path, **part)
    assert "archive.bin (byte " in str(caught.value)


def test_names_links_and_text_paths(tmp_path):
    path = tmp_path / "głos 声音 🎙.wav"
    soundfile.write(path, tone(16_000), 16_000)
    link = tmp_path / "link.flac"  # the content decides, not the name
    link.symlink_to(path)
    assert torch.equal(read(str(path)), read(link))


def test_silence_is_read(tmp_path):
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(1_600), 16_000)
    assert torch.equal(read(path), torch.zeros(1_600))


def refused(path, **options):
    """The message with which `read` refuses a file: one line, its name in front, a remedy behind."""
    with pytest.raises(AudioError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert message.count(". ") >= 1
    return message


def test_what_is_no_file(tmp_path):
    assert "no such file" in refused(tmp_path / "none.wav")
    assert "is a folder" in refused(tmp_path)
    (tmp_path / "dangling.wav").symlink_to(tmp_path / "gone.wav")
    assert "no such file" in refused(tmp_path / "dangling.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    assert "is a pipe" in refused(tmp_path / "pipe.wav")
    assert "cannot be read" in refused(tmp_path / ("long" * 100))


def test_empty_files(tmp_path):
    path = tmp_path / "empty.wav"
    path.touch()
    assert "is empty (0 bytes)" in refused(path)
    path.write_bytes(encoded(np.zeros(0), 16_000, format="WAV"))
    assert "holds no samples" in refused(path)


@pytest.mark.parametrize("name", ["text.wav", "text.mp3", "text.raw", "text"])
def test_text_is_not_audio(tmp_path, name):
    path = tmp_path / name
    path.write_text("This is no sound at all.\n" * 100)
    assert "is not wav, flac, mp3 or ogg" in refused(path)


@pytest.mark.parametrize("container", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("kept", [0.999, 0.9, 0.5, 0.1, 0.02])
def test_a_truncated_file_is_refused(tmp_path, container, kept):
    path = tmp_path / f"cut.{container.lower()}"
    whole = encoded(noise(16_000, 3.0), 16_000, format=container)
    path.write_bytes(whole[: int(len(whole) * kept)])
    message = refused(path)
    assert "truncated" in message or "is not wav" in message  # of 2 %, nothing may be left to recognise


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "DOUBLE", "ULAW", "IMA_ADPCM"])
def test_a_wav_one_byte_short_is_refused(tmp_path, subtype):
    path = tmp_path / "cut.wav"
    path.write_bytes(encoded(noise(16_000), 16_000, format="WAV", subtype=subtype)[:-1])
    assert "is truncated" in refused(path)


def chunk(name, content):
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def test_chunks_around_the_data_do_not_hide_a_truncation(tmp_path):
    path = tmp_path / "notes.wav"
    plain = encoded(noise(16_000), 16_000, format="WAV")
    notes = b"".join(chunk(b"note", b"x" * 301) for _ in range(200))  # more than libsndfile keeps in its log
    whole = plain[:36] + notes + plain[36:] + chunk(b"LIST", b"INFO")
    path.write_bytes(whole)
    assert len(read(path)) == 16_000
    path.write_bytes(whole[:-100])
    assert "is truncated" in refused(path)


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_FFFF, 0x7FFF_F000])
def test_a_wav_written_to_a_pipe_is_read(tmp_path, size):
    path = tmp_path / "piped.wav"
    whole = bytearray(encoded(tone(16_000), 16_000, format="WAV"))
    whole[4:8] = whole[40:44] = struct.pack("<I", size)
    path.write_bytes(whole)
    assert difference(read(path), tone(16_000)) < 6e-5


def test_a_flac_of_unknown_length_is_refused(tmp_path):
    path = tmp_path / "piped.flac"
    whole = bytearray(encoded(tone(16_000), 16_000, format="FLAC"))
    whole[21] &= 0xF0  # STREAMINFO: the 36 bits of the sample count
    whole[22:26] = bytes(4)
    path.write_bytes(whole)
    assert "does not say in its header how long" in refused(path)


def mp3_without_header(samples, rate):
    """An mp3 less its first frame, the Xing header, and the bytes of the frame that follows."""
    whole = encoded(samples, rate, format="MP3")
    second = whole.index(whole[:2], 36)
    assert b"Xing" in whole[:second]
    return whole[second:]


def test_an_mp3_that_guesses_its_length_too_long_is_read_whole(tmp_path, monkeypatch):
    path = tmp_path / "quiet first.mp3"  # its first frame is small, so libsndfile expects more of them
    path.write_bytes(mp3_without_header(np.concatenate([np.zeros(80_000), noise(16_000, 5.0)]), 16_000))
    assert soundfile.info(path).duration > 15.0
    assert abs(len(read(path, max_seconds=11.0)) / 16_000 - 10.0) < 0.2
    assert "the limit is 9 s" in refused(path, max_seconds=9.0)
    monkeypatch.delattr(soundfile.SoundFile, "read")  # its size alone refuses it
    assert "the limit is 0.2 s" in refused(path, max_seconds=0.2)


def test_an_mp3_that_guesses_its_length_too_short_is_read_whole(tmp_path):
    path = tmp_path / "loud first.mp3"  # its first frame is large, so libsndfile stops early
    path.write_bytes(mp3_without_header(np.concatenate([noise(16_000, 5.0), np.zeros(80_000)]), 16_000))
    assert soundfile.info(path).duration < 5.0
    assert abs(len(read(path)) / 16_000 - 10.0) < 0.2


def test_an_mp3_behind_a_tag_keeps_its_length(tmp_path):
    path = tmp_path / "tagged.mp3"
    whole = encoded(noise(16_000, 3.0), 16_000, format="MP3")
    tag = b"ID3\x04\0\0" + bytes([0, 0, 32, 0]) + bytes(32 << 7)
    path.write_bytes(tag + whole + b"TAG" + bytes(125))
    assert len(read(path)) == 48_000
    path.write_bytes((tag + whole)[: len(tag) + len(whole) // 2])
    assert "is truncated" in refused(path)


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_nan_and_infinity_are_refused(tmp_path, subtype, bad, rate):
    path = tmp_path / "nan.wav"
    samples = tone(rate, channels=2)
    samples[5_000, 1] = bad
    soundfile.write(path, samples, rate, subtype=subtype)
    assert "holds NaN or infinite samples" in refused(path)


@pytest.mark.parametrize("rate", [1, 999, 2_000_000_000])
def test_an_absurd_rate_is_refused(tmp_path, rate):
    path = tmp_path / "rate.wav"
    whole = bytearray(encoded(tone(16_000), 16_000, format="WAV"))
    whole[24:28] = struct.pack("<I", rate)
    path.write_bytes(whole)
    assert f"has {rate} Hz in its header" in refused(path)


def test_the_limit_on_length(tmp_path):
    path = tmp_path / "clip.flac"
    soundfile.write(path, tone(16_000, 2.0), 16_000)
    assert len(read(path, max_seconds=2.0)) == 32_000
    assert "the limit is 1.9 s" in refused(path, max_seconds=1.9)


def test_three_hours_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = tmp_path / "meeting.wav"
    header = encoded(np.zeros(0), 16_000, format="WAV")
    size = 3 * 3_600 * 16_000 * 2
    path.write_bytes(header[:4] + struct.pack("<I", size + 36) + header[8:40] + struct.pack("<I", size))
    os.truncate(path, 44 + size)  # a sparse file: it takes no room
    monkeypatch.delattr(soundfile.SoundFile, "read")  # whoever decodes fails
    assert "lasts 10800.0 s or more" in refused(path, max_seconds=30.0)


def test_a_file_without_rights(tmp_path):
    path = tmp_path / "secret.wav"
    soundfile.write(path, tone(16_000), 16_000)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root reads everything")
    assert "cannot be read (Permission denied)" in refused(path)


def test_damage_never_escapes_as_another_error(tmp_path):
    # Flipped and missing bytes: the file is read or refused, and what is read keeps the contract.
    rng = np.random.default_rng(1)
    path = tmp_path / "damaged"
    for container in ("WAV", "FLAC", "OGG", "MP3"):
        whole = encoded(noise(16_000, 0.3), 16_000, format=container)
        for _ in range(40):
            content = np.frombuffer(whole, np.uint8)[: rng.integers(1, len(whole) + 1)].copy()
            content[rng.integers(0, min(len(content), 100), 4)] = rng.integers(0, 256, 4)
            path.write_bytes(content)
            try:
                waveform = read(path, max_seconds=10.0)
            except AudioError:
                continue
            assert waveform.abs().max() <= 1.0


def test_audible():
    for level in (2e-4, -2e-4):
        check_audible(torch.tensor([0.0, level] * 800), min_seconds=0.1, what="clip a")
    with pytest.raises(AudioError, match=r"clip b: lasts 0.010 s, less than the 0.1 s"):
        check_audible(torch.ones(160), min_seconds=0.1, what="clip b")
    for level in (0.0, 5e-5, -5e-5):
        with pytest.raises(AudioError, match="clip c: is silent"):
            check_audible(torch.full((16_000,), level), min_seconds=0.1, what="clip c")
    with pytest.raises(AudioError, match=r"clip d: lasts 0\.000 s"):
        check_audible(torch.zeros(0), min_seconds=0.0, what="clip d")


def test_a_small_file_of_very_many_numbers_is_refused_before_it_is_decoded(tmp_path):
    bomb = tmp_path / "bomb.flac"
    soundfile.write(bomb, np.zeros((192_000, 8), dtype="int16"), 192_000)  # a second of silence in few bytes
    assert bomb.stat().st_size < 20_000
    assert len(read(bomb)) == 16_000
    with pytest.raises(AudioError, match="8 channels of 192000 Hz"):
        read(bomb, max_seconds=2)
