"""Splats -> other splats: places, colours, choices and mixtures, each exact on the formula of docs/conventions.md.

Pictures here are those that splats stand for, unclamped and endless: beyond the canvas lie the background and the tails
of splats, so what an edit uncovers shows these. All functions return new splats and raise InputError.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from splat2d._cpu import CUTOFF
from splat2d.errors import InputError
from splat2d.rendering import LOG_LIMIT, SHEAR_LIMIT, output_size, to_output
from splat2d.splats import Splats

Box = tuple[float, float, float, float]  # x, y, width, height in pixels of the canvas

LUMA = (0.2126, 0.7152, 0.0722)  # of red, green and blue; Rec. 709, as the saturate() of CSS
GAMMA = 2.2  # the power law nearest to the transfer function of sRGB

_QUARTERS = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))  # cosine and sine, without the error of the library


# Places


def transform(
    splats: Splats,
    matrix: ArrayLike,
    offset: ArrayLike = (0, 0),
    *,
    width: int | None = None,
    height: int | None = None,
) -> Splats:
    """The picture moved by an affine map: what was at p lies at `matrix @ p + offset`, on a canvas of this size.

    matrix: [2, 2], invertible. offset: [2], pixels. mean' = matrix mean + offset and L' L'^T = matrix L L^T matrix^T.
    """
    m, shift = np.array(matrix, np.float64), np.array(offset, np.float64)
    if m.shape != (2, 2) or shift.shape != (2,) or not (np.isfinite(m).all() and np.isfinite(shift).all()):
        raise InputError(f"transform: expected a finite matrix [2, 2] and offset [2], got {matrix!r} and {offset!r}")
    determinant = abs(m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0])
    if determinant == 0:
        raise InputError(f"transform: the matrix {m.tolist()} flattens the picture; give one that can be inverted")
    a, b, c = np.clip(splats.log_cholesky.T.astype(np.float64), *_limits())
    # The rows of matrix L. Their lengths and angle are those of the rows of L', which is lower triangular.
    row_x = m[0, 0] * np.exp(a) + m[0, 1] * b, m[0, 1] * np.exp(c)
    row_y = m[1, 0] * np.exp(a) + m[1, 1] * b, m[1, 1] * np.exp(c)
    along_x = np.hypot(*row_x)
    new_a = np.log(along_x)
    new_b = (row_x[0] * row_y[0] + row_x[1] * row_y[1]) / along_x
    new_c = a + c + math.log(determinant) - new_a  # from the determinant, where nothing cancels
    return replace(
        splats,
        means=(splats.means @ m.T + shift).astype(np.float32),
        log_cholesky=np.stack([new_a, new_b, new_c], axis=1, dtype=np.float32),
        width=splats.width if width is None else width,
        height=splats.height if height is None else height,
    )


def translate(splats: Splats, dx: float, dy: float) -> Splats:
    """The picture moved by so many pixels to the right and down, on the same canvas."""
    return transform(splats, np.eye(2), (dx, dy))


def rotate(splats: Splats, degrees: float, *, expand: bool = True) -> Splats:
    """The picture turned counter-clockwise about the middle of its canvas.

    expand: the canvas grows to hold the corners, and a quarter turn swaps its sides; otherwise it stays as it is.
    """
    if not math.isfinite(degrees):
        raise InputError(f"rotate: the angle must be a finite number of degrees, got {degrees}")
    angle = math.radians(degrees % 360)
    whole = (degrees / 90).is_integer()
    cos, sin = _QUARTERS[int(degrees // 90) % 4] if whole else (math.cos(angle), math.sin(angle))
    matrix = np.array([[cos, sin], [-sin, cos]])  # y runs downwards
    size = np.array([splats.width, splats.height], np.float64)
    # The hair's breadth keeps rounding errors from adding a row.
    new = np.ceil(abs(matrix) @ size - 1e-6) if expand else size
    return transform(splats, matrix, new / 2 - matrix @ size / 2, width=int(new[0]), height=int(new[1]))


def flip(splats: Splats, direction: Literal["horizontal", "vertical"]) -> Splats:
    """The mirror image; horizontal swaps left and right, vertical swaps top and bottom."""
    if direction == "horizontal":
        return transform(splats, np.diag([-1.0, 1.0]), (splats.width, 0))
    if direction == "vertical":
        return transform(splats, np.diag([1.0, -1.0]), (0, splats.height))
    raise InputError(f'flip: "{direction}" is unknown; choose horizontal or vertical')


def crop(splats: Splats, box: Box) -> Splats:
    """The part x, y, width, height of the canvas as a canvas of its own; it may reach beyond the old one.

    Splats that touch no point of the part are left out.
    """
    x, y, width, height = _box(box, "crop")
    size = [_whole(value, "crop: width and height") for value in (width, height)]
    if x >= splats.width or y >= splats.height or x + width <= 0 or y + height <= 0:
        raise InputError(f"crop: {box!r} lies outside the canvas of {splats.width}x{splats.height} pixels")
    moved = transform(splats, np.eye(2), (-x, -y), width=size[0], height=size[1])
    a, b, c = np.clip(moved.log_cholesky.T.astype(np.float64), *_limits())
    reach = math.sqrt(2 * CUTOFF) * np.stack([np.exp(a), np.hypot(b, np.exp(c))], axis=1)
    touches = ((moved.means + reach >= 0) & (moved.means - reach <= size)).all(axis=1)
    return moved.take(np.flatnonzero(touches))


def resize_canvas(splats: Splats, width: int, height: int, *, anchor: tuple[float, float] = (0.5, 0.5)) -> Splats:
    """A canvas of another size over the same picture: cut where smaller, uncovering where larger.

    anchor: how much of the difference goes to the left and to the top, 0 to 1; in whole pixels.
    """
    return crop(
        splats,
        (
            math.floor((splats.width - width) * anchor[0]),
            math.floor((splats.height - height) * anchor[1]),
            width,
            height,
        ),
    )


def resize(
    splats: Splats, *, width: int | None = None, height: int | None = None, scale: float | None = None
) -> Splats:
    """The picture enlarged or made smaller, with its canvas: what render() draws at this size, as splats.

    A smaller picture is antialiased as render() does it: the splats grow by the footprint of the larger pixels.
    """
    canvas = (0.0, 0.0, float(splats.width), float(splats.height))
    new_width, new_height = output_size(canvas, width, height, scale)
    means, log_cholesky, factor = to_output(
        splats.means.astype(np.float64),
        splats.log_cholesky.astype(np.float64),
        np.zeros(2),
        np.array([new_width / splats.width, new_height / splats.height]),
    )
    return replace(
        splats,
        means=means.astype(np.float32),
        log_cholesky=log_cholesky.astype(np.float32),
        colors=(splats.colors * factor[:, None]).astype(np.float32),
        width=new_width,
        height=new_height,
    )


# Colours


def map_colors(splats: Splats, matrix: ArrayLike, offset: ArrayLike | None = None) -> Splats:
    """The picture with every colour c replaced by `matrix @ c + offset`; the number of channels may change.

    matrix: [C', C]; offset: [C'], none unless given. The amplitudes take the matrix, the background both.
    """
    m = np.array(matrix, np.float64)
    if m.ndim != 2 or m.shape[1] != splats.channels:
        raise InputError(f"map_colors: expected a matrix [C', {splats.channels}], got shape {m.shape}")
    shift = np.zeros(len(m)) if offset is None else np.array(offset, np.float64)
    if shift.shape != (len(m),):
        raise InputError(f"map_colors: expected an offset of shape ({len(m)},), got {shift.shape}")
    background = (m @ splats.background + shift).astype(np.float32)
    return replace(splats, colors=(splats.colors @ m.T).astype(np.float32), background=background)


def recolor(
    splats: Splats,
    *,
    exposure: float = 0.0,
    brightness: float = 0.0,
    contrast: float = 1.0,
    saturation: float = 1.0,
    gamma: float = GAMMA,
) -> Splats:
    """The picture of 1, 3 or 4 channels in other colours: c' = contrast (gain c - 1/2) + 1/2 + brightness, where
    gain = 2^(exposure / gamma); then each channel moves away from the luma by the factor saturation (0: grey).

    exposure: stops, exact for pictures whose values are light to the power 1 / gamma: about so for sRGB; 1 for values
    that are proportional to light. Values are not clamped. Of premultiplied RGBA the colour changes and alpha stays.
    """
    for name, value in (("exposure", exposure), ("brightness", brightness)):
        if not math.isfinite(value):
            raise InputError(f"recolor: {name} must be finite, got {value}")
    for name, value in (("contrast", contrast), ("saturation", saturation), ("gamma", gamma)):
        if not 0 <= value < math.inf or (name == "gamma" and value == 0):
            raise InputError(
                f"recolor: {name} must be finite and {'above 0' if name == 'gamma' else '0 or more'}, got {value}"
            )
    if splats.channels not in (1, 3, 4):
        raise InputError(f"recolor: is for grey, RGB and RGBA; of {splats.channels} channels use map_colors")
    try:
        gain = contrast * 2 ** (exposure / gamma)
    except OverflowError:
        raise InputError(f"recolor: an exposure of {exposure} stops is more than numbers hold") from None
    shift = 0.5 * (1 - contrast) + brightness
    if splats.channels == 1:
        return map_colors(splats, [[gain]], [shift])
    matrix = gain * (saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), LUMA))
    if splats.channels == 3:
        return map_colors(splats, matrix, [shift] * 3)
    # With the colour premultiplied, what is added to it is added in proportion to alpha.
    return map_colors(splats, np.block([[matrix, np.full((3, 1), shift)], [np.zeros((1, 3)), np.ones((1, 1))]]))


# Choices and mixtures


def select(splats: Splats, region: Box | NDArray[Any], *, outside: bool = False) -> Splats:
    """The splats whose means lie in a region: a box x, y, width, height, or a mask [height, width] of the canvas.

    outside: all others instead. The two choices together are the whole: concatenate() of them is the same picture.
    """
    x, y = splats.means.T
    if isinstance(region, np.ndarray) and region.ndim == 2:
        if region.shape != (splats.height, splats.width):
            height, width = region.shape
            raise InputError(
                f"select: the mask has {width}x{height} pixels, the canvas {splats.width}x{splats.height}; "
                "make them equal"
            )
        within = (x >= 0) & (y >= 0) & (x < splats.width) & (y < splats.height)
        column, row = (np.where(within, axis, 0).astype(np.int64) for axis in (x, y))
        within &= region.astype(bool)[row, column]
    else:
        left, top, width, height = _box(region, "select")
        within = (x >= left) & (y >= top) & (x < left + width) & (y < top + height)
    return splats.take(np.flatnonzero(within != outside))


def concatenate(parts: Sequence[Splats]) -> Splats:
    """The splats of all parts on canvas and background of the first: its picture, plus what the others add to theirs.

    Light adds up: a part brightens or darkens what lies beneath, it does not hide it.
    """
    if not parts:
        raise InputError("concatenate: there are no splats to join; give at least one set")
    first = parts[0]
    for part in parts:
        _same_channels(first, part, "concatenate")
    return replace(
        first,
        means=np.concatenate([part.means for part in parts]),
        log_cholesky=np.concatenate([part.log_cholesky for part in parts]),
        colors=np.concatenate([part.colors for part in parts]),
    )


def overlay(base: Splats, top: Splats, *, x: float = 0.0, y: float = 0.0) -> Splats:
    """base with the splats of top added, the corner of whose canvas lies at x, y; see concatenate()."""
    return concatenate([base, translate(top, x, y)])


def cross_fade(first: Splats, second: Splats, amount: float) -> Splats:
    """The picture (1 - amount) first + amount second, of any two on canvases of one size; 0 <= amount <= 1."""
    amount = _amount(first, second, amount, "cross_fade")
    both = concatenate(
        [replace(first, colors=first.colors * (1 - amount)), replace(second, colors=second.colors * amount)]
    )
    return replace(both, background=first.background * (1 - amount) + second.background * amount)


def blend(first: Splats, second: Splats, amount: float) -> Splats:
    """Each splat on its way from first to second: places, shapes and colours move, instead of fading.

    For two sets of one origin, where splat i of the one has become splat i of the other: an edit, or a later state of a
    fit. Means and colours move along straight lines, covariances along the geodesic of the log-Cholesky metric (Lin
    2019), which is straight in (a, b, c). 0 <= amount <= 1.
    """
    amount = _amount(first, second, amount, "blend")
    if len(first) != len(second):
        raise InputError(
            f"blend: {len(first)} and {len(second)} splats do not pair up; blend two states of the same splats, "
            "or use cross_fade"
        )
    return replace(
        first,
        means=first.means * (1 - amount) + second.means * amount,
        log_cholesky=first.log_cholesky * (1 - amount) + second.log_cholesky * amount,
        colors=first.colors * (1 - amount) + second.colors * amount,
        background=first.background * (1 - amount) + second.background * amount,
    )


def _limits() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of a, b, c, as the kernels have them: [3, 1] each."""
    limits = np.array([[LOG_LIMIT], [SHEAR_LIMIT], [LOG_LIMIT]])
    return -limits, limits


