"""The demo's pictures beside the splats: a JPEG file as good, an enlargement beside bicubic, the splats as ellipses."""

from __future__ import annotations

import io
import math
from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from splat2d.metrics import psnr
from splat2d.rendering import render
from splat2d.splats import Splats

Array = NDArray[np.float32]

DARK, LIGHT = (16, 17, 22), (236, 232, 224)
ZOOM = 4
PARTS = ((34, 92, 128, 72), (560, 292, 128, 72))  # x, y, width, height: the fine text, the boat
GAP, CAPTION = 12, 34  # pixels


def jpeg(image: Array, decibels: float) -> tuple[bytes, float]:
    """The smallest JPEG file that comes so close to an image [H, W, 3], or else the closest, and its PSNR."""
    found = []
    for subsampling in ("4:2:0", "4:4:4"):

        def encoded(quality: int, subsampling: str = subsampling) -> tuple[bytes, float]:
            file = io.BytesIO()
            _pillow(image).save(file, "JPEG", quality=quality, subsampling=subsampling, optimize=True)
            with Image.open(file) as picture:
                return file.getvalue(), psnr(np.asarray(picture, np.float32) / np.float32(255), image)

        found.append(encoded(1 + bisect_left(range(1, 100), decibels, key=lambda quality: encoded(quality)[1])))
    reached = [(data, of_it) for data, of_it in found if of_it >= decibels]
    return min(reached, key=lambda pair: len(pair[0])) if reached else max(found, key=lambda pair: pair[1])


def zoom(splats: Splats, image: Array) -> Array:
    """Parts of the demo picture four times enlarged: the splats drawn at that size, beside the image in bicubic.

    image: the picture of the fit, [H, W, 3]. Returns float32 [h, w, 3].
    """
    part_width, part_height = PARTS[0][2] * ZOOM, PARTS[0][3] * ZOOM
    size = (3 * GAP + 2 * part_width, CAPTION + len(PARTS) * (part_height + GAP))
    sheet = Image.new("RGB", size, DARK)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for column, caption in enumerate((f"splats, drawn {ZOOM}x larger", f"pixels, enlarged {ZOOM}x (bicubic)")):
        draw.text((GAP + column * (part_width + GAP), 8), caption, LIGHT, font)
    for row, (x, y, width, height) in enumerate(PARTS):
        drawn = _pillow(render(splats, crop=(x, y, width, height), scale=ZOOM))
        box = (x, y, x + width, y + height)
        enlarged = _pillow(image).resize((part_width, part_height), Image.Resampling.BICUBIC, box=box)
        for column, part in enumerate((drawn, enlarged)):
            sheet.paste(part, (GAP + column * (part_width + GAP), CAPTION + row * (part_height + GAP)))
    return np.asarray(sheet, np.float32) / np.float32(255)


def ellipses(splats: Splats, image: Array) -> Array:
    """Every splat as an outlined ellipse in the colour that the image has there, float32 [2 H, 2 W, 3].

    Small ones lie above large ones. image: the picture of the splats, [H, W, 3].
    """
    scale, fine, radius = 2, 2, 0.7  # radius in standard deviations: neighbours barely touch
    angle = np.linspace(0, 2 * math.pi, 28, endpoint=False)
    a, b, c = splats.log_cholesky.T
    dx = np.exp(a)[:, None] * np.cos(angle)
    dy = b[:, None] * np.cos(angle) + np.exp(c)[:, None] * np.sin(angle)
    outlines = splats.means[:, None] + radius * np.stack([dx, dy], axis=-1)  # [N, 28, 2]
    # The median over points halfway out: what a large splat is like, not the small detail at its very centre.
    points = (splats.means[:, None] + outlines[:, ::2]) / 2
    column, row = np.moveaxis(points.clip(0, (splats.width - 1, splats.height - 1)).astype(int), -1, 0)
    colors = np.median(image[row, column], axis=1).clip(0, 1) * 255
    outlines *= scale * fine

    canvas = Image.new("RGB", (splats.width * scale * fine, splats.height * scale * fine), DARK)
    draw = ImageDraw.Draw(canvas)
    for index in np.argsort(-(a + c)):
        red, green, blue = colors[index].tolist()
        fill = (int(red), int(green), int(blue))
        line = (int(red * 0.55), int(green * 0.55), int(blue * 0.55))
        draw.polygon(outlines[index].ravel().tolist(), fill, line)
    return np.asarray(canvas.reduce(fine), np.float32) / np.float32(255)


def _pillow(image: Array) -> Image.Image:
    return Image.fromarray((image.clip(0, 1) * 255 + 0.5).astype(np.uint8))
