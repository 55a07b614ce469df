"""Fitting: a picture becomes splats.

fit_steps() is the driver: it decides when to step, grow, relocate and stop, and yields after every block of steps.
Everything that touches pixels or splats happens in an engine session (splat2d.engine).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from splat2d.config import Device, FitConfig, Loss, Panel, Phase, Preset
from splat2d.engine import Evaluation, Optimizer, Session, engine
from splat2d.errors import InputError
from splat2d.seeding import SIZE, initial_splats
from splat2d.splats import Splats

if TYPE_CHECKING:
    from anywidget import AnyWidget
    from matplotlib.figure import Figure

Floats = NDArray[np.float32]

PIXELS_PER_SPLAT = 40  # of a fit without a budget: 10,000 splats for a picture of 768 x 512


@dataclass(frozen=True, slots=True)
class Recipe:
    """When a preset grows and relocates; times are fractions of the steps. Measured in docs/decisions.md."""

    steps: int
    start: float  # share of the budget that the fit begins with
    growths: int
    growth_end: float
    relocations: int
    relocated: float  # share of the splats that one relocation moves
    relocation_end: float


RECIPES: dict[Preset, Recipe] = {
    "fast": Recipe(500, 0.1, 8, 0.45, 10, 0.03, 0.85),
    "balanced": Recipe(1000, 0.1, 8, 0.45, 20, 0.03, 0.85),
    "best": Recipe(15000, 0.1, 12, 0.25, 120, 0.02, 0.85),
}
RELOCATION_INTERVAL = 20  # least steps between two relocations of a run that is shorter than its preset's,
LEAST_RELOCATIONS = 10  # unless there would be fewer than this

RATE_CONSTANT = 0.7  # share of the steps before the learning rates fall along a cosine
RATE_FINAL = 0.02  # of the learning rates, at the last step
FAINT, ORDINARY = 0.25, 0.5  # largest deviation from the mean colour: of pictures to scale up, and after that
OUTSIDE = 0.1  # weight of errors beyond 0 or 1 where the picture is just that; measured in docs/decisions.md
DENSE = 16  # pixels per splat below which the learning rates fall: more splats move each pixel together
DENSE_RATE = 0.3  # least factor of the learning rates for that
CROWD = 4  # splats per pixel beyond which the learning rates fall further
THIN = 1 / 9  # of the mean distance of splats: their least standard deviation across the ridge, within limits:
THINNEST = 0.3  # pixels; the other limit is that of Optimizer
NEW_SIZE = 0.35  # standard deviation of a grown splat, per mean distance of splats and SIZE
NEW_SIZE_LEAST = 1.0  # pixels


@dataclass(frozen=True, slots=True)
class Progress:
    """The state after a block of steps."""

    step: int  # steps done
    steps: int  # steps planned
    count: int  # splats in this state
    psnr: float  # dB of this state
    seconds: float  # since the start
    splats: Splats
    best: bool  # no earlier state with the full budget was better; always so for the last event
    phase: Phase = "fitting"


@dataclass(frozen=True, slots=True, repr=False)
class FitResult:
    """What a fit came to. A notebook shows its picture."""

    splats: Splats
    psnr: float  # dB
    steps: int
    seconds: float
    history: tuple[tuple[int, int, float], ...]  # (step, splats, PSNR in dB) after each block

    def __repr__(self) -> str:
        return f"FitResult({self.splats!r}, {self.psnr:.2f} dB, {self.steps} steps, {self.seconds:.1f} s)"

    def plot(self, image: Floats | None = None, *, panels: Sequence[Panel] | None = None) -> Figure:
        """A figure of the splats and of the fit's history; see splat2d.plotting.plot()."""
        from splat2d.plotting import plot

        return plot(self.splats, image=image, history=self.history, panels=panels)

    def view(self, *, height: int = 480) -> AnyWidget:
        """The viewer as a widget for notebooks; see Splats.view()."""
        return self.splats.view(height=height)

    def _repr_png_(self) -> bytes | None:
        return self.splats._repr_png_()


