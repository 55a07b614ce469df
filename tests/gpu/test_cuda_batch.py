"""fit_batch on the GPU, against the CPU engine."""

import numpy as np
import pytest
from test_batch import pictures

from splat2d import _cpu
from splat2d.batch import fit_batch


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("height", "width", "count"), [(28, 28, 64), (20, 24, 23), (9, 40, 33), (1, 1, 1)])
def test_the_errors_are_those_of_the_splats(gpu, channels, height, width, count):
    images = pictures(6, channels, height, width)
    assert gpu.takes_batch(images.shape, count)
    result = fit_batch(images, splats=count, steps=60, device="cuda")
    for index in range(6):
        splats = result[index]
        np.testing.assert_allclose(splats.background, images[index].mean((0, 1)), atol=1e-6)
        image = _cpu.render(splats.means, splats.log_cholesky, splats.colors, splats.background, height, width)
        assert np.mean((image - images[index]) ** 2) == pytest.approx(result.squared[index], rel=2e-2, abs=1e-8)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_as_good_as_the_cpu(gpu, channels):
    images = pictures(24, channels, 28, 28)
    on_gpu, on_cpu = (fit_batch(images, splats=32, steps=300, device=device) for device in ("cuda", "cpu"))
    quality = [-10 * np.log10(result.squared) for result in (on_gpu, on_cpu)]
    assert np.mean(quality[0]) > np.mean(quality[1]) - 1


def test_the_same_bytes_whatever_the_batch(gpu):
    images = pictures(9)
    whole = fit_batch(images, splats=20, steps=100, seed=3, device="cuda")
    again = fit_batch(images, splats=20, steps=100, seed=3, device="cuda")
    part = fit_batch(images[4:], splats=20, steps=100, seed=7, device="cuda")
    np.testing.assert_array_equal(whole.means, again.means)
    np.testing.assert_array_equal(whole.colors[4:], part.colors)


def test_larger_pictures_go_one_by_one(gpu):
    images = pictures(2, 3, 100, 120)
    assert not gpu.takes_batch(images.shape, 50)
    assert fit_batch(images, splats=50, steps=60, device="cuda").squared.max() < 0.01
