"""Many small pictures on one sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splat2d.images import save_image

GAP = 2  # pixels between pictures
SMALLEST = 64  # pixels: pictures are shown at least so large


def sheet(pictures: NDArray[np.uint8], columns: int) -> NDArray[np.float32]:
    """Pictures [n, H, W, C], premultiplied, row by row with white between: [height, width, C] of 0..1."""
    count, height, width, channels = pictures.shape
    factor = max(1, -(-SMALLEST // max(height, width)))
    rows = -(-count // columns)
    tall, wide = height * factor + GAP, width * factor + GAP
    result = np.ones((rows * tall + GAP, columns * wide + GAP, channels), np.float32)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        top, left = GAP + row * tall, GAP + column * wide
        large = picture.repeat(factor, 0).repeat(factor, 1)
        result[top : top + tall - GAP, left : left + wide - GAP] = large / np.float32(255)
    return result


def save_sheet(path: Path, pictures: NDArray[np.uint8], columns: int) -> None:
    """Writes a sheet; the suffix picks the format. Raises InputError."""
    save_image(path, sheet(pictures, columns))
