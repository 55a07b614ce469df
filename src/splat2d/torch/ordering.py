"""The order in memory in which the kernels find splats quickest."""

import torch
from torch import Tensor

from splat2d import _cpu

SIDE = 2047  # of the grid under the curve, as in native/cuda/inner.h
LEVELS = (0.02, 0.0625, 0.25)  # of half the size of a splat relative to the larger side of the picture


def z_order(means: Tensor, log_cholesky: Tensor, *, height: int, width: int) -> Tensor:
    """Indices [..., N] that bring splats [..., N, 2], [..., N, 3] along a Z-order curve, small ones before large ones.

    The picture stays the same, but for rounding: the kernels test 32 neighbours in memory at once, and read what lies
    together. An order stays good while splats move little, so take it anew every few hundred steps.
    """
    with torch.no_grad():
        a, b, c = log_cholesky.unbind(-1)
        tall = torch.sqrt(b.clamp(-1e9, 1e9) ** 2 + torch.exp(2 * c.clamp(-20, 20)))
        size = torch.maximum(a.clamp(-20, 20).exp(), tall) * ((2 * _cpu.CUTOFF) ** 0.5 / max(height, width))
        level = sum((size > limit).long() for limit in LEVELS)
        cells = (means * (SIDE / max(height, width))).nan_to_num().clamp(0, SIDE).long()
        x, y = (_spread_bits(cells[..., axis]) for axis in (0, 1))
        return torch.argsort(level << 22 | x | y << 1, dim=-1, stable=True)


def _spread_bits(v: Tensor) -> Tensor:
    """16 bits to every second bit."""
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        v = (v | v << shift) & mask
    return v
