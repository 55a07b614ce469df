"""splat2d._cpu.loss_gradient and ssim against the float64 reference, and against scikit-image."""

from functools import cache

import numpy as np
import pytest
import reference
from scenes import using
from skimage.metrics import structural_similarity

from splat2d import _cpu

SIZES = [(1, 1), (1, 9), (13, 1), (3, 4), (10, 12), (11, 11), (14, 17), (30, 41), (70, 150)]  # height, width
MIXES = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.3, 0.2), (0, 0.8, 0.2), (2, 0, 0.7)]  # l2, l1, ssim


@pytest.fixture(scope="module", params=_cpu.instruction_sets(), autouse=True)
def instruction_set(request):
    with using(request.param) as name:
        yield name


def pictures(height, width, channels):
    """A smooth picture with some texture, and the same with noise: float32."""
    rng = np.random.default_rng(height * 1000 + width + channels)
    x, y = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 2, height))
    smooth = 0.5 + 0.3 * np.sin(x * 4 + y)[..., None] * rng.uniform(0.5, 1, channels)
    target = smooth + rng.normal(0, 0.05, (height, width, channels))
    return (target + rng.normal(0, 0.1, target.shape)).astype(np.float32), target.astype(np.float32)


@cache  # the same for every instruction set
def numeric_gradient(size, weights, indices):
    """Finite differences of the reference loss of pictures(*size) at these places."""
    image, target = pictures(*size)
    step = 1e-5
    gradient = []
    for index in indices:
        values = []
        for sign in (1, -1):
            moved = np.float64(image)
            moved[index] += sign * step
            values.append(reference.loss(moved, target, *weights))
        gradient.append((values[0] - values[1]) / (2 * step))
    return np.array(gradient)


def assert_gradient(actual, expected, ssim, size):
    """SSIM divides rounding errors of the variances, about 1e-8, by C2 = 0.03^2 and slopes by 0.03."""
    np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=(1e-4 * abs(expected).max() + 1e-3 * ssim / size))


