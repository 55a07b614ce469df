"""The two profiles of .s2d at equal bytes, and what each part of the vector profile's encoder brings.

    python benchmarks/vector_profile.py --pictures 5 15 19 23 --bpp 0.15 0.3 0.5

Prints Markdown. Sizes are those of the files; PSNR is that of the decoded file. rounded: the vector profile without its
training, a plain fit of as many splats and steps, rounded at once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from machine import DATA, describe

import splat2d
from splat2d import codec
from splat2d.compression import SCHEDULES, VECTOR_STAGES, compress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[5, 15, 19, 23])
    parser.add_argument("--bpp", type=float, nargs="+", default=[0.15, 0.3, 0.5])
    parser.add_argument("--preset", choices=["fast", "balanced", "best"], default="fast")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kodak", type=Path, default=DATA / "kodak")
    options = parser.parse_args()
    print(describe(None, options.device) + f", preset {options.preset}", end="\n\n")
    print("| picture | bpp | scalar: splats | bpp | dB | seconds | vector: splats | bpp | dB | seconds | rounded, dB |")
    print(f"|{'---|' * 11}")
    schedule = SCHEDULES[options.preset]
    steps = schedule.fit + schedule.train + VECTOR_STAGES * schedule.stages * schedule.stage_steps
    for bpp in options.bpp:
        rows = []
        for picture in options.pictures:
            image = splat2d.load_image(options.kodak / f"kodim{picture:02d}.png")
            pixels = image.shape[0] * image.shape[1]
            cells: list[float] = []
            for profile in ("scalar", "vector"):
                size = int(bpp * pixels / 8)
                found = compress(image, bytes=size, profile=profile, preset=options.preset, device=options.device)
                cells += [len(found.splats), 8 * len(found.data) / pixels, found.psnr, found.seconds]
            count = len(found.splats)
            plain = splat2d.fit(image, splats=count, preset="fast", steps=steps, device=options.device).splats
            rounded = splat2d.decode(codec.encode(plain, profile="vector"))
            cells.append(splat2d.psnr(splat2d.render(rounded, device=options.device), image))
            rows.append(cells)
            print(row(f"kodim{picture:02d}", bpp, cells), flush=True)
        print(row("mean", bpp, np.mean(rows, axis=0).tolist()), flush=True)


def row(name: str, bpp: float, cells: list[float]) -> str:
    digits = (0, 3, 2, 1, 0, 3, 2, 1, 2)
    numbers = [f"{cell:.{digit}f}" for cell, digit in zip(cells, digits, strict=True)]
    return "| " + " | ".join([name, f"{bpp:g}", *numbers]) + " |"


if __name__ == "__main__":
    main()
