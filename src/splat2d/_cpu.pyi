from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
F = TypeVar("F", F32, F64)

CUTOFF: float

def render(
    means: F,
    log_cholesky: F,
    colors: F,
    background: F,
    height: int,
    width: int,
    *,
    cutoff: float = ...,
    threads: int = 0,
) -> F: ...
def render_levels(
    means: F32, log_cholesky: F32, colors: F32, background: F32, height: int, width: int, *, threads: int = 0
) -> NDArray[np.uint8]: ...
def levels(image: F32) -> NDArray[np.uint8]: ...
def render_backward(
    means: F, log_cholesky: F, colors: F, d_image: F, *, cutoff: float = ..., threads: int = 0
) -> tuple[F, F, F]: ...
def render_pictures(
    means: F,
    log_cholesky: F,
    colors: F,
    backgrounds: F,
    height: int,
    width: int,
    *,
    cutoff: float = ...,
    threads: int = 0,
) -> F: ...
def render_pictures_backward(
    means: F, log_cholesky: F, colors: F, d_images: F, *, cutoff: float = ..., threads: int = 0
) -> tuple[F, F, F]: ...
def count_pairs(
    means: F, log_cholesky: F, height: int, width: int, *, cutoff: float = ..., threads: int = 0
) -> int: ...
def loss_gradient(
    image: F32,
    target: F32,
    *,
    l2: float = 1.0,
    l1: float = 0.0,
    ssim: float = 0.0,
    outside: float = 1.0,
    threads: int = 0,
) -> tuple[float, F32]: ...
def ssim(image: F32, target: F32, *, threads: int = 0) -> float: ...
def draw(weights: F32, count: int, seed: int) -> NDArray[np.int64]: ...
def instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
def use_instruction_set(name: str) -> None: ...
def available_threads() -> int: ...
def encode_packets(
    indices: I32, counts: list[int], *, width: int, height: int, cell_exponent: int, margin: int
) -> tuple[list[bytes], NDArray[np.int64]]: ...
def decode_packets(
    payloads: list[bytes],
    counts: list[int],
    channels: int,
    *,
    width: int,
    height: int,
    cell_exponent: int,
    margin: int,
) -> tuple[I32, F64]: ...
def dequantize(
    indices: I32, transform: F64, *, step: float, cell_exponent: int, margin: int
) -> tuple[F32, F32, F32]: ...
def footprint(means: F32, log_cholesky: F32, width: int, height: int) -> float: ...

class Fit:
    def __init__(
        self,
        target: F32,
        background: F32,
        *,
        l2: float,
        l1: float,
        ssim: float,
        rates: list[float],
        beta1: float,
        beta2: float,
        log_min: float,
        log_max: float,
        outside: float = 1.0,
        threads: int = 0,
    ) -> None: ...
    @property
    def count(self) -> int: ...
    def set_splats(self, means: F32, log_cholesky: F32, colors: F32, frozen: F32 | None = None) -> None: ...
    def get_splats(self) -> tuple[F32, F32, F32]: ...
    def run(self, rates: F32, *, step: float = 0.0, penalty: float = 0.0, seed: int = 0) -> float: ...
    def evaluate(self) -> tuple[float, float, float, float]: ...
    def grow(self, added: int, power: float, sigma: float, seed: int) -> None: ...
    def relocate(self, moved: int, power: float, sigma: float, seed: int) -> None: ...
    def prune(self, energy: float) -> None: ...
    def sort(self) -> None: ...