@pytest.mark.parametrize("weights", MIXES)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_loss_and_gradient_equal_the_reference(height, width, weights):
    image, target = pictures(height, width, 3)
    l2, l1, ssim = weights
    loss, gradient = _cpu.loss_gradient(image, target, l2=l2, l1=l1, ssim=ssim)
    assert loss == pytest.approx(reference.loss(image, target, *weights), rel=2e-5, abs=2e-6 * ssim)
    assert gradient.shape == image.shape and gradient.dtype == np.float32
    # Corners, borders and a sample of the inside.
    rng = np.random.default_rng(1)
    rows = [0, height - 1, height // 2, *rng.integers(0, height, 9)]
    columns = [0, width - 1, width // 2, *rng.integers(0, width, 9)]
    indices = [(j, i, n % 3) for n, (j, i) in enumerate(zip(rows, columns, strict=True))]
    expected = numeric_gradient(image.shape, weights, tuple(indices))
    actual = np.array([gradient[index] for index in indices])
    assert_gradient(actual, expected, ssim, image.size)


def stretched(height, width, channels):
    """pictures() at three times the contrast: a quarter of the target is 0 or 1, and the other passes the limits."""
    image, target = pictures(height, width, channels)
    return 3 * image - 1, (3 * target - 1).clip(0, 1)


@pytest.mark.parametrize("outside", [0.1, 0.5])
@pytest.mark.parametrize("weights", MIXES)
def test_errors_beyond_a_limit_weigh_less(weights, outside):
    image, target = stretched(19, 24, 3)
    l2, l1, ssim = weights
    loss, gradient = _cpu.loss_gradient(image, target, l2=l2, l1=l1, ssim=ssim, outside=outside)
    assert loss == pytest.approx(reference.loss(image, target, *weights, outside), rel=2e-5)
    above, below = (target == 1) & (image > 1), (target == 0) & (image < 0)
    inside = (target > 0) & (target < 1)
    rng = np.random.default_rng(3)
    places = [tuple(place) for kind in (above, below, inside) for place in rng.permutation(np.argwhere(kind))[:6]]
    expected = np.array([slope(image, target, place, *weights, outside) for place in places])
    assert_gradient(np.array([gradient[place] for place in places]), expected, ssim, image.size)


def slope(image, target, place, *weights):
    """Of the reference loss, by a finite difference."""
    step = np.zeros(image.shape)
    step[place] = 1e-5
    return np.subtract(*(reference.loss(image + s * step, target, *weights) for s in (1, -1))) / 2e-5


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_every_channel_count(channels):
    image, target = pictures(19, 21, channels)
    weights = (0.5, 0.3, 0.2)
    loss, gradient = _cpu.loss_gradient(image, target, l2=0.5, l1=0.3, ssim=0.2)
    assert loss == pytest.approx(reference.loss(image, target, *weights), rel=2e-5)
    indices = [(j, i, (j + i) % channels) for j in (0, 7, 18) for i in (0, 4, 20)]
    actual = np.array([gradient[index] for index in indices])
    expected = numeric_gradient(image.shape, weights, tuple(indices))
    assert_gradient(actual, expected, 0.2, image.size)


def test_the_default_is_the_mean_squared_error():
    image, target = pictures(20, 30, 3)
    loss, gradient = _cpu.loss_gradient(image, target)
    difference = np.float64(image) - target
    assert loss == pytest.approx(np.mean(difference**2), rel=1e-6)
    np.testing.assert_allclose(gradient, 2 * difference / difference.size, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("weights", MIXES)
def test_equal_pictures_have_no_loss(weights):
    _, target = pictures(20, 30, 3)
    l2, l1, ssim = weights
    loss, gradient = _cpu.loss_gradient(target, target, l2=l2, l1=l1, ssim=ssim)
    assert loss == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-4 / target.size)


@pytest.mark.parametrize("right", ["the same", 0.0])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0, -2.0, 300.0, 1000.0, 3e4])
def test_flat_and_bright_pictures(value, right):
    """Variances are small differences of large numbers there; rounded below 0 they would make SSIM unbounded."""
    target = np.full((40, 50, 3), value, np.float32)
    if right != "the same":
        target[:, 25:] = right
    image = target + np.random.default_rng(2).normal(0, 0.01, target.shape).astype(np.float32)
    for picture in (image, target):
        loss, gradient = _cpu.loss_gradient(picture, target, ssim=1, l2=0)
        assert -1e-4 <= loss <= 2 + 1e-4
        assert np.isfinite(gradient).all() and abs(gradient).max() < 1e4 / target.size
        assert -1 - 1e-4 <= _cpu.ssim(picture, target) <= 1 + 1e-4


def test_a_step_down_the_gradient_lowers_the_loss():
    image, target = pictures(24, 24, 3)
    for weights in MIXES:
        l2, l1, ssim = weights
        before, gradient = _cpu.loss_gradient(image, target, l2=l2, l1=l1, ssim=ssim)
        moved = image - 0.01 * gradient / abs(gradient).max()
        after, _ = _cpu.loss_gradient(moved, target, l2=l2, l1=l1, ssim=ssim)
        assert after < before


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(11, 11), (11, 40), (37, 12), (64, 100), (200, 130)])
def test_ssim_equals_scikit_image(height, width, channels):
    image, target = pictures(height, width, channels)
    expected = structural_similarity(
        np.float64(image),
        np.float64(target),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=-1,
    )
    assert _cpu.ssim(image, target) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_ssim_equals_the_reference(height, width):
    image, target = pictures(height, width, 3)
    assert _cpu.ssim(image, target) == pytest.approx(reference.ssim(image, target), abs=2e-5)
    assert _cpu.ssim(target, target) == pytest.approx(1, abs=1e-6)
