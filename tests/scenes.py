"""Splats for the tests, and the switch between instruction sets."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from splat2d import Splats, _cpu


class Scene(NamedTuple):
    """The arguments of render before height and width."""

    means: np.ndarray
    log_cholesky: np.ndarray
    colors: np.ndarray
    background: np.ndarray

    def astype(self, dtype) -> "Scene":
        return Scene(*(np.ascontiguousarray(array, dtype) for array in self))


def random_scene(seed, count, channels, height, width, *, small=0.5, large=12.0) -> Scene:
    """Splats inside and around the canvas, standard deviations from small to large pixels at any angle. float32 values
    held in float64, so that every precision renders the very same splats."""
    rng = np.random.default_rng(seed)
    means = rng.uniform((-4, -4), (width + 4, height + 4), (count, 2))
    s1, s2 = np.exp(rng.uniform(np.log(small), np.log(large), (2, count)))
    log_cholesky = rotated(s1, s2, rng.uniform(0, np.pi, count))
    scene = Scene(means, log_cholesky, rng.uniform(-1, 1, (count, channels)), rng.uniform(0, 1, channels))
    return scene.astype(np.float32).astype(np.float64)


def rotated(along, across, angle) -> np.ndarray:
    """log_cholesky [N, 3] of ellipses with these standard deviations, the first at this angle from the x axis."""
    along, across, angle = np.broadcast_arrays(*np.atleast_1d(along, across, angle))
    xx = (along * np.cos(angle)) ** 2 + (across * np.sin(angle)) ** 2
    xy = (along**2 - across**2) * np.cos(angle) * np.sin(angle)
    return np.stack([np.log(xx) / 2, xy / np.sqrt(xx), np.log(along * across) - np.log(xx) / 2], axis=1)


@contextmanager
def using(name: str) -> Iterator[str]:
    """Runs the native functions with this instruction set."""
    before = _cpu.instruction_set()
    _cpu.use_instruction_set(name)
    try:
        yield name
    finally:
        _cpu.use_instruction_set(before)


def scattered(count: int, channels: int = 3, width: int = 96, height: int = 64, seed: int = 0) -> Splats:
    """Splats of the sizes and colours that a fit finds."""
    rng = np.random.default_rng(seed)
    size = np.log(np.sqrt(width * height / max(count, 1)) / 2)
    return Splats(
        means=rng.uniform(-4, (width + 4, height + 4), (count, 2)),
        log_cholesky=rng.normal((size, 0, size), (0.5, 1, 0.5), (count, 3)),
        colors=rng.normal(0, 0.2, (count, channels)),
        width=width,
        height=height,
        background=rng.uniform(0, 1, channels),
    )


def as_set(splats: Splats) -> np.ndarray:
    """The parameters in an order that does not depend on that of the splats. [N, 5 + C]"""
    rows = np.hstack([splats.means, splats.log_cholesky, splats.colors])
    return rows[np.lexsort(rows.T)]
