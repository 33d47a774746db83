"""A sound that is changed is changed as it was said, and its words stay."""

import math

import pytest
import torch

from omni.audio import SAMPLE_RATE
from omni.audio.augment import Change, Changes
from omni.errors import OmniError


def tone(hertz: float = 440.0, seconds: float = 1.0) -> torch.Tensor:
    return 0.1 * torch.sin(2 * math.pi * hertz * torch.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)


def pitch(waveform: torch.Tensor) -> float:
    spectrum = torch.fft.rfft(waveform).abs()
    return int(spectrum.argmax()) * SAMPLE_RATE / len(waveform)


def decibels(waveform: torch.Tensor) -> float:
    return 10 * math.log10(float(waveform.square().mean()))


def test_a_faster_sound_is_shorter_and_higher():
    fast = Change(speed=1.1).apply(tone())
    assert len(fast) == pytest.approx(SAMPLE_RATE / 1.1, abs=2)
    assert pitch(fast) == pytest.approx(440 * 1.1, abs=3)


def test_gain_is_in_decibels_and_stays_within_bounds():
    assert decibels(Change(gain_db=-6.0).apply(tone())) == pytest.approx(decibels(tone()) - 6, abs=0.01)
    assert Change(gain_db=60.0).apply(tone()).abs().max() == 1


def test_noise_lies_so_far_below_the_sound_and_is_the_seeds():
    change = Change(snr_db=20.0, seed=3)
    noise = change.apply(tone()) - tone()
    assert decibels(noise) == pytest.approx(decibels(tone()) - 20, abs=0.2)
    assert torch.equal(change.apply(tone()), tone() + noise)
    assert not torch.equal(Change(snr_db=20.0, seed=4).apply(tone()), tone() + noise)


def test_nothing_to_change_changes_nothing():
    assert torch.equal(Change().apply(tone()), tone())


def test_a_draw_is_the_seeds_and_within_what_was_asked():
    changes = Changes(speed=[0.9, 1.1], gain_db=[-6, 6], snr_db=[10, 30])
    drawn = [changes.draw(str(seed)) for seed in range(200)]
    assert drawn == [changes.draw(str(seed)) for seed in range(200)]
    assert {change.speed for change in drawn} == {0.9, 1.1}
    assert all(-6 <= change.gain_db <= 6 and 10 <= change.snr_db <= 30 for change in drawn)
    assert max(change.snr_db for change in drawn) > 28
    assert Changes().draw("x") == Change(seed=Changes().draw("x").seed)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"speed": []}, "augment.speed"),
        ({"speed": [9.0]}, "augment.speed: .*from 0.5 to 2"),
        ({"gain_db": [3]}, "augment.gain_db: .*two numbers"),
        ({"snr_db": [30, 10]}, "augment.snr_db"),
    ],
)
def test_what_is_no_change_is_refused(keys, said):
    with pytest.raises(OmniError, match=said):
        Changes(**keys)
