"""Steps by the energy of each splat (mixed precision) against the same steps for all splats: bits at equal PSNR.

    python benchmarks/mixed_precision.py --pictures 5 15 19 23 --splats 2000 5000

Prints Markdown. Splats of a plain fit, v rounded as in a .s2d file of --quality. Then shape and position are rounded
twice, with the steps of the file, and with one step for every a and c, one for beta and one for x and y; of these the
combination of fewest bits that has the same PSNR. Bits of shape: the length of an adaptive code (counts that begin at
0.1) of each of a, beta, c, with the energy class as context; bits of position: those below the cells of the file. Both
are estimates of what a coder writes, the same for both sides.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from machine import DATA, describe

import splat2d
from splat2d import Splats
from splat2d.codec import default_index, quality_index
from splat2d.codec.quantizer import (
    ONE,
    STEPS_LOG,
    STEPS_SHEAR,
    Lattice,
    dequantize,
    energy_class,
    lattice_for,
    position_bits,
    quantize,
)

FIRST_COUNT = 0.1  # of a symbol that has not been seen
HALVINGS = 12


@dataclass(frozen=True, slots=True)
class Steps:
    """Of every splat. [N]"""

    log: np.ndarray  # of a and c
    shear: np.ndarray  # of beta
    x: np.ndarray  # pixels
    y: np.ndarray  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[5, 15, 19, 23], help="numbers of Kodak photos")
    parser.add_argument("--splats", type=int, nargs="+", default=[2000, 5000])
    parser.add_argument("--quality", type=float, help="of the file; default: as splat2d.encode chooses")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of the fits")
    parser.add_argument("--kodak", type=Path, default=DATA / "kodak", help="folder with kodim01.png and so on")
    parser.add_argument("--commit", help="to be named where there is no repository")
    options = parser.parse_args()
    print(describe(None, options.device, options.commit), end="\n\n")
    print(
        "| | splats | fit, dB | rounded, dB | by energy, bits: shape + position | same for all | more bits per splat |"
    )
    print("|---|---|---|---|---|---|---|")
    for number in options.pictures:
        image = splat2d.load_image(options.kodak / f"kodim{number:02}.png")
        for count in options.splats:
            row(f"kodim{number:02}", splat2d.fit(image, splats=count, device=options.device).splats, image, options)


def row(name: str, splats: Splats, image: np.ndarray, options: argparse.Namespace) -> None:
    def quality(splats: Splats) -> float:
        return splat2d.psnr(splat2d.render(splats, device=options.device), image)

    index = default_index(splats) if options.quality is None else quality_index(options.quality)
    quantized, kept = quantize(splats, index)
    decoded = dequantize(quantized, splats.background)
    k = energy_class(quantized.indices[:, 5:])
    left = replace(splats, means=splats.means[kept], log_cholesky=splats.log_cholesky[kept], colors=splats.colors[kept])
    left = with_energy_of(left, decoded)
    lattice = lattice_for(left)
    own = by_energy(left, k, lattice)
    wanted = quality(rounded(left, own)[0])
    best = min(
        (
            found
            for exponent in np.arange(-6, 3, 0.5)
            if (found := same_for_all(left, k, 2.0**exponent, wanted, quality))
        ),
        key=lambda steps: sum(bits(left, steps, k, lattice)),
    )
    one, other = bits(left, own, k, lattice), bits(left, best, k, lattice)
    cells = [name, f"{len(left):,}", f"{quality(splats):.2f}", f"{wanted:.2f}"]
    cells += [f"{shape:.1f} + {position:.1f}" for shape, position in (one, other)]
    print(f"| {' | '.join(cells)} | {sum(other) - sum(one):+.1f} |", flush=True)


def with_energy_of(splats: Splats, decoded: Splats) -> Splats:
    """The splats with the v of others: e^((a + c) / 2) colour."""
    sizes = [s.log_cholesky[:, [0, 2]].astype(np.float64).sum(1) / 2 for s in (splats, decoded)]
    return replace(splats, colors=decoded.colors * np.exp(sizes[1] - sizes[0])[:, None])


def by_energy(splats: Splats, k: np.ndarray, lattice: Lattice) -> Steps:
    """As in a file."""
    log = STEPS_LOG[k] / ONE
    a, _, c = splats.log_cholesky.astype(np.float64).T
    x, y = (
        2.0 ** (lattice.cell_exponent - position_bits(np.rint(values * ONE).astype(np.int64), k, lattice.cell_exponent))
        for values in (a, c)
    )
    return Steps(log, STEPS_SHEAR[k] / ONE, x, y)


def same_for_all(splats: Splats, k: np.ndarray, pixels: float, wanted: float, quality) -> Steps | None:
    """Steps of shape, the coarsest that reach the wanted PSNR with this step of positions; None if none does."""
    one = np.ones(len(splats))

    def steps(log: float) -> Steps:
        return Steps(log * one, math.sqrt(2) * log * one, pixels * one, pixels * one)

    fine, coarse = -10.0, 1.0
    if quality(rounded(splats, steps(2**fine))[0]) < wanted:
        return None
    for _ in range(HALVINGS):
        middle = (fine + coarse) / 2
        fine, coarse = (middle, coarse) if quality(rounded(splats, steps(2**middle))[0]) >= wanted else (fine, middle)
    return steps(2**fine)


def rounded(splats: Splats, steps: Steps) -> tuple[Splats, np.ndarray]:
    """Splats of these steps that keep v and the slope of the ridge, and the integers of a, beta, c. [N, 3]"""
    a, b, c = splats.log_cholesky.astype(np.float64).T
    x, y = splats.means.astype(np.float64).T
    index_a, index_c = np.rint(a / steps.log), np.rint(c / steps.log)
    new_a, new_c = index_a * steps.log, index_c * steps.log
    index_b = np.rint(b * np.exp(new_a - a - new_c) / steps.shear)
    new_b = index_b * steps.shear * np.exp(new_c)
    new_x = (np.floor(x / steps.x) + 0.5) * steps.x
    new_y = (np.floor((y + new_b * np.exp(-new_a) * (new_x - x)) / steps.y) + 0.5) * steps.y
    colors = splats.colors * np.exp((a + c - new_a - new_c) / 2)[:, None]
    shape = np.column_stack([new_a, new_b, new_c])
    made = replace(splats, means=np.column_stack([new_x, new_y]), log_cholesky=shape, colors=colors)
    return made, np.column_stack([index_a, index_b, index_c]).astype(np.int64)


def bits(splats: Splats, steps: Steps, k: np.ndarray, lattice: Lattice) -> tuple[float, float]:
    """Per splat: of the shape, and of the position below its cell."""
    _, indices = rounded(splats, steps)
    shape = sum(code_length(column, k) for column in indices.T) / len(splats)
    position = 2 * lattice.cell_exponent - float(np.mean(np.log2(steps.x) + np.log2(steps.y)))
    return shape, position


def code_length(symbols: np.ndarray, contexts: np.ndarray) -> float:
    """Bits of an adaptive code of the symbols in each context; all symbols from the least to the largest are open."""
    total, alphabet = 0.0, int(symbols.max() - symbols.min()) + 1
    for context in np.unique(contexts):
        _, counts = np.unique(symbols[contexts == context], return_counts=True)
        total += math.lgamma(counts.sum() + FIRST_COUNT * alphabet) - math.lgamma(FIRST_COUNT * alphabet)
        total -= sum(math.lgamma(count + FIRST_COUNT) - math.lgamma(FIRST_COUNT) for count in counts.tolist())
    return total / math.log(2)


if __name__ == "__main__":
    main()
