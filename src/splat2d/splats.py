"""Splats: a picture as a set of 2D Gaussians."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from splat2d.errors import InputError

if TYPE_CHECKING:
    from anywidget import AnyWidget
    from matplotlib.figure import Figure

    from splat2d.config import Panel


@dataclass(frozen=True, slots=True, eq=False)
class Splats:
    """N splats on a canvas of width x height pixels; see docs/conventions.md for the formula.

    The arrays are checked once, here, and kept as read-only float32. Raises InputError if a shape does not
    fit or a value is not finite.
    """

    means: NDArray[np.float32]  # [N, 2] x, y in pixels; pixel (row j, column i) has its centre at (i + 0.5, j + 0.5)
    log_cholesky: NDArray[np.float32]  # [N, 3] a, b, c of L = [[e^a, 0], [b, e^c]]; the covariance is L L^T
    colors: NDArray[np.float32]  # [N, C] amplitude at the mean; may be negative
    width: int  # pixels
    height: int  # pixels
    background: NDArray[np.float32]  # [C] the colour where no splat reaches

    def __post_init__(self) -> None:
        for name in ("means", "log_cholesky", "colors", "background"):
            array = np.array(getattr(self, name), dtype=np.float32, order="C")
            if not np.isfinite(array).all():
                raise InputError(f"Splats.{name}: every value must be finite")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if self.colors.ndim != 2 or self.colors.shape[1] < 1:
            raise InputError(f"Splats.colors: expected shape [N, C] with C >= 1, got {self.colors.shape}")
        count, channels = self.colors.shape
        for name, shape in (("means", (count, 2)), ("log_cholesky", (count, 3)), ("background", (channels,))):
            if getattr(self, name).shape != shape:
                raise InputError(f"Splats.{name}: expected shape {shape}, got {getattr(self, name).shape}")
        for name in ("width", "height"):
            value = int(getattr(self, name))
            if value < 1:
                raise InputError(f"Splats.{name}: expected at least 1 pixel, got {value}")
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.means)

    def __repr__(self) -> str:
        return f"Splats({len(self)} splats, {self.width}x{self.height} pixels, {self.channels} channels)"

    def take(self, chosen: NDArray[np.int64]) -> Splats:
        """The splats of these indices, in this order."""
        return replace(
            self, means=self.means[chosen], log_cholesky=self.log_cholesky[chosen], colors=self.colors[chosen]
        )

    def strongest(self) -> NDArray[np.int64]:
        """Indices by falling energy |colour|^2 e^(a + c), what a splat adds to the squares of a picture. [N]"""
        energy = (self.colors.astype(np.float64) ** 2).sum(1) * np.exp(self.log_cholesky[:, [0, 2]].sum(1))
        order: NDArray[np.int64] = np.argsort(-energy, kind="stable")
        return order

    def plot(self, image: NDArray[np.float32] | None = None, *, panels: Sequence[Panel] | None = None) -> Figure:
        """A figure of these splats, beside the original if it is given; see splat2d.plotting.plot()."""
        from splat2d.plotting import plot

        return plot(self, image=image, panels=panels)

    def view(self, *, height: int = 480) -> AnyWidget:
        """The viewer as a widget for notebooks, of so many pixels of height; see splat2d.notebook.view()."""
        from splat2d.notebook import view

        return view(self, height=height)

    def _repr_png_(self) -> bytes | None:
        """The picture, where a notebook shows this object."""
        from splat2d.display import png

        return png(self)

    @property
    def channels(self) -> int:
        """Number of colour channels C: 1 grey, 3 RGB, 4 premultiplied RGBA, any other for research."""
        return int(self.colors.shape[1])
