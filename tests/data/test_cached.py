"""Clips whose states lie on disk: what trains on them cannot tell, and memory does not grow with their number."""

import io
import json
import os
import resource
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import soundfile
import torch

from omni.data import cached as cached_module
from omni.data import shards as module
from omni.data.augmented import AugmentedClips
from omni.data.cached import CachedClips
from omni.data.clips import Clips, Sample
from omni.data.features import EncodedClips
from omni.data.feed import ClipFeed
from omni.data.manifest import Clip
from omni.data.shards import Shards, Wanted
from omni.errors import OmniError
from omni.model.encoder import RandomWhisperEncoder
from omni.model.gpt import GPT
from omni.model.omni import Omni
from omni.model.projector import StackMLP
from omni.text.bpe import BPETokenizer
from omni.text.tokenizer import ByteTokenizer
from omni.training.loop import Trainer
from omni.training.optimizer import adamw
from omni.training.schedule import Schedule

WIDTH = 32
KEYS = {"tokenizer": ByteTokenizer(), "device": torch.device("cpu")}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Small shards, and one thread: several wait for each other longer than they compute."""
    monkeypatch.setattr(module, "CLIPS", 8)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Ear:
    """Hears one number a frame. calls: how many clips came in each call."""

    signature: ClassVar = {"weights": "ear"}

    def __init__(self):
        self.calls: list[int] = []

    def __call__(self, waveforms):
        self.calls.append(len(waveforms))
        frames = torch.tensor([len(waveform) // 320 for waveform in waveforms])
        states = torch.full((len(waveforms), 1, int(frames.max()), 4), 9.0)
        for row, (waveform, length) in enumerate(zip(waveforms, frames, strict=True)):
            states[row, 0, :length] = waveform[: length * 320].view(-1, 320).mean(1)[:, None]
        return states, frames


def dataset(folder, count: int, damaged: tuple[int, ...] = ()) -> Clips:
    """Noises of 0.1 to 0.3 s in one archive, each with a text of its own."""
    random, clips, archive = np.random.default_rng(0), [], folder / "sounds.bin"
    folder.mkdir(exist_ok=True)
    with archive.open("wb") as file:
        for number in range(count):
            sound = io.BytesIO()
            samples = random.uniform(-0.5, 0.5, 1600 + 320 * int(random.integers(10)))
            soundfile.write(sound, samples, 16_000, format="WAV")
            content = b"no sound" * 50 + bytes([number]) if number in damaged else sound.getvalue()
            where = {"offset": file.tell(), "bytes": len(content)}
            clips.append(Clip(f"clip{number}", archive, f"number {number}", seconds=len(samples) / 16_000, **where))
            file.write(content)
    return Clips(clips, source=folder / "my.jsonl", min_seconds=0.1, max_seconds=1.0)


def cached(folder, data, encoder, **keys) -> CachedClips:
    return CachedClips(data, shards=Shards(folder, encoder.signature), encoder=encoder, **KEYS | keys)


def ahead(clips) -> list[str]:
    return [clip.id for clip in clips.encode_ahead()]


def feed(examples, check_fits=lambda *_, **__: None) -> ClipFeed:
    return ClipFeed(examples, check_fits=check_fits, bos=256, batch_size=4, seed=1)


def test_each_clip_is_encoded_once_for_all_runs(tmp_path):
    data, ear = dataset(tmp_path / "data", 20), Ear()
    first = cached(tmp_path / "states", data, ear, limit=10)
    assert sorted(ahead(first)) == sorted(clip.id for clip in data.clips[:10])
    assert ear.calls == [8, 2]
    second = cached(tmp_path / "states", data, ear)
    ahead(second)
    assert sum(ear.calls) == 20
    third = cached(tmp_path / "states", data, deaf := Ear())
    assert sorted(ahead(third)) == sorted(ahead(second))
    assert not deaf.calls
    for index, sample in enumerate(data):
        example = third[index]
        assert (example.id, example.ids_L.tolist()) == (sample.id, [256, *sample.text.encode()])
        states = example.states_KTD
        assert states.shape == (1, round(third.lengths[index] * 50), 4)  # no padding of the batch it was encoded in
        frames = sample.waveform[: states.size(1) * 320].view(-1, 320).mean(1)
        torch.testing.assert_close(states[0, :, 0].float(), frames, atol=1e-3, rtol=1e-3)


def test_a_clip_too_long_for_the_model_is_met_before_training(tmp_path):
    def refuse(clip_id, *, frames, tokens):
        if frames > 12:
            raise OmniError(f"{clip_id}: {frames} frames and {tokens} tokens")

    examples = cached(tmp_path / "states", dataset(tmp_path / "data", 20), Ear())
    with pytest.raises(OmniError, match=r"clip\d+: 13 frames and (9|10) tokens"):
        list(feed(examples, refuse).encode_ahead(5))


def test_a_damaged_clip_is_skipped_and_named_by_every_run(tmp_path):
    data = dataset(tmp_path / "data", 101, damaged=(40,))
    examples = cached(tmp_path / "states", data, Ear())
    whole = feed(examples)
    assert len({*whole.encode_ahead(26)}) == 100
    assert list(whole.skipped) == ["clip40"]
    assert "my.jsonl: clip 'clip40': " in whole.skipped["clip40"]
    assert "is not wav, flac, mp3 or ogg" in whole.skipped["clip40"]
    assert len(examples) == len(examples.lengths) == 100
    names = [name for _ in range(25) for name in next(whole).names]
    assert sorted(names) == sorted(clip.id for clip in data.clips if clip.id != "clip40")
    assert len(ahead(examples)) == 100  # asked again, it forgets nothing
    assert list(whole.skipped) == ["clip40"]
    later = cached(tmp_path / "states", data, ear := Ear())
    assert len(ahead(later)) == 100
    assert later.skipped == examples.skipped
    assert not ear.calls
    assert [later[i].id for i in range(100)] == [examples[i].id for i in range(100)]


def test_with_too_many_damaged_clips_it_is_not_the_clips(tmp_path):
    data = dataset(tmp_path / "data", 101, damaged=(40, 50))
    for _ in range(2):  # the first run, and one that finds the others there
        examples = cached(tmp_path / "states", data, Ear())
        with pytest.raises(OmniError, match=r"^dataset: 2 of 101 clips cannot be read:\n.*'clip40'.*\n.*'clip50'"):
            ahead(examples)


def test_a_limit_counts_for_its_own_run_whatever_others_have_left_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(cached_module, "MOST_SKIPPED", 0.9)
    data, states = dataset(tmp_path / "data", 30), tmp_path / "states"
    seconds = {clip.id: clip.seconds for clip in data.clips}
    short = {name for name in seconds if seconds[name] <= 0.2}
    assert 5 < len(short) < 25
    data.max_seconds = 0.2
    strict = cached(states, data, Ear())
    assert set(ahead(strict)) == {strict[i].id for i in range(len(strict))} == short
    assert set(strict.skipped) == seconds.keys() - short
    data.max_seconds = 1.0
    loose = cached(states, data, ear := Ear())
    assert set(ahead(loose)) == seconds.keys()
    assert sum(ear.calls) == 30 - len(short)
    assert not loose.skipped
    data.max_seconds = 0.2
    again = cached(states, data, deaf := Ear())
    assert set(ahead(again)) == short
    assert not deaf.calls
    assert again.skipped == strict.skipped
    assert "s or more, the limit is 0.2 s. Split it, or raise max_seconds." in next(iter(again.skipped.values()))
    data.max_seconds, data.min_seconds = 1.0, 0.2
    long = cached(states, data, Ear())
    assert set(ahead(long)) == {name for name in seconds if seconds[name] >= 0.2}
    assert "less than the 0.2 s needed" in next(iter(long.skipped.values()))


def test_a_copy_is_within_limits_when_its_clip_is(tmp_path, monkeypatch):
    monkeypatch.setattr(cached_module, "MOST_SKIPPED", 0.9)
    data, states = dataset(tmp_path / "data", 30), tmp_path / "states"
    both = AugmentedClips(data, copies=1, speed=[0.8, 1.25], gain_db=None, snr_db=None)
    short = {clip.id for clip in data.clips if clip.seconds <= 0.2}
    both_of_them = short | {f"{name}#1" for name in short}
    data.max_seconds = 0.2
    assert set(ahead(cached(tmp_path / "other", both, Ear()))) == both_of_them
    data.max_seconds = 1.0
    assert len(ahead(cached(states, both, Ear()))) == 60
    data.max_seconds = 0.2  # the states of all are there now
    assert set(ahead(cached(states, both, Ear()))) == both_of_them


def test_a_clip_that_was_mended_meanwhile_does_not_change_what_is_gone_on_with(tmp_path):
    data, states = dataset(tmp_path / "data", 101), tmp_path / "states"
    archive, clip = (tmp_path / "data" / "sounds.bin"), data.clips[40]
    data.clips[40] = replace(clip, sha256=data.key(40))  # a manifest that knows what the file should be
    whole = archive.read_bytes()
    archive.write_bytes(whole[: clip.offset] + bytes(clip.bytes) + whole[clip.offset + clip.bytes :])
    begun = feed(cached(states, data, Ear()))
    list(begun.encode_ahead(9))
    assert begun.state_dict()["left_out"] == ["clip40"]
    again = feed(cached(states, data, Ear()))
    again.load_state_dict(begun.state_dict())
    list(again.encode_ahead(9))
    archive.write_bytes(whole)
    again = feed(cached(states, data, Ear()))
    again.load_state_dict(begun.state_dict())
    with pytest.raises(OmniError, match="dataset: clip40: could be read when this run began and cannot now, or"):
        list(again.encode_ahead(9))


def test_a_short_run_encodes_its_own_clips_alone_and_meets_the_batches_of_a_long_one(tmp_path):
    data = dataset(tmp_path / "data", 120)
    long, short = (feed(cached(tmp_path / name, data, Ear())) for name in ("all", "few"))
    assert len(list(long.encode_ahead(30))) == 120
    assert len(short.needed(3)) == len(list(short.encode_ahead(3))) == sum(short.examples.encoder.calls) == 12
    for _ in range(3):
        ours, theirs = next(short), next(long)
        assert ours.names == theirs.names
        assert torch.equal(ours.inputs["states_BKTD"], theirs.inputs["states_BKTD"])


def test_a_short_run_that_meets_a_damaged_clip_goes_on_with_others_and_can_be_resumed(tmp_path):
    batches = feed(cached(tmp_path / "states", whole := dataset(tmp_path / "data", 120), Ear())).indices
    damaged = batches(2)[0]
    data = dataset(tmp_path / "data", 120, damaged=(damaged,))
    assert len(whole) == len(data)
    short = feed(cached(tmp_path / "states", data, Ear()))
    list(short.encode_ahead(3))
    assert list(short.skipped) == [f"clip{damaged}"]
    next(short)
    state, rest = short.state_dict(), [next(short).names for _ in range(2)]
    assert len({name for names in rest for name in names}) == 8
    resumed = feed(cached(tmp_path / "states", data, Ear()))
    resumed.load_state_dict(state)
    list(resumed.encode_ahead(2))
    assert [next(resumed).names for _ in range(2)] == rest


def test_without_seconds_in_its_rows_a_data_set_is_measured_first(tmp_path):
    data = dataset(tmp_path / "data", 20)
    data.clips = [replace(clip, seconds=None) for clip in data.clips]
    short = feed(cached(tmp_path / "states", data, Ear()))
    assert len(short.needed(1)) == len(list(short.encode_ahead(1))) == 20
    assert len(short.needed(1)) == 4


def test_an_empty_dataset_is_refused(tmp_path):
    with pytest.raises(OmniError, match="dataset: holds no clip"):
        cached(tmp_path / "states", dataset(tmp_path / "data", 0), Ear())


def asked(folder, count: int, *, each: int, damaged: tuple[int, ...] = ()) -> Clips:
    """Sounds that `each` rows ask about, which do not stand side by side; the first row of a sound asks nothing."""
    plain = dataset(folder, count, damaged)
    rows = [replace(clip, id=f"{clip.id}/{row}", text=f"row {row}") for row in range(each) for clip in plain.clips]
    rows = [row if row.id.endswith("/0") else replace(row, labels=("asked",)) for row in rows]
    return Clips(rows, source=plain.source, min_seconds=0.1, max_seconds=1.0)


def test_rows_that_ask_about_one_sound_share_its_states(tmp_path):
    data, ear = asked(tmp_path / "data", 10, each=3), Ear()
    examples = cached(tmp_path / "states", data, ear)
    there = ahead(examples)
    assert sum(ear.calls) == 10
    assert sorted(there) == sorted(clip.id for clip in data.clips)
    assert len(examples) == len(examples.lengths) == 30
    for index, clip in enumerate(data.clips):
        example, first = examples[index], examples[index % 10]
        assert example.id == clip.id
        assert bytes(example.ids_L[1:].tolist()).decode() == clip.text
        assert torch.equal(example.states_KTD, first.states_KTD)
        assert examples.lengths[index] == examples.lengths[index % 10]
    assert len({examples[index].states_KTD.mean().item() for index in range(10)}) == 10
    assert len(ahead(cached(tmp_path / "states", data, deaf := Ear()))) == 30
    assert not deaf.calls


def test_all_rows_of_a_damaged_sound_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(cached_module, "MOST_SKIPPED", 0.2)
    examples = cached(tmp_path / "states", asked(tmp_path / "data", 10, each=3, damaged=(4,)), ear := Ear())
    assert len(ahead(examples)) == len(examples) == 27
    assert sum(ear.calls) == 9
    assert list(examples.skipped) == ["clip4/0", "clip4/1", "clip4/2"]
    assert not any(examples[index].id.startswith("clip4/") for index in range(27))
    monkeypatch.setattr(cached_module, "MOST_SKIPPED", 0.05)
    with pytest.raises(OmniError, match="3 of 30 clips cannot be read"):
        ahead(cached(tmp_path / "states", asked(tmp_path / "data", 10, each=3, damaged=(4,)), Ear()))


def test_only_some_rows_are_used_where_that_is_asked(tmp_path):
    data, ear = asked(tmp_path / "data", 10, each=3), Ear()
    examples = cached(tmp_path / "states", data, ear, only=lambda clip: clip.labels is None)
    assert len(examples) == 10
    assert sorted(ahead(examples)) == sorted(f"clip{i}/0" for i in range(10))
    assert [examples[i].id for i in range(10)] == [f"clip{i}/0" for i in range(10)]
    others = cached(tmp_path / "states", data, ear, only=lambda clip: clip.labels is not None, limit=12)
    assert [others[i].id for i in range(12)] == [clip.id for clip in data.clips[10:22]]
    assert sorted(ahead(others)) == sorted(clip.id for clip in data.clips[10:22])
    assert sum(ear.calls) == 10
    assert others.fingerprint != examples.fingerprint


def test_a_question_has_its_place_and_its_answer_in_the_ids(tmp_path):
    tokenizer = BPETokenizer.load(Path(__file__).parents[1] / "golden" / "nanochat_d4" / "tokenizer")
    plain = dataset(tmp_path / "data", 2)
    rows = [plain.clips[0], replace(plain.clips[1], question="What is it?", choices=("a", "b"), answer="b")]
    data = Clips(rows, source=plain.source, min_seconds=0.1, max_seconds=1.0)
    examples = cached(tmp_path / "states", data, Ear(), tokenizer=tokenizer)
    ahead(examples)
    online = EncodedClips(data, encoder=Ear(), **KEYS | {"tokenizer": tokenizer})
    for index, said in enumerate(("number 0", "b")):
        example = examples[index]
        told = [(each.ids_L.tolist(), each.place, each.start, each.end) for each in (example, online[index])]
        assert told[0] == told[1]
        assert tokenizer.encoding.decode(example.ids_L[example.start :].tolist()) == said
    assert (examples[0].place, examples[1].place) == (0, 2)
    assert examples[1].end == tokenizer.specials["<|assistant_end|>"]


def train(examples) -> list[tuple[float, float]]:
    torch.manual_seed(0)
    backbone = GPT(sequence_len=64, vocab_size=257, n_layer=2, n_head=1, n_kv_head=1, n_embd=32)
    model = Omni(encoder=None, projector=StackMLP(in_dim=2 * WIDTH, out_dim=32, stack=2), backbone=backbone)
    torch.nn.init.normal_(backbone.lm_head.weight, std=0.1)  # or nothing behind it would have a gradient at first
    optimizer = adamw(model, lr=1e-2, betas=[0.9, 0.95], eps=1e-4, weight_decay=0.1)  # eps: no noise made large
    flat = Schedule(max_steps=5, warmup_steps=0, warmdown=0.0, final=0.0)
    run = Trainer(model, optimizer, feed(examples, model.check_fits), schedule=flat, max_steps=5)
    return [(values["loss"], values["grad_norm"]) for _, values in run.steps()]


def test_training_from_disk_is_training_online(tmp_path):
    data, ear = dataset(tmp_path / "data", 20), RandomWhisperEncoder(width=WIDTH, depth=2, layers=[1, -1])
    ahead(disk := cached(tmp_path / "states", data, ear))
    online = EncodedClips(data, encoder=ear, **KEYS)
    for index in range(20):
        torch.testing.assert_close(disk[index].states_KTD.float(), online[index].states_KTD, atol=2e-3, rtol=1e-3)
    online.lengths = disk.lengths  # which a feed takes for the same batches
    ours, theirs = train(disk), train(online)
    assert np.abs(np.array(ours)[:, 0] - np.array(theirs)[:, 0]).max() < 1e-3
    np.testing.assert_allclose(ours, theirs, rtol=0.02)
    assert theirs[0][0] - theirs[-1][0] > 0.1


def test_a_resumed_feed_gives_the_same_batches(tmp_path):
    data = dataset(tmp_path / "data", 18)
    whole = feed(cached(tmp_path / "states", data, Ear()))
    list(whole.encode_ahead(12))
    batches = [next(whole) for _ in range(12)]  # an epoch has five
    for done in (3, 5, 9):
        resumed = feed(cached(tmp_path / "states", data, Ear()))
        resumed.load_state_dict({"number": done, "fingerprint": whole.fingerprint})
        list(resumed.encode_ahead(12 - done))
        for batch in batches[done:]:
            again = next(resumed)
            assert again.names == batch.names
            assert all(torch.equal(again.inputs[key], batch.inputs[key]) for key in batch.inputs)
    fewer = feed(cached(tmp_path / "states", data, Ear(), limit=17))
    with pytest.raises(OmniError, match="it is not the one the checkpoint was trained on"):
        fewer.load_state_dict(whole.state_dict())


class Rows:
    """Two thousand clips that no file holds: one second each, all of them other ones."""

    clips: ClassVar = [SimpleNamespace(id=str(number), text="", seconds=1.0) for number in range(2_000)]

    def __len__(self) -> int:
        return len(self.clips)

    def key(self, index: int) -> str:
        return f"{index:064x}"

    def __getitem__(self, index: int) -> Sample:
        return Sample(str(index), torch.tensor([float(index)]), "")


def test_memory_does_not_grow_with_the_clips_read(tmp_path, monkeypatch):
    def ear(waveforms):
        states = torch.stack([waveform.expand(1, 50, 64) for waveform in waveforms])
        return states, torch.full((len(waveforms),), 50)

    monkeypatch.setattr(module, "CLIPS", 500)
    examples = CachedClips(Rows(), shards=Shards(tmp_path, {}), encoder=ear, **KEYS)
    ahead(examples)
    batches = feed(examples)
    tracemalloc.start()
    try:
        seen = set()
        for number in range(500):
            batch = next(batches)
            seen.update(batch.names)
            assert batch.inputs["states_BKTD"][:, 0, -1, -1].tolist() == [float(name) for name in batch.names]
            if number == 100:
                before, _ = tracemalloc.get_traced_memory()
                tracemalloc.reset_peak()
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(seen) == 2_000
    # 1,600 clips of 6,400 bytes came in between.
    assert now - before < 500_000
    assert peak - before < 500_000


ROWS = 10_000


class Many(Rows):
    """A hundred thousand clips, told from each other by their keys alone."""

    clips: ClassVar = [SimpleNamespace(id=str(number), text=f"clip {number}", seconds=1.0) for number in range(ROWS)]

    def __init__(self):
        self.keys = [f"{number:064x}" for number in range(ROWS)]

    def key(self, index: int) -> str:
        return self.keys[index]


def test_rows_cost_hundreds_of_bytes_and_what_is_read_does_not_stay(tmp_path):
    shards, data = Shards(tmp_path, {}), Many()
    few = [Wanted(key, lambda: torch.zeros(16_000)) for key in data.keys[:8]]
    list(shards.fill(few, lambda waveforms: [torch.full((1, 50, 64), float(n)) for n in range(len(waveforms))]))
    (index,) = set(shards.folder.glob("*.json")) - {shards.folder / module.SIGNATURE}
    told = json.loads(index.read_text())
    places = list(told["clips"].values())  # eight states under ten thousand names, in 40 indices
    for first in range(8, ROWS, 250):
        name = shards.folder / f"copy{first}"
        os.link(index.with_suffix(".tar"), name.with_suffix(".tar"))
        keys = data.keys[first : first + 250]
        clips = {key: places[n % 8] for n, key in enumerate(keys, start=first)}
        name.with_suffix(".json").write_text(json.dumps(told | {"clips": clips}))
    tracemalloc.start()
    try:
        examples = CachedClips(data, shards=Shards(tmp_path, {}), encoder=None, **KEYS)
        for _ in examples.encode_ahead():
            pass
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept / ROWS < 700
    batches = feed(examples)
    next(batches)
    before = resident()
    for _ in range(1_000):
        batch = next(batches)
        assert batch.inputs["states_BKTD"][:, 0, 0, 0].tolist() == [int(name) % 8 for name in batch.names]
    assert resident() - before < 20e6  # 4,000 states of 6,400 bytes came in between, and as much again in batches


def resident() -> int:
    """Bytes of memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
