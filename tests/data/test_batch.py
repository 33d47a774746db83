from collections import Counter

import pytest
import torch

from omni.data.batch import alike, collate, draw, draw_alike, shuffled
from omni.data.features import Example


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
