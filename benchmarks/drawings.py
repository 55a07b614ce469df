"""Ways to draw splats for benchmarks/laboratory.py, with their gradients.

Parameters are rows [N, 5 + C + extra]: x, y, a, b, c, the colours, and what a way of drawing has beyond that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from splat2d import _cpu

Floats = np.ndarray


class Drawing(Protocol):
    extra: int  # parameters of a splat beside geometry and colour

    def image(self, p: Floats, background: Floats, height: int, width: int, threads: int) -> Floats:
        """[H, W, C]"""

    def gradient(self, p: Floats, background: Floats, d_image: Floats, threads: int) -> Floats:
        """Of sum(image * d_image), as p."""


def split(p: Floats, channels: int) -> tuple[Floats, Floats, Floats]:
    """means [N, 2], log_cholesky [N, 3], colors [N, C]"""
    return tuple(np.ascontiguousarray(part) for part in (p[:, :2], p[:, 2:5], p[:, 5 : 5 + channels]))


@dataclass(frozen=True, slots=True)
class Sum:
    """As the product does: background + sum of colour times weight, within the ellipse of the cut-off."""

    cutoff: float = _cpu.CUTOFF
    extra = 0

    def image(self, p: Floats, background: Floats, height: int, width: int, threads: int) -> Floats:
        return _cpu.render(*split(p, len(background)), background, height, width, cutoff=self.cutoff, threads=threads)

    def gradient(self, p: Floats, background: Floats, d_image: Floats, threads: int) -> Floats:
        splats = split(p, len(background))
        return np.concatenate(_cpu.render_backward(*splats, d_image, cutoff=self.cutoff, threads=threads), 1)


@dataclass(frozen=True, slots=True)
class Window:
    """The same sum within a square of so many pixels around the mean, whatever the size of the splat."""

    side: int  # odd
    extra = 0

    def weights(self, p: Floats, height: int, width: int) -> tuple[Floats, Floats, Floats, Any]:
        """Weights, dx and e of each splat at the pixels of its window, [N, side, side], and which pixels those are."""
        half = self.side // 2
        near = np.arange(-half, half + 1)
        x, y = (np.floor(p[:, k, None]).astype(int) + near for k in (0, 1))
        dx = (x + 0.5 - p[:, 0, None])[:, None, :].astype(np.float32)
        e = (y + 0.5 - p[:, 1, None])[:, :, None].astype(np.float32) - (p[:, 3] / np.exp(p[:, 2]))[:, None, None] * dx
        w = np.exp(-0.5 * ((dx / np.exp(p[:, 2])[:, None, None]) ** 2 + (e / np.exp(p[:, 4])[:, None, None]) ** 2))
        inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None, :]
        pixels = np.clip(y, 0, height - 1)[:, :, None] * width + np.clip(x, 0, width - 1)[:, None, :]
        return w * inside, dx, e, pixels

    def image(self, p: Floats, background: Floats, height: int, width: int, threads: int) -> Floats:
        w, _, _, pixels = self.weights(p, height, width)
        image = [
            np.bincount(pixels.ravel(), (w * p[:, 5 + c, None, None]).ravel(), height * width) + background[c]
            for c in range(len(background))
        ]
        return np.stack(image, 1).reshape(height, width, -1).astype(np.float32)

    def gradient(self, p: Floats, background: Floats, d_image: Floats, threads: int) -> Floats:
        height, width, channels = d_image.shape
        w, dx, e, pixels = self.weights(p, height, width)
        d = d_image.reshape(-1, channels)[pixels]
        by_color = np.einsum("nyx,nyxc->nc", w, d)
        v = w * np.einsum("nyxc,nc->nyx", d, p[:, 5 : 5 + channels])
        x, e1 = (v * dx).sum((1, 2)), (v * e).sum((1, 2))
        xx, xe, ee = (v * dx * dx).sum((1, 2)), (v * dx * e).sum((1, 2)), (v * e * e).sum((1, 2))
        i1, i3, b = np.exp(-p[:, 2]), np.exp(-p[:, 4]), p[:, 3]
        by_y, by_b = e1 * i3 * i3, xe * i1 * i3 * i3  # chain_rule() of native/gaussian.h
        geometry = [(x * i1 - b * by_y) * i1, by_y, xx * i1 * i1 - b * by_b, by_b, ee * i3 * i3]
        return np.concatenate([np.stack(geometry, 1), by_color], 1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Normalized:
    """A mean instead of a sum: (sum v w colour + epsilon background) / (sum v w + epsilon); log v is a parameter."""

    epsilon: float
    cutoff: float = _cpu.CUTOFF
    extra = 1

    def both(self, p: Floats, background: Floats, height: int, width: int, threads: int) -> tuple[Floats, Floats]:
        """Numerator [H, W, C] and denominator [H, W, 1]."""
        channels = len(background)
        v = np.exp(p[:, -1:])
        homogeneous = np.concatenate([v * p[:, 5 : 5 + channels], v], 1).astype(np.float32)
        ground = (self.epsilon * np.append(background, 1)).astype(np.float32)
        drawn = _cpu.render(*split(p, 0)[:2], homogeneous, ground, height, width, cutoff=self.cutoff, threads=threads)
        return drawn[..., :channels], drawn[..., channels:]

    def image(self, p: Floats, background: Floats, height: int, width: int, threads: int) -> Floats:
        over, under = self.both(p, background, height, width, threads)
        return over / under

    def gradient(self, p: Floats, background: Floats, d_image: Floats, threads: int) -> Floats:
        height, width, channels = d_image.shape
        over, under = self.both(p, background, height, width, threads)
        d_over = d_image / under
        d_under = -(d_over * over / under).sum(2, keepdims=True)
        colors, v = p[:, 5 : 5 + channels], np.exp(p[:, -1:])
        homogeneous = np.concatenate([v * colors, v], 1).astype(np.float32)
        d = np.concatenate([d_over, d_under], 2).astype(np.float32)
        d_means, d_shapes, d_homogeneous = _cpu.render_backward(
            *split(p, 0)[:2], homogeneous, d, cutoff=self.cutoff, threads=threads
        )
        by_v = (d_homogeneous[:, :channels] * colors).sum(1, keepdims=True) + d_homogeneous[:, channels:]
        return np.concatenate([d_means, d_shapes, v * d_homogeneous[:, :channels], v * by_v], 1).astype(np.float32)
