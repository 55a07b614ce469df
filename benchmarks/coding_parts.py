"""What each part of the compression is worth: every row changes one thing, at the same budgets of bytes.

    python benchmarks/coding_parts.py --device cuda --workers 14 --seeds 1
    python benchmarks/coding_parts.py --only freezing noise --pictures 19 --rates 0.3 --preset fast

Prints Markdown: dB of the decoded 8-bit pictures against the method as shipped, mean over pictures and seeds. Where a
file is a little smaller than its budget, it is compared with the shipped method at its own size: a parabola (a line,
for two rates) through the PSNR of the shipped files of that picture over the logarithm of their size. Twice the
standard error is that of the mean over pictures.
"""

from __future__ import annotations

import argparse
import inspect
import math
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import DATA, describe
from rate_distortion import cores, pool, psnr_of_levels, warm_up

import splat2d
from splat2d import Splats, _cpu, codec, compression
from splat2d.compression import compress
from splat2d.fitting import fit_steps
from splat2d.images import levels_of

SHIPPED = "as shipped"
SOLVES = 10  # steps of the solver for colours


@dataclass(frozen=True, slots=True)
class Change:
    """A variant of the compression: names of modules with other values, and arguments of compress()."""

    names: tuple[tuple[Any, str, Any], ...] = ()
    arguments: dict[str, Any] = field(default_factory=dict)

    def __add__(self, other: Change) -> Change:
        return Change(self.names + other.names, self.arguments | other.arguments)


@dataclass(frozen=True, slots=True)
class Task:
    """A file to be made and judged."""

    variant: str
    picture: Path
    rate: float  # bits per pixel
    seed: int
    preset: str
    device: str
    threads: int


@dataclass(frozen=True, slots=True)
class Outcome:
    psnr: float  # dB
    bytes: int
    budget: int
    splats: int
    seconds: float


def constant(**values: Any) -> Change:
    """Other constants of the module that compresses."""
    return Change(tuple((compression, name, value) for name, value in values.items()))


def schedule(**values: Any) -> Change:
    return constant(SCHEDULES={name: replace(steps, **values) for name, steps in compression.SCHEDULES.items()})


def rates(**factors: float) -> Change:
    """Learning rates of training and freezing, multiplied."""
    shipped = compression.OPTIMIZER
    return constant(OPTIMIZER=replace(shipped, **{name: getattr(shipped, name) * f for name, f in factors.items()}))


