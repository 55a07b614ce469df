"""Draws the pictures of docs/concepts.md: python docs/pictures.py [FOLDER]"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

import splat2d
from splat2d import Splats, editing, scene

FOLDER = Path(__file__).parent / "images"
COUNTS = (30, 300, 3000, 10_000)
SHARES = (0.12, 0.4, 1.0)
BYTES = 40_000


def main(folder: Path, counts: tuple[int, ...] = COUNTS, size: int = BYTES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image = scene.draw()
    one_splat().savefig(folder / "one-splat.png")
    edge().savefig(folder / "edge.png")
    fits = [splat2d.fit(image, splats=count, preset="fast", device="cpu") for count in counts]
    save(growing(fits), folder / "growing.jpg")
    save(edits(fits[-1].splats), folder / "edits.jpg")
    save(beginnings(splat2d.compress(image, bytes=size, preset="fast", device="cpu").data), folder / "beginnings.jpg")


def save(figure: Figure, path: Path) -> None:
    figure.savefig(path, pil_kwargs={"quality": 85})


def blank(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def panel(figure: Figure, grid: tuple[int, int], place: int, image: np.ndarray, title: str) -> None:
    axes = figure.add_subplot(*grid, place)
    axes.imshow(image.clip(0, 1))
    axes.set_title(title, fontsize=9)
    axes.axis("off")


def one_splat() -> Figure:
    """A splat, with the ellipses of one standard deviation and of the cut-off."""
    a, b, c = np.log(16.0), 10.0, np.log(8.0)
    splat = Splats([[48, 32]], [[a, b, c]], [[0.9, 0.6, 0.1]], 96, 64, [0.06, 0.07, 0.1])
    lower = np.array([[np.exp(a), 0], [b, np.exp(c)]])
    values, vectors = np.linalg.eigh(lower @ lower.T)
    angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
    figure = blank(6.4, 4.2)
    axes = figure.add_subplot()
    axes.imshow(splat2d.render(splat, scale=8), extent=(0, 96, 64, 0))
    for radius, style, label in ((1, "-", "one standard deviation"), (np.sqrt(2 * 5.54), ":", "cut-off, below 1/255")):
        across, along = 2 * radius * np.sqrt(values)
        axes.add_patch(Ellipse((48, 32), along, across, angle=angle, fill=False, ls=style, color="white", label=label))
    axes.plot(48, 32, "w+", label="mean (x, y)")
    axes.set(xlabel="x, pixels", ylabel="y, pixels", xlim=(0, 96), ylim=(64, 0))
    axes.legend(loc="lower left", fontsize=8, framealpha=0.8)
    return figure


def edge() -> Figure:
    """Across an edge: a wide splat, and the one that is subtracted from it."""
    x = np.linspace(0, 40, 400)
    wide, narrow = np.exp(-(((x - 15) / 7) ** 2) / 2), -0.3 * np.exp(-(((x - 24.5) / 3.6) ** 2) / 2)
    figure = blank(6.4, 2.8)
    axes = figure.add_subplot()
    axes.plot(x, wide, "--", color="tab:green", label="a splat that adds")
    axes.plot(x, narrow, "--", color="tab:red", label="one that subtracts")
    axes.plot(x, wide + narrow, color="black", label="their sum: a steeper edge")
    axes.axhline(0, color="grey", lw=0.5)
    axes.set(xlabel="x, pixels", ylabel="value")
    axes.legend(fontsize=8)
    return figure


def growing(fits: list[splat2d.FitResult]) -> Figure:
    figure = blank(9, 6.4)
    for place, fit in enumerate(fits, start=1):
        panel(figure, (2, 2), place, splat2d.render(fit.splats), f"{len(fit.splats)} splats, {fit.psnr:.1f} dB")
    return figure


def edits(splats: Splats) -> Figure:
    part = editing.crop(splats, (400, 170, 300, 200))
    moved = editing.translate(editing.recolor(part, exposure=-1), 60, 0)
    shown = {
        "crop": part,
        "rotate, on the canvas as it is": editing.rotate(part, 20, expand=False),
        "saturation 0, exposure 0.5": editing.recolor(part, saturation=0, exposure=0.5),
        "blend, half way to a darker one 60 pixels to the right": editing.blend(part, moved, 0.5),
    }
    figure = blank(9, 6.4)
    for place, (title, edited) in enumerate(shown.items(), start=1):
        panel(figure, (2, 2), place, splat2d.render(edited, scale=2), title)
    return figure


def beginnings(data: bytes) -> Figure:
    """What the first part of a file already shows."""
    figure = blank(9, 2.5)
    for place, share in enumerate(SHARES, start=1):
        part = data[: round(share * len(data))]
        splats = splat2d.decode(part, partial=True)
        title = f"{len(part)} bytes: {len(splats)} splats"
        panel(figure, (1, len(SHARES)), place, splat2d.render(splats), title)
    return figure


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
