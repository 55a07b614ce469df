"""Multi-scale SSIM, by which the tables judge pictures beside PSNR and the product's own SSIM."""

import math

import numpy as np

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli and Bovik 2003
TAPS = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
TAPS /= TAPS.sum()
C1, C2 = 0.01**2, 0.03**2  # Wang et al. 2004


def ms_ssim(picture: np.ndarray, reference: np.ndarray) -> float:
    """Of two pictures [H, W, C] of 0..1: mean over the channels.

    Five scales, fewer where a side is below 176 pixels, each half of the one before by means of 2 x 2 pixels (an odd
    last row or column is left out); windows that lie within the picture; negative contrast terms count as 0.
    """
    x, y = picture.astype(np.float64), reference.astype(np.float64)
    scales = min(len(SCALE_WEIGHTS), 1 + int(math.log2(min(x.shape[:2]) / len(TAPS))))
    weights = np.array(SCALE_WEIGHTS[:scales])
    if scales < len(SCALE_WEIGHTS):
        weights /= weights.sum()
    product = np.ones(x.shape[2])
    for scale, weight in enumerate(weights):
        luminance, contrast = _terms(x, y)
        term = (luminance * contrast if scale == scales - 1 else contrast).mean(axis=(0, 1))
        product *= np.maximum(term, 0) ** weight
        x, y = _halved(x), _halved(y)
    return float(product.mean())


def _terms(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luminance, and contrast times structure, of every window. [H - 10, W - 10, C]"""
    mean_x, mean_y = _blurred(x), _blurred(y)
    variances = _blurred(x * x) - mean_x**2 + _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    return (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1), (2 * covariance + C2) / (variances + C2)


def _blurred(image: np.ndarray) -> np.ndarray:
    """Weighted means of windows, down and then across; only where they lie within. [H - 10, W - 10, C]"""
    height, width = image.shape[0] - len(TAPS) + 1, image.shape[1] - len(TAPS) + 1
    rows = sum(tap * image[i : i + height] for i, tap in enumerate(TAPS))
    return sum(tap * rows[:, i : i + width] for i, tap in enumerate(TAPS))


def _halved(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[0] // 2, image.shape[1] // 2
    return image[: 2 * height, : 2 * width].reshape(height, 2, width, 2, -1).mean(axis=(1, 3))
