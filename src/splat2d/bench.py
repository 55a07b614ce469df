"""How fast an engine is.

Of the CPU as ratios that carry over between machines, each against numpy.exp in the same minute; of a GPU by its own
clock and by that on the wall.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from splat2d import _cpu
from splat2d.batch import fit_batch
from splat2d.config import FitConfig, Loss
from splat2d.engine import Engine, Optimizer, Session, engine
from splat2d.fitting import OUTSIDE, Progress, fit_steps
from splat2d.splats import Splats

ROUNDS = 15
BLOCK = 0.05  # seconds that one function runs before the next has its turn
STEPS = 10  # in a block of them, as a fit runs them
DEVICE_STEPS = 200  # in a block on a GPU: the wait at its end must not count
FITS = 3
NEAR = 0.5  # dB below the end of a fit, which it reaches long before
PICTURES = 6000  # of 28 x 28 pixels, in a batch with SMALL_SPLATS each
SMALL_SPLATS, SMALL_STEPS = 64, 1000
HOLD = np.zeros(STEPS, np.float32)  # learning rates: all the work is done, yet the splats stay as they are

Array = NDArray[np.float32]
Quartiles = tuple[float, float, float]  # lower quartile, median, upper quartile


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What `splat2d bench` prints. Times are ns per pair of a splat and a pixel within its cut-off, on one thread."""

    width: int  # pixels
    height: int  # pixels
    splats: int
    pairs: int
    instruction_set: str
    step: Quartiles  # render, L2 gradient and update
    render: Quartiles
    numpy_exp: Quartiles  # numpy.exp(x, out=out) over as many float32 as there are pairs
    step_ratio: Quartiles  # step / numpy_exp, both of the same round
    render_ratio: Quartiles
    threads: int
    speedup: Quartiles  # step on one thread / step on `threads`


@runtime_checkable
class ClockedSession(Protocol):
    """A session whose device has a clock. Both return seconds, a value per round."""

    def clock_steps(self, rounds: int) -> NDArray[np.float64]: ...

    def clock_renders(self, rounds: int) -> NDArray[np.float64]: ...


@runtime_checkable
class MeteredEngine(Protocol):
    """An engine that knows the memory it holds."""

    def memory(self) -> int: ...


@dataclass(frozen=True, slots=True)
class DeviceBenchmark:
    """What `splat2d bench --device` prints of an engine other than the CPU's. By the clock on the wall, as a caller
    sees it, and where it says so by that of the device, over work that starts and ends there."""

    width: int  # pixels
    height: int  # pixels
    splats: int
    device: str
    fit_seconds: float  # from the picture on the host to the splats on the host, median of FITS
    psnr: float  # dB
    near_psnr: float  # NEAR dB less
    near_seconds: float  # of a fit until it was that good, median
    steps_per_second: Quartiles  # in blocks of DEVICE_STEPS
    device_steps_per_second: Quartiles | None
    render: Quartiles  # ms from splats on the host to a picture on the host
    device_render: Quartiles | None  # ms
    pictures_per_second: float  # of fit_batch() for PICTURES of 28 x 28, SMALL_SPLATS each, SMALL_STEPS steps
    memory: int | None  # bytes on the device of a session for this picture


