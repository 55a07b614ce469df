"""How a picture is laid out as tokens: a splat per slot of a grid, or a patch of pixels, for comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from splat2d.errors import InputError
from splat2d.torch import Splats

GEOMETRY = 5  # fields of a token before its colour: dx, dy, da, b, dc
SMALLEST = math.log(0.5)  # of a and c: the floor of half a pixel that every fit of splat2d keeps
BETWEEN = 0.25  # weight of errors between pixels
MOST = 1024  # splats unless asked for: a transformer's time grows with their square
LARGEST = 4.0  # of da and dc, and of the other offsets of geometry times 4: beyond are only failures of a sampler


@dataclass(frozen=True, slots=True)
class SplatLayout:
    """A splat per slot of a grid; a token is how far the splat is from its slot, in units of the slot's sigma.

    Fields of a token: dx, dy, da, b, dc, colour (C). The mean is slot + sigma (dx, dy), the log-Cholesky is
    (ln sigma + da, sigma b, ln sigma + dc), colours are relative to the background, which all pictures share.
    """

    height: int  # pixels
    width: int  # pixels
    channels: int
    rows: int
    columns: int
    background: tuple[float, ...]  # [C]

    @property
    def count(self) -> int:
        return self.rows * self.columns

    @property
    def fields(self) -> int:
        return GEOMETRY + self.channels

    @property
    def sigma(self) -> float:
        """Size of a slot in pixels: half the distance of neighbours."""
        return 0.5 * math.sqrt(self.width * self.height / self.count)

    def positions(self) -> Tensor:
        """Centres of the tokens, x and y in 0..1. [N, 2]"""
        return _centres(self.rows, self.columns)

    def splats(self, tokens: Tensor) -> Splats:
        """The splats of tokens [..., N, F], whatever their values; with gradients."""
        slots, background = _constants(self, tokens.device, tokens.dtype)
        sigma = self.sigma
        offsets = tokens[..., :GEOMETRY].nan_to_num().clamp(-4 * LARGEST, 4 * LARGEST)
        diagonal = (offsets[..., 2::2].clamp(-LARGEST, LARGEST) + math.log(sigma)).clamp_min(SMALLEST)
        log_cholesky = torch.stack([diagonal[..., 0], sigma * offsets[..., 3], diagonal[..., 1]], -1)
        means = slots + sigma * offsets[..., :2]
        colors = tokens[..., GEOMETRY:].nan_to_num().contiguous()
        return Splats(means, log_cholesky, colors, self.width, self.height, background)

    def tokens(self, splats: Splats) -> Tensor:
        """Tokens [..., N, F] of as many splats as there are slots, in the order they come in."""
        slots, _ = _constants(self, splats.means.device, splats.means.dtype)
        sigma = self.sigma
        a, b, c = splats.log_cholesky.unbind(-1)
        near = (splats.means - slots) / sigma
        shape = torch.stack([a - math.log(sigma), b / sigma, c - math.log(sigma)], -1)
        return torch.cat([near, shape, splats.colors], -1)

    def start(self, images: Tensor) -> Tensor:
        """Tokens [n, N, F] to begin with: the slots, with half the colour that images [n, H, W, C] have there."""
        tokens = images.new_zeros(len(images), self.count, self.fields)
        slots, background = _constants(self, images.device, images.dtype)
        column, row = slots.long().unbind(-1)
        tokens[..., GEOMETRY:] = 0.5 * (images[:, row, column] - background)
        return tokens

    def pictures(self, tokens: Tensor) -> Tensor:
        """What tokens [..., N, F] show: [..., H, W, C], not clamped. With gradients."""
        return self.splats(tokens).picture()

    def between(self, tokens: Tensor) -> Tensor:
        """The same half a pixel further to the right and below, where four pixels meet."""
        splats = self.splats(tokens)
        return replace(splats, means=splats.means - 0.5).picture()

    def flipped(self, tokens: Tensor) -> Tensor:
        """The tokens of the pictures mirrored left to right; exact, since the grid is symmetric."""
        signs = tokens.new_ones(self.fields)
        signs[[0, 3]] = -1
        grid = tokens.unflatten(-2, (self.rows, self.columns)).flip(-2)
        return (grid * signs).flatten(-3, -2)


@dataclass(frozen=True, slots=True)
class PatchLayout:
    """A square of pixels per token: the pixel-space model that splats are compared with."""

    height: int  # pixels
    width: int  # pixels
    channels: int
    patch: int  # pixels a side

    @property
    def rows(self) -> int:
        return self.height // self.patch

    @property
    def columns(self) -> int:
        return self.width // self.patch

    @property
    def count(self) -> int:
        return self.rows * self.columns

    @property
    def fields(self) -> int:
        return self.patch * self.patch * self.channels

    def positions(self) -> Tensor:
        """Centres of the tokens, x and y in 0..1. [N, 2]"""
        return _centres(self.rows, self.columns)

    def tokens(self, pictures: Tensor) -> Tensor:
        """Tokens [..., N, F] of pictures [..., H, W, C]."""
        return squares(pictures, self.patch)

    def pictures(self, tokens: Tensor) -> Tensor:
        """The inverse: [..., H, W, C]."""
        return joined(tokens, self.rows, self.columns, self.patch).nan_to_num()

    def flipped(self, tokens: Tensor) -> Tensor:
        """The tokens of the pictures mirrored left to right."""
        return self.tokens(self.pictures(tokens).flip(-2))


Layout = SplatLayout | PatchLayout


def between(images: Tensor) -> Tensor:
    """Pictures [n, H, W, C] half a pixel further to the right and below, by Catmull-Rom splines; beyond edges repeated.

    Keys (1981), Cubic convolution interpolation for digital image processing, with a = -1/2.
    """
    padded = functional.pad(images.permute(0, 3, 1, 2), (1, 2, 1, 2), mode="replicate")
    across = (9 * (padded[..., 1:-2] + padded[..., 2:-1]) - padded[..., :-3] - padded[..., 3:]) / 16
    down = (9 * (across[..., 1:-2, :] + across[..., 2:-1, :]) - across[..., :-3, :] - across[..., 3:, :]) / 16
    return down.permute(0, 2, 3, 1).contiguous()


def squared_error(layout: SplatLayout, tokens: Tensor, images: Tensor, goals: Tensor, weight: float) -> Tensor:
    """Of what tokens [n, N, F] show of images and, at this weight, of goals = between(images), summed. [n]

    Pixels alone leave open what is between them: splats as dense as one for 2x2 pixels would become dots, all halfway
    between pixels, which meet each of them and are a lattice when enlarged.
    """
    error = (layout.pictures(tokens) - images).square().sum((1, 2, 3))
    if not weight:
        return error
    return error + weight * (layout.between(tokens) - goals).square().sum((1, 2, 3))


def squares(grid: Tensor, side: int) -> Tensor:
    """A grid [..., H, W, C] in squares, row by row: [..., H W / side^2, side^2 C]."""
    height, width = grid.shape[-3:-1]
    parts = grid.unflatten(-3, (height // side, side)).unflatten(-2, (width // side, side))
    return parts.transpose(-4, -3).flatten(-3).flatten(-3, -2)


def joined(tokens: Tensor, rows: int, columns: int, side: int) -> Tensor:
    """The inverse, of so many rows and columns of squares."""
    parts = tokens.unflatten(-1, (side, side, -1)).unflatten(-4, (rows, columns))
    return parts.transpose(-4, -3).flatten(-3, -2).flatten(-4, -3)


def usual_count(height: int, width: int) -> int:
    """A splat for every 2x2 pixels, or for larger squares where there would be more than MOST.

    So many follow pictures without going far from their slots, and are hardly harder to learn than pixels are.
    """
    side = max(2, math.sqrt(height * width / MOST))
    return max(1, round(height / side)) * max(1, round(width / side))


def grid_for(count: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a grid of `count` slots, as square as it goes. Raises InputError where that is far off."""
    wanted = math.log(height / width)
    shapes = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0]
    rows, columns = min(shapes, key=lambda shape: abs(math.log(shape[0] / shape[1]) - wanted))
    if abs(math.log(rows / columns) - wanted) > math.log(1.5):
        near = max(1, round(math.sqrt(count * height / width)))
        other = near * max(1, round(near * width / height))
        raise InputError(f"splats: {count} splats make no grid over {width}x{height} pixels; take {other}")
    return rows, columns


def packed(layout: Layout) -> dict[str, Any]:
    """The layout as values for JSON."""
    return {"kind": "splats" if isinstance(layout, SplatLayout) else "pixels", **asdict(layout)}


def unpacked(values: Mapping[str, Any]) -> Layout:
    """The inverse of packed(). Raises KeyError and TypeError for what it never made."""
    fields = dict(values)
    if fields.pop("kind") == "splats":
        fields["background"] = tuple(fields["background"])
        return SplatLayout(**fields)
    return PatchLayout(**fields)


@lru_cache(maxsize=32)
def _constants(layout: SplatLayout, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Slots in pixels [N, 2] and background [C]. Kept, for a CUDA graph cannot copy them from the host."""
    size = torch.tensor([layout.width, layout.height])
    with torch.inference_mode(False):
        return (layout.positions() * size).to(device, dtype), torch.tensor(
            layout.background, device=device, dtype=dtype
        )


def _centres(rows: int, columns: int) -> Tensor:
    y, x = torch.meshgrid((torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)
