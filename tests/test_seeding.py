"""The first splats: where they lie, how large they are and what colour they take."""

import numpy as np
import pytest
import skimage.data

from splat2d import Splats, render
from splat2d.seeding import INITIAL_AMPLITUDE, SIZE, UNIFORM_SHARE, edge_strength, initial_splats

LEAST = 0.3  # pixels


def half_busy(height=60, width=80, channels=3):
    """Flat on the left, noise from the middle on."""
    picture = np.full((height, width, channels), 0.5, np.float32)
    picture[:, width // 2 :] = np.random.default_rng(0).random((height, width // 2, channels))
    return picture


def seeded(picture, count, sigma=3.0, seed=0, least=LEAST):
    background = picture.mean((0, 1), dtype=np.float64).astype(np.float32)
    means, log_cholesky, colors = initial_splats(picture, background, count, sigma, least, seed)
    assert (means.shape, log_cholesky.shape, colors.shape) == ((count, 2), (count, 3), (count, picture.shape[2]))
    for array in (means, log_cholesky, colors):
        assert array.dtype == np.float32 and np.isfinite(array).all()
    height, width, _ = picture.shape
    assert (means >= 0).all() and (means <= (width, height)).all()
    return means, log_cholesky, colors


def sizes(log_cholesky):
    """Standard deviations of splats that are round, in pixels."""
    np.testing.assert_array_equal(log_cholesky[:, 0], log_cholesky[:, 2])
    assert not log_cholesky[:, 1].any()
    return np.exp(log_cholesky[:, 0])


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 30, 1), (30, 1, 3), (2, 2, 2), (60, 80, 4)])
@pytest.mark.parametrize("count", [1, 2, 3, 10, 500])
@pytest.mark.parametrize("kind", ["flat", "noise"])
def test_any_count_on_any_shape(shape, count, kind):
    picture = np.full(shape, 0.4, np.float32)
    if kind == "noise":
        picture[:] = np.random.default_rng(1).random(shape)
    seeded(picture, count)


def test_structure_attracts():
    means, _, _ = seeded(half_busy(), 1000)
    flat = (means[:, 0] < 39).sum()
    assert flat == pytest.approx(1000 * UNIFORM_SHARE * 39 / 80, abs=10)  # the smooth half has its share as well


def test_positions_follow_the_edges_of_a_photo():
    photo = np.float32(skimage.data.camera()[60:188, 160:288, None]) / 255
    means, _, _ = seeded(photo, 2000)
    strength = edge_strength(photo)
    x, y = means.astype(int).clip(0, 127).T
    strong = strength > np.quantile(strength, 0.75)
    share = strength[strong].sum() / strength.sum()
    assert strong[y, x].mean() == pytest.approx(UNIFORM_SHARE * 0.25 + (1 - UNIFORM_SHARE) * share, abs=0.03)


def test_a_flat_picture_is_covered_evenly():
    means, log_cholesky, colors = seeded(np.full((64, 64, 3), 0.7, np.float32), 1024)
    cells, _, _ = np.histogram2d(*means.T, bins=8, range=[(0, 64)] * 2)
    assert cells.mean() == 16 and cells.min() >= 8 and cells.max() <= 26
    np.testing.assert_allclose(sizes(log_cholesky), 3, rtol=1e-6)
    np.testing.assert_allclose(colors, 0, atol=1e-6)  # the background is right already


def test_means_are_spread_within_their_pixels():
    means, _, _ = seeded(half_busy(), 2000)
    inside = means % 1
    np.testing.assert_allclose(inside.mean(0), 0.5, atol=0.03)
    np.testing.assert_allclose(inside.std(0), 12**-0.5, atol=0.03)


def test_splats_are_smaller_where_they_are_denser():
    means, log_cholesky, _ = seeded(half_busy(), 1000)
    size = sizes(log_cholesky)
    flat, busy = size[means[:, 0] < 38], size[means[:, 0] > 42]
    assert flat.min() > busy.max()
    # As many sizes fit between neighbours in either half.
    spacing = [np.sqrt(60 * width / len(part)) for width, part in ((38, flat), (38, busy))]
    assert np.median(flat) / np.median(busy) == pytest.approx(spacing[0] / spacing[1], rel=0.2)


def test_the_sum_comes_near_the_picture():
    """Sizes and amplitudes suit each other: where all splats have one colour, about that colour is drawn."""
    picture = np.full((64, 64, 1), 0.9, np.float32)
    count = 300
    arrays = initial_splats(picture, np.zeros(1, np.float32), count, SIZE * 64 / count**0.5, LEAST, 0)
    drawn = render(Splats(*arrays, 64, 64, np.zeros(1, np.float32)))
    assert 0.4 < np.median(drawn) < 1.3


def test_size_has_a_floor():
    _, log_cholesky, colors = seeded(half_busy(), 1000, sigma=0.5, least=0.4)
    size = sizes(log_cholesky)
    assert size.min() == pytest.approx(0.4, rel=1e-5) and size.max() > 0.5
    # A splat that the floor enlarged takes less, so that the sum stays.
    _, free, free_colors = seeded(half_busy(), 1000, sigma=0.5, least=1e-3)
    area = sizes(free) ** 2
    np.testing.assert_allclose(colors * size[:, None] ** 2, free_colors * area[:, None], rtol=1e-4, atol=1e-7)


def test_colors_come_from_the_picture():
    picture = half_busy()
    means, _, colors = seeded(picture, 400)
    x, y = means.astype(int).T
    exact = (means % 1 > 0.01).all(1)  # a mean may have been rounded up to the edge of its pixel
    wanted = INITIAL_AMPLITUDE * (picture[y, x] - picture.mean((0, 1)))
    np.testing.assert_allclose(colors[exact], wanted[exact], atol=1e-6)


def test_a_seed_decides():
    one, again, other = (seeded(half_busy(), 300, seed=seed) for seed in (5, 5, 6))
    assert all((a == b).all() for a, b in zip(one, again, strict=True))
    assert (one[0] != other[0]).mean() > 0.9


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (5, 1), (2, 2), (300, 20), (256, 3), (257, 3)])
def test_edge_strength(height, width):
    """Central differences inside, one-sided ones at the border; in bands as in one piece."""
    picture = np.random.default_rng(height).random((height, width, 2), dtype=np.float32)

    def across(axis):
        padded = np.pad(picture, [(1, 1) if i == axis else (0, 0) for i in range(3)], mode="edge")
        n = padded.shape[axis]
        return np.take(padded, range(2, n), axis) - np.take(padded, range(n - 2), axis)

    expected = np.sqrt((across(0) ** 2 + across(1) ** 2).sum(2))
    np.testing.assert_allclose(edge_strength(picture), expected, atol=1e-6)
