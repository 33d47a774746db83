"""Notes out of a soundfont of two sines, made here; `apt-get` and `dpkg-deb` are played by scripts."""

import hashlib
import io
import os
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from omni.audio import SAMPLE_RATE
from omni.audio.measure import median_f0, track_f0
from omni.corpora import soundfont as module
from omni.corpora.debian_packages import Package
from omni.corpora.soundfont import FILE, Soundfont, SoundfontError, prepare
from omni.errors import OmniError

RATE = 44_100
SAMPLE_MODES, ROOT_KEY, SAMPLE_ID, INSTRUMENT = 54, 58, 53, 41  # generators of the SoundFont 2.04 specification
APT_GET = """#!/bin/sh
eval "what=\\${{$#}}"
[ "$what" = update ] && exit 0
cp {folder}/"${{what%%=*}}"_*.deb . && exit 0
echo "E: Unable to locate package ${{what%%=*}}" >&2; exit 100
"""
DPKG_DEB = '#!/bin/sh\n[ "$1" = --fsys-tarfile ] && cat "$2"\n'


def chunk(name: str, content: bytes) -> bytes:
    return name.encode() + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def sound_font() -> bytes:
    """Program 0 is a sine of 441 Hz, program 5 is one with an overtone; the root of both is A4 (69), looped."""
    phase = 2 * np.pi * np.arange(10 * RATE // 441) / (RATE / 441)
    waves = [0.5 * np.sin(phase), 0.3 * np.sin(phase) + 0.3 * np.sin(3 * phase)]
    samples, heads, silence = b"", b"", b"\0" * 92
    for number, wave in enumerate(waves):
        start = len(samples) // 2
        samples += (wave * 32_767).astype("<i2").tobytes() + silence
        end = start + len(wave)
        heads += struct.pack("<20sIIIIIBbHH", b"s%d" % number, start, end, start, end, RATE, 69, 0, 0, 1)
    heads += struct.pack("<20sIIIIIBbHH", b"EOS", *[0] * 9)
    tables = {
        "phdr": b"".join(
            struct.pack("<20sHHHIII", name, program, 0, bag, 0, 0, 0)
            for name, program, bag in ((b"sine", 0, 0), (b"hollow", 5, 1), (b"EOP", 0, 2))
        ),
        "pbag": struct.pack("<6H", 0, 0, 1, 0, 2, 0),
        "pmod": b"\0" * 10,
        "pgen": struct.pack("<6H", INSTRUMENT, 0, INSTRUMENT, 1, 0, 0),
        "inst": b"".join(struct.pack("<20sH", name, bag) for name, bag in ((b"a", 0), (b"b", 1), (b"EOI", 2))),
        "ibag": struct.pack("<6H", 0, 0, 2, 0, 4, 0),
        "imod": b"\0" * 10,
        "igen": struct.pack("<10H", SAMPLE_MODES, 1, SAMPLE_ID, 0, SAMPLE_MODES, 1, SAMPLE_ID, 1, 0, 0),
        "shdr": heads,
    }
    parts = b"".join(chunk(name, content) for name, content in tables.items())
    info = chunk("LIST", b"INFO" + chunk("ifil", struct.pack("<HH", 2, 4)))
    data = chunk("LIST", b"sdta" + chunk("smpl", samples)) + chunk("LIST", b"pdta" + parts)
    return chunk("RIFF", b"sfbk" + info + data)


@pytest.fixture
def font(tmp_path) -> Soundfont:
    (tmp_path / FILE).write_bytes(sound_font())
    return Soundfont(tmp_path)


@pytest.mark.parametrize(("note", "hertz"), [(57, 220.5), (69, 441), (72, 524.4)])
def test_a_note_has_its_pitch_and_its_length(font, note, hertz):
    waveform = font.play(0, note, 100, 0.5)
    assert waveform.shape == (SAMPLE_RATE // 2,)
    assert waveform.dtype == torch.float32
    assert median_f0(track_f0(waveform)) == pytest.approx(hertz, rel=0.005)


def test_a_note_is_the_same_each_time_whatever_was_played_before(font):
    first = font.play(0, 60, 100, 0.4)
    font.play(5, 60, 127, 0.4)
    assert torch.equal(font.play(0, 60, 100, 0.4), first)


def test_instruments_and_velocities_are_heard_and_a_note_ends_in_silence(font):
    plain, hollow, soft = font.play(0, 69, 100, 0.4), font.play(5, 69, 100, 0.4), font.play(0, 69, 40, 0.4)
    spectrum = torch.fft.rfft(hollow[1_600:4_800]).abs()
    assert spectrum[round(1_323 * 0.2)] > 50 * torch.fft.rfft(plain[1_600:4_800]).abs()[round(1_323 * 0.2)]
    assert soft.abs().max() < 0.6 * plain.abs().max()
    assert plain[-16:].abs().max() < 0.01 * plain.abs().max()


def test_what_is_not_there_is_named(tmp_path, font, monkeypatch):
    with pytest.raises(SoundfontError, match=r"TimGM6mb.sf2: has no instrument 200"):
        font.play(200, 60, 100, 0.4)
    with pytest.raises(SoundfontError, match=r"cannot be read .* Prepare it first"):
        Soundfont(tmp_path / "nowhere")
    (tmp_path / FILE).write_bytes(b"RIFF of something else")
    with pytest.raises(SoundfontError, match="is no soundfont"):
        Soundfont(tmp_path)
    monkeypatch.setitem(sys.modules, "tinysoundfont", None)
    with pytest.raises(SoundfontError, match="pip install --no-deps tinysoundfont=="):
        font.play(0, 60, 100, 0.4)


def publish(folder: Path, files: dict[str, bytes]) -> Package:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"./usr/share/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    (folder / "font_1.0_all.deb").write_bytes(content.getvalue())
    return Package("font", "1.0", "GPL-2", hashlib.sha256(content.getvalue()).hexdigest())


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    (tmp_path / "bin").mkdir()
    for name, script in (("apt-get", APT_GET.format(folder=tmp_path)), ("dpkg-deb", DPKG_DEB)):
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=os.pathsep)
    return tmp_path


def test_the_soundfont_is_fetched_once_with_its_licence(archive, monkeypatch):
    files = {f"sounds/sf2/{FILE}": sound_font(), "doc/font/copyright": b"GPL-2", "doc/font/changelog": b"new"}
    monkeypatch.setattr(module, "PACKAGE", publish(archive, files))
    said, folder = [], archive / "data" / "soundfont"
    prepare(folder, said.append)
    assert sorted(path.name for path in folder.iterdir()) == [FILE, "copyright"]
    assert Soundfont(folder).play(0, 69, 100, 0.3).abs().max() > 0.05
    (archive / "font_1.0_all.deb").unlink()
    prepare(str(folder), said.append)
    assert said[-1] == f"{folder / FILE} is there"


@pytest.mark.parametrize("files", [None, {"doc/font/copyright": b"GPL-2"}])
def test_a_release_without_the_soundfont_says_so(archive, monkeypatch, files):
    package = publish(archive, files or {})
    monkeypatch.setattr(module, "PACKAGE", package)
    if files is None:
        (archive / "font_1.0_all.deb").unlink()
    with pytest.raises(OmniError, match=r"font: .* by hand"):
        prepare(archive / "data", lambda said: None)
    assert not (archive / "data" / FILE).exists()
