"""Decoding of .s2d files on one core beside Pillow's decoders, at the same size, by turns in the same run.

    python benchmarks/decode_speed.py --pictures 5 15 19 23 --rates 0.3

Prints Markdown: milliseconds from the bytes in memory to 8-bit pixels in an array, medians of --rounds, quartiles, and
the least, which other programs disturb least; below it the parts of ours. The process keeps to one core where the
system allows it.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import DATA, describe
from PIL import Image

import splat2d
from splat2d import codec
from splat2d.codec import container
from splat2d.codec.quantizer import dequantize
from splat2d.compression import compress
from splat2d.rendering import render_levels

# Options of Pillow by quality, as for kodak_rd.csv; JPEG 2000 takes the size itself.
SAVED: dict[str, Callable[[int], dict[str, Any]]] = {
    "JPEG": lambda q: {"format": "JPEG", "quality": q, "optimize": True, "subsampling": "4:2:0"},
    "WebP": lambda q: {"format": "WEBP", "quality": q, "method": 6},
    "AVIF": lambda q: {"format": "AVIF", "quality": q, "speed": 6, "subsampling": "4:2:0", "range": "full"},
}


def main() -> None:
    options = arguments()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else 0
    pictures = [options.kodak / f"kodim{number:02}.png" for number in options.pictures]
    files = {rate: [encoded(path, rate, options) for path in pictures] for rate in options.rates}
    if cores:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    print(f"{describe(1, version=options.commit)}; {len(pictures)} pictures, preset {options.preset}")
    for rate in options.rates:
        print(f"\n| about {rate:g} bpp | bpp | ms | quartiles | least |\n|---|---|---|---|---|")
        timed: dict[str, list[np.ndarray]] = {}  # of every picture: milliseconds of each round
        for data in files[rate]:
            for name, milliseconds in by_turns(data, options.rounds).items():
                timed.setdefault(name, []).append(milliseconds)
        pixels = [np.prod(splat2d.load_image(path).shape[:2]) for path in pictures]
        for name, values in timed.items():
            bpp = ""
            if name in files[rate][0]:
                sizes = [8 * len(data[name]) / n for data, n in zip(files[rate], pixels, strict=True)]
                bpp = f"{np.mean(sizes):.3f}"
            least, low, median, high = np.mean([np.percentile(value, [0, 25, 50, 75]) for value in values], axis=0)
            print(f"| {name} | {bpp} | {median:.2f} | {low:.2f} to {high:.2f} | {least:.2f} |")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[5, 15, 19, 23], help="numbers of Kodak photos")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.3], metavar="BPP")
    parser.add_argument("--preset", default="fast", choices=("fast", "balanced", "best"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="that makes the .s2d files")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--kodak", type=Path, default=DATA / "kodak", help="folder with kodim01.png and so on")
    parser.add_argument("--commit", help="to be named where there is no repository")
    return parser.parse_args()


def encoded(path: Path, rate: float, options: argparse.Namespace) -> dict[str, bytes]:
    """Files of about so many bits per pixel."""
    image = splat2d.load_image(path)
    size = int(rate * image.shape[0] * image.shape[1] / 8)
    files = {".s2d": compress(image, bytes=size, preset=options.preset, device=options.device).data}
    with Image.open(path) as picture:
        picture = picture.convert("RGB")
    layers = {"quality_mode": "rates", "quality_layers": [24 / rate], "irreversible": True, "mct": 1}
    files["JPEG 2000"] = saved(picture, {"format": "JPEG2000", **layers})
    for name, settings in SAVED.items():
        files[name] = nearest(picture, settings, size)
    return files


def nearest(picture: Image.Image, settings: Callable[[int], dict[str, Any]], size: int) -> bytes:
    """The file that is closest to so many bytes."""
    low, high = 0, 100
    tried: dict[int, bytes] = {}
    while high - low > 1:
        quality = (low + high) // 2
        tried[quality] = saved(picture, settings(quality))
        low, high = (quality, high) if len(tried[quality]) < size else (low, quality)
    return min(tried.values(), key=lambda data: abs(len(data) - size))


def saved(picture: Image.Image, settings: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    picture.save(file, **settings)
    return file.getvalue()


def by_turns(files: dict[str, bytes], rounds: int) -> dict[str, np.ndarray]:
    """Milliseconds of every decoder, and of the parts of ours, in each round."""
    data = files[".s2d"]
    contents = codec.read(data)
    splats = contents.splats
    tasks: dict[str, Callable[[], Any]] = {
        ".s2d": lambda: render_levels(codec.decode(data), device="cpu", threads=1),
        **{name: lambda file=file: opened(file) for name, file in files.items() if name != ".s2d"},
        "of .s2d: container": lambda: container.unpack(data),
        "of .s2d: container, entropy, dequantising, checks": lambda: codec.read(data),
        "of .s2d: dequantising": lambda: dequantize(contents.quantized, splats.background),
        "of .s2d: check of the area": lambda: codec.footprint(splats),
        "of .s2d: render to 8 bits": lambda: render_levels(splats, device="cpu", threads=1),
    }
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(1 + rounds):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            taken[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.array(values[1:]) for name, values in taken.items()}


def opened(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


if __name__ == "__main__":
    main()
