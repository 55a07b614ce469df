"""fit_batch on the CPU: many small pictures."""

import numpy as np
import pytest

from splat2d import _cpu
from splat2d.batch import fit_batch
from splat2d.errors import InputError


def pictures(count=5, channels=3, height=20, width=24):
    rng = np.random.default_rng(1)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    spots = rng.uniform(0.1, 0.9, (count, 4, 2)) * (width, height)
    bump = np.exp(-((x - spots[..., 0, None, None]) ** 2 + (y - spots[..., 1, None, None]) ** 2) / 12)
    colors = rng.uniform(0.2, 0.9, (count, 4, channels))
    return np.einsum("bkhw,bkc->bhwc", bump, colors).clip(0, 1).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_picture_is_fitted(channels):
    images = pictures(channels=channels)
    result = fit_batch(images, splats=24, steps=150, device="cpu")
    assert len(result) == 5 and result.means.shape == (5, 24, 2) and result.colors.shape == (5, 24, channels)
    assert result.squared.max() < 0.2 * images.var(axis=(1, 2)).mean()
    for index in range(5):
        splats = result[index]
        image = _cpu.render(splats.means, splats.log_cholesky, splats.colors, splats.background, 20, 24)
        assert np.mean((image - images[index]) ** 2) == pytest.approx(result.squared[index], rel=1e-3, abs=1e-9)


def test_a_picture_depends_on_its_place_alone():
    images = pictures()
    whole = fit_batch(images, splats=10, steps=30, seed=4, device="cpu", threads=3)
    part = fit_batch(images[2:], splats=10, steps=30, seed=6, device="cpu", threads=1)
    np.testing.assert_array_equal(whole.means[2:], part.means)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((3, 4, 5), np.float32), {}, "expected a float array"),
        (np.zeros((3, 4, 5, 1), np.uint8), {}, "expected a float array"),
        (np.zeros((0, 4, 5, 1), np.float32), {}, "no pixels"),
        (np.full((1, 4, 5, 1), np.nan, np.float32), {}, "NaN"),
        (np.zeros((1, 4, 5, 1), np.float32), {"splats": 0}, "splats: must be at least 1"),
        (np.zeros((1, 4, 5, 1), np.float32), {"steps": 0}, "steps: must be at least 1"),
    ],
)
def test_bad_input(images, options, message):
    with pytest.raises(InputError, match=message):
        fit_batch(images, **{"splats": 3, "device": "cpu", **options})
