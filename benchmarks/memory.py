"""Peak memory of a fit of 24 megapixels, and its time per pair of splat and pixel beside that of a small photo.

python benchmarks/memory.py                               6000x4000 pixels, 100,000 splats
python benchmarks/memory.py --crop 1500 1000 --splats 6000 --steps 10
"""

import argparse
import resource
import sys
from pathlib import Path

import numpy as np
from machine import DATA, describe

import splat2d
from splat2d import _cpu, bench

KODAK_SPLATS = 10_000


def main() -> None:
    options = arguments()
    print(describe(options.threads), end="\n\n")
    photo = load_crop(options.photo, *options.crop)
    loaded = peak()
    large = fit(photo, options.splats, options)
    fitted = peak()  # before the sessions of the timing, which come on top
    small_photo = splat2d.load_image(options.small)
    small = fit(small_photo, KODAK_SPLATS, options)

    states = {options.photo.stem: (photo, large), options.small.stem: (small_photo, small)}
    sessions = {name: bench.start(image, splats, 1) for name, (image, splats) in states.items()}
    seconds = bench.interleave(
        {name: (lambda session=session: session.run(bench.HOLD)) for name, session in sessions.items()}, options.rounds
    )
    print("| picture | size | splats | pairs | s per step | ns per pair |")
    print("|---|---|---|---|---|---|")
    per_pair = {}
    for name, (image, splats) in states.items():
        height, width, _ = image.shape
        pairs = _cpu.count_pairs(splats.means, splats.log_cholesky, height, width)
        step = seconds[name] / bench.STEPS
        per_pair[name] = step / pairs * 1e9
        times = f"{np.median(step):.4f} | {np.median(per_pair[name]):.3f}"
        print(f"| {name} | {width}x{height} | {len(splats):,} | {pairs:,} | {times} |")
    low, middle, high = np.percentile(per_pair[options.photo.stem] / per_pair[options.small.stem], [25, 50, 75])
    print(f"\nTime per pair, large to small: {middle:.2f} (quartiles {low:.2f} to {high:.2f}), one thread")
    print(f"Peak memory: {fitted / 1e9:.2f} GB for the fit, {loaded / 1e9:.2f} GB after loading and cropping")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?", type=Path, default=DATA / "large" / "tomasz_smal_6720x4480.jpg")
    parser.add_argument("--small", type=Path, default=DATA / "kodak" / "kodim23.png", help="the photo to compare with")
    parser.add_argument("--crop", nargs=2, type=int, metavar=("WIDTH", "HEIGHT"), default=[6000, 4000])
    parser.add_argument("--splats", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7, help="of the timing")
    parser.add_argument("--threads", type=int, help="of the fits, by default every core; the timing takes one")
    return parser.parse_args()


def load_crop(path: Path, width: int, height: int) -> np.ndarray:
    """The middle of a picture, a copy: the rest is freed."""
    image = splat2d.load_image(path)
    if image.shape[0] < height or image.shape[1] < width:
        sys.exit(f"{path}: {image.shape[1]}x{image.shape[0]} pixels are fewer than a crop of {width}x{height}")
    y, x = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[y : y + height, x : x + width].copy()


def fit(image: np.ndarray, count: int, options: argparse.Namespace) -> splat2d.Splats:
    return splat2d.fit(image, splats=count, preset="fast", steps=options.steps, threads=options.threads).splats


def peak() -> int:
    """Peak resident memory of this process so far, in bytes."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


if __name__ == "__main__":
    main()
