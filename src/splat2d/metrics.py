"""How close two pictures are: PSNR and SSIM, as docs/conventions.md defines them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from splat2d import _cpu
from splat2d.errors import InputError

_CHUNK = 1 << 18  # values compared at a time, so that the float64 temporaries stay within a few MB


def psnr(image: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """Peak signal-to-noise ratio of image to reference in dB; inf if they are equal. Both float [H, W, C].

    The peak is 1 and the image is clamped to [0, 1] where the reference lies in [0, 1]; otherwise (high dynamic
    range) nothing is clamped and the peak is the largest absolute value of the reference. Raises InputError.
    """
    peak, high_range = _peak(image, reference)
    rows = max(1, _CHUNK // max(1, math.prod(reference.shape[1:])))
    total = 0.0
    for row in range(0, len(reference), rows):
        part = image[row : row + rows]
        difference = np.subtract(part if high_range else part.clip(0, 1), reference[row : row + rows], dtype=np.float64)
        total += float(np.vdot(difference, difference))
    return math.inf if total == 0 else 10 * math.log10(peak * peak * reference.size / total)


def ssim(image: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """Mean structural similarity of two float pictures [H, W, C], at most 1. Clamp and peak are those of psnr.

    Raises InputError.
    """
    peak, high_range = _peak(image, reference)
    pictures = [np.ascontiguousarray(picture, np.float32) for picture in (image, reference)]
    if high_range:
        pictures = [picture / np.float32(peak) for picture in pictures]
    elif image.min() < 0 or image.max() > 1:
        pictures[0] = pictures[0].clip(0, 1)
    return float(_cpu.ssim(*pictures))


def _peak(image: NDArray[np.floating], reference: NDArray[np.floating]) -> tuple[float, bool]:
    """The peak of a comparison, and whether it is one of high dynamic range. Raises InputError."""
    for picture in (image, reference):
        if not np.issubdtype(picture.dtype, np.floating):
            raise InputError(f"compare: expected float pictures, got {picture.dtype}; load them with load_image")
    if image.shape != reference.shape or reference.ndim != 3 or reference.size == 0:
        raise InputError(
            f"compare: expected two pictures [H, W, C] of one size, got {image.shape} and {reference.shape}"
        )
    low, high = float(reference.min()), float(reference.max())
    if not math.isfinite(low) or not math.isfinite(high) or not math.isfinite(float(image.min()) + float(image.max())):
        raise InputError("compare: every value must be finite; replace NaN and infinite pixels first")
    high_range = low < 0 or high > 1
    return max(abs(low), abs(high)) if high_range else 1.0, high_range
