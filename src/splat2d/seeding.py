"""The first splats of a fit, from the structure of the picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from splat2d import _cpu

UNIFORM_SHARE = 0.3  # of the splats are placed without regard to structure, so that smooth regions have some too
INITIAL_AMPLITUDE = 0.3  # of the colour at the mean: about three splats overlap at each pixel
SIZE = 0.6  # standard deviation per mean distance of splats


def edge_strength(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Length of the gradient of image [H, W, C] over all channels, by central differences. [H, W]"""
    height, width, _ = image.shape
    strength = np.empty((height, width), np.float32)
    for first in range(0, height, 256):  # in bands: a large photo must not cost several copies of itself
        last = min(first + 256, height)
        band = image[max(first - 1, 0) : min(last + 1, height)]
        rows = np.clip(np.arange(first, last) - max(first - 1, 0), 0, None)
        up, down = band[np.maximum(rows - 1, 0)], band[np.minimum(rows + 1, len(band) - 1)]
        here = band[rows]
        square = ((down - up) ** 2).sum(2)
        square[:, 1:-1] += ((here[:, 2:] - here[:, :-2]) ** 2).sum(2)
        if width > 1:
            square[:, 0] += ((here[:, 1] - here[:, 0]) ** 2).sum(1)
            square[:, -1] += ((here[:, -1] - here[:, -2]) ** 2).sum(1)
        strength[first:last] = np.sqrt(square)
    return strength


def initial_splats(
    image: NDArray[np.float32], background: NDArray[np.float32], count: int, sigma: float, least: float, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """count splats for image [H, W, C], more of them where the picture has structure.

    sigma, in pixels, is their size at the mean density; where they lie closer they are smaller, but not below least.
    Returns means [N, 2], log_cholesky [N, 3], colors [N, C].
    """
    height, width, _ = image.shape
    strength = edge_strength(image)
    total = float(strength.sum(dtype=np.float64))
    structured = count - round(UNIFORM_SHARE * count) if total > 0 else 0
    density = np.full((height, width), UNIFORM_SHARE if structured else 1.0, np.float32)
    if structured:
        density += strength * np.float32((1 - UNIFORM_SHARE) * height * width / total)
    pixels = np.concatenate(
        [
            _cpu.draw(np.ones((height, width), np.float32), count - structured, seed),
            _cpu.draw(strength, structured, seed + 1),
        ]
    )
    y, x = np.divmod(pixels, width)
    jitter = np.random.default_rng(seed).random((count, 2), np.float32)
    means = (np.stack([x, y], 1) + jitter).astype(np.float32)
    log_cholesky = np.zeros((count, 3), np.float32)
    wanted = (sigma / np.sqrt(np.clip(density[y, x], 0.25, 16.0))).astype(np.float32)
    size = np.maximum(wanted, np.float32(least))
    log_cholesky[:, 0] = log_cholesky[:, 2] = np.log(size)
    # Splats larger than their spacing asks for overlap more, so each takes less.
    amplitude = INITIAL_AMPLITUDE * (wanted / size) ** 2
    colors = ((image[y, x] - background) * amplitude[:, None]).astype(np.float32)
    return means, log_cholesky, colors