def fit(
    image: Floats,
    *,
    splats: int | None = None,
    psnr: float | None = None,
    preset: Preset = "balanced",
    steps: int | None = None,
    loss: str | Loss = "l2",
    seed: int = 0,
    device: Device = "auto",
    threads: int | None = None,
) -> FitResult:
    """Fits splats to image, float [H, W, C].

    Give one budget: splats, or psnr in dB for as many splats as that takes. Without one it takes a splat per 40 pixels.
    The result depends on the seed and the device, not on the number of threads. Raises InputError.
    """
    config = FitConfig(
        splats=splats,
        psnr=psnr,
        preset=preset,
        steps=steps,
        loss=Loss.parse(loss) if isinstance(loss, str) else loss,
        seed=seed,
        device=device,
        threads=threads,
    )
    history = []
    for progress in fit_steps(image, config):
        history.append((progress.step, progress.count, progress.psnr))
    return FitResult(progress.splats, progress.psnr, progress.step, progress.seconds, tuple(history))


def fit_steps(image: Floats, config: FitConfig) -> Iterator[Progress]:
    """Fits image, float [H, W, C], and yields after every block of steps.

    The caller may stop at any time; the last event of a complete run holds the best state. Raises InputError.
    """
    image = checked(image)
    recipe = RECIPES[config.preset]
    steps = config.steps or recipe.steps
    if config.psnr is None:
        pixels = image.shape[0] * image.shape[1]
        count = config.splats or max(1, round(pixels / PIXELS_PER_SPLAT))
        run = _Run(image, config, Optimizer(log_min=log_thinnest(pixels / count)))
        yield from _fit_count(run, recipe, steps, count)
    else:
        run = _Run(image, config, Optimizer())
        yield from _fit_psnr(run, recipe, steps, config.psnr)
    yield run.final()


