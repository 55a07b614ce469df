"""Splats as files of other programs: SVG, and PLY for viewers of 3D Gaussian splats. Both are approximations.

Those programs lay translucent ellipses one over another, where splats add up and may subtract. So every splat becomes a
layer `over` those beneath it: largest first, each with the colour and the least opacity that bring the picture so far
nearest to the sum so far. What one layer misses, the next ones make up for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splat2d._cpu import CUTOFF
from splat2d.atomic import write_bytes
from splat2d.editing import map_colors
from splat2d.errors import InputError
from splat2d.rendering import LOG_LIMIT, SHEAR_LIMIT
from splat2d.splats import Splats

Floats = NDArray[np.float32]

SUFFIXES = (".svg", ".ply")
WHAT = "2D Gaussian splats, approximated by layers"  # a file says so

RADIUS = math.sqrt(2 * CUTOFF)  # standard deviations; the edge of a splat
# Radii at which a gradient has the height of a Gaussian; it is straight in between, and ends at 0.
STOPS = (0.0, 0.35, 0.65, 0.95, 1.3, 1.7, 2.1, 2.6, RADIUS)

OPAQUE = 0.99  # of a layer; 3D viewers allow no more
FAINTEST = 1 / 255  # a layer below changes no picture of 8 bits
GROUND = 24  # Gaussians along the longer side of the ground of a PLY scene
SIDE = 4.0  # of a PLY scene, in its units
DISTANCE = 4.0  # of the eye that the scene is made for
DEEPEST = 1.0  # a layer lies as deep as it is large, up to this
BEHIND = 1.3  # the depth of the ground
FLAT = 1e-4  # standard deviation of its Gaussians in depth
SH0 = 0.28209479177387814  # the constant spherical harmonic, 1 / sqrt(4 pi)


def export(path: Path, splats: Splats) -> None:
    """Writes splats for other programs, as the suffix says. Raises InputError."""
    write_bytes(path, svg(splats).encode() if path.suffix.lower() == ".svg" else ply(splats))


def svg(splats: Splats) -> str:
    """An SVG picture of splats of 1, 3 or 4 channels: a radial gradient each, without blend modes or scripts.

    Approximate: see the head of this module. RGBA is laid on white. Raises InputError.
    """
    splats = _three_channels(splats, ".svg")
    ground = splats.background.clip(0, 1)
    picture = np.empty((splats.height, splats.width, 3), np.float32)
    picture[:] = ground
    layers = _layers(splats, picture, _gradient)
    size = f'width="{splats.width}" height="{splats.height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {splats.width} {splats.height}">',
        f"<desc>{WHAT}</desc>",
        f'<rect {size} fill="{_hex(ground)}"/>',
    ]
    names: dict[str, str] = {}
    for splat, opacity, color in zip(layers.order, layers.opacity, layers.colors, strict=True):
        fill = _hex(color)
        if fill not in names:
            names[fill] = f"g{len(names)}"
            stops = "".join(
                f'<stop offset="{radius / RADIUS:.3g}" stop-color="{fill}" stop-opacity="{_height(radius):.3g}"/>'
                for radius in STOPS
            )
            lines.append(f'<radialGradient id="{names[fill]}">{stops}</radialGradient>')
        a, b, c = splats.log_cholesky[splat].astype(np.float64)
        x, y = splats.means[splat]
        # The unit circle becomes the edge of the splat.
        matrix = (RADIUS * math.exp(a), RADIUS * b, 0, RADIUS * math.exp(c), x, y)
        numbers = " ".join(f"{value:.6g}" for value in matrix)
        lines.append(
            f'<circle r="1" transform="matrix({numbers})" fill="url(#{names[fill]})" fill-opacity="{opacity:.4g}"/>'
        )
    return "\n".join([*lines, "</svg>", ""])


def ply(splats: Splats) -> bytes:
    """A scene for viewers of 3D Gaussian splats, with the property names of Kerbl et al. 2023 (degree 0), binary.

    The canvas stands at the origin, its longer side 4 units long, y downwards as usual in these files, its front
    towards +z, from where SuperSplat looks first. Viewers sort by distance, of which they have several ideas. So a
    layer lies as far behind the canvas as it is large, over a ground of wide Gaussians, and is enlarged to look right
    from 4 units away. To be seen about from the front; no border cuts off what reaches beyond it. Approximate as svg()
    is. Raises InputError.
    """
    splats = _three_channels(splats, ".ply")
    ground = _ground(splats)
    picture = np.zeros((splats.height, splats.width, 3), np.float32)
    for index in range(len(ground)):
        window, weight = _weight(ground, index, np.exp)
        part = picture[window]
        part += np.float32(OPAQUE) * weight[..., None] * (ground.colors[index] - part)
    layers = _layers(splats, picture, np.exp)
    unit = SIDE / max(splats.width, splats.height)
    shapes = splats.log_cholesky[layers.order].astype(np.float64)
    depth = (unit * np.exp((shapes[:, 0] + shapes[:, 2]) / 2)).clip(max=DEEPEST)
    behind = np.full(len(ground), BEHIND)
    everything = np.arange(len(ground))
    rows = np.concatenate(
        [
            _rows(ground, everything, np.full(len(ground), OPAQUE), ground.colors, behind),
            _rows(splats, layers.order, layers.opacity, layers.colors, depth),
        ]
    )
    header = ["ply", "format binary_little_endian 1.0", f"comment {WHAT}"]
    header += [f"element vertex {len(rows)}", *(f"property float {name}" for name in PROPERTIES), "end_header", ""]
    return "\n".join(header).encode() + rows.astype("<f4").tobytes()


PROPERTIES = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)


@dataclass(frozen=True)
class _Layers:
    """Translucent layers from back to front: layer i has the place and the shape of splat order[i]."""

    order: NDArray[np.int64]  # [n]
    opacity: NDArray[np.float64]  # [n], up to OPAQUE
    colors: Floats  # [n, 3] in [0, 1], multiples of 1/255


def _layers(splats: Splats, picture: Floats, height: Callable[[Floats], Floats]) -> _Layers:
    """The layers that come nearest to the sum, over a picture [H, W, 3] of values in [0, 1], which they change.

    height: of a layer's weight, as a function of -q / 2. Layers that would show nothing are left out.
    """
    total = np.empty_like(picture)
    total[:] = splats.background
    order = np.argsort(-(splats.log_cholesky[:, 0] + splats.log_cholesky[:, 2]), kind="stable")
    kept, opacities, colors = [], [], []
    for index in order:
        window, exact = _weight(splats, index, np.exp)
        if exact.size == 0:
            continue
        total[window] += exact[..., None] * splats.colors[index]
        _, weight = _weight(splats, index, height)
        energy = float((weight**2).sum())
        if energy < FAINTEST:  # between the pixels, or on their edge
            continue
        part = picture[window]
        # Least squares: what the layer should add at its middle, and what it finds there.
        missing = np.tensordot(weight, total[window] - part, 2) / energy
        found = np.tensordot(weight**2, part, 2) / energy
        # The smallest opacity with which a colour in [0, 1] adds that.
        room = np.where(missing > 0, 1 - found, found).clip(1e-3)
        opacity = float((abs(missing) / room).max().clip(0, OPAQUE))
        if opacity < FAINTEST:
            continue
        color = np.rint((found + missing / opacity).clip(0, 1) * 255).astype(np.float32) / np.float32(255)
        part += np.float32(opacity) * weight[..., None] * (color - part)
        kept.append(index)
        opacities.append(opacity)
        colors.append(color)
    return _Layers(np.array(kept, np.int64), np.array(opacities), np.array(colors, np.float32).reshape(-1, 3))


def _weight(splats: Splats, index: int, height: Callable[[Floats], Floats]) -> tuple[tuple[slice, slice], Floats]:
    """The rows and columns that a splat touches, and its weight there, 0 beyond its edge."""
    x, y = splats.means[index].astype(np.float64)
    a, b, c = splats.log_cholesky[index].astype(np.float64)
    sizes = ((y, RADIUS * math.hypot(b, math.exp(c)), splats.height), (x, RADIUS * math.exp(a), splats.width))
    rows, columns = (
        slice(max(0, math.floor(at - reach)), max(0, min(size, math.ceil(at + reach)))) for at, reach, size in sizes
    )
    z0 = (np.arange(columns.start, columns.stop) + 0.5 - x) / math.exp(a)
    z1 = (np.arange(rows.start, rows.stop)[:, None] + 0.5 - y - b * z0) / math.exp(c)
    half_q = ((z0**2 + z1**2) / 2).astype(np.float32)
    return (rows, columns), np.where(half_q <= CUTOFF, height(-half_q), np.float32(0))


def _gradient(minus_half_q: Floats) -> Floats:
    """The height of the gradient of SVG."""
    radius = np.sqrt(-2 * minus_half_q)
    return np.interp(radius, STOPS, [_height(stop) for stop in STOPS]).astype(np.float32)


def _height(radius: float) -> float:
    return math.exp(-(radius**2) / 2) if radius < RADIUS else 0.0


def _hex(color: Floats) -> str:
    return "#" + "".join(f"{round(255 * float(value)):02x}" for value in color)


def _three_channels(splats: Splats, what: str) -> Splats:
    """As RGB, with limits on the shapes as the kernels have them. Raises InputError."""
    if splats.channels == 1:
        splats = map_colors(splats, np.ones((3, 1)))
    elif splats.channels == 4:  # colour + (1 - alpha) white
        splats = map_colors(splats, np.hstack([np.eye(3), -np.ones((3, 1))]), np.ones(3))
    elif splats.channels != 3:
        raise InputError(f"{what} shows grey, RGB and RGBA; of {splats.channels} channels choose some first")
    limits = np.array([LOG_LIMIT, SHEAR_LIMIT, LOG_LIMIT], np.float32)
    return Splats(
        splats.means,
        splats.log_cholesky.clip(-limits, limits),
        splats.colors,
        splats.width,
        splats.height,
        splats.background,
    )


def _ground(splats: Splats) -> Splats:
    """A grid of wide Gaussians that cover the canvas with its background."""
    step = max(splats.width, splats.height) / GROUND
    counts = [max(1, round(size / step)) for size in (splats.width, splats.height)]
    x, y = (
        (np.arange(count) + 0.5) * size / count
        for count, size in zip(counts, (splats.width, splats.height), strict=True)
    )
    means = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)
    sigma = math.log(0.7 * step)  # wide enough to leave no seams
    shapes = np.broadcast_to(np.array([sigma, 0, sigma], np.float32), (len(means), 3))
    colors = np.broadcast_to(splats.background.clip(0, 1), (len(means), 3))
    return Splats(means, shapes, colors, splats.width, splats.height, splats.background)


def _rows(
    splats: Splats,
    order: NDArray[np.int64],
    opacity: NDArray[np.float64],
    colors: Floats,
    depth: NDArray[np.float64],
) -> NDArray[np.float64]:
    """PROPERTIES of these layers at depths [n] behind the canvas: [n, 17]."""
    unit = SIDE / max(splats.width, splats.height) * (1 + depth / DISTANCE)  # of a pixel, seen from DISTANCE
    a, b, c = splats.log_cholesky[order].astype(np.float64).T
    xx, xy, yy = np.exp(2 * a), b * np.exp(a), b**2 + np.exp(2 * c)
    long_axis = np.sqrt((xx + yy) / 2 + np.hypot((xx - yy) / 2, xy))
    angle = -np.arctan2(2 * xy, xx - yy) / 2  # x runs to the left
    rows = np.zeros((len(order), len(PROPERTIES)))
    x, y = (splats.means[order] - np.array([splats.width, splats.height]) / 2).T
    rows[:, 0], rows[:, 1], rows[:, 2] = -x * unit, y * unit, -depth
    rows[:, 6:9] = (colors - 0.5) / SH0
    rows[:, 9] = np.log(opacity / (1 - opacity))
    rows[:, 10] = np.log(long_axis * unit)
    rows[:, 11] = a + c - np.log(long_axis) + np.log(unit)  # the product of the axes is sqrt(det Sigma)
    rows[:, 12] = math.log(FLAT * SIDE)
    rows[:, 13], rows[:, 16] = np.cos(angle / 2), np.sin(angle / 2)  # a turn about z; w, x, y, z
    return rows
