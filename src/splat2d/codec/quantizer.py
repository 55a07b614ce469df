"""From splats to the integers of a file and back; docs/format.md, section "Model", is the norm.

One number, the quality index t, sets the step of v = e^((a + c) / 2) O colour. All other steps follow from the splat's
own energy |v|^2 as decoded, such that a step of any parameter costs the same squared error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splat2d import _cpu
from splat2d.errors import InputError
from splat2d.splats import Splats

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]

ONE = 65536  # of the fixed-point numbers
CLASSES = 64  # of energy
LEAST_ENERGY = 0.7  # |v| of class 0, in steps of v
MOST_BITS = 14  # of a position below its cell
MOST_INDEX = (1 << 20) - 1  # of v
MOST_LOG = 20  # |a|, |c|
MOST_SHEAR = 32767  # |beta|
MOST_MARGIN = 1024  # cells
QUALITY_INDICES = 256

_k = np.arange(CLASSES)
MANTISSAS = np.round(2**15 * 2 ** (-np.arange(16) / 16)).astype(np.int64)
THRESHOLDS = np.ceil(LEAST_ENERGY**2 * 2 ** (_k[1:] - 0.5)).astype(np.int64)  # of the sum of squares, classes 1..63
_UNITS = np.sqrt(2) / LEAST_ENERGY * 2 ** (-_k / 2)  # steps of a, c, x / e^a, y / e^c
STEPS_LOG = np.maximum(1, np.round(ONE * np.minimum(1, _UNITS))).astype(np.int64)
STEPS_SHEAR = np.maximum(1, np.round(ONE * np.minimum(1, np.sqrt(2) * _UNITS))).astype(np.int64)
LOG2_UNITS = np.round(ONE * np.log2(_UNITS)).astype(np.int64)
LOG2_E = 94548  # in 1 / ONE


@dataclass(frozen=True, slots=True)
class Lattice:
    """Where positions may lie: cells of 2^cell_exponent pixels, margin more of them than the canvas on every side."""

    width: int  # pixels of the canvas
    height: int
    cell_exponent: int
    margin: int

    @property
    def columns(self) -> int:
        return _cells(self.width, self.cell_exponent) + 2 * self.margin

    @property
    def rows(self) -> int:
        return _cells(self.height, self.cell_exponent) + 2 * self.margin


def _cells(pixels: int, exponent: int) -> int:
    return -(-pixels >> exponent) if exponent >= 0 else pixels << -exponent


@dataclass(frozen=True, slots=True)
class Quantized:
    """Splats as integers."""

    indices: Integers  # [N, 5 + C]: X, Y on the lattice of the splat's own precision; a, beta, c; v
    quality_index: int
    lattice: Lattice


def transform(channels: int) -> NDArray[np.float64]:
    """O: orthonormal, separates brightness from colour. [C, C]"""
    matrix = np.eye(channels)
    if channels in (3, 4):
        matrix[:3, :3] = [[1, 1, 1], [1, 0, -1], [1, -2, 1]]
        matrix[:3, :3] /= np.sqrt([[3], [2], [6]])
    return matrix


def step_of(quality_index: int) -> float:
    """The step of a component of v."""
    return float(MANTISSAS[quality_index & 15]) * 2.0 ** (2 - (quality_index >> 4) - 15)


def quality_index_of(step: float) -> int:
    """The quality index whose step is nearest."""
    return int(np.clip(round(16 * (2 - np.log2(step))), 0, QUALITY_INDICES - 1))


def energy_class(v: NDArray[np.integer]) -> NDArray[np.int64]:
    """Class of splats from their indices of v, int [N, C]. [N]"""
    wide = v.astype(np.int64)
    squares = np.einsum("ij,ij->i", wide, wide)
    found: NDArray[np.int64] = np.searchsorted(THRESHOLDS, squares, side="right")
    return found


def position_bits(log_fixed: NDArray[np.int64], k: NDArray[np.int64], cell_exponent: int) -> NDArray[np.int64]:
    """Bits of a coordinate below its cell, from a (for x) or c (for y) in 1 / ONE. [N]"""
    bits = (cell_exponent * ONE - LOG2_UNITS[k] - ((log_fixed * LOG2_E) >> 16) + ONE // 2) >> 16
    limited: NDArray[np.int64] = np.clip(bits, 0, MOST_BITS)
    return limited


def lattice_for(splats: Splats) -> Lattice:
    """Cells of about half the mean distance of the splats, and a margin that holds every splat that is kept."""
    count = max(1, len(splats.means))
    spacing = np.sqrt(splats.width * splats.height / count)
    exponent = int(np.clip(round(np.log2(spacing / 2)), -4, 12))
    size = 2.0**exponent
    beyond = np.maximum(-splats.means, splats.means - (splats.width, splats.height))
    margin = int(np.clip(np.ceil(max(0.0, float(beyond.max(initial=0.0))) / size), 0, MOST_MARGIN))
    return Lattice(splats.width, splats.height, exponent, margin)


def quantize(splats: Splats, quality_index: int, lattice: Lattice | None = None) -> tuple[Quantized, NDArray[np.int64]]:
    """Rounds splats, and tells which of them are left: those whose v does not round to zero. Raises InputError.

    What dequantize() gave comes back unchanged at the same quality index and lattice.
    """
    if not 0 <= quality_index < QUALITY_INDICES:
        raise InputError(f"encode: the quality index must be within 0..{QUALITY_INDICES - 1}, got {quality_index}")
    a, b, c = splats.log_cholesky.astype(np.float64).T
    colors = splats.colors.astype(np.float64)
    v = np.exp((a + c) / 2)[:, None] * (colors @ transform(colors.shape[1]).T)
    v = np.clip(np.rint(v / step_of(quality_index)), -MOST_INDEX, MOST_INDEX).astype(np.int32)
    kept = np.flatnonzero(v.any(1))
    v, a, b, c = v[kept], a[kept], b[kept], c[kept]
    if lattice is None:
        lattice = lattice_for(splats.take(kept))

    k = energy_class(v)
    most = MOST_LOG * ONE // STEPS_LOG[k]
    index_a = np.clip(np.rint(a * ONE / STEPS_LOG[k]), -most, most).astype(np.int64)
    index_c = np.clip(np.rint(c * ONE / STEPS_LOG[k]), -most, most).astype(np.int64)
    fixed_a, fixed_c = index_a * STEPS_LOG[k], index_c * STEPS_LOG[k]
    # The slope of the ridge is to survive the rounding of a and c.
    slope = b * np.exp(-a)
    beta = np.clip(slope * np.exp((fixed_a - fixed_c) / ONE), -MOST_SHEAR, MOST_SHEAR)
    index_b = np.rint(beta * ONE / STEPS_SHEAR[k]).astype(np.int64)

    # y follows the ridge to where the rounding of x has moved the splat.
    x, y = splats.means[kept].astype(np.float64).T
    bits_x, bits_y = position_bits(fixed_a, k, lattice.cell_exponent), position_bits(fixed_c, k, lattice.cell_exponent)
    index_x, x_decoded = _round_position(x, bits_x, lattice, lattice.columns)
    slope = (index_b * STEPS_SHEAR[k]) / ONE * np.exp((fixed_c - fixed_a) / ONE)
    index_y, _ = _round_position(y + slope * (x_decoded - x), bits_y, lattice, lattice.rows)
    columns = [index_x, index_y, index_a, index_b, index_c]
    indices = np.column_stack([np.array(columns, np.int64).T, v]).astype(np.int32)
    return Quantized(np.ascontiguousarray(indices), quality_index, lattice), kept


def _round_position(
    x: NDArray[np.float64], bits: NDArray[np.int64], lattice: Lattice, cells: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    step = 2.0 ** (lattice.cell_exponent - bits)
    origin = lattice.margin * 2.0**lattice.cell_exponent
    index = np.clip(np.floor((x + origin) / step), 0, (cells << bits) - 1).astype(np.int64)
    return index, (index + 0.5) * step - origin


def dequantize(quantized: Quantized, background: Floats) -> Splats:
    """The splats that a decoder gives back."""
    indices, lattice = quantized.indices, quantized.lattice
    means, log_cholesky, colors = _cpu.dequantize(
        indices,
        transform(indices.shape[1] - 5),
        step=step_of(quantized.quality_index),
        cell_exponent=lattice.cell_exponent,
        margin=lattice.margin,
    )
    return Splats(means, log_cholesky, colors, lattice.width, lattice.height, np.asarray(background, np.float32))
