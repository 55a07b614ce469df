"""Pictures and the gradients of their splats on the GPU, over memory and on a stream of the caller.

Raw addresses in, nothing back: no call waits for the device, allocates or copies, so all of it can be recorded in a
CUDA graph once the kernels are compiled. The kernels stand in native/cuda/pictures.cuh.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from cuda.core import LEGACY_DEFAULT_STREAM, Stream

from splat2d.engine.cuda import (
    PARTS,
    RENDER_THREADS,
    STATE_BYTES,
    SUPER,
    TILE_X,
    TILE_Y,
    UPDATE_THREADS,
    _first_line,
    _Gpu,
    i32,
    i64,
)
from splat2d.errors import InputError

ALIGNMENT = 256  # bytes, of each buffer in the work memory


@dataclass(frozen=True, slots=True)
class Batch:
    """So many pictures of so many splats each."""

    pictures: int
    each: int
    channels: int
    height: int
    width: int

    @property
    def splats(self) -> int:
        return self.pictures * self.each

    @property
    def pixels(self) -> int:
        """Of all pictures."""
        return self.pictures * self.height * self.width

    @property
    def tiles(self) -> int:
        """Of one picture."""
        return -(-self.width // TILE_X) * -(-self.height // TILE_Y)

    @property
    def groups(self) -> int:
        """Of channels, see native/cuda/common.cuh."""
        return -(-self.channels // 4)

    @property
    def lanes(self) -> int:
        return self.channels if self.channels <= 2 else 4

    @property
    def packed(self) -> bool:
        """Whether the gradient of the pictures has to be brought into planes of groups first."""
        return self.channels not in (1, 2, 4)


@lru_cache(maxsize=64)
def _layout(batch: Batch) -> tuple[dict[str, int], int, int]:
    """Offset of each buffer in the work memory; bytes that draw() needs, and pull_back()."""
    n = batch.splats
    supers = -(-n // SUPER)
    most = PARTS + n // 4
    items = n + most
    record = 4 * (5 + 4 * batch.groups)
    drawing = {
        "state": STATE_BYTES,
        "splats": 32 * n,
        "more": 16 * n,
        "boxes": 16 * n,
        "colors": 16 * n * batch.groups if batch.channels > 3 else 0,
        "chunks": 16 * 32 * supers,
        "supers": 16 * supers,
        "parts": 4 * n,
        "totals": 8 * supers,
    }
    pulling = {
        "narrow": 4 * n,
        "wide": 16 * items,
        "records": record * (items + (n if batch.groups > 1 else 0)),
        "arrived": 4 * n,
        "planes": 4 * batch.pixels * batch.lanes * batch.groups if batch.packed else 0,
    }
    offsets, end = {}, 0
    sizes = []
    for buffers in (drawing, pulling):
        for name, size in buffers.items():
            offsets[name] = end
            end += -(-size // ALIGNMENT) * ALIGNMENT
        sizes.append(end)
    return offsets, sizes[0], sizes[1]


def drawing_bytes(batch: Batch) -> int:
    """Work memory for draw(), aligned to 256 bytes. Raises InputError for what the kernels cannot count."""
    _check(batch)
    return _layout(batch)[1]


def pulling_bytes(batch: Batch) -> int:
    """The same for pull_back()."""
    _check(batch)
    return _layout(batch)[2]


class PictureKernels:
    """The kernels of one device, which must be the current one in every call."""

    def __init__(self, gpu: _Gpu) -> None:
        self._gpu = gpu
        self._blocks: dict[int, int] = {}  # of splat_gradients() by channels

    def draw(
        self,
        stream: int,
        batch: Batch,
        work: int,
        splats: tuple[int, int, int],
        background: int,
        images: int,
    ) -> None:
        """splats: addresses of means, log_cholesky and colors; background [B, C] -> images [B, H, W, C]."""
        queue, at = _stream(stream), _addresses(batch, work)
        self._derive(queue, batch, at, splats, 0)
        self._gpu.launch(
            *(queue, batch.channels, "draw_pictures", (batch.pictures * batch.tiles, batch.groups), RENDER_THREADS),
            *(i32(batch.each), at["splats"], at["boxes"], at["colors"], at["chunks"], at["supers"]),
            *(background, images, i32(batch.tiles), i32(batch.width), i32(batch.height)),
        )

    def pull_back(
        self,
        stream: int,
        batch: Batch,
        work: int,
        splats: tuple[int, int, int],
        d_images: int,
        d_splats: tuple[int, int, int],
    ) -> None:
        """d_images [B, H, W, C], aligned to 16 bytes, -> addresses of d_means, d_log_cholesky and d_colors."""
        gpu, channels, queue, at = self._gpu, batch.channels, _stream(stream), _addresses(batch, work)
        self._derive(queue, batch, at, splats, at["arrived"])
        most = i32(PARTS + batch.splats // 4)
        gpu.run(
            *(channels, "plan", batch.splats, SUPER, at["state"], at["parts"], at["totals"]),
            *(at["narrow"], at["wide"], most),
            stream=queue,
        )
        planes = d_images
        if batch.packed:
            planes = at["planes"]
            gpu.run(channels, "pack", batch.pixels, 256, d_images, planes, i64(batch.pixels), stream=queue)
        if channels not in self._blocks:
            self._blocks[channels] = gpu.update_blocks(channels, "splat_gradients")
        gpu.launch(
            *(queue, channels, "splat_gradients", (self._blocks[channels],), UPDATE_THREADS),
            *(at["state"], i32(batch.each), at["splats"], at["more"], at["colors"], splats[1]),
            *(at["narrow"], at["wide"], at["records"], at["arrived"]),
            *(planes, i64(batch.pixels), i32(batch.width), i32(batch.height), *d_splats),
        )

    def _derive(self, queue: Any, batch: Batch, at: dict[str, int], splats: tuple[int, int, int], arrived: int) -> None:
        gpu, channels, n = self._gpu, batch.channels, batch.splats
        gpu.run(
            *(channels, "load_splats", n, 128, *splats, i32(n), at["state"]),
            *(at["splats"], at["more"], at["boxes"], at["colors"], arrived),
            stream=queue,
        )
        gpu.run(
            *(channels, "survey", n, SUPER, at["state"], at["splats"], at["more"], at["boxes"]),
            *(at["chunks"], at["supers"], at["parts"], at["totals"], i32(batch.width), i32(batch.height)),
            stream=queue,
        )


@cache
def picture_kernels(ordinal: int) -> PictureKernels:
    """Those of a device by its number. Raises InputError where it cannot be used."""
    try:
        return PictureKernels(_Gpu(ordinal))
    except Exception as error:
        raise InputError(f"cuda: no GPU can be used here ({_first_line(error)}); use the CPU") from None


def _addresses(batch: Batch, work: int) -> dict[str, int]:
    return {name: work + offset for name, offset in _layout(batch)[0].items()}


@lru_cache(maxsize=256)
def _stream(handle: int) -> Any:
    return Stream.from_handle(handle) if handle else LEGACY_DEFAULT_STREAM


def _check(batch: Batch) -> None:
    if batch.height * batch.width >= 2**31:
        size = f"{batch.width}x{batch.height}"
        raise InputError(f"cuda: a picture of {size} pixels is beyond the GPU engine; use the CPU")
    if max(batch.splats, batch.pictures * batch.tiles, batch.pixels // 256) >= 2**31 - SUPER:
        raise InputError("cuda: so many pictures are beyond one call; split the batch")
