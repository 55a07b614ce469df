"""splat2d._cpu.render_backward: the float64 kernel against finite differences and the reference, float32 against it."""

import numpy as np
import pytest
import reference
from scenes import random_scene, rotated, using

from splat2d import _cpu

NO_CUT = 60.0  # weights of 1e-26: a finite difference sees no jump
SIZES = [(1, 1), (1, 37), (41, 1), (3, 17), (16, 16), (31, 50), (130, 200)]  # height, width
NAMES = ("means", "log_cholesky", "colors")


@pytest.fixture(scope="module", params=_cpu.instruction_sets(), autouse=True)
def instruction_set(request):
    with using(request.param) as name:
        yield name


def cotangent(height, width, channels):
    return np.random.default_rng(height * width + channels).normal(size=(height, width, channels))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7])
def test_every_parameter_equals_finite_differences_in_float64(channels):
    height, width, step = 19, 23, 1e-4
    scene = random_scene(20 + channels, 6, channels, height, width, small=0.7, large=6)
    d_image = cotangent(height, width, channels)
    gradients = _cpu.render_backward(*scene[:3], d_image, cutoff=NO_CUT)
    for name, gradient in zip(NAMES, gradients, strict=True):
        array = getattr(scene, name)
        assert gradient.dtype == np.float64 and gradient.shape == array.shape
        numeric = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            # Five points: the error falls with the fourth power of the step.
            for offset, weight in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
                moved = array.copy()
                moved[index] += offset * step
                picture = _cpu.render(*scene._replace(**{name: moved}), height, width, cutoff=NO_CUT)
                numeric[index] += weight * np.sum(picture * d_image) / (12 * step)
        np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-8 * abs(numeric).max(), err_msg=name)


@pytest.mark.parametrize("cutoff", [5.54, NO_CUT])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_float64_equals_the_reference(height, width, cutoff):
    scene = random_scene(30, 40, 3, height, width)
    d_image = cotangent(height, width, 3)
    expected = reference.render_backward(*scene[:3], d_image, cutoff)
    actual = _cpu.render_backward(*scene[:3], d_image, cutoff=cutoff)
    for name, one, other in zip(NAMES, actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-10 * max(1, abs(other).max()), err_msg=name)


def gradient_scale(scene, d_image):
    """The gradients with every term taken as positive: what float32 rounding is relative to."""
    height, width, _ = d_image.shape
    z0, z1 = (abs(z) for z in reference.whitened(*scene[:2], height, width))
    w = reference.weights(*scene[:2], height, width)
    v = w * np.tensordot(abs(scene.colors), abs(d_image), (1, 2))
    a, b, c = scene.log_cholesky.T[:, :, None, None]
    g1, g0 = v * z1, v * (z0 + z1 * abs(b) / np.exp(c))
    d_means = [g0 / np.exp(a), g1 / np.exp(c)]
    d_log_cholesky = [g0 * z0, g1 * z0 / np.exp(c), g1 * z1]
    d_colors = np.tensordot(w, abs(d_image), ((1, 2), (0, 1)))
    return *(np.sum(d, axis=(2, 3)).T for d in (d_means, d_log_cholesky)), d_colors


@pytest.mark.parametrize("cutoff", [5.54, 30.0])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7])
def test_float32_equals_float64(channels, cutoff):
    height, width = 60, 75
    scene = random_scene(40 + channels, 50, channels, height, width)
    d_image = cotangent(height, width, channels).astype(np.float32)
    expected = _cpu.render_backward(*scene[:3], np.float64(d_image), cutoff=cutoff)
    actual = _cpu.render_backward(*scene.astype(np.float32)[:3], d_image, cutoff=cutoff)
    # A splat with a pixel just at the cut may have it in one precision and not in the other.
    half_q = reference.exponents(*scene[:2], height, width)
    certain = np.min(abs(half_q - cutoff), axis=(1, 2)) > 1e-5
    assert certain.mean() > 0.8
    for name, one, other, scale in zip(NAMES, actual, expected, gradient_scale(scene, d_image), strict=True):
        assert one.dtype == np.float32
        error = abs(one - other)[certain] / (scale[certain] + 1e-3 * scale.max())
        assert error.max() < 2e-5, name


