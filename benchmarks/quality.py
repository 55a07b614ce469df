"""How good the fits of Kodak photos are and how long they take: a Markdown table.

python benchmarks/quality.py                              every preset, 5,000 and 10,000 splats
python benchmarks/quality.py --presets fast --pictures 23 one fit of each size
python benchmarks/quality.py --time-to 42.1               how soon a fit of kodim23 reaches 42.1 dB
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from machine import DATA, describe
from similarity import ms_ssim

import splat2d
from splat2d.config import Preset

PRESETS = ("fast", "balanced", "best")
TIMED_PICTURE, TIMED_SPLATS = 23, 10_000


def main() -> None:
    options = arguments()
    # Warm-up: kernels of a GPU are loaded, or compiled, on first use.
    splat2d.fit(load(options.folder, options.pictures[0]), splats=100, steps=60, device=options.device)
    print(describe(options.threads, options.device), end="\n\n")
    if options.time_to is None:
        table(options)
    else:
        for preset in options.presets or ["balanced"]:
            print(time_to(options, preset))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=DATA / "kodak", help="with kodim01.png and so on")
    parser.add_argument("--pictures", nargs="+", type=int, default=[1, 5, 8, 15, 19, 23], help="their numbers")
    parser.add_argument("--splats", nargs="+", type=int, default=[5_000, 10_000])
    parser.add_argument("--presets", nargs="+", choices=PRESETS, help="default: all, and balanced for --time-to")
    parser.add_argument("--steps", type=int, help="instead of those of the preset")
    parser.add_argument("--threads", type=int, help="default: every core")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--time-to", type=float, metavar="DB", help="time one fit of kodim23 at 10,000 splats instead")
    return parser.parse_args()


def load(folder: Path, number: int) -> np.ndarray:
    return splat2d.load_image(folder / f"kodim{number:02}.png")


def table(options: argparse.Namespace) -> None:
    columns = ["picture", "splats", "preset", "steps", "seconds", "PSNR dB", "rounded dB", "SSIM", "MS-SSIM"]
    print(f"| {' | '.join(columns)} |")
    print(f"|{'---|' * len(columns)}")
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:  # off the cores while a fit is timed
        for preset in options.presets or PRESETS:
            for count in options.splats:
                images = [load(options.folder, number) for number in options.pictures]
                fits = [fitted(options, preset, count, image) for image in images]
                pictures = [splat2d.render(fit.splats, threads=options.threads).clip(0, 1) for fit in fits]
                judged = pool.map(judge, pictures, images)
                rows = [(fit.steps, fit.seconds, *quality) for fit, quality in zip(fits, judged, strict=True)]
                for number, row in zip(options.pictures, rows, strict=True):
                    line(f"kodim{number:02}", count, preset, *row)
                line("**mean**", count, preset, *np.mean(rows, axis=0))


def fitted(options: argparse.Namespace, preset: Preset, count: int, image: np.ndarray) -> splat2d.FitResult:
    return splat2d.fit(
        image, splats=count, preset=preset, steps=options.steps, device=options.device, threads=options.threads
    )


def judge(picture: np.ndarray, image: np.ndarray) -> tuple[float, float, float, float]:
    """PSNR of the picture, and of its 8-bit version; SSIM and MS-SSIM."""
    rounded = np.round(picture * 255) / 255
    similarity = splat2d.ssim(picture, image), ms_ssim(picture, image)
    return splat2d.psnr(picture, image), splat2d.psnr(rounded, image), *similarity


def line(name: str, count: int, preset: str, steps: float, seconds: float, *quality: float) -> None:
    cells = [name, f"{count:,}", preset, f"{steps:.0f}", f"{seconds:.3f}"]
    cells += [f"{value:.2f}" for value in quality[:2]] + [f"{value:.4f}" for value in quality[2:]]
    print(f"| {' | '.join(cells)} |", flush=True)


def time_to(options: argparse.Namespace, preset: str) -> str:
    image = load(options.folder, TIMED_PICTURE)
    config = splat2d.FitConfig(splats=TIMED_SPLATS, preset=preset, steps=options.steps, threads=options.threads)
    what = f"kodim{TIMED_PICTURE}, {TIMED_SPLATS:,} splats, {preset}"
    for progress in splat2d.fit_steps(image, config):
        if progress.count == TIMED_SPLATS and progress.psnr >= options.time_to:
            reached = f"{progress.psnr:.2f} dB after {progress.seconds:.2f} s"
            return f"{what}: {reached}, step {progress.step} of {progress.steps}"
    return f"{what}: not reached, {progress.psnr:.2f} dB after {progress.seconds:.2f} s"


if __name__ == "__main__":
    main()
