"""Speed of the CUDA engine on one GPU: python benchmarks/gpu.py PICTURE... [--counts 10000 70000]

Pictures are files that Pillow reads. Event times are medians of blocks after a warm-up; wall times include everything
from the array on the host to the splats on the host. Rates hold for the splats of a finished fit.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from cuda.bindings import driver
from cuda.core import EventOptions
from PIL import Image

from splat2d.batch import fit_batch
from splat2d.config import Loss
from splat2d.engine import Coding, Optimizer
from splat2d.engine.cuda import TOGETHER, CudaEngine, CudaSession, cubins
from splat2d.fitting import fit

ROUNDS = 15


def read(path: Path) -> np.ndarray:
    image = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
    return np.ascontiguousarray(image)


def event_times(gpu, launch, repeats: int) -> np.ndarray:
    """Microseconds per call of `launch`, a value per round."""
    times = []
    for _ in range(ROUNDS + 2):
        first = gpu.stream.record(options=EventOptions(timing_enabled=True))
        for _ in range(repeats):
            launch()
        last = gpu.stream.record(options=EventOptions(timing_enabled=True))
        last.sync()
        times.append((last - first) * 1e3 / repeats)
    return np.array(times[2:])


def captured(gpu, build, copies: int):
    """A graph of so many copies of what `build(stream)` launches."""
    builder = gpu.stream.create_graph_builder()
    builder.begin_building()
    for _ in range(copies):
        build(builder)
    builder.end_building()
    graph = builder.complete()
    return lambda: graph.launch(gpu.stream)


def report(name: str, values: np.ndarray, unit: str = "us") -> None:
    low, median, high = np.percentile(values, [25, 50, 75])
    print(f"    {name:<34} {median:9.1f} {unit}   ({low:.1f} .. {high:.1f})", flush=True)


def step_times(session: CudaSession, coding: Coding | None = None) -> np.ndarray:
    """Microseconds of a step in a graph of ten, a value per round."""
    gpu, splats = session._gpu, session._splats
    session.run(np.zeros(1000, np.float32), coding)  # fills the whole schedule; warms up

    def steps() -> None:
        splats.set_state(splats.count)
        for _ in range(20):
            session._graph(10, coding is not None).launch(gpu.stream)

    return event_times(gpu, steps, 1) / 200


def kernels(engine: CudaEngine, image: np.ndarray, result) -> None:
    gpu = engine._gpu
    session = CudaSession(gpu, image, result.splats.background, Loss(), Optimizer())
    splats = result.splats
    session.set_splats(splats.means, splats.log_cholesky, splats.colors)
    session.sort()
    hold = np.zeros(200, np.float32)  # learning rates of 0: all the work is done, yet the splats stay as they are
    session.run(np.zeros(1000, np.float32))  # fills the whole schedule
    state = np.empty(16, np.int32)
    gpu.download(session._splats.state, state)
    inner = session._splats
    render = captured(gpu, lambda stream: session._render(stream, 1.0, 0.0), 20)
    inner.set_state(inner.count)
    update = captured(
        gpu, lambda stream: inner.update(stream, session._schedule, 0, session._d_image, session._rates, None), 20
    )
    prepare_args = (inner.state, inner.params, inner.splats, inner.more, inner.boxes, inner.colors)
    supers = (-(-inner.count // 1024),)
    picture = inner.planes

    def redraw(stream) -> None:
        gpu.launch(stream, inner.channels, "prepare", (-(-inner.count // 128),), 128, *prepare_args)
        gpu.launch(
            *(stream, inner.channels, "survey", supers, 1024, inner.state, inner.splats, inner.more, inner.boxes),
            *(inner.chunks, inner.supers, inner.parts, inner.totals, np.int32(picture.width), np.int32(picture.height)),
        )
        session._render(stream, 1.0, 0.0)

    whole = captured(gpu, redraw, 20)
    print(f"    {inner.count} splats, {state[1]} narrow, {state[2]} parts of wide ones")

    step = step_times(session)
    report("step (graph of 10)", step)
    report("steps/s", 1e6 / step, "/s")
    report("  render kernel", event_times(gpu, render, 5) / 20)
    report("  update kernel", event_times(gpu, update, 5) / 20)
    report("step, coded", step_times(session, Coding(0.02, 1e-4, 0)))
    similar = CudaSession(gpu, image, splats.background, Loss(0.8, 0.0, 0.2), Optimizer())
    similar.set_splats(*session.get_splats())
    report("step, loss 0.8 L2 + 0.2 SSIM", step_times(similar))
    session.evaluate()  # derived values without noise
    report("render from parameters", event_times(gpu, whole, 5) / 20)
    walls = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        session.run(hold)
        walls.append((time.perf_counter() - start) / len(hold) * 1e6)
    report("step by wall, run() of 200", np.array(walls))
    for name, call in (
        ("sort", session.sort),
        ("evaluate", session.evaluate),
        ("get_splats", session.get_splats),
        ("relocate 3 %", lambda: session.relocate(int(0.03 * session.count), 2.0, 2.0, 0)),
    ):
        walls = []
        for _ in range(ROUNDS):
            gpu.stream.sync()
            start = time.perf_counter()
            call()
            gpu.stream.sync()
            walls.append((time.perf_counter() - start) * 1e6)
        report(f"{name} (wall)", np.array(walls))


def batch(pictures: int) -> None:
    """Many pictures of 28 x 28 pixels with 64 splats each, 1000 steps: smooth random spots."""
    rng = np.random.default_rng(0)
    small = rng.random((1000, 7, 7, 1), np.float32).repeat(4, axis=1).repeat(4, axis=2)
    images = np.concatenate([small] * -(-pictures // 1000))[:pictures]
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
    session = CudaSession(engine._gpu, image, np.zeros(3, np.float32), Loss(), Optimizer())
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
    args = parser.parse_args()
    start = time.perf_counter()
    engine = CudaEngine()
    gpu = engine._gpu
    print(f"{gpu.device.name}, {gpu.processors} processors; engine ready in {time.perf_counter() - start:.2f} s")
    start = time.perf_counter()
    cubins(3, gpu.arch, TOGETHER)
    print(f"kernels compiled or read in {time.perf_counter() - start:.2f} s")
    fit(np.random.default_rng(0).random((64, 64, 3), np.float32), splats=100, steps=60, device="cuda")
    print(f"first small fit done after {time.perf_counter() - start:.2f} s", flush=True)
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
    sys.stdout.flush()


if __name__ == "__main__":
    main()
