"""The speed of the CPU engine as ratios that carry over between machines: each against numpy.exp in the same minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splat2d import _cpu
from splat2d.config import Loss
from splat2d.engine import Engine, Optimizer, Session, engine
from splat2d.splats import Splats

ROUNDS = 15
BLOCK = 0.05  # seconds that one function runs before the next has its turn
STEPS = 10  # in a block of them, as a fit runs them
DEVICE_STEPS = 200  # in a block on a GPU: the wait at its end must not count
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


@dataclass(frozen=True, slots=True)
class DeviceBenchmark:
    """What `splat2d bench --device` prints of an engine other than the CPU's. Wall times, as a caller sees them."""

    width: int  # pixels
    height: int  # pixels
    splats: int
    device: str
    steps_per_second: Quartiles  # in blocks of DEVICE_STEPS
    render: Quartiles  # ms from splats on the host to a picture on the host


def measure_device(chosen: Engine, image: Array, splats: Splats) -> DeviceBenchmark:
    """Times whole steps and renders of an engine on splats fitted to the image [H, W, C]."""
    parameters = (splats.means, splats.log_cholesky, splats.colors)
    height, width, _ = image.shape
    session = chosen.start(image, splats.background, Loss(), Optimizer(), None)
    session.set_splats(*parameters)
    hold = np.zeros(DEVICE_STEPS, np.float32)
    blocks = interleave(
        {
            "steps": lambda: session.run(hold),
            "render": lambda: chosen.render(*parameters, splats.background, height, width, None),
        }
    )
    return DeviceBenchmark(
        width=width,
        height=height,
        splats=len(splats),
        device=chosen.label,
        steps_per_second=_quartiles(DEVICE_STEPS / blocks["steps"]),
        render=_quartiles(blocks["render"] * 1e3),
    )


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
    session = engine("cpu").start(image, splats.background, Loss(), Optimizer(), threads)
    session.set_splats(splats.means, splats.log_cholesky, splats.colors)
    return session


def _quartiles(values: NDArray[np.float64]) -> Quartiles:
    low, median, high = np.percentile(values, [25, 50, 75]).tolist()
    return low, median, high
