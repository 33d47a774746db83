import torch

from omni.data import features
from omni.data.clips import Sample
from omni.data.features import EncodedClips
from omni.text.tokenizer import ByteTokenizer

CLIPS = [Sample(str(i), torch.full((320 * (i + 1),), 0.1), "ab"[: i + 1]) for i in range(4)]


class CountingEncoder:
    """Stands in for Whisper where only the number of calls counts."""

    calls = 0

    def __call__(self, waveforms):
        self.calls += 1
        frames = len(waveforms[0]) // 320
        return torch.full((1, 1, frames, 8), float(frames)), torch.tensor([frames])


def encoded(encoder, **keys) -> EncodedClips:
    given = {"tokenizer": ByteTokenizer(), "device": torch.device("cpu")}
    return EncodedClips(CLIPS, encoder=encoder, **given | keys)


def test_a_clip_is_encoded_once():
    encoder = CountingEncoder()
    clips = encoded(encoder)
    assert [example.id for example in clips.encode_ahead(lambda: [2, 0, 2])] == ["2", "0"]
    for index in (2, 0, 2, 1):
        assert clips[index].states_KTD.shape == (1, index + 1, 8)
    assert encoder.calls == 3
    assert clips[1].ids_L.tolist() == [256, 97, 98]


def test_beyond_the_memory_limit_clips_are_encoded_again(monkeypatch):
    monkeypatch.setattr(features, "MEMORY_LIMIT", 5 * 8 * 4)
    encoder = CountingEncoder()
    clips = encoded(encoder)
    ahead = [example.id for example in clips.encode_ahead(lambda: range(4))]
    assert ahead == ["0", "1", "2"]  # 1 + 2 frames of 8 floats fit, the next 3 do not, and the last is not tried
    for _ in range(2):
        clips[0], clips[1], clips[3]
    assert encoder.calls == 5
    assert clips.bytes_kept == 3 * 8 * 4


def test_frames_beyond_a_clips_length_are_dropped():
    def padding(waveforms):
        return torch.arange(60.0).view(1, 2, 6, 5), torch.tensor([4])

    states = encoded(padding)[0].states_KTD
    assert torch.equal(states, torch.arange(60.0).view(2, 6, 5)[:, :4])
    assert states.untyped_storage().nbytes() == states.nbytes  # nor are they kept


def test_only_the_first_clips_count_under_a_limit():
    assert len(encoded(CountingEncoder(), limit=2)) == 2
    assert len(encoded(CountingEncoder(), limit=20)) == 4
