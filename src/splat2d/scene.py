"""The demo's picture: a lake at dusk, drawn in code. It has gradients, edges, texture and fine text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Array = NDArray[np.float32]
Color = tuple[float, float, float]

WIDTH, HEIGHT = 768, 512
FINE = 3  # drawn this many times larger, then averaged: antialiasing
SHORE = 330  # the row where land meets water
SUN = (520, 236, 34)  # x, y, radius
INK = (14, 20, 34)

SKY: list[tuple[float, Color]] = [
    (0.00, (0.07, 0.11, 0.29)),
    (0.40, (0.30, 0.25, 0.50)),
    (0.68, (0.84, 0.44, 0.47)),
    (0.88, (0.99, 0.72, 0.42)),
    (1.00, (1.00, 0.88, 0.60)),
]
# foot, height, corners of the coarsest outline, colour, strength of the relief
HILLS: list[tuple[float, float, int, Color, float]] = [
    (322, 112, 5, (0.60, 0.42, 0.57), 0.60),
    (332, 80, 6, (0.37, 0.28, 0.46), 0.72),
    (336, 42, 9, (0.15, 0.16, 0.28), 0.54),
]
LINES = [
    (64, 22, "splat2d"),
    (17, 102, "a picture as a sum of Gaussians"),
    (12, 127, "each one a place, a shape and a colour"),
    (9, 146, "more where there is more to see, down to letters as small as these"),
]


def draw() -> Array:
    """The picture, float32 [512, 768, 3], the same every time."""
    rng = np.random.default_rng(2)
    y, x = (axis.astype(np.float32) / FINE for axis in np.mgrid[: HEIGHT * FINE, : WIDTH * FINE])
    land = _hills(_sky(x, y, rng), y, rng)
    return _foreground(_water(land, x, y, rng), rng)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], rows: float, columns: float, octaves: int) -> Array:
    """Smooth noise [shape]: random grids of rows x columns, doubled at every octave and halved in strength."""
    height, width = shape
    out = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        grid = rng.standard_normal((int(rows * 2**octave), int(columns * 2**octave))).astype(np.float32)
        out += np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)) / 2**octave
    return out


def _outline(rng: np.random.Generator, corners: int) -> Array:
    """A mountain ridge, 0..1, a value for every fine column."""
    at = np.linspace(0, 1, WIDTH * FINE)
    out = np.zeros(at.shape, np.float32)
    for octave in range(7):
        points = corners * 2**octave + 2
        out += np.interp(at, np.linspace(0, 1, points), rng.uniform(-1, 1, points)) * 0.55**octave
    low, high = float(out.min()), float(out.max())
    return (out - low) / (high - low)


def _sky(x: Array, y: Array, rng: np.random.Generator) -> Array:
    at, colors = zip(*SKY, strict=True)
    channels = [np.interp(y / SHORE, at, channel) for channel in zip(*colors, strict=True)]
    sky: Array = np.stack(channels, axis=-1).astype(np.float32)
    stars = (rng.random((HEIGHT, WIDTH)) > 1 - 6e-4) * rng.random((HEIGHT, WIDTH))
    sky += (np.kron(stars, np.ones((FINE, FINE))) * np.clip(1 - y / 170, 0, 1))[..., None].astype(np.float32)
    band = np.exp(-(((y - 205) / 38) ** 2))
    clouds = np.clip(_noise(rng, y.shape, 9, 2.5, 6) * 0.45 + band * 0.5 - 0.35, 0, 1) * band
    sky += clouds[..., None] * np.array([0.55, 0.22, 0.12], np.float32)
    away = np.hypot(x - SUN[0], y - SUN[1])
    sky += 0.5 * np.exp(-away / 75)[..., None] * np.array([1.0, 0.72, 0.35], np.float32)
    sky[away < SUN[2]] = (1.0, 0.95, 0.80)
    return sky


def _hills(picture: Array, y: Array, rng: np.random.Generator) -> Array:
    rock = _noise(rng, y.shape, 14, 22, 6)
    down, right = np.gradient(rock)
    relief = (right - down) * FINE  # slopes lit from the upper right, where the sun is
    for foot, height, corners, color, strength in HILLS:
        top = foot - height * _outline(rng, corners)
        depth = np.clip((y - top) / height, 0, 1)
        shade = np.array(color, np.float32) + (relief * strength + depth * 0.10)[..., None]
        picture = np.where((y > top)[..., None], shade, picture)
    return picture


def _water(picture: Array, x: Array, y: Array, rng: np.random.Generator) -> Array:
    start = SHORE * FINE
    x, depth = x[start:], y[start:] - SHORE
    wave = np.sin(depth * 900 / (depth + 18) + 3 * _noise(rng, depth.shape, 12, 4, 3))
    row = np.clip((SHORE - 1 - depth * 1.35 + wave * (0.6 + depth * 0.05)) * FINE, 0, start - 1).astype(int)
    column = np.clip((x + wave * depth * 0.04) * FINE, 0, WIDTH * FINE - 1).astype(int)
    water = picture[row, column] * (0.86 - depth / 380)[..., None] * np.array([1.00, 0.84, 0.80], np.float32)
    glitter = np.exp(-(((x - SUN[0]) / (14 + depth * 0.35)) ** 2)) * np.clip(wave, 0, 1) ** 4
    water += glitter[..., None] * np.array([0.75, 0.50, 0.25], np.float32)
    return np.concatenate([picture[:start], water])


def _foreground(picture: Array, rng: np.random.Generator) -> Array:
    canvas = Image.fromarray((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8))
    boat = _boat()
    mirrored = boat.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    canvas.paste(mirrored, (575 * FINE, 379 * FINE), mirrored.getchannel("A").point(lambda alpha: int(alpha * 0.35)))
    canvas.paste(boat, (575 * FINE, 300 * FINE), boat)
    draw = ImageDraw.Draw(canvas)
    columns = np.arange(WIDTH * FINE) / FINE
    bank = 478 - 70 * _outline(rng, 3) + np.interp(columns, [0, 150, 330, 560], [0, 30, 95, 150])
    draw.polygon(_fine((0, HEIGHT), *zip(columns.tolist(), bank.tolist(), strict=True), (WIDTH, HEIGHT)), INK)
    for x in rng.uniform(0, 360, 700):
        foot = bank[int(x * FINE)]
        draw.line(_fine((x, foot + 2), (x + rng.normal() * 2.5, foot - rng.uniform(2, 9))), INK, 2)
    for x, height in zip(np.sort(rng.uniform(-5, 240, 17)), rng.uniform(60, 215, 17), strict=True):
        _pine(draw, x, bank[max(0, int(x * FINE))] + 6, height * (1.05 - x / 400), rng)
    for x, y, span in [(392, 66, 9), (424, 52, 7), (446, 78, 6), (374, 44, 5)]:
        for left, right in [(x - 2 * span, x), (x, x + 2 * span)]:
            draw.arc(_fine((left, y), (right, y + span)), 200, 340, (24, 22, 46), FINE)
    for size, top, line in LINES:
        draw.text((43 * FINE, top * FINE), line, (255, 242, 222), ImageFont.load_default(size * FINE))
    return np.asarray(canvas.reduce(FINE), np.float32) / np.float32(255)


def _fine(*points: tuple[float, float]) -> list[tuple[float, float]]:
    return [(x * FINE, y * FINE) for x, y in points]


def _boat() -> Image.Image:
    boat = Image.new("RGBA", (70 * FINE, 82 * FINE))
    draw = ImageDraw.Draw(boat)
    draw.polygon(_fine((6, 70), (65, 70), (57, 80), (13, 80)), (64, 24, 30))  # hull
    draw.polygon(_fine((34, 2), (36, 2), (36, 70), (34, 70)), (40, 25, 30))  # mast
    draw.polygon(_fine((38, 5), (38, 66), (66, 66)), (252, 243, 226))
    draw.polygon(_fine((32, 13), (32, 66), (9, 66)), (216, 78, 60))
    for y in range(11, 66, 11):  # seams of the white sail
        draw.line(_fine((38, y), (38 + (y - 5) * 28 / 61, y)), (196, 176, 164), 1)
    return boat


def _pine(draw: ImageDraw.ImageDraw, x: float, foot: float, height: float, rng: np.random.Generator) -> None:
    edge: list[tuple[float, float]] = []
    tiers = 6 + int(height / 16)
    for tier in range(1, tiers + 1):
        reach = height * 0.2 * tier / tiers * rng.uniform(0.8, 1.15)
        level = foot - height * (1 - 0.94 * tier / tiers)
        edge += [(reach, level), (reach * 0.4, level - height * 0.015)]
    left, right = [(x - dx, y) for dx, y in edge], [(x + dx, y) for dx, y in edge]
    draw.polygon(_fine((x, foot - height), *right, *left[::-1]), INK)
    draw.rectangle(_fine((x - height * 0.012, foot - height * 0.08), (x + height * 0.012, foot)), INK)
