"""PSNR and SSIM as docs/conventions.md defines them."""

import math
import tracemalloc

import numpy as np
import pytest
import reference
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from splat2d import InputError, psnr, ssim


@pytest.fixture(params=[(37, 53, 3), (64, 20, 1), (11, 11, 4), (700, 401, 3)], ids=str)
def pair(request):
    """A noisy picture, in part outside [0, 1], and the original within it."""
    rng = np.random.default_rng(0)
    original = rng.uniform(size=request.param)
    return (original + rng.normal(0, 0.1, original.shape)).astype(np.float32), original.astype(np.float32)


def test_psnr_equals_scikit_image_after_a_clamp(pair):
    image, original = pair
    assert image.min() < 0 and image.max() > 1
    expected = peak_signal_noise_ratio(np.float64(original), np.float64(image).clip(0, 1), data_range=1)
    assert psnr(image, original) == pytest.approx(expected, abs=1e-9)
    assert psnr(image, original) > peak_signal_noise_ratio(np.float64(original), np.float64(image), data_range=1)


def test_ssim_equals_scikit_image_after_a_clamp(pair):
    image, original = pair
    expected = structural_similarity(
        np.float64(original),
        np.float64(image).clip(0, 1),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=-1,
    )
    assert ssim(image, original) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_constant_error_in_closed_form(dtype):
    original = np.full((5, 7, 3), 0.5, dtype)
    assert psnr(original + dtype(0.25), original) == pytest.approx(20 * math.log10(4), abs=1e-12)


def test_equal_pictures():
    original = np.random.default_rng(1).uniform(size=(20, 30, 3)).astype(np.float32)
    assert psnr(original, original) == math.inf
    assert ssim(original, original) == pytest.approx(1, abs=1e-6)
    white = np.ones((4, 4, 3), np.float32)
    assert psnr(white + 3, white) == math.inf  # equal once clamped


@pytest.mark.parametrize(("low", "high", "peak"), [(0.0, 12.5, 12.5), (-3.0, 2.0, 3.0), (-0.5, 0.5, 0.5)])
def test_a_high_dynamic_range_is_not_clamped_and_sets_the_peak(low, high, peak):
    rng = np.random.default_rng(2)
    original = rng.uniform(low, high, (30, 40, 3)).astype(np.float32)
    original[0, 0, 0], original[5, 5, 0] = low, high
    image = original + rng.normal(0, 0.1, original.shape).astype(np.float32)
    expected = 10 * math.log10(peak**2 / np.mean((np.float64(image) - original) ** 2))
    assert psnr(image, original) == pytest.approx(expected, abs=1e-9)
    assert ssim(image, original) == pytest.approx(reference.ssim(image / peak, original / peak), abs=1e-5)


def test_the_original_decides_about_the_range():
    low = np.full((3, 3, 1), 0.5, np.float32)
    high = np.full((3, 3, 1), 2.0, np.float32)
    assert psnr(high, low) == pytest.approx(10 * math.log10(1 / 0.25))
    assert psnr(low, high) == pytest.approx(10 * math.log10(4 / 2.25))


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 50, 3), (10, 40, 1), (5, 5, 4)])
def test_ssim_below_the_size_of_its_window(shape):
    image, original = np.random.default_rng(3).uniform(size=(2, *shape)).astype(np.float32)
    assert ssim(image, original) == pytest.approx(reference.ssim(image, original), abs=1e-5)
    assert ssim(original, original) == pytest.approx(1, abs=1e-6)


def test_any_layout_will_do():
    rng = np.random.default_rng(4)
    image, original = rng.uniform(size=(2, 24, 26, 3)).astype(np.float32)
    turned = [picture.transpose(1, 0, 2) for picture in (image, original)]
    assert psnr(*turned) == pytest.approx(psnr(image, original), abs=1e-9)
    assert ssim(*turned) == pytest.approx(ssim(image, original), abs=1e-6)
    assert ssim(np.float64(image), original) == ssim(image, original)


def test_psnr_needs_little_memory():
    image, original = np.random.default_rng(5).uniform(size=(2, 1500, 1000, 3)).astype(np.float32)
    tracemalloc.start()
    psnr(image, original)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < original.nbytes / 2


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("image", "original", "message"),
    [
        (np.zeros((4, 5, 3)), np.zeros((5, 4, 3)), "one size"),
        (np.zeros((4, 5, 1)), np.zeros((4, 5, 3)), "one size"),
        (np.zeros((4, 5)), np.zeros((4, 5)), r"\[H, W, C\]"),
        (np.zeros((0, 5, 3)), np.zeros((0, 5, 3)), r"\[H, W, C\]"),
        (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5, 3)), "uint8"),
        (np.zeros((4, 5, 3)), np.full((4, 5, 3), np.nan), "finite"),
        (np.full((4, 5, 3), np.inf), np.zeros((4, 5, 3)), "finite"),
    ],
)
def test_pictures_that_cannot_be_compared(metric, image, original, message):
    with pytest.raises(InputError, match=message) as caught:
        metric(image, original)
    assert "\n" not in str(caught.value)
