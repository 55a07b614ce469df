"""splat2d._cpu.render: values, laws and closed forms, with every instruction set of this machine."""

import numpy as np
import pytest
import reference
from scenes import random_scene, rotated, using

from splat2d import _cpu

FAR = 30.0  # a cutoff at weights of 1e-13: no cut to speak of
SIZES = [(1, 1), (1, 37), (41, 1), (3, 17), (16, 16), (31, 50), (130, 200)]  # height, width


@pytest.fixture(scope="module", params=_cpu.instruction_sets(), autouse=True)
def instruction_set(request):
    with using(request.param) as name:
        yield name


def assert_values(scene, height, width, cutoff):
    """float32 and float64 pictures equal the reference. The pixels where a weight is just at the cut are left out.

    The tolerance is relative to the sum of |colour| times weight, so no splat hides behind another. A float32 weight is
    carried over up to 16 rows by w *= r, r *= q: a rounding error of q, 6e-8, comes back 16^2 / 2 times.
    """
    expected = reference.render(*scene, height, width, cutoff)
    terms = scene._replace(colors=abs(scene.colors), background=abs(scene.background))
    scale = reference.render(*terms, height, width, cutoff)
    certain = np.min(abs(reference.exponents(*scene[:2], height, width) - cutoff), axis=0) > 1e-4
    assert certain.mean() > 0.97
    for dtype, tolerance in ((np.float32, 2e-5), (np.float64, 1e-12)):
        actual = _cpu.render(*scene.astype(dtype), height, width, cutoff=cutoff)
        assert actual.dtype == dtype and actual.shape == expected.shape
        assert np.max((abs(actual - expected) / scale)[certain], initial=0) < tolerance


@pytest.mark.parametrize("cutoff", [_cpu.CUTOFF, FAR])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7])
def test_values_for_every_channel_count(channels, cutoff):
    assert_values(random_scene(channels, 40, channels, 45, 70), 45, 70, cutoff)


@pytest.mark.parametrize("cutoff", [_cpu.CUTOFF, FAR])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_values_for_every_size(height, width, cutoff):
    assert_values(random_scene(height + width, 40, 3, height, width), height, width, cutoff)


def test_the_cutoff_is_the_documented_one():
    assert pytest.approx(5.54) == _cpu.CUTOFF
    scene = random_scene(0, 20, 1, 30, 30)
    np.testing.assert_array_equal(_cpu.render(*scene, 30, 30), _cpu.render(*scene, 30, 30, cutoff=5.54))


def test_without_splats_only_the_background_shows():
    background = np.array([0.25, -3.0], np.float32)
    empty = [np.empty((0, n), np.float32) for n in (2, 3, 2)]
    np.testing.assert_array_equal(_cpu.render(*empty, background, 5, 4), np.broadcast_to(background, (5, 4, 2)))


# 8 bits


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_levels_are_rounded_and_clamped(channels):
    image = np.random.default_rng(channels).uniform(-0.5, 1.5, (19, 37, channels)).astype(np.float32)
    image[0, :6] = np.array([0, 1, -np.inf, np.inf, np.nan, 3e38], np.float32)[:, None]
    image[1] = (np.arange(37, dtype=np.float32) / np.float32(255))[:, None]
    if channels == 4:
        image[1:, :, 3] = np.linspace(0, 1.2, 37)
    expected = np.nan_to_num(image.astype(np.float64), nan=0)
    if channels == 4:
        alpha = expected[..., 3:].clip(0, 1)
        straight = np.divide(expected[..., :3], alpha, out=np.zeros_like(expected[..., :3]), where=alpha > 0)
        expected = np.concatenate([straight, alpha], axis=2)
    expected = 255 * expected.clip(0, 1) + 0.5
    near = abs(expected - np.rint(expected)) < 1e-4  # of a half, where float32 may round either way
    actual = _cpu.levels(image)
    assert actual.dtype == np.uint8 and actual.shape == image.shape
    np.testing.assert_array_equal(actual[~near], expected.astype(np.uint8)[~near])
    assert abs(actual - expected)[near].max(initial=0) <= 1.01 and near.mean() < 0.2


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_rendering_to_levels_is_rendering_and_then_levels(height, width, channels):
    scene = random_scene(height + channels, 40, channels, height, width).astype(np.float32)
    expected = _cpu.levels(_cpu.render(*scene, height, width))
    for threads in (1, 2):
        np.testing.assert_array_equal(_cpu.render_levels(*scene, height, width, threads=threads), expected)


def test_levels_that_cannot_be_are_refused(scene):
    with pytest.raises(ValueError, match="as many channels"):
        _cpu.render_levels(*scene[:3], np.zeros(2, np.float32), 5, 5)
    with pytest.raises(ValueError, match="1 to 4096 channels"):
        _cpu.levels(np.zeros((3, 3, 0), np.float32))
    with pytest.raises(TypeError):
        _cpu.levels(np.zeros((3, 3, 3)))