def checked(image: Floats) -> Floats:
    """A picture that can be fitted, float32 [H, W, C]. Raises InputError."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or not np.issubdtype(image.dtype, np.floating):
        what = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"fit: expected a float array [height, width, channels] with values in 0..1, got {what}")
    if image.size == 0:
        raise InputError(f"fit: the picture has no pixels (shape {image.shape})")
    return finite_float32(image, "fit")


def finite_float32(image: Floats, what: str) -> Floats:
    """The pixels as contiguous float32. Raises InputError if one is NaN, or infinite in float32."""
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
        image = np.ascontiguousarray(image, dtype=np.float32)
    if not (math.isfinite(float(image.min())) and math.isfinite(float(image.max()))):  # both are NaN if any pixel is
        raise InputError(f"{what}: there are NaN or infinite pixels; replace them, for instance by numpy.nan_to_num")
    return image


@dataclass(frozen=True, slots=True)
class Target:
    """A picture as the engines see it."""

    image: Floats  # [H, W, C], in units
    base: Floats  # [C], the background in units
    background: Floats  # [C] of the picture
    unit: float  # of the engine, in values of the picture
    standard: bool  # judged after a clamp to [0, 1], with the peak at 1
    peak: float

    @classmethod
    def of(cls, image: Floats) -> Target:
        """image: float32 [H, W, C], every value finite."""
        height, _, _ = image.shape
        # Rows first: numpy takes a maximum over both axes seventy times as slowly.
        rows = image.reshape(height, -1)
        lowest, highest = (by_row.reshape(-1, image.shape[2]) for by_row in (rows.min(0), rows.max(0)))
        low, high = float(lowest.min()), float(highest.max())
        standard = low >= 0 and high <= 1
        background = image.mean((0, 1), dtype=np.float64)
        if standard:
            background = np.rint(background * 255) / 255  # a file holds it in a byte
        contrast = float(max((highest.max(0) - background).max(), (background - lowest.min(0)).max()))
        # The learning rates suit ordinary photos. Of faint pictures and of those beyond [0, 1] the engine sees the
        # difference from the background, at the contrast of such a photo.
        unit = 1.0 if contrast == 0 or (standard and contrast >= FAINT) else contrast / ORDINARY
        rounded = background.astype(np.float32)
        peak = 1.0 if standard else max(abs(low), abs(high))
        if unit == 1:
            return cls(image, rounded, rounded, unit, standard, peak)
        return cls((image - rounded) / np.float32(unit), np.zeros_like(rounded), rounded, unit, standard, peak)

    @property
    def clamped(self) -> bool:
        """Whether 0 and 1 of the image limit what is seen; in other units the limits are not known."""
        return self.standard and self.unit == 1

    @property
    def outside(self) -> float:
        """Weight of errors beyond these limits, for Engine.start()."""
        return OUTSIDE if self.clamped else 1.0

    def psnr(self, evaluation: Evaluation) -> float:
        """dB"""
        error = (evaluation.clamped if self.clamped else evaluation.squared) * (self.unit / self.peak) ** 2
        return -10 * math.log10(error) if error > 0 else math.inf

    def splats(self, means: Floats, log_cholesky: Floats, colors: Floats) -> Splats:
        """From what a session holds."""
        height, width, _ = self.image.shape
        return Splats(means, log_cholesky, colors * np.float32(self.unit), width, height, self.background)


class _Run:
    """A session with its clock and the best state so far."""

    def __init__(self, image: Floats, config: FitConfig, optimizer: Optimizer) -> None:
        self.height, self.width, self.channels = image.shape
        self.seed = config.seed
        self.started = time.perf_counter()
        self.target = Target.of(image)
        self.optimizer = optimizer
        self.session: Session = engine(config.device).start(
            *(self.target.image, self.target.base, config.loss.normalized(), self.optimizer, config.threads),
            self.target.outside,
        )
        self.step = 0
        self.planned = 0
        # Blocks end at fixed steps, so that what is evaluated, and kept as best, does not depend on the machine.
        self.block = int(np.clip(2e8 / image.size, 10, 50))
        self.best: Progress | None = None
        self.best_loss = math.inf

    def seed_splats(self, count: int, sigma: float) -> None:
        least = math.exp(self.optimizer.log_min)
        target = self.target
        self.session.set_splats(*initial_splats(target.image, target.base, count, sigma, least, self.seed))
        self.session.sort()

    def advance(self, rates: Floats, full: bool) -> Iterator[Progress]:
        """Runs the steps in blocks. full: the budget is spent, so these states compete for the best."""
        for first in range(0, len(rates), self.block):
            block = rates[first : first + self.block]
            self.session.run(block)
            self.step += len(block)
            yield self.report(full)

    def report(self, full: bool) -> Progress:
        evaluation = self.session.evaluate()
        best = full and evaluation.loss < self.best_loss
        progress = Progress(
            step=self.step,
            steps=self.planned,
            count=self.session.count,
            psnr=self.target.psnr(evaluation),
            seconds=time.perf_counter() - self.started,
            splats=self.target.splats(*self.session.get_splats()),
            best=best,
        )
        if best:
            self.best, self.best_loss = progress, evaluation.loss
        return progress

    def final(self) -> Progress:
        assert self.best is not None  # every run ends with steps at the full budget
        seconds = time.perf_counter() - self.started
        return Progress(self.step, self.step, self.best.count, self.best.psnr, seconds, self.best.splats, True)

    def grow(self, count: int, power: float, sigma: float) -> None:
        self.session.grow(count - self.session.count, power, sigma, self.event_seed())
        self.session.sort()

    def relocate(self, share: float, power: float, sigma: float) -> None:
        self.session.relocate(int(share * self.session.count), power, sigma, self.event_seed())
        self.session.sort()

    def event_seed(self) -> int:
        return self.seed * 1_000_003 + self.step


def spacing(run: _Run, count: int) -> float:
    """Mean distance of count splats, pixels."""
    return math.sqrt(run.width * run.height / count)


def cosine_rates(steps: int, constant: float = RATE_CONSTANT) -> Floats:
    """Multipliers of the learning rates: 1 for a constant share of the steps, then a cosine to RATE_FINAL. [steps]"""
    fraction = np.clip((np.arange(steps) / steps - constant) / (1 - constant), 0, 1)
    return (RATE_FINAL + (1 - RATE_FINAL) * 0.5 * (1 + np.cos(np.pi * fraction))).astype(np.float32)


def draw_power(pixels_per_splat: float) -> float:
    """How sharply new splats prefer the largest errors: to the fourth power when splats are scarce, less when dense."""
    return float(np.clip(1 + (math.log2(pixels_per_splat) - 2.5), 1, 4))


def relocations_in(recipe: Recipe, steps: int, share: float) -> int:
    """How often to relocate within a share of so many steps: oftener than the preset where there are more of them."""
    most = round(recipe.relocations * max(1.0, steps / recipe.steps))
    return min(most, max(LEAST_RELOCATIONS, round(share * steps / RELOCATION_INTERVAL)))


def crowd_factor(pixels_per_splat: float) -> float:
    """Of the learning rates."""
    return min(1.0, max(pixels_per_splat / DENSE, DENSE_RATE), CROWD * pixels_per_splat)


def log_thinnest(pixels_per_splat: float) -> float:
    """Logarithm of the least standard deviation of a splat across its ridge, pixels; see docs/decisions.md."""
    return min(math.log(max(THIN * math.sqrt(pixels_per_splat), THINNEST)), Optimizer().log_min)


def _fit_count(run: _Run, recipe: Recipe, steps: int, count: int) -> Iterator[Progress]:
    run.planned = steps
    sigma = SIZE * spacing(run, count)
    new_sigma = max(NEW_SIZE_LEAST, NEW_SIZE * sigma)
    pixels_per_splat = run.width * run.height / count
    power = draw_power(pixels_per_splat)
    rates = cosine_rates(steps) * np.float32(crowd_factor(pixels_per_splat))

    start = max(1, round(recipe.start * count))
    targets: dict[int, int] = {}  # step -> splats from there on
    for k in range(1, recipe.growths + 1):
        targets[round(k / recipe.growths * recipe.growth_end * steps)] = start + (count - start) * k // recipe.growths
    window = recipe.relocation_end - recipe.growth_end
    most = relocations_in(recipe, steps, window)
    relocations = {round((recipe.growth_end + window * k / most) * steps) for k in range(1, most + 1)}
    events = sorted({step for step in targets.keys() | relocations if step < steps})

    run.seed_splats(start, sigma)
    for event in events:
        yield from run.advance(rates[run.step : event], full=run.session.count == count)
        if event in targets:
            run.grow(targets[event], power, new_sigma)
        else:
            run.relocate(recipe.relocated, power, new_sigma)
    yield from run.advance(rates[run.step :], full=True)


GROWTH_FACTOR = 1.3  # of one growth on the way to a PSNR
ANNEAL_GAIN = 1.5  # dB that relocation and falling learning rates bring at a fixed count
DB_PER_DOUBLING = 3.5  # of PSNR, for twice the splats
LEAST_REGROWTH, MOST_REGROWTH = 1.15, 2.0  # factors of the count between one finished fit and the next
REWARM = 0.5  # of the learning rates, when a finished fit turns out to need more splats


def _fit_psnr(run: _Run, recipe: Recipe, steps: int, target: float) -> Iterator[Progress]:
    limit = run.width * run.height
    interval = max(1, steps // 20)
    anneal = max(1, steps // 2)

    def grow(count: int) -> None:
        count = min(max(count, run.session.count + 1), limit)
        sigma = SIZE * spacing(run, count)
        run.grow(count, draw_power(limit / count), max(NEW_SIZE_LEAST, NEW_SIZE * sigma))

    count = max(1, limit // 2000)
    run.planned = interval + anneal
    run.seed_splats(count, SIZE * spacing(run, count))
    while True:
        reached = 0.0
        rates = np.full(interval, crowd_factor(limit / run.session.count), np.float32)
        for progress in run.advance(rates, full=False):
            reached = progress.psnr
            yield progress
        if reached >= target - ANNEAL_GAIN or run.session.count == limit:
            break
        run.planned += interval
        grow(math.ceil(GROWTH_FACTOR * run.session.count))
    warmth = 1.0
    while True:
        run.best_loss = math.inf  # states with fewer splats no longer compete
        warmth *= crowd_factor(limit / run.session.count)
        yield from _anneal(run, recipe, warmth * cosine_rates(anneal))
        assert run.best is not None
        missing = target - run.best.psnr
        if missing <= 0 or run.session.count == limit:
            return
        run.planned += anneal
        warmth = REWARM
        wanted = 2 ** (missing / DB_PER_DOUBLING)
        grow(math.ceil(run.session.count * min(max(wanted, LEAST_REGROWTH), MOST_REGROWTH)))


def _anneal(run: _Run, recipe: Recipe, rates: Floats) -> Iterator[Progress]:
    """Relocates during the first half of the steps, at a fixed count."""
    count = run.session.count
    power = draw_power(run.width * run.height / count)
    sigma = max(NEW_SIZE_LEAST, NEW_SIZE * SIZE * spacing(run, count))
    most = relocations_in(recipe, len(rates), 0.5)
    bounds = [round(len(rates) / 2 * k / most) for k in range(most + 1)]
    for first, last in pairwise(bounds):
        if last > first:
            yield from run.advance(rates[first:last], full=True)
            run.relocate(recipe.relocated, power, sigma)
    yield from run.advance(rates[bounds[-1] :], full=True)
