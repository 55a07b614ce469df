"""What a file holds and how close two pictures are, in numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splat2d.codec import Contents, quality_of
from splat2d.codec.container import MAJOR, PACKET, PLAIN, VECTOR
from splat2d.errors import InputError
from splat2d.metrics import psnr, ssim
from splat2d.splats import Splats

TILE = 64  # pixels; large enough to mean something to the eye, small enough to find the place

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SplatsInfo:
    """Facts about splats; where there are none, the lists of their spread are empty."""

    width: int  # pixels
    height: int  # pixels
    channels: int
    splats: int
    background: list[float]
    long_axis: list[float]  # minimum, quartiles, maximum of the larger standard deviation, in pixels
    short_axis: list[float]  # and of the smaller one
    amplitude: list[float]  # smallest and largest value among the colours
    outside: int  # splats whose mean lies off the canvas


@dataclass(frozen=True, slots=True)
class ChunkInfo:
    """A part of a .s2d file after its header."""

    type: str  # P: a packet of splats; t, e, i: text, EXIF, ICC profile
    bytes: int
    splats: int  # 0 for all but packets


@dataclass(frozen=True, slots=True)
class CodingInfo:
    """What a .s2d file is made of; None for what its profile does not have."""

    version: str
    profile: int
    profile_name: str
    color_space: str
    quality: float | None
    quality_index: int | None
    cell: float | None  # pixels
    margin: int | None  # cells
    tile: int | None  # edge in pixels
    bits: dict[str, int]  # where the bits of the file went; they sum to its size
    chunks: list[ChunkInfo]
    text: dict[str, str]


@dataclass(frozen=True, slots=True)
class PictureInfo:
    """Facts about a picture."""

    width: int  # pixels
    height: int  # pixels
    channels: int
    range: list[float]  # smallest and largest value
    mean: list[float]  # of each channel


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a picture, in pixels, and how close it comes there, in dB."""

    x: int
    y: int
    width: int
    height: int
    psnr: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """How close a picture comes to another."""

    width: int  # pixels
    height: int  # pixels
    psnr: float  # dB
    ssim: float
    max_error: float  # largest difference of one value
    worst: Tile


def describe(content: Splats | Array) -> SplatsInfo | PictureInfo:
    """Facts about splats or about a picture [H, W, C]."""
    return _describe_splats(content) if isinstance(content, Splats) else _describe_picture(content)


def _describe_splats(splats: Splats) -> SplatsInfo:
    a, b, c = splats.log_cholesky.astype(np.float64).T
    a, c = a.clip(-20, 20), c.clip(-20, 20)  # as the kernels read them
    xx, xy, yy = np.exp(2 * a), b * np.exp(a), b**2 + np.exp(2 * c)
    middle, apart = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
    long_axis = np.sqrt(middle + apart)
    short_axis = np.exp(a + c) / long_axis  # the product is sqrt(det Sigma); the difference would cancel for needles
    x, y = splats.means.T
    inside = (x >= 0) & (x <= splats.width) & (y >= 0) & (y <= splats.height)
    return SplatsInfo(
        width=splats.width,
        height=splats.height,
        channels=splats.channels,
        splats=len(splats),
        background=splats.background.tolist(),
        long_axis=_spread(long_axis),
        short_axis=_spread(short_axis),
        amplitude=_range(splats.colors),
        outside=len(splats) - int(inside.sum()),
    )


def describe_coding(contents: Contents, size: int) -> CodingInfo:
    """Facts about a .s2d file of so many bytes."""
    parts = contents.container
    header = parts.header
    # Whole bits, so that the sum is exact. What the coder needs to end a packet counts as overhead.
    vector = header.profile == VECTOR
    names = ("tables" if vector else "positions", "positions" if vector else "refinement", "shape", "colour")
    bits = {name: round(found) for name, found in zip(names, contents.bits, strict=True)}
    bits["metadata"] = 8 * sum(chunk.size for chunk in parts.chunks if chunk.kind != PACKET)
    bits["overhead"] = 8 * size - sum(bits.values())
    packets = iter(parts.packets)
    return CodingInfo(
        version=f"{MAJOR}.{header.minor}",
        profile=header.profile,
        profile_name="vector" if vector else "scalar",
        color_space="plain" if header.color_space == PLAIN else "sRGB",
        quality=None if vector else quality_of(header.quality_index),
        quality_index=None if vector else header.quality_index,
        cell=None if vector else 2.0**header.cell_exponent,
        margin=None if vector else header.margin,
        tile=header.margin if vector else None,
        bits=bits,
        chunks=[
            ChunkInfo(chunk.kind.decode(), chunk.size, next(packets).count if chunk.kind == PACKET else 0)
            for chunk in parts.chunks
        ],
        text=parts.metadata.text,
    )


def _describe_picture(image: Array) -> PictureInfo:
    height, width, channels = image.shape
    mean = image.mean(axis=(0, 1), dtype=np.float64)
    return PictureInfo(width=width, height=height, channels=channels, range=_range(image), mean=mean.tolist())


def compare(image: Array, reference: Array) -> Comparison:
    """How close an image comes to a reference, both float [H, W, C] of one shape. Raises InputError."""
    for what, a, b in (("sizes", _size(image), _size(reference)), ("channels", image.shape[2], reference.shape[2])):
        if a != b:
            raise InputError(f"the {what} of the two differ ({b} and {a}); compare pictures that agree in them")
    overall = psnr(image, reference)
    if reference.min() >= 0 and reference.max() <= 1:
        image = image.clip(0, 1)  # as in psnr
    difference = image - reference
    height, width, _ = reference.shape
    return Comparison(
        width=width,
        height=height,
        psnr=overall,
        ssim=ssim(image, reference),
        max_error=float(np.abs(difference).max()),
        worst=_worst_tile(np.square(difference).mean(axis=2), overall),
    )


def _worst_tile(error: Array, overall: float) -> Tile:
    """The tile of the largest mean of the squared error [H, W], which has `overall` dB as a whole."""
    height, width = error.shape
    rows, columns = (np.arange(0, size, TILE) for size in error.shape)
    heights, widths = np.diff(rows, append=height), np.diff(columns, append=width)
    sums = np.add.reduceat(np.add.reduceat(error, rows, axis=0, dtype=np.float64), columns, axis=1)
    means = sums / (heights[:, None] * widths)
    row, column = np.unravel_index(means.argmax(), means.shape)
    return Tile(
        x=int(columns[column]),
        y=int(rows[row]),
        width=int(widths[column]),
        height=int(heights[row]),
        psnr=overall if math.isinf(overall) else overall + 10 * math.log10(sums.sum() / error.size / means.max()),
    )


def _size(image: Array) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _range(array: Array) -> list[float]:
    return [float(array.min()), float(array.max())] if array.size else []


def _spread(values: NDArray[np.float64]) -> list[float]:
    spread: list[float] = np.percentile(values, [0, 25, 50, 75, 100]).tolist() if values.size else []
    return spread
