"""splat2d.render: sizes, crops, half-pixel centres, antialiasing."""

from dataclasses import replace

import numpy as np
import pytest
import reference
from scenes import random_scene, rotated

from splat2d import InputError, Splats, _cpu, psnr, render

HEIGHT, WIDTH = 48, 80


def canvas(seed=0, count=60, *, small=0.6, large=10.0, height=HEIGHT, width=WIDTH, channels=3):
    scene = random_scene(seed, count, channels, height, width, small=small, large=large)
    return Splats(scene.means, scene.log_cholesky, scene.colors, width, height, scene.background)


@pytest.fixture
def splats():
    return canvas()


def exact(splats, height, width, scale=(1, 1), origin=(0, 0)):
    """Samples of the scene at the centres of these pixels, without antialiasing, in float64."""
    sx, sy = scale
    means = (np.float64(splats.means) - origin) * scale
    log_cholesky = np.float64(splats.log_cholesky) * [1, sy, 1] + [np.log(sx), 0, np.log(sy)]
    return reference.render(means, log_cholesky, splats.colors, splats.background, height, width, _cpu.CUTOFF)


def blocks(picture, rows, columns):
    """The means of blocks of rows x columns pixels."""
    height, width, channels = picture.shape
    return picture.reshape(height // rows, rows, width // columns, columns, channels).mean(axis=(1, 3))


# The canvas itself


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_as_it_is_the_native_render_of_the_parameters(channels):
    splats = canvas(channels=channels)
    picture = render(splats)
    assert picture.dtype == np.float32 and picture.shape == (HEIGHT, WIDTH, channels)
    expected = _cpu.render(
        splats.means, splats.log_cholesky, splats.colors, splats.background, splats.height, splats.width
    )
    np.testing.assert_array_equal(picture, expected)


def test_every_way_to_ask_for_the_canvas_gives_the_same_bytes(splats):
    expected = render(splats).tobytes()
    for options in (
        {"scale": 1},
        {"width": WIDTH},
        {"height": HEIGHT},
        {"width": WIDTH, "height": HEIGHT},
        {"crop": (0, 0, WIDTH, HEIGHT)},
        {"device": "cpu"},
        {"threads": 1},
        {"threads": 3},
    ):
        assert render(splats, **options).tobytes() == expected, options


def test_no_splats_are_a_picture_of_the_background():
    empty = Splats(np.empty((0, 2)), np.empty((0, 3)), np.empty((0, 2)), 5, 4, np.array([0.25, 0.5]))
    np.testing.assert_array_equal(render(empty, scale=0.5), np.broadcast_to(np.float32([0.25, 0.5]), (2, 3, 2)))


# Larger


def test_half_pixel_centres(splats):
    """Three times larger, the middle of each three by three samples lies where the pixel's centre was."""
    picture = render(splats, scale=3)
    assert picture.shape == (3 * HEIGHT, 3 * WIDTH, 3)
    np.testing.assert_allclose(picture[1::3, 1::3], render(splats), atol=1e-4)
    # A shift by half a pixel of the output would not pass.
    assert abs(picture[1::3, 2::3] - render(splats)).max() > 0.05


@pytest.mark.parametrize(("width", "height"), [(200, 120), (WIDTH, 100), (333, HEIGHT), (97, 301)])
def test_larger_pictures_are_samples_of_the_same_scene(splats, width, height):
    picture = render(splats, width=width, height=height)
    expected = exact(splats, height, width, (width / WIDTH, height / HEIGHT))
    # Single pixels flip at the cut, which is worth 1 / 255 of an amplitude.
    assert np.quantile(abs(picture - expected), 0.999) < 1e-4
    assert abs(picture - expected).max() < 0.02


def test_twice_as_large_and_averaged_again():
    smooth = canvas(small=3, large=12)
    np.testing.assert_allclose(blocks(render(smooth, scale=2), 2, 2), render(smooth), atol=0.02)


# Crops


@pytest.mark.parametrize("crop", [(0, 0, 20, 10), (13, 7, 40, 30), (79, 47, 1, 1), (64, 16, 16, 32)])
def test_a_crop_is_a_slice_of_the_whole(splats, crop):
    x, y, w, h = crop
    picture = render(splats, crop=crop)
    assert picture.shape == (h, w, 3)
    expected = render(splats)[y : y + h, x : x + w]
    assert np.quantile(abs(picture - expected), 0.99) < 2e-5
    assert abs(picture - expected).max() < 0.01


def test_a_crop_is_cut_before_it_is_scaled(splats):
    x, y, w, h = crop = (16, 8, 24, 20)
    for factor in (4, 0.5):
        whole, part = render(splats, scale=factor), render(splats, crop=crop, scale=factor)
        slices = [slice(int(start * factor), int((start + size) * factor)) for start, size in ((y, h), (x, w))]
        assert np.quantile(abs(part - whole[tuple(slices)]), 0.99) < 1e-4
    np.testing.assert_array_equal(render(splats, crop=crop, width=48), render(splats, crop=crop, scale=2))


def test_a_crop_may_lie_between_pixels(splats):
    picture = render(splats, crop=(10.25, 5.5, 30, 20))
    expected = exact(splats, 20, 30, origin=(10.25, 5.5))
    assert np.quantile(abs(picture - expected), 0.99) < 1e-4


def test_a_crop_may_reach_beyond_the_canvas(splats):
    picture = render(splats, crop=(-60, -50, WIDTH + 90, HEIGHT + 100))
    np.testing.assert_allclose(picture[50 : 50 + HEIGHT, 60 : 60 + WIDTH], render(splats), atol=0.01)
    np.testing.assert_array_equal(picture[0, 0], splats.background)


# Smaller


def moments(picture):
    """Mass, mean (x, y) and covariance (xx, xy, yy) of a picture of one channel, in its own pixels."""
    density = np.float64(picture[..., 0])
    x, y = np.meshgrid(np.arange(picture.shape[1]) + 0.5, np.arange(picture.shape[0]) + 0.5)
    mass = density.sum()
    mx, my = (density * x).sum() / mass, (density * y).sum() / mass
    dx, dy = x - mx, y - my
    return mass, (mx, my), [(density * d).sum() / mass for d in (dx * dx, dx * dy, dy * dy)]


@pytest.mark.parametrize(("width", "height"), [(48, 48), (48, 96), (96, 48), (24, 48), (32, 32), (48, 200), (200, 32)])
@pytest.mark.parametrize("angle", [0.0, 0.5, 1.3, 2.4])
def test_footprint_in_closed_form(width, height, angle):
    """A single splat: its mass follows the area of a pixel, its covariance is the scaled one and the footprint's."""
    splat = Splats(np.array([[48.3, 47.4]]), rotated(4.0, 2.6, angle), np.ones((1, 1)), 96, 96, np.zeros(1))
    sx, sy = width / 96, height / 96
    mass, mean, (xx, xy, yy) = moments(render(splat))
    out_mass, out_mean, covariance = moments(render(splat, width=width, height=height))
    assert out_mass == pytest.approx(mass * sx * sy, rel=2e-3)
    np.testing.assert_allclose(out_mean, np.array(mean) * (sx, sy), atol=0.02)
    vx, vy = (max(0, 1 - s * s) / 12 for s in (sx, sy))
    wide_xx, wide_yy = xx * sx * sx + vx, yy * sy * sy + vy
    # The cut shrinks every covariance by the same 2 %, the footprint's included.
    np.testing.assert_allclose(covariance[::2], (wide_xx, wide_yy), rtol=0.02)
    assert covariance[1] == pytest.approx(xy * sx * sy, abs=0.02 * np.sqrt(wide_xx * wide_yy))


def widened(splats, sx, sy):
    """The parameters of the convention, straight from the 2 x 2 matrices: means, log_cholesky, colors."""
    scale = np.diag([sx, sy])
    rows, factors = [], []
    for a, b, c in np.float64(splats.log_cholesky):
        lower = scale @ np.array([[np.exp(a), 0], [b, np.exp(c)]])
        narrow = lower @ lower.T
        wide = narrow + np.diag([max(0, 1 - s * s) / 12 for s in (sx, sy)])
        lower = np.linalg.cholesky(wide)
        rows.append((np.log(lower[0, 0]), lower[1, 0], np.log(lower[1, 1])))
        factors.append(np.sqrt(np.linalg.det(narrow) / np.linalg.det(wide)))
    return np.float64(splats.means) * (sx, sy), np.array(rows), splats.colors * np.array(factors)[:, None]


@pytest.mark.parametrize(("width", "height"), [(40, 24), (20, 12), (40, 48), (80, 12), (160, 12), (7, 100), (79, 47)])
def test_smaller_pictures_follow_the_convention(splats, width, height):
    expected = reference.render(
        *widened(splats, width / WIDTH, height / HEIGHT), splats.background, height, width, _cpu.CUTOFF
    )
    picture = render(splats, width=width, height=height)
    assert np.quantile(abs(picture - expected), 0.99) < 1e-4
    assert abs(picture - expected).max() < 0.01


@pytest.mark.parametrize(("factor", "enough"), [(2, 48), (4, 40), (8, 35)])
def test_smaller_pictures_are_averages_of_the_canvas(factor, enough):
    """Fine splats, which plain samples would alias: at least 10 dB nearer to the means of blocks of pixels."""
    fine = canvas(seed=1, count=1500, small=0.4, large=2, height=96, width=160)
    fine = replace(fine, colors=fine.colors * np.float32(0.3))
    truth = blocks(render(fine), factor, factor)
    height, width = truth.shape[:2]
    plain = exact(fine, height, width, (1 / factor, 1 / factor)).astype(np.float32)
    smooth = render(fine, scale=1 / factor)
    peak = np.ptp(truth)
    normal = [(picture - truth.min()) / peak for picture in (smooth, plain, truth)]
    assert psnr(normal[0], normal[2]) > enough
    assert psnr(normal[0], normal[2]) > psnr(normal[1], normal[2]) + 10


def test_one_axis_smaller_and_the_other_larger(splats):
    picture = render(splats, width=WIDTH // 4, height=HEIGHT * 3)
    truth = blocks(render(splats, width=WIDTH, height=HEIGHT * 3), 1, 4)
    assert picture.shape == truth.shape
    assert abs(picture - truth).max() < 0.1
    assert np.sqrt(np.mean((picture - truth) ** 2)) < 0.012


def test_extreme_splats_stay_finite_at_every_scale():
    values = [-3e38, -50.0, -20.0, -1.0, 0.0, 3.0, 20.0, 50.0, 3e38]
    rng = np.random.default_rng(2)
    count = 400
    means = rng.choice([-3e38, -1e6, 0, 3.7, 8, 1e6, 3e38], (count, 2))
    wild = Splats(means, rng.choice(values, (count, 3)), rng.choice([-1e6, 1, 1e6], (count, 1)), 16, 8, np.zeros(1))
    for options in ({}, {"scale": 9.7}, {"scale": 0.3}, {"width": 1, "height": 400}, {"crop": (3.7, 2, 0.01, 0.02)}):
        assert np.isfinite(render(wild, **options)).all()


# Sizes


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"width": 40}, (24, 40)),
        ({"height": 12}, (12, 20)),
        ({"width": 41}, (25, 41)),
        ({"width": 1}, (1, 1)),
        ({"height": 1}, (1, 2)),
        ({"scale": 0.5}, (24, 40)),
        ({"scale": 1.51}, (72, 121)),
        ({"scale": 1e-6}, (1, 1)),
        ({"width": np.int64(10), "height": 30}, (30, 10)),
        ({"crop": (0, 0, 10, 40), "width": 5}, (20, 5)),
        ({"crop": (0, 0, 10, 40), "height": 5}, (5, 1)),
        ({"crop": (2.5, 1, 10.4, 3.6)}, (4, 10)),
        ({"crop": (0, 0, 0.5, 0.25)}, (1, 1)),
        ({"crop": (0, 0, 0.5, 0.25), "width": 100}, (50, 100)),
        ({"crop": np.array([0, 0, 8, 6]), "scale": 2}, (12, 16)),
    ],
)
def test_sizes(splats, options, size):
    assert render(splats, **options).shape == (*size, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 10, "scale": 2}, "not both"),
        ({"height": 10, "scale": 2}, "not both"),
        ({"width": 0}, "width must be at least 1"),
        ({"height": -3}, "height must be at least 1"),
        ({"width": 10, "height": 0}, "height must be at least 1"),
        ({"width": 10.5}, "whole number"),
        ({"scale": 0}, "scale"),
        ({"scale": -1}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"scale": float("inf")}, "scale"),
        ({"crop": (0, 0, 0, 5)}, "crop"),
        ({"crop": (0, 0, 5, -1)}, "crop"),
        ({"crop": (0, 0, float("nan"), 5)}, "crop"),
        ({"crop": (float("inf"), 0, 5, 5)}, "crop"),
        ({"crop": (1, 2, 3)}, "four numbers"),
        ({"crop": "none"}, "four numbers"),
        ({"crop": (WIDTH, 0, 5, 5)}, "outside the canvas"),
        ({"crop": (0, -5, 5, 5)}, "outside the canvas"),
        ({"width": 1 << 20, "height": 1 << 20}, "smaller"),
        ({"scale": 1e12}, "smaller"),
        ({"scale": 1e300}, "smaller"),
        ({"device": "cuda"}, "device"),
    ],
)
def test_requests_that_cannot_be_met(splats, options, message):
    with pytest.raises(InputError, match=message) as caught:
        render(splats, **options)
    assert "\n" not in str(caught.value)