class Uncoded:
    """A session whose steps know nothing of the codec: neither its noise nor its rate."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, steps: Any, coding: Any = None) -> float:
        return self._session.run(steps)


def uncoded() -> Change:
    start = compression._Run.session
    return Change(((compression._Run, "session", lambda run, splats: Uncoded(start(run, splats))),))


def colors_solved() -> Change:
    """The colours that are best for the float splats, before these are frozen."""
    freeze = compression._frozen

    def solved(run: Any, session: Any, splats: Splats, *rest: Any) -> Generator[Any, None, bytes]:
        return (yield from freeze(run, session, with_best_colors(splats, run.image, run.config.threads), *rest))

    return constant(_frozen=solved)


def with_best_colors(splats: Splats, image: np.ndarray, threads: int | None) -> Splats:
    """SOLVES steps of conjugate gradients for the normal equations of the colours, a channel at a time."""
    height, width, _ = image.shape
    shapes = splats.means, splats.log_cholesky
    colors = splats.colors.copy()

    def drawn(colors: np.ndarray) -> np.ndarray:
        black = np.zeros(colors.shape[1], np.float32)
        return _cpu.render(*shapes, colors, black, height, width, threads=threads or 0)

    def gathered(error: np.ndarray) -> np.ndarray:
        return _cpu.render_backward(*shapes, colors, np.ascontiguousarray(error), threads=threads or 0)[2]

    residual = gathered(image - splats.background - drawn(colors))
    direction, squared = residual, np.sum(residual.astype(np.float64) ** 2, axis=0)
    for _ in range(SOLVES):
        applied = gathered(drawn(direction))
        length = squared / np.maximum(np.sum(direction.astype(np.float64) * applied, axis=0), 1e-30)
        colors = (colors + length * direction).astype(np.float32)
        residual = (residual - length * applied).astype(np.float32)
        before, squared = squared, np.sum(residual.astype(np.float64) ** 2, axis=0)
        direction = (residual + squared / np.maximum(before, 1e-30) * direction).astype(np.float32)
    return replace(splats, colors=colors)


def better_start() -> Change:
    """The first phase with the preset "balanced" of a fit, and as many steps as that has."""
    return constant(fit_steps=lambda image, config: fit_steps(image, replace(config, preset="balanced", steps=None)))


def series(name: str, values: tuple[float, ...], change: Callable[[Any], Change]) -> dict[str, Change]:
    return {f"{name} {value:g}": change(value) for value in values}


def variants() -> dict[str, Change]:
    found = {
        SHIPPED: Change(),
        "training without noise and without the rate": uncoded(),
        "noise without the gradient of the rate": constant(RATE_WEIGHT=0.0),
        **series("weight of the rate", (0.5, 1, 2, 4), lambda x: constant(RATE_WEIGHT=float(x))),
        "faded splats stay; dropped only for the size": constant(_tend=lambda *_, **__: None),
        "faded splats are dropped, none moves": constant(RELOCATING=0.0),
        **series("share of the training that relocates", (0.3, 0.7), lambda x: constant(RELOCATING=x)),
        **series("faded below, steps", (0.3, 0.45, 0.8, 1.0), lambda x: constant(FADED=x)),
        "no freezing: rounded at once": schedule(stages=1) + constant(GROWTH=1.0),
        **series("stages of freezing", (5, 10, 20, 40), lambda x: schedule(stages=x)),
        **series("steps of a stage", (10, 40), lambda x: schedule(stage_steps=x)),
        **series("rates of freezing", (0.1, 0.5, 1.0), lambda x: constant(FREEZING_RATE=x)),
        "no training": schedule(train=0) + constant(SURPLUS=1.0),
        **series("steps of training", (300, 600, 1500, 4000, 10000), lambda x: schedule(train=x)),
        **series("steps of the first fit", (100, 200, 400, 1000), lambda x: schedule(fit=x)),
        "first fit with the preset balanced": better_start(),
        **series("share of noise", (0.3, 0.5, 0.7, 1.3, 2.0), lambda x: constant(NOISE_SHARE=x)),
        **series("surplus of splats", (1.0, 1.2, 1.4, 2.0, 2.5), lambda x: constant(SURPLUS=x)),
        **series("learning rate of colours x", (0.25, 0.5, 2, 4), lambda x: rates(color_rate=x)),
        **series("learning rate of positions x", (0.5, 2), lambda x: rates(mean_rate=x)),
        **series("learning rate of a and c x", (0.5, 2), lambda x: rates(diagonal_rate=x)),
        **series("learning rate of b x", (0.5, 2), lambda x: rates(shear_rate=x)),
        "colours solved before the freezing": colors_solved(),
        "one packet": Change(((codec, "MOST_PACKETS", 1),)),
    }
    if "profile" in inspect.signature(compress).parameters:
        found["profile vector"] = Change(arguments={"profile": "vector"})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pictures", type=int, nargs="+", default=[1, 5, 8, 15, 19, 23], help="numbers of Kodak photos"
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[0.15, 0.3, 0.6], metavar="BPP")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--preset", default="balanced", choices=("fast", "balanced", "best"))
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose name contains one of these")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=1, help="files at a time")
    parser.add_argument("--kodak", type=Path, default=DATA / "kodak", help="folder with kodim01.png and so on")
    parser.add_argument("--commit", help="to be named where there is no repository")
    options = parser.parse_args()
    threads = max(1, cores() // options.workers)

    machine = f"{describe(threads, options.device, options.commit)}, {options.workers} files at a time"
    print(f"{machine}; {options.preset}, {len(options.pictures)} pictures, {options.seeds} seeds\n")
    print(f"| | dB | twice its error | {' | '.join(f'{rate:g} bpp' for rate in options.rates)} |", end="")
    print(f" splats | bytes of budget, % | seconds |\n|{'---|' * (len(options.rates) + 6)}")
    names = [name for name in variants() if name == SHIPPED or any(part in name for part in options.only)]
    fixed = options.preset, options.device, threads
    keys = [(n, rate, seed) for n in options.pictures for rate in options.rates for seed in range(options.seeds)]
    with pool(options.workers, warm_up, options.device) as workers:
        jobs: dict[str, list[Future[Outcome]]] = {
            name: [
                workers.submit(measure, Task(name, options.kodak / f"kodim{n:02}.png", rate, seed, *fixed))
                for n, rate, seed in keys
            ]
            for name in names
        }
        shape = len(options.pictures), len(options.rates), options.seeds
        shipped = grid(jobs[SHIPPED], shape)
        for name in names:
            # A row that fails costs only itself.
            failed = next((error for error in (job.exception() for job in jobs[name]) if error), None)
            if failed:
                print(f"| {name} | failed: {failed!r} |", flush=True)
            else:
                line(name, grid(jobs[name], shape), shipped)


def grid(jobs: list[Future[Outcome]], shape: tuple[int, ...]) -> np.ndarray:
    """Outcomes by picture, rate and seed."""
    found = np.empty(shape, object)
    found.ravel()[:] = [job.result() for job in jobs]
    return found


def line(name: str, found: np.ndarray, shipped: np.ndarray) -> None:
    differences = np.array([against(*pair) for pair in zip(found, shipped, strict=True)])  # [picture, rate]
    count = len(differences)
    error = 2 * differences.mean(axis=1).std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
    by_rate, mean = differences.mean(axis=0), f"{differences.mean():+.2f}"
    cells = [f"{value:+.2f}" for value in by_rate]
    if name == SHIPPED:
        cells = [f"{value:.2f}" for value in column(found, lambda outcome: outcome.psnr).mean(axis=(0, 2))]
        mean, error = "0", math.nan
    used = column(found, lambda outcome: 100 * outcome.bytes / outcome.budget)
    splats = column(found, lambda outcome: outcome.splats).mean()
    seconds = column(found, lambda outcome: outcome.seconds).mean()
    cells = [name, mean, "" if math.isnan(error) else f"{error:.2f}", *cells, f"{splats:.0f}"]
    print(f"| {' | '.join(cells)} | {used.min():.1f} to {used.max():.1f} | {seconds:.2f} |", flush=True)


def column(found: np.ndarray, value: Callable[[Outcome], float]) -> np.ndarray:
    return np.vectorize(value, otypes=[float])(found)


def against(found: np.ndarray, shipped: np.ndarray) -> np.ndarray:
    """dB above the shipped method at the same size, for one picture; outcomes [rate, seed]. [rate]"""

    def octaves(outcomes: np.ndarray) -> np.ndarray:
        return column(outcomes, lambda outcome: math.log2(outcome.bytes))

    psnr, reference = column(found, lambda outcome: outcome.psnr), column(shipped, lambda outcome: outcome.psnr)
    degree = min(2, len(shipped) - 1)
    curve = np.polyfit(octaves(shipped).ravel(), reference.ravel(), degree)
    # Where the shipped method itself misses its parabola, both do.
    miss = (reference - np.polyval(curve, octaves(shipped))).mean(axis=1)
    return (psnr - np.polyval(curve, octaves(found))).mean(axis=1) - miss


def measure(task: Task) -> Outcome:
    image = splat2d.load_image(task.picture)
    budget = int(task.rate * image.shape[0] * image.shape[1] / 8)
    change = variants()[task.variant]
    settings = {"preset": task.preset, "seed": task.seed, "device": task.device, "threads": task.threads}
    with changed(change):
        start = time.perf_counter()
        data = compress(image, bytes=budget, **settings, **change.arguments).data
        seconds = time.perf_counter() - start
    splats = codec.decode(data)
    levels = levels_of(splat2d.render(splats, device="cpu", threads=task.threads))
    return Outcome(psnr_of_levels(levels, levels_of(image)), len(data), budget, len(splats), seconds)


@contextmanager
def changed(change: Change) -> Iterator[None]:
    """The names have their other values; it is an error if one of them does not exist."""
    before = [(home, name, getattr(home, name)) for home, name, _ in change.names]
    for home, name, value in change.names:
        setattr(home, name, value)
    try:
        yield
    finally:
        for home, name, value in before:
            setattr(home, name, value)


if __name__ == "__main__":
    main()
