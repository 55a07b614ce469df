"""Speed of the CUDA engine on one GPU: python benchmarks/gpu.py PICTURE... [--counts 10000 70000] [--profile]

Pictures are files that Pillow reads. Event times are medians of 15 rounds after two to warm up, quartiles in brackets;
wall times include everything from the array on the host to the splats on the host. Rates hold for the splats of a
finished fit. Beside the time of each kernel stands the least that this GPU could take for it, see floors().
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cuda.bindings import driver
from PIL import Image

from splat2d import _cpu
from splat2d.batch import fit_batch
from splat2d.bench import small_pictures
from splat2d.config import Loss
from splat2d.engine import Coding, Optimizer
from splat2d.engine.cuda import CudaEngine, CudaSession
from splat2d.fitting import OUTSIDE, FitResult, fit

ROUNDS = 15
COPIES = 20  # of a kernel in a graph
FP32, MUFU, L1_BYTES = 128, 16, 128  # of a processor in a clock; compute capability 9.0, and 8.0 but for half the FP32
MIX = Loss(0.8, 0.0, 0.2)
FIRST_USE = """
import numpy, splat2d
splat2d.fit(numpy.random.default_rng(0).random((64, 64, 3), "f4"), splats=100, steps=60, device="cuda")
"""


def read(path: Path) -> np.ndarray:
    image = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
    return np.ascontiguousarray(image)


def report(name: str, values: np.ndarray, unit: str = "us", scale: float = 1e6) -> float:
    """Prints the quartiles of values * scale; the median of the values."""
    low, median, high = np.percentile(values, [25, 50, 75])
    print(f"    {name:<34} {scale * median:9.1f} {unit}   ({scale * low:.1f} .. {scale * high:.1f})", flush=True)
    return float(median)


@dataclass(frozen=True, slots=True)
class Floor:
    """The least time of a kernel, were nothing in its way: seconds of its arithmetic, and of its bytes through DRAM."""

    arithmetic: float
    memory: float


def floors(gpu, splats: int, pairs: int, pixels: int, channels: int) -> dict[str, Floor]:
    """Of each kernel of a step for so many splats, and pairs of one and a pixel inside its cut-off.

    A pair costs `render` an exponent (a multiplication, a fused multiply-add, an exponential) and a multiply-add per
    channel; `update` the same exponent, 2 multiply-adds per channel and 6 operations for the moments, and a pixel of
    the gradient through the first-level cache. A pixel and channel costs the SSIM 11 taps down and 11 across of 4 and 3
    quantities. Set-up, chain rule and Adam, per splat, count as nothing. Memory: everything read and written once.
    """
    properties = gpu.device.properties
    clocks = gpu.processors * 1e3 * properties.clock_rate  # a second, of all processors
    bandwidth = 2e3 * properties.memory_clock_rate * properties.global_memory_bus_width / 8
    pixel = 4 * (channels if channels <= 2 else 4)
    adam, derived = 3 * 4 * (5 + channels), 64
    values = pixels * channels

    def floor(units: int, fp32: float, mufu: float, l1: float, size: float) -> Floor:
        return Floor(units * max(fp32 / FP32, mufu / MUFU, l1 / L1_BYTES) / clocks, size / bandwidth)

    return {
        "render": floor(pairs, 2 + channels, 1, 0, pixels * 2 * pixel + splats * 48),
        "update": floor(pairs, 8 + 2 * channels, 1, pixel, pixels * pixel + 2 * splats * (adam + derived)),
        "ssim_map": floor(values, 22 * 4, 0, 0, pixels * 2 * pixel + values * 12),
        "ssim_gradient": floor(values, 22 * 3, 0, 0, pixels * 3 * pixel + values * 12),
    }


def compare(name: str, floor: Floor, launch: float, measured: float) -> None:
    least = max(floor.arithmetic, floor.memory) + launch
    print(
        f"      {name:<14} {1e6 * measured:5.1f} us; floor {1e6 * least:5.1f}: arithmetic {1e6 * floor.arithmetic:.1f} "
        f"or memory {1e6 * floor.memory:.1f}, launch {1e6 * launch:.1f}; {measured / least:.1f} times the floor",
        flush=True,
    )


def session_for(engine: CudaEngine, image: np.ndarray, background: np.ndarray, loss: Loss) -> CudaSession:
    """A session as fit() has it."""
    return engine.start(image, background, loss, Optimizer(), None, OUTSIDE)


def kernel_times(session: CudaSession, build: Callable[[object], None]) -> np.ndarray:
    """Seconds of what build(stream) launches, in a graph, a value per round."""
    gpu = session._gpu
    graph = gpu.recorded(build, COPIES)
    return gpu.clock(lambda: [graph.launch(gpu.stream) for _ in range(5)], ROUNDS) / (5 * COPIES)


def kernels(engine: CudaEngine, image: np.ndarray, result: FitResult) -> None:
    gpu = engine._gpu
    splats = result.splats
    height, width, channels = image.shape
    session, similar = (session_for(engine, image, splats.background, loss) for loss in (Loss(), MIX))
    session.set_splats(splats.means, splats.log_cholesky, splats.colors)
    session.sort()
    similar.set_splats(*session.get_splats())
    step = session.clock_steps(ROUNDS)
    state = np.empty(16, np.int32)
    gpu.download(session._splats.state, state)
    inner = session._splats
    pairs = _cpu.count_pairs(splats.means, splats.log_cholesky, height, width)
    print(f"    {inner.count} splats, {state[1]} narrow, {state[2]} parts of wide ones, {pairs} pairs")
    report("step (graph of 10)", step)
    report("steps/s", 1 / step, "/s", 1)
    inner.set_state(inner.count)
    update = (session._schedule, 0, session._d_image, session._rates, None)
    times = {
        "render": report("  render kernel", kernel_times(session, lambda s: session._render(s, 1.0, 0.0))),
        "update": report("  update kernel", kernel_times(session, lambda s: inner.update(s, *update))),
    }
    report("step, coded", session.clock_steps(ROUNDS, Coding(0.02, 1e-4, 0)))
    report("render from parameters", session.clock_renders(ROUNDS))
    report("step, 0.8 L2 + 0.2 SSIM", similar.clock_steps(ROUNDS))
    times["ssim_map"] = report("  ssim_map kernel", kernel_times(similar, similar._ssim_map))
    times["ssim_gradient"] = report("  ssim_gradient kernel", kernel_times(similar, similar._ssim_gradient))
    launch = float(
        np.median(
            kernel_times(session, lambda s: gpu.launch(s, channels, "advance", (1,), 1, inner.state, np.int32(0)))
        )
    )
    for name, floor in floors(gpu, inner.count, pairs, height * width, channels).items():
        compare(name, floor, launch, times[name])
    hold = np.zeros(200, np.float32)  # learning rates of 0: all the work is done, yet the splats stay as they are
    for name, calls, call in (
        ("step by wall, run() of 200", len(hold), lambda: session.run(hold)),
        ("sort (wall)", 1, session.sort),
        ("evaluate (wall)", 1, session.evaluate),
        ("get_splats (wall)", 1, session.get_splats),
        ("relocate 3 % (wall)", 1, lambda: session.relocate(int(0.03 * session.count), 2.0, 2.0, 0)),
    ):
        walls = []
        for _ in range(ROUNDS + 2):
            gpu.stream.sync()
            start = time.perf_counter()
            call()
            gpu.stream.sync()
            walls.append((time.perf_counter() - start) / calls)
        report(name, np.array(walls[2:]))


def profiled(engine: CudaEngine, image: np.ndarray, result: FitResult) -> None:
    """A step of each kind for a profiler that waits for cuProfilerStart()."""
    splats = result.splats
    for loss, coding in ((Loss(), None), (Loss(), Coding(0.02, 1e-4, 0)), (MIX, None)):
        session = session_for(engine, image, splats.background, loss)
        session.set_splats(splats.means, splats.log_cholesky, splats.colors)
        session.sort()
        hold = np.zeros(1, np.float32)
        session.run(hold, coding)
        driver.cuProfilerStart()
        session.run(hold, coding)
        driver.cuProfilerStop()


def first_use() -> None:
    """A process that has nothing in its cache, from its start to its end, beside one that finds everything there."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        for name in ("first use, kernels compiled", "the same again, kernels from the cache"):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", FIRST_USE], env=environment, check=True)
            print(f"{name}: {time.perf_counter() - start:.2f} s wall, a process with a small fit", flush=True)


