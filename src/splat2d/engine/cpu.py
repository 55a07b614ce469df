"""The CPU engine, over the native module."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from splat2d import _cpu
from splat2d.config import Loss
from splat2d.engine import Bools, Coding, Evaluation, Floats, Optimizer


class CpuSession:
    """See splat2d.engine.Session."""

    def __init__(
        self,
        image: Floats,
        background: Floats,
        loss: Loss,
        optimizer: Optimizer,
        threads: int | None,
        outside: float = 1.0,
    ) -> None:
        o = optimizer
        self._loss = loss
        self._elements = image.size
        self._fit = _cpu.Fit(
            np.ascontiguousarray(image, dtype=np.float32),
            np.ascontiguousarray(background, dtype=np.float32),
            l2=loss.l2,
            l1=loss.l1,
            ssim=loss.ssim,
            rates=[o.mean_rate, o.diagonal_rate, o.shear_rate, o.color_rate],
            beta1=o.beta1,
            beta2=o.beta2,
            log_min=o.log_min,
            log_max=o.log_max,
            outside=outside,
            threads=threads or 0,
        )

    @property
    def count(self) -> int:
        return self._fit.count

    def set_splats(self, means: Floats, log_cholesky: Floats, colors: Floats, frozen: Bools | None = None) -> None:
        self._fit.set_splats(means, log_cholesky, colors, None if frozen is None else frozen.astype(np.float32))

    def get_splats(self) -> tuple[Floats, Floats, Floats]:
        return self._fit.get_splats()

    def run(self, rates: Floats, coding: Coding | None = None) -> float:
        if coding is None:
            return self._fit.run(rates) / self._elements
        squares = self._fit.run(rates, step=coding.step, penalty=coding.penalty, seed=coding.seed)
        return squares / self._elements

    def evaluate(self) -> Evaluation:
        squares, absolutes, clamped, ssim = self._fit.evaluate()
        loss = self._loss
        value = loss.l2 * squares / self._elements + loss.l1 * absolutes / self._elements + loss.ssim * (1 - ssim)
        return Evaluation(squares / self._elements, clamped / self._elements, value)

    def grow(self, added: int, power: float, sigma: float, seed: int) -> None:
        self._fit.grow(added, power, sigma, seed)

    def relocate(self, moved: int, power: float, sigma: float, seed: int) -> None:
        self._fit.relocate(moved, power, sigma, seed)

    def prune(self, energy: float) -> None:
        self._fit.prune(energy)

    def sort(self) -> None:
        self._fit.sort()


class CpuEngine:
    """See splat2d.engine.Engine."""

    name = "cpu"

    def __init__(self) -> None:
        self.label = f"CPU, {_cpu.instruction_set()}"

    def render(
        self,
        means: Floats,
        log_cholesky: Floats,
        colors: Floats,
        background: Floats,
        height: int,
        width: int,
        threads: int | None,
    ) -> Floats:
        return _cpu.render(means, log_cholesky, colors, background, height, width, threads=threads or 0)

    def render_levels(
        self,
        means: Floats,
        log_cholesky: Floats,
        colors: Floats,
        background: Floats,
        height: int,
        width: int,
        threads: int | None,
    ) -> NDArray[np.uint8]:
        return _cpu.render_levels(means, log_cholesky, colors, background, height, width, threads=threads or 0)

    def start(
        self,
        image: Floats,
        background: Floats,
        loss: Loss,
        optimizer: Optimizer,
        threads: int | None,
        outside: float = 1.0,
    ) -> CpuSession:
        return CpuSession(image, background, loss, optimizer, threads, outside)