# Laws


@pytest.fixture
def scene():
    return random_scene(5, 30, 3, 60, 80).astype(np.float32)


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, 1), (5, 3), (16, 64)])
def test_shift_by_whole_pixels(scene, dx, dy):
    moved = scene._replace(means=np.round(scene.means * 64) / 64)  # exact, so that the shift rounds nothing
    expected = _cpu.render(*moved, 60, 80)
    actual = _cpu.render(*moved._replace(means=moved.means + np.float32([dx, dy])), 60 + dy, 80 + dx)
    np.testing.assert_allclose(actual[dy:, dx:], expected, atol=1e-5)


def test_scale_keeps_the_value_at_the_matching_point(scene):
    """Three times larger, the middle one of three pixels has its centre at the same point of the scene."""
    three = np.log(np.float32(3))
    grown = scene._replace(
        means=scene.means * 3,
        log_cholesky=scene.log_cholesky * np.float32([1, 3, 1]) + np.float32([three, 0, three]),
    )
    actual = _cpu.render(*grown, 180, 240, cutoff=FAR)[1::3, 1::3]
    np.testing.assert_allclose(actual, _cpu.render(*scene, 60, 80, cutoff=FAR), atol=2e-5)


def test_the_order_of_splats_does_not_matter(scene):
    order = np.random.default_rng(6).permutation(len(scene.means))
    shuffled = scene._replace(**{name: getattr(scene, name)[order] for name in ("means", "log_cholesky", "colors")})
    np.testing.assert_allclose(_cpu.render(*shuffled, 60, 80), _cpu.render(*scene, 60, 80), atol=5e-6)


def test_two_sets_together_are_the_sum_of_both(scene):
    parts = [scene._replace(**{n: getattr(scene, n)[s] for n in scene._fields[:3]}) for s in np.s_[:11, 11:]]
    first, second = (_cpu.render(*part, 60, 80) for part in parts)
    np.testing.assert_allclose(_cpu.render(*scene, 60, 80), first + second - scene.background, atol=5e-6)


