"""What thin splats cost where a fit is enlarged: python benchmarks/enlargement.py --pictures 1 5 8 19 23

Photos are reduced by 4 (means of 4 x 4 pixels), fitted with a given least width of splats, rendered 4 times as large,
and compared with what they were reduced from. Prints a Markdown table of means: PSNR in dB at the size of the fit, and
enlarged. The bicubic row enlarges the reduced photos themselves.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from experiments import constants
from machine import DATA, describe
from PIL import Image

import splat2d
from splat2d import fitting

FACTOR = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=DATA / "kodak", help="with kodim01.png and so on")
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 5, 8, 19, 23], help="numbers of Kodak photos")
    parser.add_argument("--widths", type=float, nargs="+", default=[0.5, 0.4, 0.3, 0.2], help="least, in pixels")
    parser.add_argument("--pixels-per-splat", type=float, nargs="+", default=[39.3, 7.9, 5.6])
    parser.add_argument("--preset", default="balanced", choices=list(fitting.RECIPES))
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()

    photos = [splat2d.load_image(options.folder / f"kodim{n:02}.png") for n in options.pictures]
    print(describe(options.threads), f"Kodak {options.pictures}, {options.preset}", "", sep="\n")
    print("| pixels per splat | least width, px | size of the fit | enlarged |\n|---|---|---|---|")
    print(f"| bicubic | | | {np.mean([splat2d.psnr(bicubic(reduced(p)), p) for p in photos]):.2f} |")
    for share in options.pixels_per_splat:
        for width in options.widths:
            with constants(fitting, log_thinnest=lambda pixels, width=width: math.log(width))():
                rows = [measured(photo, share, options) for photo in photos]
            print(f"| {share} | {width} | {' | '.join(f'{v:.2f}' for v in np.mean(rows, axis=0))} |", flush=True)


def measured(photo: np.ndarray, pixels_per_splat: float, options: argparse.Namespace) -> tuple[float, float]:
    small = reduced(photo)
    count = round(small.shape[0] * small.shape[1] / pixels_per_splat)
    result = splat2d.fit(small, splats=count, preset=options.preset, device="cpu", threads=options.threads)
    return result.psnr, splat2d.psnr(splat2d.render(result.splats, scale=FACTOR).clip(0, 1), photo)


def reduced(photo: np.ndarray) -> np.ndarray:
    height, width, channels = photo.shape
    blocks = photo.reshape(height // FACTOR, FACTOR, width // FACTOR, FACTOR, channels)
    return np.ascontiguousarray(blocks.mean((1, 3), dtype=np.float32))


def bicubic(small: np.ndarray) -> np.ndarray:
    size = (FACTOR * small.shape[1], FACTOR * small.shape[0])
    planes = [np.asarray(Image.fromarray(small[..., c]).resize(size, Image.Resampling.BICUBIC)) for c in range(3)]
    return np.stack(planes, axis=2).clip(0, 1)


if __name__ == "__main__":
    main()
