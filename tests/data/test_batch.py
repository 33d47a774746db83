from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from omni.data.batch import alike, collate, draw, draw_alike, shuffled
from omni.data.clips import Sample
from omni.data.features import Example
from omni.data.script import scripts
from omni.model.gpt import GPT
from omni.model.omni import Omni
from omni.model.projector import StackMLP
from omni.text.bpe import BPETokenizer
from omni.text.tokenizer import IGNORE

TOKENIZER = BPETokenizer.load(Path(__file__).parents[1] / "golden" / "nanochat_d4" / "tokenizer")


def example(name: str, frames: int, text: list[int]) -> Example:
    return Example(name, torch.full((2, frames, 4), float(frames)), torch.tensor(text))


def test_every_epoch_has_each_clip_once_in_another_order():
    drawn = [index for step in range(14) for index in draw(step, size=5, clips=7, seed=1)]
    epochs = [drawn[start : start + 7] for start in range(0, 70, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 5


def test_the_order_depends_on_seed_and_step_alone():
    assert draw(3, size=5, clips=70, seed=1) == draw(3, size=5, clips=70, seed=1)
    assert draw(3, size=5, clips=70, seed=1) != draw(3, size=5, clips=70, seed=2)


def test_two_passes_of_half_the_size_see_the_clips_of_one():
    halves = draw(2, size=4, clips=9, seed=5) + draw(3, size=4, clips=9, seed=5)
    assert halves == draw(1, size=8, clips=9, seed=5)


def test_a_batch_larger_than_the_data_repeats_clips():
    assert Counter(draw(0, size=6, clips=2, seed=0)) == {0: 3, 1: 3}


def lengths(count: int) -> tuple[int, ...]:
    return tuple(torch.randint(10, 500, (count,), generator=torch.Generator().manual_seed(4)).tolist())


def epoch(number: int, *, size: int, of: tuple[int, ...], seed: int = 1) -> list[list[int]]:
    """The batches of an epoch of `draw_alike`."""
    batches = -(-len(of) // size)
    return [draw_alike(number * batches + i, size=size, lengths=of, seed=seed) for i in range(batches)]


@pytest.mark.parametrize(("clips", "size"), [(1000, 8), (1003, 8), (16, 1), (7, 7), (5, 8)])
def test_every_epoch_of_like_clips_has_each_once_and_one_batch_may_be_smaller(clips, size):
    for number in range(3):
        batches = epoch(number, size=size, of=lengths(clips))
        assert sorted(clip for batch in batches for clip in batch) == list(range(clips))
        assert sorted(map(len, batches))[1:] == [size] * (len(batches) - 1)


def test_clips_of_a_batch_are_of_like_length_and_batches_are_mixed():
    of = lengths(1000)

    def padded(batches):
        """What padding adds to the frames."""
        return sum(len(batch) * max(of[clip] for clip in batch) for batch in batches) / sum(of) - 1

    near, any_order = epoch(0, size=8, of=of), [draw(i, size=8, clips=1000, seed=1) for i in range(125)]
    assert padded(near) < 0.1
    assert padded(any_order) > 0.5
    longest = torch.tensor([max(of[clip] for clip in batch) for batch in near]).float()
    assert torch.corrcoef(torch.stack([longest[1:], longest[:-1]]))[0, 1].abs() < 0.3  # not short ones, then long ones


def test_like_clips_come_in_an_order_of_seed_and_number_alone():
    of = lengths(200)
    first = epoch(0, size=8, of=of)
    assert epoch(0, size=8, of=of) == first
    others = [epoch(1, size=8, of=of), epoch(0, size=8, of=of, seed=2)]
    alike.cache_clear()
    shuffled.cache_clear()
    assert [epoch(1, size=8, of=of), epoch(0, size=8, of=of, seed=2), epoch(0, size=8, of=of)] == [*others, first]
    for other in others:  # other batches, not the same ones at other places
        assert len({frozenset(batch) for batch in first} & {frozenset(batch) for batch in other}) < 3


def test_ragged_clips_are_padded_and_only_text_is_graded():
    batch = collate([example("a", 3, [256, 7, 8]), example("b", 5, [256, 9])], bos=256)
    assert batch.names == ["a", "b"]
    assert batch.inputs["states_BKTD"].shape == (2, 2, 5, 4)
    assert batch.inputs["frames_B"].tolist() == [3, 5]
    assert batch.inputs["states_BKTD"][0, :, 3:].abs().sum() == 0
    assert batch.inputs["idx_BL"].tolist() == [[256, 7, 8], [256, 9, 0]]
    assert batch.inputs["targets_BL"].tolist() == [[7, 8, 256], [9, 256, -1]]
    assert batch.graded == 5


# Transcripts and conversations, in no order; answers of one token and of many, and a question longer than the rest.
TOLD = [
    Sample("t0", torch.zeros(1), "good morning"),
    Sample("q1", torch.zeros(1), "hello", "Who speaks?", ("a man", "a woman", "a child", "nobody"), "a woman"),
    Sample("t2", torch.zeros(1), "no"),
    Sample("q3", torch.zeros(1), "one two", "How many words are said here, all of them counted?", None, "B"),
    Sample("q4", torch.zeros(1), "what a day it has been", "What is said?"),
]
FRAMES = [9, 4, 23, 16, 1]


def mixed() -> list[Example]:
    torch.manual_seed(3)
    states = [torch.randn(1, frames, 8) for frames in FRAMES]
    return [
        Example(sample.id, heard, torch.tensor(script.ids), script.place, script.start, script.end)
        for sample, heard, script in zip(TOLD, states, scripts(TOLD, TOKENIZER), strict=True)
    ]


def spell(ids: torch.Tensor) -> str:
    return TOKENIZER.encoding.decode([int(i) for i in ids])


def test_of_a_mixed_batch_only_answers_and_transcripts_and_their_ends_are_graded():
    batch = collate(mixed(), bos=TOKENIZER.bos)
    targets = batch.inputs["targets_BL"]
    assert [spell(row[row != IGNORE]) for row in targets] == [
        "good morning<|bos|>",
        "a woman<|assistant_end|>",
        "no<|bos|>",
        "B<|assistant_end|>",
        "what a day it has been<|assistant_end|>",
    ]
    assert batch.graded == int((targets != IGNORE).sum())
    for ids, row, example in zip(batch.inputs["idx_BL"], targets, mixed(), strict=True):
        graded = (row != IGNORE).nonzero()[:, 0]
        assert torch.equal(row[graded[:-1]], ids[graded[1:]])  # each is what comes next
        assert graded[-1] == len(example.ids_L) - 1
        assert not ids[len(example.ids_L) :].any()


def test_a_mixed_batch_says_where_its_sounds_stand():
    batch = collate(mixed(), bos=TOKENIZER.bos)
    ids, places = batch.inputs["idx_BL"], batch.inputs["places_B"]
    fronts = [spell(row[:place]) for row, place in zip(ids, places, strict=True)]
    assert fronts == ["", "<|bos|><|user_start|>", "", "<|bos|><|user_start|>", "<|bos|><|user_start|>"]
    asked = spell(ids[1, places[1] : len(mixed()[1].ids_L)])
    choices = "A. a man\nB. a woman\nC. a child\nD. nobody"
    assert asked == f"Who speaks?\n{choices}<|user_end|><|assistant_start|>a woman"
    assert "places_B" not in collate([mixed()[0], mixed()[2]], bos=TOKENIZER.bos).inputs


@pytest.mark.parametrize("window_pattern", ["L", "SL"])
def test_a_mixed_batch_costs_what_its_rows_cost_one_by_one(window_pattern):
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_kv_head": 1, "n_embd": 32, "window_pattern": window_pattern}
    backbone = GPT(sequence_len=128, vocab_size=TOKENIZER.vocab_size, **sizes)
    for name, parameter in backbone.named_parameters():
        if name.endswith("c_proj.weight") or name == "lm_head.weight":
            torch.nn.init.normal_(parameter, std=0.2)
    torch.nn.init.constant_(backbone.smear_lambda, 0.8)
    model = Omni(encoder=None, projector=StackMLP(in_dim=8, out_dim=32, stack=2), backbone=backbone).eval()
    with torch.no_grad():
        alone = [model(**collate([each], bos=TOKENIZER.bos).inputs, reduction="sum").item() for each in mixed()]
        batch = collate(mixed(), bos=TOKENIZER.bos).inputs
        together = model(**batch, reduction="none").view(len(TOLD), -1).sum(1)
        deaf = model(**batch | {"states_BKTD": batch["states_BKTD"].roll(1, 0)}, reduction="none")
        first = collate([replace(each, place=0) for each in mixed()], bos=TOKENIZER.bos).inputs
        moved = model(**first, reduction="none").view(len(TOLD), -1).sum(1)
    torch.testing.assert_close(together, torch.tensor(alone), rtol=1e-4, atol=1e-4)
    assert (deaf.view(len(TOLD), -1).sum(1) - together).abs().min() > 1e-3  # each is heard
    assert [bool(each) for each in (moved - together).abs() > 1e-3] == [False, True, False, True, True]


def test_states_kept_in_fp32_do_not_overflow_beside_others_in_fp16():
    loud = Example("loud", torch.full((2, 3, 4), 70_000.0), torch.tensor([1, 5]))
    quiet = replace(example("quiet", 2, [1, 6]), states_KTD=torch.ones(2, 2, 4, dtype=torch.float16))
    for pair in ([quiet, loud], [loud, quiet]):
        states_BKTD = collate(pair, bos=0).inputs["states_BKTD"]
        assert states_BKTD.max() == 70_000
    assert collate([quiet], bos=0).inputs["states_BKTD"].dtype == torch.float16
