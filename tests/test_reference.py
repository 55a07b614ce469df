"""The reference held to the literal formulas of docs/conventions.md, to finite differences and to scikit-image."""

import numpy as np
import pytest
import reference
from skimage.metrics import structural_similarity


@pytest.fixture
def scene():
    rng = np.random.default_rng(0)
    return [rng.uniform(-1, 10, (5, 2)), rng.normal(0, 0.7, (5, 3)), rng.normal(size=(5, 2)), rng.normal(size=2)]


def test_render_is_the_sum_of_gaussians_with_the_inverse_covariance(scene):
    means, log_cholesky, colors, background = scene
    expected = np.zeros((9, 11, 2)) + background
    for (x, y), (a, b, c), color in zip(means, log_cholesky, colors, strict=True):
        factor = np.array([[np.exp(a), 0], [b, np.exp(c)]])
        precision = np.linalg.inv(factor @ factor.T)
        for j, i in np.ndindex(9, 11):
            d = np.array([i + 0.5 - x, j + 0.5 - y])
            expected[j, i] += color * np.exp(-d @ precision @ d / 2)
    np.testing.assert_allclose(reference.render(*scene, 9, 11), expected, atol=1e-13)


def test_render_backward_equals_finite_differences(scene):
    d_image = np.random.default_rng(1).normal(size=(9, 11, 2))
    analytic = reference.render_backward(*scene[:3], d_image)
    for array, gradient in zip(scene[:3], analytic, strict=True):
        for index in np.ndindex(array.shape):
            before = array[index]
            values = []
            for array[index] in (before + 1e-6, before - 1e-6):
                values.append(np.sum(reference.render(*scene, 9, 11) * d_image))
            array[index] = before
            assert gradient[index] == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6, abs=1e-7)


def test_ssim_equals_scikit_image():
    rng = np.random.default_rng(2)
    target = rng.uniform(size=(23, 31, 3))
    image = np.clip(target + rng.normal(0, 0.1, target.shape), 0, 1)
    expected = structural_similarity(
        image,
        target,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=-1,
    )
    assert reference.ssim(image, target) == pytest.approx(expected, abs=1e-12)


def test_window_at_the_border_is_renormalised():
    picture = np.random.default_rng(3).uniform(size=(7, 20))
    blurred = reference.window(7) @ picture @ reference.window(20).T
    for j, i in np.ndindex(7, 20):
        rows, columns = (slice(max(0, k - 5), k + 6) for k in (j, i))
        y, x = np.mgrid[rows.start : min(7, rows.stop), columns.start : min(20, columns.stop)]
        taps = np.exp(-((y - j) ** 2 + (x - i) ** 2) / 4.5)
        assert blurred[j, i] == pytest.approx(np.sum(taps * picture[rows, columns]) / taps.sum())