def measure_device(chosen: Engine, image: Array, config: FitConfig) -> DeviceBenchmark:
    """Times an engine at fits of the image [H, W, C], and at whole steps and renders of the splats they end with.

    The caller has done such a fit before, to warm up; all else has a round of its own for that.
    """
    fits = [_followed(image, config) for _ in range(FITS)]
    final = fits[-1][-1]
    near = final.psnr - NEAR
    splats = final.splats
    parameters = (splats.means, splats.log_cholesky, splats.colors)
    held = chosen.memory() if isinstance(chosen, MeteredEngine) else 0
    session = chosen.start(image, splats.background, Loss(), Optimizer(), config.threads, OUTSIDE)
    session.set_splats(*parameters)
    hold = np.zeros(DEVICE_STEPS, np.float32)
    blocks = interleave(
        {
            "steps": lambda: session.run(hold),
            "render": lambda: chosen.render(*parameters, splats.background, splats.height, splats.width, None),
        }
    )
    clocked = session if isinstance(session, ClockedSession) else None
    device_steps = None if clocked is None else _quartiles(1 / clocked.clock_steps(ROUNDS))
    device_render = None if clocked is None else _quartiles(clocked.clock_renders(ROUNDS) * 1e3)
    memory = chosen.memory() - held if isinstance(chosen, MeteredEngine) else None
    small = small_pictures(PICTURES)
    fit_batch(small[:10], splats=SMALL_SPLATS, steps=1, device=config.device)
    batch = _seconds(lambda: fit_batch(small, splats=SMALL_SPLATS, steps=SMALL_STEPS, device=config.device), 1)
    return DeviceBenchmark(
        width=splats.width,
        height=splats.height,
        splats=len(splats),
        device=chosen.label,
        fit_seconds=float(np.median([fit[-1].seconds for fit in fits])),
        psnr=final.psnr,
        near_psnr=near,
        near_seconds=float(np.median([next(p.seconds for p in fit if p.psnr >= near) for fit in fits])),
        steps_per_second=_quartiles(DEVICE_STEPS / blocks["steps"]),
        device_steps_per_second=device_steps,
        render=_quartiles(blocks["render"] * 1e3),
        device_render=device_render,
        pictures_per_second=PICTURES / batch,
        memory=memory,
    )


def _followed(image: Array, config: FitConfig) -> list[Progress]:
    return [*fit_steps(image, config)]


def small_pictures(count: int) -> Array:
    """Random smooth spots on 28 x 28 pixels; they repeat after a thousand. [count, 28, 28, 1]"""
    spots = np.random.default_rng(0).random((min(count, 1000), 7, 7, 1), np.float32)
    return np.resize(spots.repeat(4, axis=1).repeat(4, axis=2), (count, 28, 28, 1))


def measure(image: Array, splats: Splats, threads: int) -> Benchmark:
    """Times a whole step on splats fitted to the image [H, W, C], on one thread and on `threads`."""
    parameters = (splats.means, splats.log_cholesky, splats.colors)
    height, width, _ = image.shape
    pairs = _cpu.count_pairs(splats.means, splats.log_cholesky, height, width)
    x = np.random.default_rng(0).uniform(-_cpu.CUTOFF, 0, pairs).astype(np.float32)
    out = np.empty_like(x)
    one, many = start(image, splats, 1), start(image, splats, threads)
    seconds = interleave(
        {
            "step": lambda: one.run(HOLD),
            "render": lambda: _cpu.render(*parameters, splats.background, height, width, threads=1),
            "exp": lambda: np.exp(x, out=out),
            "threads": lambda: many.run(HOLD),
        }
    )
    blocks = {name: values / STEPS if name in ("step", "threads") else values for name, values in seconds.items()}
    return Benchmark(
        width=width,
        height=height,
        splats=len(splats),
        pairs=pairs,
        instruction_set=_cpu.instruction_set(),
        step=_quartiles(blocks["step"] / pairs * 1e9),
        render=_quartiles(blocks["render"] / pairs * 1e9),
        numpy_exp=_quartiles(blocks["exp"] / pairs * 1e9),
        step_ratio=_quartiles(blocks["step"] / blocks["exp"]),
        render_ratio=_quartiles(blocks["render"] / blocks["exp"]),
        threads=threads,
        speedup=_quartiles(blocks["step"] / blocks["threads"]),
    )


def interleave(functions: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, NDArray[np.float64]]:
    """Runs the functions by turns, a block of calls each, so that a busy spell of the machine meets all of them.

    Returns the seconds per call of every block, [rounds] for each function.
    """
    calls = {}
    for name, function in functions.items():
        function()  # the first call pays for memory and caches
        calls[name] = max(1, round(BLOCK / max(_seconds(function, 1), 1e-9)))
    blocks = [[_seconds(function, calls[name]) for name, function in functions.items()] for _ in range(rounds)]
    return dict(zip(functions, np.array(blocks).T, strict=True))


def _seconds(function: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def start(image: Array, splats: Splats, threads: int) -> Session:
    """A session whose step can be run again and again."""
    session = engine("cpu").start(image, splats.background, Loss(), Optimizer(), threads, OUTSIDE)
    session.set_splats(splats.means, splats.log_cholesky, splats.colors)
    return session


def _quartiles(values: NDArray[np.float64]) -> Quartiles:
    low, median, high = np.percentile(values, [25, 50, 75]).tolist()
    return low, median, high
