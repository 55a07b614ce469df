"""splat2d._cpu.render_pictures and its gradients: the bytes of one picture after another."""

import numpy as np
import pytest
from scenes import random_scene

from splat2d import _cpu

HEIGHT, WIDTH = 21, 33


def arrays(pictures, count, channels, dtype):
    scenes = [random_scene(seed, count, channels, HEIGHT, WIDTH) for seed in range(pictures)]
    return [np.stack([scene[k] for scene in scenes]).astype(dtype) for k in range(4)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("pictures", "count", "channels"), [(1, 9, 3), (2, 30, 1), (7, 5, 4), (4, 0, 2)])
def test_as_one_by_one(pictures, count, channels, threads, dtype):
    """Both with fewer pictures than threads and with more."""
    means, log_cholesky, colors, backgrounds = arrays(pictures, count, channels, dtype)
    images = _cpu.render_pictures(means, log_cholesky, colors, backgrounds, HEIGHT, WIDTH, threads=threads)
    assert images.shape == (pictures, HEIGHT, WIDTH, channels) and images.dtype == dtype
    d_images = np.random.default_rng(0).normal(size=images.shape).astype(dtype)
    gradients = _cpu.render_pictures_backward(means, log_cholesky, colors, d_images, threads=threads)
    for i in range(pictures):
        own = means[i], log_cholesky[i], colors[i]
        np.testing.assert_array_equal(images[i], _cpu.render(*own, backgrounds[i], HEIGHT, WIDTH))
        for all_, one in zip(gradients, _cpu.render_backward(*own, d_images[i]), strict=True):
            np.testing.assert_array_equal(all_[i], one)


def test_no_pictures():
    empty = arrays(1, 3, 2, np.float32)
    none = [array[:0] for array in empty]
    assert _cpu.render_pictures(*none, 4, 5).shape == (0, 4, 5, 2)
    shapes = [
        gradient.shape for gradient in _cpu.render_pictures_backward(*none[:3], np.zeros((0, 4, 5, 2), np.float32))
    ]
    assert shapes == [(0, 3, 2), (0, 3, 3), (0, 3, 2)]


def test_shapes_that_do_not_fit():
    means, log_cholesky, colors, backgrounds = arrays(2, 3, 1, np.float32)
    with pytest.raises(ValueError, match="same length"):
        _cpu.render_pictures(means, log_cholesky[:1], colors, backgrounds, 4, 5)
    with pytest.raises(ValueError, match="same length"):
        _cpu.render_pictures(means, log_cholesky, colors[:, :2].copy(), backgrounds, 4, 5)
    with pytest.raises(ValueError, match="a row per picture"):
        _cpu.render_pictures(means, log_cholesky, colors, backgrounds[:1], 4, 5)
    with pytest.raises(ValueError, match="as many pictures"):
        _cpu.render_pictures_backward(means, log_cholesky, colors, np.zeros((1, 4, 5, 1), np.float32))
    with pytest.raises(ValueError, match="as many channels"):
        _cpu.render_pictures_backward(means, log_cholesky, colors, np.zeros((2, 4, 5, 2), np.float32))
