"""The engines: one step of a fit on a CPU or a GPU, behind one interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from splat2d.config import Device, Loss
from splat2d.errors import InputError

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Optimizer:
    """Adam's settings, a learning rate per group of parameters (Kingma and Ba 2015)."""

    mean_rate: float = 0.5  # pixels per step
    diagonal_rate: float = 0.1  # of a and c
    shear_rate: float = 0.1  # of b, pixels per step
    color_rate: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    log_min: float = -0.7  # e^-0.7 = 0.5 pixels: floor of e^a and e^c, and of a long splat across its ridge
    log_max: float = 10.0


@dataclass(frozen=True, slots=True)
class Coding:
    """How the splats will be quantised, for steps that see them as a decoder may; see native/coding.h."""

    step: float  # of a component of v = e^((a + c) / 2) colour; the steps of all else follow
    penalty: float  # every splat adds penalty / 2 log(|v|^2 + step^2) to half the squared error (L2 loss)
    seed: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How far a state is from its picture."""

    squared: float  # mean squared error, weighted as in the loss
    clamped: float  # mean squared error after a clamp of the render to [0, 1]
    loss: float


class Session(Protocol):
    """One picture being fitted; splats and optimiser state live on the device."""

    @property
    def count(self) -> int: ...

    def set_splats(self, means: Floats, log_cholesky: Floats, colors: Floats, frozen: Bools | None = None) -> None:
        """Replaces the splats and clears the optimiser state. Those that are frozen are drawn, but never changed."""

    def get_splats(self) -> tuple[Floats, Floats, Floats]:
        """means [N, 2], log_cholesky [N, 3], colors [N, C]"""

    def run(self, rates: Floats, coding: Coding | None = None) -> float:
        """One step per entry, which multiplies the learning rates; the mean squared error before the last update."""

    def evaluate(self) -> Evaluation:
        """Renders the present state and compares."""

    def grow(self, added: int, power: float, sigma: float, seed: int) -> None:
        """Adds splats of sigma pixels, drawn by blurred squared error ** power, coloured from the residual."""

    def relocate(self, moved: int, power: float, sigma: float, seed: int) -> None:
        """Moves the splats that contribute least to where grow() would add some; clears their optimiser state."""

    def prune(self, energy: float) -> None:
        """Drops the splats with |colour|^2 e^(a + c) below energy that are not frozen."""

    def sort(self) -> None:
        """Brings neighbours in the picture together in memory."""


class Engine(Protocol):
    """A device that renders and fits."""

    name: str
    label: str  # what it runs on, for people

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
        """Sum of the splats over the background. [height, width, C]"""

    def start(
        self,
        image: Floats,
        background: Floats,
        loss: Loss,
        optimizer: Optimizer,
        threads: int | None,
        outside: float = 1.0,
    ) -> Session:
        """A session for image [H, W, C] over background [C], without splats yet.

        outside: the weight of errors beyond 0 or 1 where the image is just that; see docs/conventions.md.
        """


@runtime_checkable
class BatchEngine(Protocol):
    """An engine that fits many small pictures at once."""

    def takes_batch(self, shape: tuple[int, ...], count: int) -> bool:
        """Whether pictures [B, H, W, C] with so many splats each are small enough."""

    def fit_batch(
        self, images: Floats, count: int, sigma: float, rates: Floats, optimizer: Optimizer, seed: int
    ) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        """means [B, N, 2], log_cholesky [B, N, 3], colors [B, N, C], backgrounds [B, C], mean squared errors [B].

        sigma is the size of the first splats in pixels; picture i draws from seed + i.
        """


@runtime_checkable
class LevelsEngine(Protocol):
    """An engine that renders to 8 bits at once."""

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
        """_cpu.levels() of render(). [height, width, C]"""


def engine(device: Device = "auto") -> Engine:
    """The engine for a device; auto takes the GPU where one can be used. Raises InputError."""
    from splat2d.engine.cpu import CpuEngine

    if device == "cpu":
        return CpuEngine()
    try:
        from splat2d.engine.cuda import CudaEngine

        return CudaEngine()
    except ImportError:
        if device == "cuda":
            advice = 'install it by: pip install "splat2d[cuda]", or use --device cpu'
            raise InputError(f"device: the CUDA engine is not installed; {advice}") from None
    except InputError:
        if device == "cuda":
            raise
    return CpuEngine()
