"""Figures that explain splats: their ellipses, where they lie, what they miss, how a fit went. The extra `plot`."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from splat2d.atomic import replacing
from splat2d.config import Panel
from splat2d.demo import ellipses
from splat2d.display import as_rgb, thumbnail
from splat2d.editing import resize
from splat2d.errors import InputError
from splat2d.inspection import compare
from splat2d.rendering import render
from splat2d.splats import Splats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Floats = NDArray[np.float32]
History = Sequence[tuple[int, int, float]]  # step, splats, PSNR in dB

SUFFIXES = (".png", ".pdf", ".svg", ".jpg", ".webp")

COLUMNS = 2
WIDTH = 5.5  # inches; of one panel
DPI = 120
SIDE = 1024  # pixels; of the canvas as it is plotted
CELL = 16  # pixels; the edge of a cell of the density
CAPTION = 0.3  # inches


def plot(
    splats: Splats,
    *,
    image: Floats | None = None,
    history: History | None = None,
    panels: Sequence[Panel] | None = None,
) -> Figure:
    """A figure of splats, with the panels that are asked for, or all that there is something to show for.

    picture: what the splats show. ellipses: each splat at 0.7 standard deviations, in the colour of its place.
    density: splats in each square of 16 pixels. error: the largest difference of a channel from image [H, W, C], the
    original. history: PSNR and splats at each step, FitResult.history. Raises InputError, too where matplotlib is
    missing.
    """
    known = get_args(Panel)
    there = {"error": image is not None, "history": bool(history)}
    chosen = [panel for panel in known if there.get(panel, True)] if panels is None else list(panels)
    for panel in chosen:
        if panel not in known:
            raise InputError(f'plot: the panel "{panel}" is unknown; choose from {", ".join(known)}')
        if not there.get(panel, True):
            missing = "the original picture" if panel == "error" else "the history of a fit"
            raise InputError(f'plot: the panel "{panel}" needs {missing}')
    if not chosen:
        raise InputError("plot: there is nothing to plot; name a panel")
    # Drawn once, small enough for a page.
    small = resize(splats, scale=min(1.0, SIDE / max(splats.width, splats.height)))
    picture = as_rgb(thumbnail(splats, SIDE))
    figure = _figure(splats, len(chosen))
    rows, columns = _grid(len(chosen))
    for place, panel in enumerate(chosen, start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.tick_params(labelsize=7)
        if panel == "history":
            _plot_history(axes, history or ())
            axes.set_box_aspect(_aspect(splats))
            continue
        axes.set(xlim=(0, splats.width), ylim=(splats.height, 0), aspect="equal")
        extent = (0, splats.width, splats.height, 0)
        if panel == "picture":
            axes.imshow(picture, extent=extent)
            axes.set_title(f"{len(splats)} splats, {splats.width}x{splats.height} pixels", fontsize=10)
        elif panel == "ellipses":
            axes.imshow(ellipses(small, picture), extent=extent)
            axes.set_title("ellipses", fontsize=10)
        elif panel == "density":
            _scale(figure, axes, axes.pcolormesh(*_density(splats), cmap="viridis", rasterized=True))
            axes.set_title(f"splats per {CELL}x{CELL} pixels", fontsize=10)
        else:
            assert image is not None
            error, title = _error(splats, image)
            # The few largest errors do not hide all the others.
            top = max(float(np.quantile(error, 0.999)), 1 / 255)
            _scale(figure, axes, axes.imshow(error, extent=extent, cmap="magma", vmin=0, vmax=top))
            axes.set_title(title, fontsize=10)
    return figure


def save_plot(path: str | os.PathLike[str], figure: Figure) -> None:
    """Writes a figure as .png, .pdf, .svg, .jpg or .webp. Raises InputError."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(f'{path}: plots have no format of suffix "{Path(path).suffix}"; known: {" ".join(SUFFIXES)}')
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _grid(panels: int) -> tuple[int, int]:
    """Rows and columns."""
    return math.ceil(panels / COLUMNS), min(COLUMNS, panels)


def _figure(splats: Splats, panels: int) -> Figure:
    """An empty figure for so many panels. Raises InputError."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError('plots need one more package: pip install "splat2d[plot]"') from None

    class NotebookFigure(Figure):
        """A figure that a notebook shows, whichever backend is at work."""

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    rows, columns = _grid(panels)
    size = (WIDTH * columns, (WIDTH * _aspect(splats) + CAPTION) * rows)
    return NotebookFigure(figsize=size, dpi=DPI, layout="constrained")


def _aspect(splats: Splats) -> float:
    """Height of a panel relative to its width; of very long canvases a part stays blank."""
    return min(max(splats.height / splats.width, 0.3), 2.0)


def _scale(figure: Figure, axes: Axes, drawn: AxesImage | QuadMesh) -> None:
    """A bar of colours beside the axes, as high as they are."""
    figure.colorbar(drawn, cax=axes.inset_axes((1.02, 0, 0.03, 1))).ax.tick_params(labelsize=7)


def _density(splats: Splats) -> tuple[Floats, Floats, Floats]:
    """Edges of cells along x and y, and splats centred in each, per area of a whole cell: [rows, columns]."""
    x, y = (np.append(np.arange(0, size, CELL), size) for size in (splats.width, splats.height))
    counts, _, _ = np.histogram2d(splats.means[:, 1], splats.means[:, 0], bins=(y, x))
    areas = np.outer(np.diff(y), np.diff(x)) / CELL**2
    return x, y, counts / areas


def _error(splats: Splats, image: Floats) -> tuple[Floats, str]:
    """The largest difference of a channel at each pixel, and what it amounts to. Raises InputError."""
    picture = render(splats)
    compared = compare(picture, image)
    return abs(picture - image).max(axis=2), f"error: PSNR {compared.psnr:.2f} dB, SSIM {compared.ssim:.4f}"


def _plot_history(axes: Axes, history: History) -> None:
    steps, counts, decibels = zip(*history, strict=True)
    axes.set_title("history", fontsize=10)
    axes.plot(steps, decibels, color="tab:blue")
    axes.set_xlabel("step", fontsize=8)
    axes.set_ylabel("PSNR in dB", color="tab:blue", fontsize=8)
    other = axes.twinx()
    other.tick_params(labelsize=7)
    other.step(steps, counts, where="post", color="tab:orange")
    other.set_ylabel("splats", color="tab:orange", fontsize=8)
    other.set_ylim(bottom=0)
