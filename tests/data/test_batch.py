from collections import Counter

import torch

from omni.data.batch import collate, draw
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


def test_ragged_clips_are_padded_and_only_text_is_graded():
    batch = collate([example("a", 3, [256, 7, 8]), example("b", 5, [256, 9])], bos=256)
    assert batch.names == ["a", "b"]
    assert batch.inputs["states_BKTD"].shape == (2, 2, 5, 4)
    assert batch.inputs["frames_B"].tolist() == [3, 5]
    assert batch.inputs["states_BKTD"][0, :, 3:].abs().sum() == 0
    assert batch.inputs["idx_BL"].tolist() == [[256, 7, 8], [256, 9, 0]]
    assert batch.inputs["targets_BL"].tolist() == [[7, 8, 256], [9, 256, -1]]
    assert batch.graded == 5
