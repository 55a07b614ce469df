"""Trains the codebook of the vector profile: forms of splats, and directions of their colours.

    python benchmarks/train_codebook.py codebook1.bin photos/*.jpg

Each picture is scaled down to each of --sides pixels, and fitted with one splat for every --pixels pixels in turn.
Weighted by their energy, the splats of all fits are clustered by k-means, where distance is the energy that one splat
leaves of another. Forms are trained together with what they are when the picture is mirrored or transposed. The
pictures must not be those that the codec is judged on; docs/format.md names those of the shipped file.
"""

from __future__ import annotations

import argparse
import time
import zlib
from pathlib import Path

import numpy as np
from machine import describe
from PIL import Image

import splat2d
from splat2d.codec.quantizer import transform
from splat2d.codec.vector import (
    ASPECT_UNIT,
    DIRECTION_UNIT,
    DIRECTIONS,
    FORMS,
    SHEAR_UNIT,
    Codebook,
    nearest_directions,
    nearest_forms,
    unit_covariances,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--sides", type=int, nargs="+", default=[360, 640])
    parser.add_argument("--pixels", type=int, nargs="+", default=[70, 220])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    print(describe(None))
    fits = []
    for path in options.pictures:
        for image in reductions(path, options.sides):
            for pixels in options.pixels:
                started = time.perf_counter()
                count = max(1, image.shape[0] * image.shape[1] // pixels)
                fits.append(splat2d.fit(image, splats=count, preset="fast", device="cpu").splats)
                print(f"{path.name} {image.shape} {count} splats, {time.perf_counter() - started:.1f} s", flush=True)
    data = numbers(train(fits, options.rounds))
    options.output.write_bytes(data)
    print(f"{options.output}: {len(data)} bytes, CRC32 0x{zlib.crc32(data):08X}")


def reductions(path: Path, sides: list[int]) -> list[np.ndarray]:
    with Image.open(path) as picture:
        picture.draft("RGB", (2 * max(sides), 2 * max(sides)))
        whole = picture.convert("RGB")
    pictures = []
    for side in sides:
        small = whole.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        pictures.append(np.asarray(small, np.float32) / 255)
    return pictures


def train(fits: list[splat2d.Splats], rounds: int) -> Codebook:
    a, b, c = np.concatenate([splats.log_cholesky for splats in fits]).astype(np.float64).T
    v = np.exp((a + c) / 2)[:, None] * (np.concatenate([splats.colors for splats in fits]) @ transform(3).T)
    energy = (v**2).sum(1)
    # Every picture counts alike: its noise is to be compared with its own error.
    share = np.concatenate([np.full(len(s), 1 / np.median(e)) for s, e in zip(fits, split(energy, fits), strict=True)])
    aspect, shear = (a - c) / 2, b * np.exp(-c)
    other = unit_covariances(aspect, shear)[:, ::-1]  # the same splats with x and y exchanged
    aspects = np.concatenate([aspect, np.log(other[:, 0]) / 2])
    shears = np.abs(np.concatenate([shear, other[:, 1]]))
    forms = train_forms(aspects, shears, np.tile(energy * share, 2), rounds)
    return Codebook(*forms, train_directions(v, energy * share, rounds))


def split(values: np.ndarray, fits: list[splat2d.Splats]) -> list[np.ndarray]:
    return np.split(values, np.cumsum([len(splats) for splats in fits])[:-1])


def start(weights: np.ndarray, count: int) -> np.ndarray:
    """What the clusters begin with: k-means in two dimensions spreads its centres as weight^(1/2)."""
    spread = np.sqrt(weights)
    return np.random.default_rng(0).choice(len(weights), count, replace=False, p=spread / spread.sum())


def train_forms(
    aspects: np.ndarray, shears: np.ndarray, weights: np.ndarray, rounds: int
) -> tuple[np.ndarray, np.ndarray]:
    chosen = start(weights, FORMS)
    book = Codebook(aspects[chosen], shears[chosen], np.zeros((0, 3)))
    covariances = unit_covariances(aspects, shears)
    for turn in range(rounds):
        nearest = nearest_forms(aspects, shears, book)
        sums = np.column_stack([np.bincount(nearest, weights * values, FORMS) for values in covariances.T])
        used = sums[:, 0] > 0
        # The mean of the covariances, scaled back to a determinant of 1, is the form of the least sum of distances.
        xx, xy, _ = (sums[used] / np.sqrt(sums[used, 0] * sums[used, 2] - sums[used, 1] ** 2)[:, None]).T
        aspect, shear = book.aspects.copy(), book.shears.copy()
        aspect[used], shear[used] = np.log(xx) / 2, xy
        lost = distances(covariances, unit_covariances(book.aspects, book.shears)[nearest])
        print(f"forms, round {turn}: {(weights * lost).sum() / weights.sum():.5f} of the energy lost", flush=True)
        book = Codebook(aspect, shear, book.directions)
    order = np.lexsort([book.shears, np.rint(8 * book.aspects)])  # neighbours in the table are alike
    return book.aspects[order], book.shears[order]


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Energy of the difference of two Gaussians of energy 1 and unit determinant."""
    traces = one[:, 0] * other[:, 2] + one[:, 2] * other[:, 0] - 2 * one[:, 1] * other[:, 1]
    return 2 - 2 * (2 / np.sqrt(2 + traces))


def train_directions(v: np.ndarray, weights: np.ndarray, rounds: int) -> np.ndarray:
    unit = v / np.linalg.norm(v, axis=1, keepdims=True)
    directions = unit[start(weights, DIRECTIONS)]
    for _ in range(rounds):
        nearest = nearest_directions(unit, directions)
        aligned = unit * np.sign((unit * directions[nearest]).sum(1))[:, None]
        sums = np.column_stack([np.bincount(nearest, weights * values, DIRECTIONS) for values in aligned.T])
        used = np.linalg.norm(sums, axis=1) > 0
        directions[used] = sums[used] / np.linalg.norm(sums[used], axis=1, keepdims=True)
    lost = 1 - (unit * directions[nearest_directions(unit, directions)]).sum(1) ** 2
    print(f"directions: {(weights * lost).sum() / weights.sum():.5f} of the energy lost")
    directions *= np.where(directions[:, :1] < 0, -1, 1)
    return directions[np.argsort(-directions[:, 0])]


def numbers(book: Codebook) -> bytes:
    """The file: aspects, shears, directions as 16-bit integers."""
    parts = [ASPECT_UNIT * book.aspects, SHEAR_UNIT * book.shears, DIRECTION_UNIT * book.directions.ravel()]
    rounded = np.rint(np.concatenate(parts))
    return np.clip(rounded, -32768, 32767).astype("<i2").tobytes()


if __name__ == "__main__":
    main()
