"""The plane against a plane that was planted, and loudness against what was set."""

import numpy as np
import pytest
import torch

from omni.evaluation import space
from omni.evaluation.space import loudness, plane, project_down, through_clips
from omni.model.gpt import GPT

WIDTH = 32


@pytest.fixture(scope="module")
def backbone() -> GPT:
    torch.manual_seed(0)
    return GPT(sequence_len=64, vocab_size=257, n_layer=2, n_head=2, n_kv_head=1, n_embd=WIDTH).eval()


def planted(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of a plane, three times as wide as high, and the same in sixteen dimensions, away from zero."""
    random = np.random.default_rng(seed)
    axes = np.linalg.qr(random.normal(size=(16, 2)))[0].T
    points = random.normal(size=(count, 2)) * [3, 1]
    return points, points @ axes + random.normal(size=16)


def test_a_planted_plane_is_found_with_its_shares():
    points, rows = planted(400, seed=0)
    found = project_down(rows[:150], rows[150:])
    assert found.explained.sum() == pytest.approx(1)
    # By another road: eigenvalues of the covariance.
    values = np.linalg.eigvalsh(np.cov(points.T))[::-1]
    np.testing.assert_allclose(found.explained, values / values.sum())
    both = np.concatenate([found.soft, found.text])
    assert (found.soft.shape, found.text.shape) == ((150, 2), (250, 2))
    np.testing.assert_allclose(both.mean(0), 0, atol=1e-9)
    apart = [np.linalg.norm(each[:, None] - each[None], axis=-1) for each in (both, points)]
    np.testing.assert_allclose(*apart, atol=1e-9)


def test_noise_off_the_plane_lowers_the_shares_as_numpy_says():
    _, rows = planted(300, seed=1)
    rows = rows + np.random.default_rng(2).normal(size=rows.shape)
    sizes = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    np.testing.assert_allclose(project_down(rows[:100], rows[100:]).explained, sizes[:2] / sizes.sum())


def test_a_picture_is_not_mirrored_by_the_solver():
    _, rows = planted(50, seed=3)
    found, again = project_down(rows[:20], rows[20:]), project_down(rows[19::-1], rows[:19:-1])
    np.testing.assert_allclose(found.soft, again.soft[::-1], atol=1e-9)


def test_rows_that_are_all_alike_have_no_plane_and_no_nan():
    found = project_down(np.ones((3, 4)), np.ones((2, 4)))
    assert np.abs(found.soft).max() < 1e-9
    assert np.isfinite(found.explained).all()


def test_the_plane_is_of_rows_as_the_first_layer_reads_them(backbone, monkeypatch):
    seen = []
    monkeypatch.setattr(space, "project_down", lambda *given: seen.append(given))
    texts = [torch.tensor([256, 3, 4]), torch.tensor([256, 5])]
    plane(backbone, [torch.randn(2, WIDTH) * 50, torch.randn(1, WIDTH) * 0.01], texts)
    ((soft, text),) = seen
    assert (soft.shape, text.shape) == ((3, WIDTH), (3, WIDTH))  # no BOS
    for rows in (soft, text):
        np.testing.assert_allclose(np.sqrt((rows**2).mean(1)), 1, rtol=1e-3)
    with torch.no_grad():
        np.testing.assert_allclose(text, backbone.embed(torch.tensor([[3, 4, 5]]))[0], rtol=1e-5)


def test_so_many_points_are_drawn_and_the_same_ones_again(backbone, monkeypatch):
    monkeypatch.setattr(space, "POINTS", 7)
    torch.manual_seed(0)
    soft, texts = [torch.randn(30, WIDTH)], [torch.randint(0, 256, (4,))]
    one, two = plane(backbone, soft, texts), plane(backbone, soft, texts)
    assert (len(one.soft), len(one.text)) == (7, 3)
    assert (one.soft == two.soft).all()


def test_loudness_is_in_front_of_the_norm_and_goes_through_the_clip(backbone):
    loud = torch.cat([torch.full((10, WIDTH), 2.0), torch.full((10, WIDTH), -5.0)])
    texts = [torch.tensor([256, 7])]
    found = loudness(backbone, [loud, loud], texts)
    np.testing.assert_allclose(found.soft[:10], 2)
    np.testing.assert_allclose(found.soft[10:], 5)
    there = ~np.isnan(found.text[:, 0])
    assert there.tolist() == [place == space.BINS // 2 for place in range(space.BINS)]  # one token, in the middle
    row = backbone.transformer.wte.weight[7]
    assert found.text[there][0, 0] == pytest.approx(row.square().mean().sqrt().item(), rel=1e-3)


def test_a_part_of_a_clip_has_the_mean_and_the_spread_of_its_rows():
    clips = [torch.full((1, 4), float(value)) for value in range(11)]
    mean, low, high = through_clips(clips)[space.BINS // 2]
    assert (mean, low, high) == pytest.approx((5, 1, 9))