def _box(box: Any, what: str) -> Box:
    try:
        x, y, width, height = (float(value) for value in box)
    except (TypeError, ValueError):
        raise InputError(f"{what}: expected four numbers, x y width height in pixels, got {box!r}") from None
    if not all(map(math.isfinite, (x, y, width, height))) or min(width, height) <= 0:
        raise InputError(f"{what}: the box must be finite with a width and height above 0, got {box!r}")
    return x, y, width, height


def _whole(value: float, what: str) -> int:
    if value != int(value):
        raise InputError(f"{what} must be whole numbers of pixels, got {value:g}")
    return int(value)


def _amount(first: Splats, second: Splats, amount: float, what: str) -> float:
    """The amount, of two pictures that can be mixed. Raises InputError."""
    _same_channels(first, second, what)
    if (first.width, first.height) != (second.width, second.height):
        raise InputError(
            f"{what}: the canvases differ ({first.width}x{first.height} and {second.width}x{second.height} pixels); "
            "make them equal first, by crop or resize"
        )
    if not 0 <= amount <= 1:
        raise InputError(f"{what}: the amount must be 0 to 1, got {amount}")
    return float(amount)


def _same_channels(first: Splats, second: Splats, what: str) -> None:
    if first.channels != second.channels:
        raise InputError(f"{what}: {first.channels} and {second.channels} channels do not mix; make them equal first")