def test_linear_in_colour_and_background(scene):
    other = random_scene(7, 30, 3, 60, 80).astype(np.float32)
    mixed = scene._replace(
        colors=2 * scene.colors - 3 * other.colors, background=2 * scene.background - 3 * other.background
    )
    second = scene._replace(colors=other.colors, background=other.background)
    expected = 2 * _cpu.render(*scene, 60, 80) - 3 * _cpu.render(*second, 60, 80)
    np.testing.assert_allclose(_cpu.render(*mixed, 60, 80), expected, atol=2e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_flip(scene, axis):
    """A mirrored scene (mean mirrored, b negated) is the mirrored picture."""
    size = (80, 60)[axis]
    means = np.round(scene.means * 64) / 64
    mirrored = means.copy()
    mirrored[:, axis] = size - means[:, axis]
    flipped = scene._replace(means=mirrored, log_cholesky=scene.log_cholesky * np.float32([1, -1, 1]))
    expected = np.flip(_cpu.render(*scene._replace(means=means), 60, 80), axis=1 - axis)
    np.testing.assert_allclose(_cpu.render(*flipped, 60, 80), expected, atol=1e-5)


# Closed forms


def single(mean, log_cholesky, color=1.0, dtype=np.float64):
    return [np.array(value, dtype) for value in ([mean], [log_cholesky], [[color]], [0])]


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-9)])
@pytest.mark.parametrize("log_cholesky", [(0.5, 0.0, 0.5), (1.6, 2.2, 0.4), (0.3, -6.0, 1.9), (2.5, 1.0, 0.9)])
def test_integral_of_a_splat(log_cholesky, dtype, tolerance):
    """2 pi colour det(L): a sum over pixels is the integral once the splat is wider than a pixel."""
    picture = _cpu.render(*single((101.3, 98.7), log_cholesky, 0.7, dtype), 200, 200, cutoff=FAR)
    expected = 2 * np.pi * 0.7 * np.exp(log_cholesky[0] + log_cholesky[2])
    assert picture.sum(dtype=np.float64) == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_of_a_splat(dtype):
    """The centre of mass is the mean and the second moments are L L^T."""
    a, b, c = 1.5, 2.0, 0.8
    picture = np.float64(_cpu.render(*single((61.3, 58.6), (a, b, c), 1, dtype), 120, 120, cutoff=FAR))[..., 0]
    mass = picture / picture.sum()
    x, y = np.meshgrid(np.arange(120) + 0.5, np.arange(120) + 0.5)
    mean = [np.sum(mass * x), np.sum(mass * y)]
    np.testing.assert_allclose(mean, (61.3, 58.6), atol=1e-4)
    dx, dy = x - mean[0], y - mean[1]
    moments = [np.sum(mass * dx * dx), np.sum(mass * dx * dy), np.sum(mass * dy * dy)]
    np.testing.assert_allclose(moments, [np.exp(2 * a), np.exp(a) * b, b * b + np.exp(2 * c)], rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_dot_shows_its_colour_in_the_pixel_of_its_centre_only(dtype):
    picture = _cpu.render(*single((3.5, 2.5), (-3, 0, -3), 0.75, dtype), 6, 7)[..., 0]
    expected = np.zeros((6, 7))
    expected[2, 3] = 0.75
    np.testing.assert_allclose(picture, expected, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixel_centres_lie_at_halves(dtype):
    """A splat at (2.5, 1.5) peaks at row 1, column 2, and its picture is symmetric about that pixel."""
    picture = _cpu.render(*single((2.5, 1.5), (0.2, 0, -0.1), 1, dtype), 3, 5)[..., 0]
    assert np.unravel_index(picture.argmax(), picture.shape) == (1, 2)
    assert picture[1, 2] == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(picture, picture[::-1, ::-1], atol=1e-6)
    assert picture[1, 3] == pytest.approx(np.exp(-np.exp(-0.4) / 2), abs=1e-6)
    assert picture[2, 2] == pytest.approx(np.exp(-np.exp(0.2) / 2), abs=1e-6)


def test_the_shear_tilts_downwards_to_the_right():
    """b > 0: y grows with x along the ridge, and y points down."""
    picture = _cpu.render(*single((8.0, 8.0), (1, 2.5, 0)), 16, 16)[..., 0]
    assert picture[11, 10] > 0.3 and picture[4, 5] > 0.3
    assert picture[4, 10] == 0 and picture[11, 5] == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mean", [(-3.2, 4.1), (0, 0), (20, 15), (23.4, 7.7), (9, -5.5), (12, 19.9), (-4, -4)])
def test_a_splat_outside_the_canvas_draws_its_tail(mean, dtype):
    splat = single(mean, (1.3, 1.1, 1.2), 1, dtype)
    expected = reference.render(*splat, 15, 20)
    assert expected.max() > 0.01
    actual = _cpu.render(*splat, 15, 20, cutoff=FAR)
    np.testing.assert_allclose(actual, expected, atol=1e-12, rtol=2e-5 if dtype == np.float32 else 1e-12)


# Where the evaluation itself is hard


@pytest.fixture(scope="module")
def thin():
    """Thin rotated splats at random places of 90 x 90 pixels, each with its own weights: arguments and [N, 90, 90]."""
    along, across, angle = np.meshgrid(
        [5, 11, 30, 80, 200], [0.3, 0.4, 0.5, 0.6], np.linspace(0, np.pi, 33), indexing="ij"
    )
    rng = np.random.default_rng(8)
    means = rng.uniform(25, 65, (along.size, 2)).astype(np.float32)
    log_cholesky = rotated(along.ravel(), across.ravel(), angle.ravel()).astype(np.float32)
    half_q = reference.exponents(means, log_cholesky, 90, 90)
    return means, log_cholesky, half_q


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_thin_rotated_splats(thin, dtype):
    """A weight carried from row to row multiplies its own rounding error, and an underflow at its start would stay."""
    means, log_cholesky, half_q = thin
    zero = np.zeros(1, dtype)
    for i in range(len(means)):
        splat = means[i : i + 1].astype(dtype), log_cholesky[i : i + 1].astype(dtype), np.ones((1, 1), dtype)
        actual = _cpu.render(*splat, zero, 90, 90)[..., 0]
        expected = np.exp(-half_q[i]) * (half_q[i] <= _cpu.CUTOFF)
        error = abs(actual - expected) * (abs(half_q[i] - _cpu.CUTOFF) > 1e-3)
        assert error.max() < (2e-5 if dtype == np.float32 else 1e-11), log_cholesky[i]


@pytest.mark.parametrize("s", [1e-6, 0.01, 0.05, 0.2, 1e3, 1e6])
def test_dots_and_giants(s):
    scene = random_scene(9, 25, 3, 40, 50, small=s, large=s * 1.5)
    scene.means[:5] = np.floor(scene.means[:5]) + 0.5
    assert_values(scene, 40, 50, _cpu.CUTOFF)


# What the pairs and the draws are


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_count_pairs_counts_the_pixels_of_every_ellipse(height, width, dtype):
    scene = random_scene(10, 50, 1, height, width, small=0.1, large=30)
    half_q = reference.exponents(*scene[:2], height, width)
    actual = _cpu.count_pairs(*scene.astype(dtype)[:2], height, width)
    assert np.sum(half_q <= _cpu.CUTOFF - 1e-4) <= actual <= np.sum(half_q <= _cpu.CUTOFF + 1e-4)
    wider = _cpu.count_pairs(*scene.astype(dtype)[:2], height, width, cutoff=8.0)
    assert np.sum(half_q <= 8 - 1e-4) <= wider <= np.sum(half_q <= 8 + 1e-4)