def test_thin_rotated_splats():
    """Each alone, so that none hides behind a larger one."""
    along, across, angle = np.meshgrid([6, 40, 150], [0.3, 0.5], np.linspace(0, np.pi, 17), indexing="ij")
    log_cholesky = rotated(along.ravel(), across.ravel(), angle.ravel())
    rng = np.random.default_rng(50)
    means = rng.uniform(25, 45, (len(log_cholesky), 2))
    colors = rng.uniform(0.5, 1, (len(log_cholesky), 1))
    d_image = rng.uniform(0.5, 1, (70, 70, 1))  # of one sign, so that the sums do not cancel
    expected = reference.render_backward(means, log_cholesky, colors, d_image, 60.0)
    actual = _cpu.render_backward(means, log_cholesky, colors, d_image, cutoff=60.0)
    for name, one, other in zip(NAMES, actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-9 * abs(other).max(), err_msg=name)


def test_gradient_is_linear_in_the_cotangent():
    scene = random_scene(60, 12, 3, 30, 40)
    first, second = (np.random.default_rng(seed).normal(size=(30, 40, 3)) for seed in (61, 62))
    both = _cpu.render_backward(*scene[:3], 2 * first - second)
    parts = [_cpu.render_backward(*scene[:3], d) for d in (first, second)]
    for sum_, one, other in zip(both, *parts, strict=True):
        np.testing.assert_allclose(sum_, 2 * one - other, atol=1e-10 * max(1, abs(sum_).max()))


def test_moving_all_splats_moves_the_picture():
    """A law no formula of the kernel knows: the gradient by a common shift is that of the picture's own slope."""
    scene = random_scene(63, 15, 2, 40, 40, small=2, large=4)
    scene.means[:] = 20 + (scene.means - 20) * 0.1  # all of it lies inside
    d_image = cotangent(40, 40, 2)
    d_means, _, _ = _cpu.render_backward(*scene[:3], d_image, cutoff=NO_CUT)
    picture = _cpu.render(*scene, 40, 40, cutoff=NO_CUT)
    for axis in (0, 1):
        frequency = 2j * np.pi * np.fft.fftfreq(40)
        spectrum = np.fft.fft(picture - scene.background, axis=1 - axis)
        shape = (1, 40, 1) if axis == 0 else (40, 1, 1)
        slope = np.fft.ifft(spectrum * frequency.reshape(shape), axis=1 - axis).real
        assert d_means[:, axis].sum() == pytest.approx(-np.sum(slope * d_image), rel=1e-3)


def test_no_splats_and_splats_out_of_sight():
    d_image = cotangent(8, 9, 2).astype(np.float32)
    empty = [np.empty((0, n), np.float32) for n in (2, 3, 2)]
    assert [g.shape for g in _cpu.render_backward(*empty, d_image)] == [(0, 2), (0, 3), (0, 2)]
    away = np.float32([[1e6, 3]]), np.zeros((1, 3), np.float32), np.ones((1, 2), np.float32)
    for gradient in _cpu.render_backward(*away, d_image):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_past_their_limit_have_no_gradient(dtype):
    """The kernels limit a and c to +-20: beyond, the picture does not change and the derivative is 0."""
    means, colors = np.array([[4.0, 4.0]] * 2, dtype), np.ones((2, 1), dtype)
    log_cholesky = np.array([[21, 0, 1], [1, 0, 21]], dtype)
    _, d_log_cholesky, _ = _cpu.render_backward(means, log_cholesky, colors, np.ones((8, 8, 1), dtype))
    np.testing.assert_array_equal(d_log_cholesky[[0, 1], [0, 2]], 0)
    assert (d_log_cholesky[[0, 1], [2, 0]] > 0).all()
