"""Splats as people look at them: pictures of a size that fits a page, in red, green and blue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from splat2d.images import to_png
from splat2d.rendering import render
from splat2d.splats import Splats

Floats = NDArray[np.float32]

LARGEST = 1024  # pixels; the longer side of a picture in a notebook


def png(splats: Splats) -> bytes | None:
    """What splats of 1, 3 or 4 channels show, as a PNG file of at most 1024 pixels a side; None for other channels."""
    if splats.channels not in (1, 3, 4):
        return None
    return to_png(thumbnail(splats, LARGEST))


def thumbnail(splats: Splats, side: int) -> Floats:
    """Splats drawn with at most this many pixels a side: [h, w, C]."""
    return render(splats, scale=min(1.0, side / max(splats.width, splats.height)))


def as_rgb(image: Floats) -> Floats:
    """A picture [H, W, C] as [H, W, 3] in [0, 1]: alpha on white, the mean of channels that have no colour in grey."""
    if image.shape[2] == 4:
        image = image[..., :3] + (1 - image[..., 3:])
    elif image.shape[2] != 3:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    return image.clip(0, 1)
