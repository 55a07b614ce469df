"""What writing splats of a plain fit as .s2d costs: the quality that loses 0.3 dB, and what packets cost.

    python benchmarks/quantization.py --pictures 5 15 19 23 --splats 500 2000 5000 20000

Prints Markdown. t: the quality index at which the decoded splats are 0.3 dB further from the photo than those of the
fit. default: the index that splat2d.encode chooses, and its loss. packets: bits per splat beyond those of a file of one
packet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from machine import DATA, describe

import splat2d
from splat2d import Splats, codec
from splat2d.codec.quantizer import quantize

LOSS = 0.3  # dB
PACKETS = (2, 3, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[5, 15, 19, 23])
    parser.add_argument("--splats", type=int, nargs="+", default=[500, 2000, 5000, 20000])
    parser.add_argument("--kodak", type=Path, default=DATA / "kodak")
    options = parser.parse_args()
    print(describe(None), end="\n\n")
    columns = [
        "picture",
        "splats",
        "fit, dB",
        "log2 median energy",
        "t",
        "default",
        "loss, dB",
        "bytes",
        *(f"{n} packets" for n in PACKETS),
    ]
    print(f"| {' | '.join(columns)} |")
    print(f"|{'---|' * len(columns)}")
    energies, indices = [], []
    for picture in options.pictures:
        image = splat2d.load_image(options.kodak / f"kodim{picture:02d}.png")
        for count in options.splats:
            splats = splat2d.fit(image, splats=count, preset="fast", device="cpu").splats
            energy, index = measure(f"kodim{picture:02d}", splats, image)
            energies.append(energy)
            indices.append(index)
    slope, at_one = np.polyfit(energies, indices, 1)
    miss = np.polyval([slope, at_one], energies) - indices
    print(f"\nLine: t = {at_one:.1f} {slope:+.1f} log2 energy, rms {miss.std():.1f}, largest {np.abs(miss).max():.1f}")


def measure(name: str, splats: Splats, image: np.ndarray) -> tuple[float, float]:
    """Prints a row; log2 of the median energy |v|, and the index that costs LOSS."""

    def loss(index: int) -> float:
        quantized = quantize(splats, index)[0]
        decoded = codec.decode(codec.write(quantized, splats.background))
        return own - splat2d.psnr(splat2d.render(decoded), image)

    own = splat2d.psnr(splat2d.render(splats), image)
    low, high = 0, 192
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if loss(middle) > LOSS else (low, middle)
    a, _, c = splats.log_cholesky.astype(np.float64).T
    energy = np.log2(np.median(np.exp((a + c) / 2) * np.linalg.norm(splats.colors, axis=1)))
    default = codec.default_index(splats)
    quantized = quantize(splats, default)[0]
    one = size(quantized, splats, 1)
    more = [8 * (size(quantized, splats, packets) - one) / len(quantized.indices) for packets in PACKETS]
    cells = [name, len(splats), f"{own:.2f}", f"{energy:.2f}", high, default, f"{loss(default):.2f}", one]
    print("| " + " | ".join(map(str, [*cells, *(f"{bits:+.2f}" for bits in more)])) + " |", flush=True)
    return float(energy), float(high)


def size(quantized: codec.Quantized, splats: Splats, packets: int) -> int:
    """Bytes of a file of so many packets."""
    before = codec.MOST_PACKETS, codec.FIRST_PACKET
    codec.MOST_PACKETS, codec.FIRST_PACKET = packets, 0
    try:
        return len(codec.write(quantized, splats.background))
    finally:
        codec.MOST_PACKETS, codec.FIRST_PACKET = before


if __name__ == "__main__":
    main()
