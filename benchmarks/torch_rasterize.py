"""What splat2d.torch.rasterize costs: python benchmarks/torch_rasterize.py [--device cuda]

On the CPU beside the native functions that it calls; on the GPU beside the replay of the same work from a CUDA graph,
which is what the kernels alone take. Least and median of the rounds, in microseconds.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from machine import describe

from splat2d import _cpu
from splat2d.torch import rasterize, z_order

CASES = [(1, 64, 28, 28, 1), (256, 64, 28, 28, 1), (1, 1000, 128, 192, 3), (1, 10_000, 512, 768, 3)]


def scene(pictures: int, count: int, height: int, width: int, channels: int, device: str) -> list[torch.Tensor]:
    """Random splats that cover the picture about three times, in Z order."""
    torch.manual_seed(0)
    means = torch.rand(pictures, count, 2) * torch.tensor([width, height])
    log_cholesky = torch.zeros(pictures, count, 3)
    log_cholesky[..., [0, 2]] = 0.5 * np.log(3 * height * width / (count * 35)) + 0.3 * torch.randn(pictures, count, 2)
    order = z_order(means, log_cholesky, height=height, width=width)[..., None]
    colors = torch.rand(pictures, count, channels)
    sorted_ = [torch.take_along_dim(tensor, order, -2) for tensor in (means, log_cholesky, colors)]
    return [tensor.to(device) for tensor in sorted_]


def clock(works: list[Callable[[], object]], rounds: int, device: str) -> list[str]:
    """Least and median of each, in turns, so that what else the machine does falls on all."""
    times = np.empty((rounds + 3, len(works)))
    for row in times:
        for i, work in enumerate(works):
            start = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            row[i] = 1e6 * (time.perf_counter() - start)
    return [f"{column.min():.0f} / {np.median(column):.0f}" for column in times[3:].T]


def graphed(work: Callable[[], object]) -> Callable[[], None]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    replay: Callable[[], None] = graph.replay
    return replay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    device, threads = options.device, options.threads
    torch.set_num_threads(threads)
    print(f"{describe(threads, device)}, torch {torch.__version__}\n")
    beside = "native" if device == "cpu" else "graph"
    print(f"| pictures | splats | size | forward, {beside} | forward | and backward, {beside} | and backward |")
    print("|---|---|---|---|---|---|---|")
    for pictures, count, height, width, channels in CASES:
        splats = scene(pictures, count, height, width, channels, device)
        leaves = [tensor.clone().requires_grad_() for tensor in splats]
        d_images = torch.randn(pictures, height, width, channels, device=device)

        def forward(splats=splats, height=height, width=width):
            return rasterize(*splats, height=height, width=width)

        def both(leaves=leaves, d_images=d_images, height=height, width=width):
            for leaf in leaves:
                leaf.grad = None
            rasterize(*leaves, height=height, width=width).backward(d_images)

        if device == "cpu":
            arrays, d_arrays = [tensor.numpy() for tensor in splats], d_images.numpy()
            ground = np.zeros((pictures, channels), np.float32)

            def native(arrays=arrays, ground=ground, height=height, width=width):
                return _cpu.render_pictures(*arrays, ground, height, width, threads=threads)

            def native_both(native=native, arrays=arrays, d_arrays=d_arrays):
                return native(), _cpu.render_pictures_backward(*arrays, d_arrays, threads=threads)

            others = native, native_both
        else:
            others = graphed(forward), graphed(both)
        cells = clock([others[0], forward, others[1], both], options.rounds, device)
        print(f"| {pictures} | {count} | {width} x {height} x {channels} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
