"""The CUDA engine: kernels compiled on first use by NVRTC, a session whose data stay on the GPU.

The kernels and what they mean stand in native/cuda. A block of steps is a CUDA graph; nothing waits for the host but
the end of run(), evaluate() and get_splats().
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cuda.bindings import driver, nvrtc
from cuda.core import Device, EventOptions, LaunchConfig, ObjectCode, Program, ProgramOptions, launch
from numpy.typing import NDArray

from splat2d.config import Loss
from splat2d.engine import Bools, Coding, Evaluation, Floats, Optimizer
from splat2d.errors import InputError

SUPER = 1024  # splats under one box, see native/cuda/common.cuh
TILE_X, TILE_Y, RENDER_THREADS = 16, 16, 128  # see render() in native/cuda/step.cuh
UPDATE_WAVES, UPDATE_THREADS = 4, 64  # blocks of update() per block that runs at once, and their size
KEY_BITS, SORTED = 24, 2048  # of the sort, see native/cuda/growth.cuh
SEGMENT = 256
REDUCTION_BLOCKS = 1024
PARTS = 65536  # work items beyond one per splat, see plan() in native/cuda/step.cuh
GRAPH_STEPS = 10
SSIM_X, SSIM_Y, SSIM_THREADS = 32, 16, 256  # see native/cuda/ssim.cuh
BATCH_THREADS = 128
BATCH_SHARED = 48 * 1024  # bytes of shared memory that every GPU grants a block
BATCH_BYTES = 2**29  # of pictures in one launch
UNCODED = Coding(0.0, 0.0, 0)  # for steps with frozen splats and no noise
FROZEN = -1.0  # in place of the second moment of x, see native/cuda/update.cuh
REPLAN = 50  # steps after which boxes and work items are made anew
OVERLAPPING = ("render", "update", "coded_update")  # kernels that call overlap_launches()
SCHEDULE = 1000  # steps of one upload
ROOM = 12  # capacity per splat at first: fits grow about tenfold
SUMS = slice(24, 56)  # of State in native/cuda/common.cuh
STATE_BYTES = 64
PINNED = 16 * 2**20  # bytes of page-locked memory for the way back

# Divisions and roots to an ulp or two, no denormals: far below what float32 sums over a picture lose anyway.
_ROUNDING = {"ftz": True, "prec_div": False, "prec_sqrt": False}
_SOURCES = (
    *(f"{name}.h" for name in ("gaussian", "coding", "residual", "ssim")),
    *(f"cuda/{name}" for name in ("inner.h", "common.cuh", "tile.cuh", "update.cuh")),
    *(f"cuda/{name}.cuh" for name in ("step", "growth", "loss", "ssim", "coded", "batch", "pictures")),
)
# The files that are compiled, and their kernels. Every fit takes those of TOGETHER; the others wait until needed.
KERNELS = {
    "step": ("prepare", "survey", "plan", "render", "update", "advance", "set_state"),
    "growth": (
        *("error_squares", "error_map", "flatten", "segments", "scan_segments", "place"),
        *("energies", "weakest", "prune_keys", "order_keys", "sort_count", "sort_scan", "sort_scatter", "permute"),
    ),
    "loss": ("pack", "unpack", "split", "measure", "total"),
    "ssim": ("ssim_map", "ssim_gradient"),
    "coded": ("coded_prepare", "coded_update"),
    "batch": ("fit_batch",),
    "pictures": ("load_splats", "draw_pictures", "splat_gradients"),
}
TOGETHER = ("step", "growth", "loss")
_FILE_OF = {kernel: file for file, kernels in KERNELS.items() for kernel in kernels}

i32, i64, f32, f64, u64 = np.int32, np.int64, np.float32, np.float64, np.uint64


class CudaEngine:
    """See splat2d.engine.Engine. Raises InputError where no GPU can be used."""

    name = "cuda"

    def __init__(self) -> None:
        self._gpu = _gpu()
        self._gpu.device.set_current()  # of this thread
        self.label = str(self._gpu.device.name)

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
        gpu = self._gpu
        channels = colors.shape[1]
        planes = _Planes(width, height, channels)
        splats = _DeviceSplats(gpu, channels, planes, max(len(means), 1), optimizing=False)
        splats.upload(means, log_cholesky, colors)
        splats.sort()
        splats.survey()
        ground = gpu.upload(_padded(background))
        picture = gpu.allocate(planes.bytes)
        splats.render(gpu.stream, 0, ground, picture, 0, 1.0, 0.0, 1.0)
        out = np.empty((height, width, channels), np.float32)
        flat = gpu.allocate(out.nbytes)
        gpu.run(channels, "unpack", planes.pixels, 256, picture, flat, i64(planes.pixels))
        gpu.download(flat, out)
        return out

    def start(
        self,
        image: Floats,
        background: Floats,
        loss: Loss,
        optimizer: Optimizer,
        threads: int | None,
        outside: float = 1.0,
    ) -> CudaSession:
        return CudaSession(self._gpu, image, background, loss, optimizer, outside)

    def memory(self) -> int:
        """Bytes of GPU memory that all sessions hold."""
        return int(self._gpu.device.memory_resource.attributes.used_mem_current)

    def takes_batch(self, shape: tuple[int, ...], count: int) -> bool:
        return shape[3] <= 4 and _batch_memory(shape, count) <= BATCH_SHARED

    def fit_batch(
        self, images: Floats, count: int, sigma: float, rates: Floats, optimizer: Optimizer, seed: int
    ) -> tuple[Floats, Floats, Floats, Floats, Floats]:
        gpu = self._gpu
        pictures, height, width, channels = images.shape
        fields = 5 + channels
        schedule = gpu.upload(_schedule(rates, 0, optimizer))
        settings = gpu.upload(_rates(optimizer))
        rows = np.empty((pictures, count, fields), np.float32)
        backgrounds, errors = np.empty((pictures, channels), np.float32), np.empty(pictures, np.float32)
        most = max(1, min(pictures, BATCH_BYTES // (4 * height * width * channels)))
        for first in range(0, pictures, most):
            part = images[first : first + most]
            size = len(part)
            outputs = [gpu.allocate(array[first : first + size].nbytes) for array in (rows, backgrounds, errors)]
            config = LaunchConfig(grid=(size,), block=BATCH_THREADS, shmem_size=_batch_memory(images.shape, count))
            launch(
                *(gpu.stream, config, gpu.kernel(channels, "fit_batch"), gpu.upload(part), *outputs),
                *(schedule, i32(len(rates)), i32(count), i32(width), i32(height)),
                *(f32(sigma), u64((seed + first) % 2**64), settings),
            )
            for output, array in zip(outputs, (rows, backgrounds, errors), strict=True):
                gpu.download(output, array[first : first + size])
        means, log_cholesky, colors = np.split(rows, [2, 5], axis=2)
        return means.copy(), log_cholesky.copy(), colors.copy(), backgrounds, errors


class CudaSession:
    """See splat2d.engine.Session."""

    def __init__(
        self, gpu: _Gpu, image: Floats, background: Floats, loss: Loss, optimizer: Optimizer, outside: float
    ) -> None:
        height, width, channels = image.shape
        self._gpu, self._channels, self._loss, self._optimizer = gpu, channels, loss, optimizer
        self._outside = outside
        planes = self._planes = _Planes(width, height, channels)
        self._elements = image.size
        self._background = gpu.upload(_padded(background))
        self._target = gpu.allocate(planes.bytes)
        raw = gpu.upload(np.ascontiguousarray(image, np.float32))
        gpu.run(channels, "pack", planes.pixels, 256, raw, self._target, i64(planes.pixels))
        self._residual = gpu.zeros(planes.bytes)
        self._tile_squares = gpu.allocate(4 * planes.tiles * planes.groups)
        self._partials = gpu.allocate(8 * 3 * REDUCTION_BLOCKS)
        self._d_image = self._residual
        if loss.ssim > 0:
            self._d_image = gpu.zeros(planes.bytes)
            self._derivatives = gpu.allocate(4 * 3 * channels * planes.pixels)
            self._map_sums = gpu.allocate(4 * planes.ssim_blocks)
            gpu.kernel(channels, "ssim_map")  # compiled now, and not while a graph is recorded
            taps = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
            self._taps = [f32(tap) for tap in (taps / taps.sum())[:6]]  # of the window, up to its middle
        self._rates = gpu.upload(_rates(optimizer))
        self._schedule = gpu.allocate(16 * SCHEDULE)
        self._map_buffers: tuple[Any, Any, Any] | None = None
        self._splats = _DeviceSplats(gpu, channels, planes, SUPER)
        self._coding_buffer = gpu.allocate(16)
        self._graphs: dict[tuple[int, bool], Any] = {}
        self._steps = 0
        self._since_plan = 0
        self._settled = False
        self._drawn: Coding | None = None  # the noise in the derived values, which are those of the next step
        self._frozen = 0  # splats

    @property
    def count(self) -> int:
        return self._splats.count

    def set_splats(self, means: Floats, log_cholesky: Floats, colors: Floats, frozen: Bools | None = None) -> None:
        if colors.shape != (len(means), self._channels) or log_cholesky.shape != (len(means), 3):
            raise ValueError("means, log_cholesky and colors must have the same length, and the target's channels")
        if frozen is not None and frozen.shape != (len(means),):
            raise ValueError("frozen must have an entry per splat")
        self._reserve(len(means))
        self._splats.upload(means, log_cholesky, colors)
        self._frozen = 0 if frozen is None else int(np.count_nonzero(frozen))
        if frozen is not None and self._frozen:
            self._splats.freeze(frozen)
        self._steps = 0
        self._settled = False

    def get_splats(self) -> tuple[Floats, Floats, Floats]:
        return self._splats.fetch()

    def run(self, rates: Floats, coding: Coding | None = None) -> float:
        noise = coding if coding is not None and coding.step > 0 else UNCODED if self._frozen else None
        if noise is not None:
            self._gpu.copy_in(self._coding_buffer, _coding(noise))
        self._settle(noise)
        for first in range(0, len(rates), SCHEDULE):
            part = rates[first : first + SCHEDULE]
            self._gpu.copy_in(self._schedule, _schedule(part, self._steps, self._optimizer))
            self._splats.set_state(self._splats.count)
            left = len(part)
            while left:
                if self._since_plan == REPLAN:
                    self._splats.survey(plan=True)
                    self._since_plan = 0
                block = min(left, REPLAN - self._since_plan)
                for size in [GRAPH_STEPS] * (block // GRAPH_STEPS) + [1] * (block % GRAPH_STEPS):
                    self._graph(size, noise is not None).launch(self._gpu.stream)
                self._since_plan += block
                left -= block
            self._steps += len(part)
        tiles = self._planes.tiles * self._planes.groups
        self._reduce("total", self._tile_squares, self._partials, i64(tiles), i32(3))
        return float(self._sums()[3]) / self._elements

    def evaluate(self) -> Evaluation:
        loss, planes = self._loss, self._planes
        self._render_residual()
        similarity = 0.0
        if loss.ssim > 0:
            self._ssim_map(self._gpu.stream)
            self._reduce("total", self._map_sums, self._partials, i64(planes.ssim_blocks), i32(3))
        self._reduce(
            *("measure", self._residual, self._target, self._partials, i64(planes.pixels), f32(self._outside)),
        )
        squares, absolutes, clamped, map_sum = (float(value) / self._elements for value in self._sums())
        similarity = map_sum if loss.ssim > 0 else 0.0
        value = loss.l2 * squares + loss.l1 * absolutes + loss.ssim * (1 - similarity)
        return Evaluation(squares, clamped, value)

    def grow(self, added: int, power: float, sigma: float, seed: int) -> None:
        if added < 0:
            raise ValueError("cannot add fewer than no splats")
        self._reserve(self.count + added)
        self._place(0, added, power, sigma, seed)
        self._splats.set_state(self.count + added)
        self._settled = False

    def relocate(self, moved: int, power: float, sigma: float, seed: int) -> None:
        if not 0 <= moved <= self.count:
            raise ValueError("cannot move more splats than there are")
        moved = min(moved, self.count - self._frozen)
        if moved:
            indices = self._splats.discard_weakest(moved)
            self._settled = False
            self._place(indices, moved, power, sigma, seed)
        self._settled = False

    def prune(self, energy: float) -> None:
        self._splats.prune(energy)
        self._settled = False

    def sort(self) -> None:
        self._splats.sort()
        self._settled = False

    def clock_steps(self, rounds: int, coding: Coding | None = None) -> NDArray[np.float64]:
        """Seconds of a step by the GPU's clock, a value for each round of 200. The splats stay as they are."""
        self.run(np.zeros(SCHEDULE, np.float32), coding)  # fills the whole schedule, and warms up

        def steps() -> None:
            self._splats.set_state(self.count)
            for _ in range(200 // GRAPH_STEPS):
                self._graph(GRAPH_STEPS, coding is not None).launch(self._gpu.stream)

        return self._gpu.clock(steps, rounds) / 200

    def clock_renders(self, rounds: int) -> NDArray[np.float64]:
        """Seconds from parameters to a picture, both on the GPU, by its clock; a value for each round of 100."""
        self._settled = False
        self._render_residual()
        splats = self._splats

        def redraw(stream: Any) -> None:
            splats.prepare(stream)
            splats.survey(stream=stream)
            self._render(stream, 1.0, 0.0)

        graph = self._gpu.recorded(redraw, 20)
        return self._gpu.clock(lambda: [graph.launch(self._gpu.stream) for _ in range(5)], rounds) / 100

    def _reserve(self, count: int) -> None:
        if count <= self._splats.capacity:
            return
        old = self._splats
        capacity = ROOM * count if old.count == 0 else max(2 * old.capacity, count)
        self._splats = _DeviceSplats(self._gpu, self._channels, self._planes, capacity)
        self._splats.take(old)
        self._graphs.clear()
        self._settled = False

    def _settle(self, noise: Coding | None = None) -> None:
        """Brings boxes and work items up to date after a change from outside, as they are drawn with this noise."""
        if not self._settled or noise != self._drawn:
            if noise is None:
                self._splats.prepare()
            else:
                self._splats.prepare_coded(self._coding_buffer, self._steps)
            self._splats.survey(plan=True)
            self._since_plan = 0
            self._settled, self._drawn = True, noise

    def _graph(self, steps: int, coded: bool = False) -> Any:
        graph = self._graphs.get((steps, coded))
        if graph is None:

            def block(stream: Any) -> None:
                for node in range(steps):
                    self._step(stream, node, coded)
                self._gpu.launch(stream, self._channels, "advance", (1,), 1, self._splats.state, i32(steps))

            graph = self._graphs[steps, coded] = self._gpu.recorded(block)
        return graph

    def _step(self, stream: Any, node: int, coded: bool) -> None:
        loss = self._loss
        if loss.ssim > 0:
            self._render(stream, 1.0, 0.0)
            self._ssim_map(stream)
            self._ssim_gradient(stream)
        else:
            self._render(stream, loss.l2, 0.5 * loss.l1)
        coding = self._coding_buffer if coded else None
        self._splats.update(stream, self._schedule, node, self._d_image, self._rates, coding)

    def _render(self, stream: Any, l2: float, half_l1: float) -> None:
        self._splats.render(
            *(stream, self._target, self._background, self._residual, self._tile_squares),
            *(l2, half_l1, self._outside),
        )

    def _ssim_map(self, stream: Any) -> None:
        planes = self._planes
        self._gpu.launch(
            *(stream, self._channels, "ssim_map", planes.ssim_grid, SSIM_THREADS),
            *(self._residual, self._target, self._background, self._derivatives, self._map_sums),
            *(i32(planes.width), i32(planes.height), *self._taps),
        )

    def _ssim_gradient(self, stream: Any) -> None:
        loss, planes = self._loss, self._planes
        self._gpu.launch(
            *(stream, self._channels, "ssim_gradient", planes.ssim_grid, SSIM_THREADS),
            *(self._residual, self._target, self._background, self._derivatives, self._d_image),
            *(i32(planes.width), i32(planes.height)),
            *(f32(loss.l2), f32(0.5 * loss.l1), f32(-0.5 * loss.ssim), f32(self._outside), *self._taps),
        )

    def _render_residual(self) -> None:
        self._settle()
        self._render(self._gpu.stream, 1.0, 0.0)

    def _reduce(self, kernel: str, *args: Any) -> None:
        grid = (min(REDUCTION_BLOCKS, -(-self._planes.pixels // 256)),)
        self._gpu.launch(self._gpu.stream, self._channels, kernel, grid, 256, self._splats.state, *args)

    def _sums(self) -> NDArray[np.float64]:
        state = np.empty(STATE_BYTES, np.uint8)
        self._gpu.download(self._splats.state, state)
        return state[SUMS].view(np.float64)

    def _place(self, indices: Any, count: int, power: float, sigma: float, seed: int) -> None:
        """Draws where the error is, and sets splats there: those of indices, or new ones."""
        gpu, planes, splats = self._gpu, self._planes, self._splats
        if count == 0:
            return
        if self._map_buffers is None:
            squares, error = gpu.allocate(4 * planes.pixels), gpu.allocate(4 * planes.pixels)
            self._map_buffers = squares, error, gpu.allocate(8 * planes.segments)
        squares, error, segments = self._map_buffers
        self._render_residual()
        pixels = i64(planes.pixels)
        spread = 1 / (4 * sigma * sigma)  # splats on a pixel that one event may bring
        most = f32(max(np.float32(spread), 2 * np.float32(count / planes.pixels)))
        # Half of what is missing, since neighbours share the place; less where they are more than can be spread.
        share = f32(0.5 / max(count / planes.pixels / spread, 1.0))
        self._reduce("error_squares", self._residual, squares, self._partials, pixels)
        self._reduce(
            *("error_map", squares, error, self._partials),
            *(i32(planes.width), i32(planes.height), f32(power), f64(count)),
        )
        for _ in range(8):
            self._reduce("flatten", error, self._partials, pixels, most, f64(count))
        channels = self._channels
        gpu.run(channels, "segments", planes.pixels, SEGMENT, splats.state, error, segments, pixels, most)
        gpu.run(channels, "scan_segments", 1, 1024, splats.state, segments, i32(planes.segments))
        gpu.run(
            *(channels, "place", count, 128, splats.state, error, segments, self._residual),
            *(indices, i32(splats.count), i32(count), splats.params, splats.first, splats.second),
            *(i32(planes.width), i32(planes.height), f32(sigma), share, u64(seed % 2**64)),
        )


class _Planes:
    """The layout of a picture on the device, see native/cuda/common.cuh."""

    def __init__(self, width: int, height: int, channels: int) -> None:
        self.width, self.height = width, height
        self.pixels = width * height
        if self.pixels >= 2**31:
            raise InputError(f"cuda: a picture of {width}x{height} pixels is beyond the GPU engine; use --device cpu")
        self.groups = -(-channels // 4)
        self.bytes = 4 * self.pixels * (channels if channels <= 2 else 4 * self.groups)
        self.tiles = -(-width // TILE_X) * -(-height // TILE_Y)
        self.segments = -(-self.pixels // SEGMENT)
        self.ssim_grid = (-(-width // SSIM_X), -(-height // SSIM_Y), self.groups)
        self.ssim_blocks = math.prod(self.ssim_grid)


class _DeviceSplats:
    """Parameters, optimiser state and derived values of up to `capacity` splats."""

    def __init__(self, gpu: _Gpu, channels: int, planes: _Planes, capacity: int, optimizing: bool = True) -> None:
        self.gpu, self.channels, self.planes = gpu, channels, planes
        self.fields = 5 + channels
        self.count = 0
        supers = -(-capacity // SUPER)
        self.capacity = n = supers * SUPER
        self.state = gpu.zeros(STATE_BYTES)
        rows = 4 * n * self.fields
        self.params, self.sorted = gpu.allocate(rows), gpu.allocate(rows)
        self.first: Any = gpu.zeros(rows) if optimizing else None
        self.second: Any = gpu.zeros(rows) if optimizing else None
        self.splats, self.more, self.boxes = gpu.allocate(32 * n), gpu.allocate(16 * n), gpu.allocate(16 * n)
        self.colors = gpu.zeros(16 * n * planes.groups if channels > 3 else 16)
        self.chunks, self.supers = gpu.allocate(16 * 32 * supers), gpu.allocate(16 * supers)
        self.parts, self.totals = gpu.allocate(4 * n), gpu.allocate(8 * supers)
        self.keys, self.keys2 = gpu.allocate(4 * n), gpu.allocate(4 * n)
        self.order, self.order2 = gpu.allocate(4 * n), gpu.allocate(4 * n)
        self.places = gpu.allocate(4 * 256 * -(-n // SORTED))
        if optimizing:
            self.most = PARTS + n // 4
            items = n + self.most
            self.narrow, self.wide = gpu.allocate(4 * n), gpu.allocate(16 * items)
            record = 4 * (5 + 4 * planes.groups)
            self.records = gpu.allocate(record * (items + (n if planes.groups > 1 else 0)))
            self.arrived = gpu.zeros(4 * n)

    def upload(self, means: Floats, log_cholesky: Floats, colors: Floats) -> None:
        self.gpu.copy_in(self.params, np.concatenate([means, log_cholesky, colors], axis=1, dtype=np.float32))
        for moment in (self.first, self.second):
            if moment is not None:
                self.gpu.clear(moment, 4 * self.capacity * self.fields)
        self.set_state(len(means))

    def freeze(self, frozen: Bools) -> None:
        """After upload(): marks the splats that no step may change."""
        marks = np.zeros((len(frozen), self.fields), np.float32)
        marks[frozen, 0] = FROZEN
        self.gpu.copy_in(self.second, marks)

    def take(self, other: _DeviceSplats) -> None:
        for mine, old in zip(self._rows(), other._rows(), strict=True):
            self.gpu.copy(mine, old, 4 * other.count * self.fields)
        self.set_state(other.count)

    def fetch(self) -> tuple[Floats, Floats, Floats]:
        count = self.count
        self.gpu.run(self.channels, "split", count * self.fields, 256, self.state, self.params, self.sorted)
        size = 4 * count * self.fields
        if size <= PINNED:
            values = self.gpu.view(self.sorted, size).view(np.float32)
        else:
            values = np.empty(count * self.fields, np.float32)
            self.gpu.download(self.sorted, values)
        means, log_cholesky, colors = np.split(values, [2 * count, 5 * count])
        return means.reshape(-1, 2).copy(), log_cholesky.reshape(-1, 3).copy(), colors.reshape(count, -1).copy()

    def set_state(self, count: int) -> None:
        """Sets the count, and the cursor of the schedule to its start."""
        self.count = count
        self.gpu.run(self.channels, "set_state", 1, 1, self.state, i32(count), i32(0))

    def prepare(self, stream: Any = None) -> None:
        self.gpu.run(
            *(self.channels, "prepare", self.count, 128, self.state, self.params),
            *(self.splats, self.more, self.boxes, self.colors),
            stream=stream,
        )

    def prepare_coded(self, coding: Any, step: int) -> None:
        self.gpu.run(
            *(self.channels, "coded_prepare", self.count, 128, self.state, self.params, self.second),
            *(self.splats, self.more, self.boxes, self.colors, coding, i32(step)),
        )

    def survey(self, plan: bool = False, stream: Any = None) -> None:
        gpu, planes = self.gpu, self.planes
        gpu.run(
            *(self.channels, "survey", max(self.count, 1), SUPER, self.state, self.splats, self.more, self.boxes),
            *(self.chunks, self.supers, self.parts, self.totals, i32(planes.width), i32(planes.height)),
            stream=stream,
        )
        if plan:
            gpu.run(
                *(self.channels, "plan", max(self.count, 1), SUPER, self.state, self.parts, self.totals),
                *(self.narrow, self.wide, i32(self.most)),
                stream=stream,
            )

    def sort(self) -> None:
        self.prepare()
        scale = f32(1 / max(self.planes.width, self.planes.height))
        self.gpu.run(self.channels, "order_keys", self.count, 128, self.state, self.boxes, self.keys, self.order, scale)
        self._reorder(KEY_BITS)
        self.prepare()

    def prune(self, energy: float) -> None:
        """Drops the splats of less energy that are not frozen. Waits for the device."""
        gpu = self.gpu
        if self.count == 0:
            return
        self._energies()
        gpu.run(self.channels, "prune_keys", self.count, 128, self.state, self.keys, self.order, f32(energy))
        blocks = self._reorder(8)
        starts = np.empty(blocks + 1, np.int32)  # in the order of (digit, block): of digit 1 after those of digit 0
        gpu.download(self.places, starts)
        self.set_state(int(starts[blocks]))

    def _reorder(self, bits: int) -> int:
        """Sorts (keys, order) by the keys' last bits, and the splats with them; in how many blocks."""
        gpu = self.gpu
        keys, order, keys2, order2 = self.keys, self.order, self.keys2, self.order2
        blocks = -(-self.count // SORTED)
        for shift in range(0, bits, 8) if blocks else ():
            gpu.launch(
                gpu.stream, self.channels, "sort_count", (blocks,), 256, self.state, keys, self.places, i32(shift)
            )
            gpu.run(self.channels, "sort_scan", 1, 1024, self.places, i32(256 * blocks))
            gpu.launch(
                *(gpu.stream, self.channels, "sort_scatter", (blocks,), 256, self.state, keys, order),
                *(self.places, keys2, order2, i32(shift)),
            )
            keys, order, keys2, order2 = keys2, order2, keys, order
        size = 4 * self.count * self.fields
        for rows in self._rows():
            gpu.run(
                *(self.channels, "permute", self.count * self.fields, 256),
                *(self.state, order, rows, self.sorted),
            )
            gpu.copy(rows, self.sorted, size)
        return blocks

    def discard_weakest(self, count: int) -> Any:
        """Takes the colour from the splats of least energy; their indices on the device."""
        self._energies()
        self.gpu.run(self.channels, "weakest", 1, 1024, self.state, self.keys, self.order, self.params, i32(count))
        return self.order

    def _energies(self) -> None:
        """Of every splat, as bits in keys."""
        self.gpu.run(self.channels, "energies", self.count, 128, self.state, self.params, self.second, self.keys)

    def render(
        self,
        stream: Any,
        target: Any,
        background: Any,
        out: Any,
        squares: Any,
        l2: float,
        half_l1: float,
        outside: float,
    ) -> None:
        planes = self.planes
        self.gpu.launch(
            *(stream, self.channels, "render", (planes.tiles, planes.groups), RENDER_THREADS),
            *(self.state, self.splats, self.boxes, self.colors),
            *(self.chunks, self.supers, target, background, out, squares),
            *(i32(planes.width), i32(planes.height), f32(l2), f32(half_l1), f32(outside)),
        )

    def update(self, stream: Any, schedule: Any, node: int, d_image: Any, rates: Any, coding: Any) -> None:
        planes = self.planes
        kernel = "update" if coding is None else "coded_update"
        self.gpu.launch(
            *(stream, self.channels, kernel, (self.gpu.update_blocks(self.channels, kernel),), UPDATE_THREADS),
            *(self.state, schedule, i32(node), self.splats, self.more, self.boxes, self.colors),
            *(self.params, self.first, self.second),
            *(self.chunks, self.supers, self.narrow, self.wide, self.records, self.arrived, d_image),
            *(i32(planes.width), i32(planes.height), rates),
            *(() if coding is None else (coding,)),
        )

    def _rows(self) -> list[Any]:
        return [rows for rows in (self.params, self.first, self.second) if rows is not None]


class _Gpu:
    """The device with its stream and compiled kernels."""

    def __init__(self, ordinal: int | None = None) -> None:
        (_, major, minor) = nvrtc.nvrtcVersion()
        (version,) = _checked(driver.cuDriverGetVersion())
        if version // 1000 < major:  # of an older minor version it takes the kernels, of a major one not
            of_driver = f"{version // 1000}.{version % 1000 // 10}"
            raise RuntimeError(f"the driver is for CUDA {of_driver}, too old for kernels of {major}.{minor}: update it")
        self.device = Device(ordinal)
        self.device.set_current()
        self.stream = self.device.create_stream()
        self.arch = "sm_{}{}".format(*self.device.compute_capability)
        self._overlaps = tuple(self.device.compute_capability) >= (9, 0)
        self.processors = int(self.device.properties.multiprocessor_count)
        self._pinned: NDArray[np.uint8] | None = None
        self._modules: dict[tuple[int, str], ObjectCode] = {}
        self._kernels: dict[tuple[int, str], Any] = {}
        self._configs: dict[tuple[tuple[int, ...], int, bool], LaunchConfig] = {}

    def launch(self, stream: Any, channels: int, kernel: str, grid: tuple[int, ...], block: int, *args: Any) -> None:
        overlap = self._overlaps and kernel in OVERLAPPING
        config = self._configs.get((grid, block, overlap))
        if config is None:
            config = LaunchConfig(grid=grid, block=block, programmatic_stream_serialization=overlap)
            self._configs[grid, block, overlap] = config
        launch(stream, config, self.kernel(channels, kernel), *args)

    def run(self, channels: int, kernel: str, threads: int, block: int, *args: Any, stream: Any = None) -> None:
        """Launches at least this many threads, on the device's stream unless given, none for 0; a block for 1."""
        if threads:
            self.launch(stream or self.stream, channels, kernel, (-(-threads // block),), block, *args)

    def recorded(self, build: Callable[[Any], None], copies: int = 1) -> Any:
        """A graph of what build(stream) launches, so many times."""
        builder = self.stream.create_graph_builder()
        builder.begin_building()
        for _ in range(copies):
            build(builder)
        builder.end_building()
        graph = builder.complete()
        builder.close()
        return graph

    def clock(self, work: Callable[[], object], rounds: int) -> NDArray[np.float64]:
        """Seconds between events before and after what work() launches, a value for each round after two to warm up."""
        times = []
        for _ in range(rounds + 2):
            first = self.stream.record(options=EventOptions(timing_enabled=True))
            work()
            last = self.stream.record(options=EventOptions(timing_enabled=True))
            last.sync()
            times.append((last - first) / 1e3)
        return np.array(times[2:])

    def kernel(self, channels: int, name: str) -> Any:
        kernel = self._kernels.get((channels, name))
        if kernel is None:
            file = _FILE_OF[name]
            if (channels, file) not in self._modules:
                files = TOGETHER if file in TOGETHER else (file,)
                for each, code in zip(files, cubins(channels, self.arch, files), strict=True):
                    self._modules[channels, each] = ObjectCode.from_cubin(code)
            kernel = self._kernels[channels, name] = self._modules[channels, file].get_kernel(name)
        return kernel

    def update_blocks(self, channels: int, kernel: str) -> int:
        """Blocks of update() or coded_update(): so many as run at once, UPDATE_WAVES times."""
        resident = self.kernel(channels, kernel).occupancy.max_active_blocks_per_multiprocessor(UPDATE_THREADS, 0)
        return UPDATE_WAVES * self.processors * int(resident)

    def allocate(self, size: int) -> Any:
        try:
            return self.device.allocate(max(size, 16), stream=self.stream)
        except Exception as error:
            (_, free) = driver.cuMemGetInfo()[:2]
            if int(free) > 2 * size:
                raise InputError(f"cuda: {_size(size)} could not be had: {_first_line(error)}") from None
            raise InputError(
                f"cuda: out of memory, {_size(size)} asked for and {_size(int(free))} free; "
                "take a smaller picture, fewer splats or --device cpu"
            ) from None

    def zeros(self, size: int) -> Any:
        buffer = self.allocate(size)
        self.clear(buffer, size)
        return buffer

    def clear(self, buffer: Any, size: int) -> None:
        _checked(driver.cuMemsetD8Async(int(buffer.handle), 0, size, self.stream.handle))

    def upload(self, array: NDArray[Any]) -> Any:
        buffer = self.allocate(array.nbytes)
        self.copy_in(buffer, array)
        return buffer

    def copy_in(self, buffer: Any, array: NDArray[Any]) -> None:
        if array.nbytes:
            data = array.ctypes.data
            _checked(driver.cuMemcpyHtoDAsync(int(buffer.handle), data, array.nbytes, self.stream.handle))

    def copy(self, to: Any, source: Any, size: int) -> None:
        if size:
            _checked(driver.cuMemcpyDtoDAsync(int(to.handle), int(source.handle), size, self.stream.handle))

    def download(self, buffer: Any, array: NDArray[Any]) -> None:
        """Waits for all that was launched."""
        if array.nbytes <= PINNED:
            array.reshape(-1).view(np.uint8)[:] = self.view(buffer, array.nbytes)
        else:
            data = array.ctypes.data
            _checked(driver.cuMemcpyDtoHAsync(data, int(buffer.handle), array.nbytes, self.stream.handle))
            self.stream.sync()

    def view(self, buffer: Any, size: int) -> NDArray[np.uint8]:
        """The first bytes of a buffer, at most PINNED, until the next call. Waits for all that was launched."""
        if self._pinned is None:
            (address,) = _checked(driver.cuMemAllocHost(PINNED))
            self._pinned = np.ctypeslib.as_array((ctypes.c_uint8 * PINNED).from_address(int(address)))
        if size:
            target = self._pinned.ctypes.data
            _checked(driver.cuMemcpyDtoHAsync(target, int(buffer.handle), size, self.stream.handle))
        self.stream.sync()
        return self._pinned[:size]


@cache
def _gpu() -> _Gpu:
    try:
        return _Gpu()
    except Exception as error:
        raise InputError(f"cuda: no GPU can be used here ({_first_line(error)}); use --device cpu") from None


def cubins(channels: int, arch: str, files: tuple[str, ...]) -> list[bytes]:
    """The kernels of these files for pictures of so many channels, from the cache or compiled, all at a time."""
    with ThreadPoolExecutor(len(files)) as pool:
        return list(pool.map(lambda file: cubin(channels, arch, file), files))


def cubin(channels: int, arch: str, file: str) -> bytes:
    """The kernels of one file of KERNELS for pictures of so many channels, from the cache or compiled."""
    sources = _source_folder()
    version = "{1}.{2}".format(*nvrtc.nvrtcVersion())
    digest = hashlib.sha256(f"{file} {channels} {arch} {version}".encode())
    for name in _SOURCES:
        digest.update((sources / name).read_bytes())
    cached = _cache_folder() / f"{arch}-{digest.hexdigest()[:32]}.cubin"
    try:
        return cached.read_bytes()
    except OSError:
        pass
    options = ProgramOptions(
        std="c++17",
        arch=arch,
        include_path=[str(sources)],
        define_macro=("CHANNELS", str(channels)),
        **_ROUNDING,
    )
    program = Program(f'#include "cuda/{file}.cuh"\n', "c++", options)
    code = bytes(program.compile("cubin").code)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        scratch = cached.with_suffix(f".{os.getpid()}")
        scratch.write_bytes(code)
        scratch.replace(cached)
    except OSError as error:
        _warn_once(f"cuda: the compiled kernels cannot be kept for the next run: {_first_line(error)}")
    return code


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def _source_folder() -> Path:
    """native/ as installed in the package, or of the checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "native"
    return installed if installed.is_dir() else package.parents[1] / "native"


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(base) if base else Path.home() / ".cache") / "splat2d"


def _schedule(rates: Floats, done: int, optimizer: Optimizer) -> Floats:
    """Per step the factor of the learning rates, Adam's two corrections and the steps done. [steps, 4]"""
    t = done + 1 + np.arange(len(rates), dtype=np.float64)
    corrections = [1 / (1 - beta**t) for beta in (optimizer.beta1, optimizer.beta2)]
    return np.stack([rates, *corrections, t - 1], axis=1).astype(np.float32)


def _rates(o: Optimizer) -> Floats:
    """As the struct Rates of native/cuda/step.cuh."""
    rates = [o.mean_rate, o.diagonal_rate, o.shear_rate, o.color_rate, o.beta1, o.beta2, o.log_min, o.log_max]
    return np.array(rates, np.float32)


def _coding(coding: Coding) -> NDArray[Any]:
    """As the struct Coding of native/coding.h."""
    layout = [("step", np.float32), ("penalty", np.float32), ("seed", np.uint64)]
    return np.array([(coding.step, coding.penalty, coding.seed % 2**64)], layout)


def _batch_memory(shape: tuple[int, ...], count: int) -> int:
    """Bytes of shared memory for one picture, see native/cuda/batch.cuh."""
    _, height, width, channels = shape
    lanes = channels if channels <= 2 else 4
    plane = 16 * -(-height * width * lanes // 4)
    return 2 * plane + 4 * -(-count // 4) * (64 + (16 if channels == 4 else 0) + 12 * (5 + channels))


def _padded(background: Floats) -> Floats:
    """With zeros up to whole groups of four channels."""
    padded = np.zeros(4 * math.ceil(len(background) / 4), np.float32)
    padded[: len(background)] = background
    return padded


def _checked(result: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values after the error code of a driver call."""
    if result[0] != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"cuda: the driver answered {result[0].name}")
    return result[1:]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _size(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
