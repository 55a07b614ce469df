"""Fitting many small pictures of one size, all at once where the device can."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splat2d import _cpu
from splat2d.config import Device, Loss
from splat2d.engine import BatchEngine, Engine, Optimizer, engine
from splat2d.errors import InputError
from splat2d.fitting import cosine_rates, finite_float32
from splat2d.seeding import SIZE, initial_splats
from splat2d.splats import Splats

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The splats of B pictures, N each."""

    means: Floats  # [B, N, 2]
    log_cholesky: Floats  # [B, N, 3]
    colors: Floats  # [B, N, C]
    backgrounds: Floats  # [B, C]
    width: int
    height: int
    squared: Floats  # [B], mean squared error of each picture

    def __len__(self) -> int:
        return len(self.means)

    def __getitem__(self, index: int) -> Splats:
        """The splats of one picture."""
        arrays = (self.means[index], self.log_cholesky[index], self.colors[index])
        return Splats(*arrays, self.width, self.height, self.backgrounds[index])


def fit_batch(
    images: Floats,
    *,
    splats: int,
    steps: int = 1000,
    seed: int = 0,
    device: Device = "auto",
    threads: int | None = None,
) -> BatchResult:
    """Fits `splats` splats to each of images, float [B, H, W, C] with values in 0..1, for the mean squared error.

    Meant for thousands of small pictures: each gets all its splats at the start, placed by its edges, and none of the
    growth and relocation of fit(). Picture i depends on seed + i alone. Raises InputError.
    """
    if not isinstance(images, np.ndarray) or images.ndim != 4 or not np.issubdtype(images.dtype, np.floating):
        what = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise InputError(f"fit_batch: expected a float array [pictures, height, width, channels], got {what}")
    if images.size == 0:
        raise InputError(f"fit_batch: there are no pixels (shape {images.shape})")
    for name, value in (("splats", splats), ("steps", steps)):
        if value < 1:
            raise InputError(f"{name}: must be at least 1, got {value}")
    images = finite_float32(images, "fit_batch")
    height, width = images.shape[1:3]
    sigma = SIZE * math.sqrt(width * height / splats)
    rates = cosine_rates(steps)
    chosen = engine(device)
    if isinstance(chosen, BatchEngine) and chosen.takes_batch(images.shape, splats):
        arrays = chosen.fit_batch(images, splats, sigma, rates, Optimizer(), seed)
    else:
        arrays = _one_by_one(chosen, images, splats, sigma, rates, seed, threads)
    means, log_cholesky, colors, backgrounds, squared = arrays
    return BatchResult(means, log_cholesky, colors, backgrounds, width, height, squared)


def _one_by_one(
    chosen: Engine, images: Floats, count: int, sigma: float, rates: Floats, seed: int, threads: int | None
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """A session per picture; on the CPU as many at a time as there are threads."""

    optimizer = Optimizer()
    least = math.exp(optimizer.log_min)

    def fitted(index: int) -> tuple[Floats, Floats, Floats, Floats, np.float32]:
        image = images[index]
        background = image.mean((0, 1), dtype=np.float64).astype(np.float32)
        session = chosen.start(image, background, Loss(), optimizer, 1)
        session.set_splats(*initial_splats(image, background, count, sigma, least, seed + index))
        session.run(rates)
        return *session.get_splats(), background, np.float32(session.evaluate().squared)

    if chosen.name == "cpu":
        with ThreadPoolExecutor(threads or _cpu.available_threads()) as pool:
            results = list(pool.map(fitted, range(len(images))))
    else:
        results = [fitted(index) for index in range(len(images))]
    means, log_cholesky, colors, backgrounds, squared = (np.stack(arrays) for arrays in zip(*results, strict=True))
    return means, log_cholesky, colors, backgrounds, squared
