"""Writes the files that tests/fuzz/decode.cpp starts from: python tests/fuzz/corpus.py tests/fuzz/corpus"""

import struct
import sys
from pathlib import Path

import numpy as np

from splat2d import Splats, _cpu
from splat2d.codec.quantizer import quantize

# Name: splats in each packet, channels, width, height, quality index.
CASES = {
    "empty": ([0], 1, 5, 7, 64),
    "one": ([1], 3, 64, 48, 64),
    "grey": ([20], 1, 96, 64, 80),
    "colour": ([40], 3, 512, 300, 96),
    "packets": ([8, 12, 20], 3, 96, 64, 110),
    "alpha": ([10, 10], 4, 31, 17, 150),
    "fine": ([25], 3, 40, 40, 200),
    "crowd": ([60], 1, 3, 2, 100),
}


def case(name: str) -> bytes:
    """One file, the same every time."""
    counts, channels, width, height, quality_index = CASES[name]
    count = sum(counts)
    rng = np.random.default_rng([*CASES].index(name))
    size = np.log(np.sqrt(width * height / max(count, 1)))
    splats = Splats(
        means=rng.uniform(-9, (width + 9, height + 9), (count, 2)),
        log_cholesky=rng.normal((size, 0, size), (1, 1, 1), (count, 3)),
        colors=rng.choice([-1, 1], (count, channels)) * rng.uniform(0.5, 2, (count, channels)),
        width=width,
        height=height,
        background=np.zeros(channels),
    )
    quantized, kept = quantize(splats, quality_index)
    assert len(kept) == count, "a splat was too faint"
    lattice = quantized.lattice
    geometry = {"width": width, "height": height, "cell_exponent": lattice.cell_exponent, "margin": lattice.margin}
    payloads, _ = _cpu.encode_packets(quantized.indices, counts, **geometry)
    head = struct.pack(
        "<HHHBBB", width - 1, height - 1, lattice.margin, lattice.cell_exponent + 4, channels - 1, len(counts) - 1
    )
    parts = [struct.pack("<HH", n, len(payload)) + payload for n, payload in zip(counts, payloads, strict=True)]
    return head + b"".join(parts)


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in CASES:
        (folder / f"{name}.bin").write_bytes(case(name))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