def batch(pictures: int) -> None:
    """Many pictures of 28 x 28 pixels with 64 splats each, 1000 steps: smooth random spots."""
    images = small_pictures(pictures)
    fit_batch(images[:100], splats=64, steps=10, device="cuda")
    start = time.perf_counter()
    result = fit_batch(images, splats=64, steps=1000, device="cuda")
    seconds = time.perf_counter() - start
    psnr = -10 * np.log10(result.squared).mean()
    print(f"{pictures} pictures of 28x28, 64 splats, 1000 steps: {seconds:.2f} s wall, mean {psnr:.2f} dB")


def large(engine: CudaEngine, image: np.ndarray, count: int) -> None:
    """Memory and step time of a picture of about 34 megapixels, made of copies of this one."""
    image = np.tile(image, (8, 11, 1))
    height, width, _ = image.shape
    rng = np.random.default_rng(0)
    means = rng.uniform((0, 0), (width, height), (count, 2)).astype(np.float32)
    log_cholesky = np.zeros((count, 3), np.float32)
    log_cholesky[:, [0, 2]] = np.log(0.6 * np.sqrt(width * height / count))
    colors = rng.normal(0, 0.1, (count, 3)).astype(np.float32)
    (before, _) = driver.cuMemGetInfo()[1:]
    session = session_for(engine, image, np.zeros(3, np.float32), Loss())
    tenth = slice(0, count // 10)  # as in a fit, which begins with a tenth of its splats and grows
    session.set_splats(means[tenth], log_cholesky[tenth], colors[tenth])
    session.grow(count - count // 10, 1.0, 3.0, 0)
    session.sort()
    session.run(np.ones(20, np.float32))
    start = time.perf_counter()
    session.run(np.ones(50, np.float32))
    seconds = (time.perf_counter() - start) / 50
    used = (before - driver.cuMemGetInfo()[1]) / 2**30
    print(f"{width}x{height}, {count} splats: {seconds * 1e3:.2f} ms a step, {used:.2f} GiB of GPU memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("--counts", nargs="+", type=int, default=[10_000, 70_000])
    parser.add_argument("--batch", type=int, default=0, help="also so many pictures of 28 x 28")
    parser.add_argument("--large", type=int, default=0, help="also a large picture, with so many splats")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--profile", action="store_true", help="only a step of each kind, for `ncu`")
    args = parser.parse_args()
    if args.profile:
        image = read(args.pictures[0])
        for count in args.counts:
            profiled(CudaEngine(), image, fit(image, splats=count, steps=args.steps, device="cuda"))
        return
    first_use()
    engine = CudaEngine()
    print(f"{engine.label}, {engine._gpu.processors} processors", flush=True)
    fit(np.random.default_rng(0).random((64, 64, 3), np.float32), splats=100, steps=60, device="cuda")  # warms up
    for path in args.pictures:
        image = read(path)
        for count in args.counts:
            print(f"{path.stem} {image.shape[1]}x{image.shape[0]}, {count} splats, {args.steps} steps, L2")
            fits = []
            for _ in range(3):
                start = time.perf_counter()
                result = fit(image, splats=count, steps=args.steps, device="cuda")
                fits.append(time.perf_counter() - start)
            print(f"    fit() {np.median(fits):.3f} s wall ({min(fits):.3f} .. {max(fits):.3f}), {result.psnr:.2f} dB")
            kernels(engine, image, result)
    image = read(args.pictures[0])
    for steps in (400, 500, 600, 700, 800):
        walls = []
        for seed in range(5):
            start = time.perf_counter()
            result = fit(image, splats=10_000, steps=steps, seed=seed, device="cuda")
            walls.append((time.perf_counter() - start, result.psnr))
        seconds, psnr = np.median(walls, axis=0)
        print(
            f"{args.pictures[0].stem}, 10000 splats, {steps} steps: {seconds:.3f} s wall, {psnr:.2f} dB (medians of 5)"
        )
    if args.batch:
        batch(args.batch)
    if args.large:
        large(engine, image, args.large)


if __name__ == "__main__":
    main()
