"""Splats -> picture, at any size, scale and crop."""

from __future__ import annotations

import math
import operator

import numpy as np
from numpy.typing import NDArray

from splat2d import _cpu
from splat2d.config import Device
from splat2d.engine import LevelsEngine, engine
from splat2d.errors import InputError
from splat2d.splats import Splats

Crop = tuple[float, float, float, float]  # x, y, width, height in pixels of the canvas

_LARGEST = 1 << 31  # values of one picture; 8 GiB as float32
_SMALLEST_CROP = 1e-3  # pixels; float32 parameters carry no detail below
LOG_LIMIT, SHEAR_LIMIT = 20.0, 1e9  # the limits of the kernels, applied before a scale rather than after it
_FAR = 1e30  # pixels; keeps a mean finite in float32 whatever the scale


def render(
    splats: Splats,
    *,
    width: int | None = None,
    height: int | None = None,
    scale: float | None = None,
    crop: Crop | None = None,
    device: Device = "auto",
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Renders splats to float32 [height, width, C]; antialiased where the output is smaller than the canvas.

    crop is (x, y, width, height) in pixels of the canvas, cut first; it may reach beyond the canvas. width, height
    or scale give the size of that crop in the output: scale alone, or width, height or both; one of them alone keeps
    the aspect, none keeps the pixels. threads=None uses every core. Raises InputError.
    """
    crop = _checked_crop(splats, crop)
    out_width, out_height = output_size(crop, width, height, scale)
    if out_width * out_height * splats.channels > _LARGEST:
        raise InputError(
            f"render: {out_width}x{out_height} pixels of {splats.channels} channels is more than fits; "
            "ask for a smaller size or render it in crops"
        )
    if crop == (0, 0, out_width, out_height):  # nothing to move
        means, log_cholesky, colors = splats.means, splats.log_cholesky, splats.colors
    else:
        moved, shapes, factor = to_output(
            splats.means.astype(np.float64),
            splats.log_cholesky.astype(np.float64),
            np.array(crop[:2], np.float64),
            np.array([out_width / crop[2], out_height / crop[3]]),
        )
        means, log_cholesky = moved.astype(np.float32), shapes.astype(np.float32)
        colors = (splats.colors * factor[:, None]).astype(np.float32)
    return engine(device).render(means, log_cholesky, colors, splats.background, out_height, out_width, threads)


def render_levels(splats: Splats, *, device: Device = "auto", threads: int | None = None) -> NDArray[np.uint8]:
    """The whole canvas as a picture of 8 bits [height, width, C]; sooner than levels_of(render(splats)), and equal.

    Values are clamped to [0, 1]; of four channels the last is alpha, and divided out of the others.
    """
    made = engine(device)
    arrays = splats.means, splats.log_cholesky, splats.colors, splats.background
    if isinstance(made, LevelsEngine):
        return made.render_levels(*arrays, splats.height, splats.width, threads)
    return _cpu.levels(made.render(*arrays, splats.height, splats.width, threads))


def to_output(
    means: NDArray[np.float64],
    log_cholesky: NDArray[np.float64],
    origin: NDArray[np.float64],
    scale: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Splats of the canvas -> splats of the output: means, log_cholesky and the factor [N] of the amplitudes.

    mean' = (mean - origin) * scale and L' = diag(scale) L. Where the scale (x, y) is below 1, Sigma'' =
    Sigma' + diag(v) with v = (1 - scale^2) / 12: the variance of a box of one output pixel beyond that of one pixel
    of the fit.
    """
    means = np.clip((means - origin) * scale, -_FAR, _FAR)
    a, c = (np.clip(log_cholesky[:, i], -LOG_LIMIT, LOG_LIMIT) + math.log(scale[i // 2]) for i in (0, 2))
    b = np.clip(log_cholesky[:, 1], -SHEAR_LIMIT, SHEAR_LIMIT) * scale[1]
    vx, vy = (1 - np.minimum(scale, 1) ** 2) / 12
    if vx == 0 and vy == 0:
        return means, np.stack([a, b, c], axis=1), np.ones(len(means))
    # The Cholesky factor of Sigma'', written so that nothing cancels: with l1^2 = e^2a + vx,
    # b''^2 = b^2 (1 - vx / l1^2), hence e^2c'' = b^2 + e^2c + vy - b''^2 = e^2c + vy + b^2 vx / l1^2.
    var_x = np.exp(2 * a) + vx
    wide_a = np.log(var_x) / 2
    wide_b = b * np.exp(a - wide_a)
    wide_c = np.log(np.exp(2 * c) + vy + b**2 * (vx / var_x)) / 2
    return means, np.stack([wide_a, wide_b, wide_c], axis=1), np.exp(a + c - wide_a - wide_c)


def _checked_crop(splats: Splats, crop: Crop | None) -> Crop:
    """The crop as floats, the whole canvas for None. Raises InputError."""
    if crop is None:
        return 0.0, 0.0, float(splats.width), float(splats.height)
    try:
        x, y, width, height = (float(value) for value in crop)
    except (TypeError, ValueError):
        raise InputError(f"render: crop must be four numbers, x y width height in pixels, got {crop!r}") from None
    if not all(math.isfinite(value) for value in (x, y, width, height)) or min(width, height) < _SMALLEST_CROP:
        raise InputError(f"render: crop must be finite with a width and height of 0.001 or more, got {crop!r}")
    if x >= splats.width or y >= splats.height or x + width <= 0 or y + height <= 0:
        raise InputError(f"render: crop {crop!r} lies outside the canvas of {splats.width}x{splats.height} pixels")
    return x, y, width, height


def output_size(crop: Crop, width: int | None, height: int | None, scale: float | None) -> tuple[int, int]:
    """Width and height of the output in pixels. Raises InputError."""
    if scale is not None and (width is not None or height is not None):
        raise InputError("render: give scale, or width and height, not both")
    if scale is not None and not (math.isfinite(scale) and scale > 0):
        raise InputError(f"render: scale must be a finite number above 0, got {scale}")
    for name, value in (("width", width), ("height", height)):
        try:
            if value is not None and operator.index(value) < 1:
                raise InputError(f"render: {name} must be at least 1 pixel, got {value}")
        except TypeError:
            raise InputError(f"render: {name} must be a whole number of pixels, got {value!r}") from None
    if width is not None:
        return width, height or _rounded(crop[3] * width / crop[2])
    if height is not None:
        return _rounded(crop[2] * height / crop[3]), height
    return _rounded(crop[2] * (scale or 1)), _rounded(crop[3] * (scale or 1))


def _rounded(pixels: float) -> int:
    return max(1, math.floor(min(pixels, float(_LARGEST)) + 0.5))
