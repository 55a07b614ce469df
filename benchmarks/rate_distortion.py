"""Kodak photos as .s2d files of given size, beside JPEG, WebP, JPEG 2000 and AVIF: a Markdown table, a JSON, a plot.

    python benchmarks/rate_distortion.py --device cuda --workers 8 --presets balanced --output balanced.json
    python benchmarks/rate_distortion.py --plot balanced.json best.json

Every file is written by one process and judged by another, which was started for it and has seen nothing else. Sizes
are those on disk. The figures of the other codecs are means over the same 24 photos, from kodak_rd.csv, interpolated
linearly over log bpp at the mean size of our files. docs/rate-distortion.md defines the measures.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from machine import DATA, ROOT, describe
from similarity import ms_ssim

import splat2d
from splat2d.codec import decode
from splat2d.compression import compress
from splat2d.images import levels_of
from splat2d.rendering import render_levels

CODECS = {"jpeg420": "JPEG", "webp": "WebP", "jp2k_mct": "JPEG 2000", "avif420": "AVIF"}  # names of kodak_rd.csv
DECODES = 5  # timed, after one that is not


@dataclass(frozen=True, slots=True)
class Encode:
    """A file to be made."""

    picture: Path
    file: Path
    budget: int  # bytes
    preset: str
    loss: str
    device: str
    threads: int


@dataclass(frozen=True, slots=True)
class Row:
    """What became of it."""

    picture: str
    preset: str
    loss: str
    rate: float  # bits per pixel asked for
    budget: int
    bytes: int
    pixels: int
    splats: int
    psnr: float
    ssim: float
    ms_ssim: float
    encode_seconds: float
    decode_ms: float


def main() -> None:
    options = arguments()
    if options.plot:
        plot(options.plot, read_codecs(options.codecs), options.image)
        return
    threads = options.threads or max(1, cores() // options.workers)
    # Timings of decoders suffer where every core is busy.
    judges = min(options.workers, max(1, cores() // 2))
    machine = f"{describe(threads, options.device, options.commit)}, {options.workers} pictures at a time"
    print(f"{machine}; {len(options.pictures)} pictures, loss {options.loss}; other codecs: mean of 24 pictures")
    curves = read_codecs(options.codecs)
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        pool(options.workers, warm_up, options.device) as encoders,
        pool(judges, once=True) as fresh,
    ):
        list(encoders.map(time.sleep, [0.5] * options.workers))  # all are there before the first is timed
        for preset in options.presets:
            heading(preset)
            for rate in options.rates:
                jobs = [
                    job(options, options.files or Path(folder), preset, rate, number, threads)
                    for number in options.pictures
                ]
                seconds = list(encoders.map(encode, jobs))
                judged = fresh.map(judge, [(job.file, job.picture) for job in jobs])
                found = [
                    row(job, rate, took, quality) for job, took, quality in zip(jobs, seconds, judged, strict=True)
                ]
                rows += found
                line(rate, found, curves)
                result = {"machine": machine, "device": options.device, "workers": options.workers}
                write(options.output, {**result, "rows": [asdict(row) for row in rows]})
    print(f"\n{options.output}: everything, picture by picture")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=list(range(1, 25)), help="numbers of Kodak photos")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0], metavar="BPP")
    parser.add_argument("--presets", nargs="+", default=["balanced"], choices=("fast", "balanced", "best"))
    parser.add_argument("--loss", default="l2")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--workers", type=int, default=1, help="pictures at a time; 1 to have true seconds on a GPU")
    parser.add_argument("--threads", type=int, help="of each worker; default: the cores, shared out")
    parser.add_argument("--kodak", type=Path, default=DATA / "kodak", help="folder with kodim01.png and so on")
    parser.add_argument("--codecs", type=Path, default=DATA / "kodak_rd.csv", help="table of the other codecs")
    parser.add_argument("--files", type=Path, help="existing folder that keeps the .s2d files")
    parser.add_argument("--output", type=Path, default=Path("rate-distortion.json"))
    parser.add_argument("--commit", help="to be named where there is no repository")
    parser.add_argument("--plot", type=Path, nargs="+", metavar="JSON", help="only draw these results")
    parser.add_argument("--image", type=Path, default=ROOT / "docs/images/rate-distortion.png", help="of --plot")
    return parser.parse_args()


def cores() -> int:
    return os.cpu_count() or 1


def pool(workers: int, prepare: Any = None, *values: Any, once: bool = False) -> ProcessPoolExecutor:
    """New processes, each prepared by prepare(*values); once: another one for every task."""
    return ProcessPoolExecutor(workers, get_context("spawn"), prepare, values, max_tasks_per_child=1 if once else None)


def warm_up(device: str) -> None:
    """Kernels of a GPU are loaded, or compiled, on first use."""
    image = np.random.default_rng(0).random((64, 64, 3), np.float32)
    compress(image, bytes=500, preset="fast", device=device, threads=1)


def job(options: argparse.Namespace, folder: Path, preset: str, rate: float, number: int, threads: int) -> Encode:
    picture = options.kodak / f"kodim{number:02}.png"
    height, width, _ = splat2d.load_image(picture).shape
    file = folder / f"{picture.stem}-{preset}-{rate:g}.s2d"
    budget = int(rate * width * height / 8)
    return Encode(picture, file, budget, preset, options.loss, options.device, threads)


def encode(job: Encode) -> float:
    """Makes the file; seconds from the picture in memory to the bytes."""
    image = splat2d.load_image(job.picture)
    start = time.perf_counter()
    made = compress(image, bytes=job.budget, preset=job.preset, loss=job.loss, device=job.device, threads=job.threads)
    seconds = time.perf_counter() - start
    job.file.write_bytes(made.data)
    return seconds


def judge(paths: tuple[Path, Path]) -> dict[str, float]:
    """What a file shows beside its picture, and how long it takes to see it."""
    file, picture = paths
    data = file.read_bytes()
    milliseconds = []
    for _ in range(1 + DECODES):
        start = time.perf_counter()
        levels = render_levels(decode(data), device="cpu", threads=1)
        milliseconds.append(1e3 * (time.perf_counter() - start))
    reference = splat2d.load_image(picture)
    return {
        "bytes": file.stat().st_size,
        "pixels": levels.shape[0] * levels.shape[1],
        "splats": len(decode(data)),
        "psnr": psnr_of_levels(levels, levels_of(reference)),
        "ssim": splat2d.ssim(levels / np.float32(255), reference),
        "ms_ssim": ms_ssim(levels / 255, levels_of(reference) / 255),
        "decode_ms": statistics.median(milliseconds[1:]),
    }


def row(job: Encode, rate: float, seconds: float, quality: dict[str, float]) -> Row:
    return Row(
        job.picture.stem,
        job.preset,
        job.loss,
        rate,
        job.budget,
        encode_seconds=seconds,
        **quality,
    )


def psnr_of_levels(levels: np.ndarray, reference: np.ndarray) -> float:
    """dB between two pictures of 8 bits."""
    difference = levels.astype(np.float64) - reference
    return float(10 * np.log10(255**2 / np.mean(difference**2)))


def read_codecs(path: Path) -> dict[str, np.ndarray]:
    """Of every codec its points by rising size: bpp, PSNR, MS-SSIM. [n, 3]"""
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    points = {
        codec: sorted(
            [float(line[key]) for key in ("bpp", "psnr", "msssim")] for line in lines if line["codec"] == codec
        )
        for codec in CODECS
    }
    return {codec: np.array(values) for codec, values in points.items()}


def at(points: np.ndarray, bpp: float) -> tuple[float, float] | None:
    """PSNR and MS-SSIM at this size, if the codec reaches it."""
    if not points[0, 0] <= bpp <= points[-1, 0]:
        return None
    psnr, similarity = (float(np.interp(np.log(bpp), np.log(points[:, 0]), points[:, i])) for i in (1, 2))
    return psnr, similarity


def heading(preset: str) -> None:
    columns = ["bpp", "bytes of budget, %", "splats", f"**splat2d, {preset}**", *CODECS.values()]
    columns += ["SSIM", "encode s", "decode ms"]
    print(f"\nPSNR dB / MS-SSIM of the decoded 8-bit pictures.\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def line(rate: float, rows: Sequence[Row], curves: dict[str, np.ndarray]) -> None:
    def mean(values: Iterable[float]) -> float:
        return statistics.fmean(values)

    bpp = mean(8 * row.bytes / row.pixels for row in rows)
    used = [100 * row.bytes / row.budget for row in rows]
    others = [at(points, bpp) for points in curves.values()]
    cells = [
        f"{rate:g}",
        f"{min(used):.2f} to {max(used):.2f}",
        f"{mean(row.splats for row in rows):.0f}",
        f"**{mean(row.psnr for row in rows):.2f} / {mean(row.ms_ssim for row in rows):.4f}**",
        *("–" if other is None else f"{other[0]:.2f} / {other[1]:.4f}" for other in others),
        f"{mean(row.ssim for row in rows):.4f}",
        f"{mean(row.encode_seconds for row in rows):.2f}",
        f"{mean(row.decode_ms for row in rows):.1f}",
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


def write(path: Path, result: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(path)


def plot(results: Sequence[Path], curves: dict[str, np.ndarray], path: Path) -> None:
    """PSNR and MS-SSIM over bpp: the codecs, and a curve for every preset and loss of the results."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for result in results for row in json.loads(result.read_text())["rows"]]
    ours = list(dict.fromkeys((row["preset"], row["loss"]) for row in rows))
    low, high = (8 * extreme(row["bytes"] / row["pixels"] for row in rows) for extreme in (min, max))
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for panel, column, key, name in zip(panels, (1, 2), ("psnr", "ms_ssim"), ("PSNR, dB", "MS-SSIM, dB"), strict=True):
        # Equal steps to the eye: MS-SSIM of 0.9 is 10 dB, of 0.99 20 dB.
        def scaled(values: Any, column: int = column) -> np.ndarray:
            return np.asarray(values) if column == 1 else -10 * np.log10(1 - np.asarray(values))

        for codec, points in curves.items():
            shown = points[(points[:, 0] > low / 1.5) & (points[:, 0] < high * 1.5)]
            panel.plot(shown[:, 0], scaled(shown[:, column]), "--", marker=".", linewidth=1, label=CODECS[codec])
        for preset, loss in ours:
            own = [row for row in rows if (row["preset"], row["loss"]) == (preset, loss)]
            groups = [[row for row in own if row["rate"] == rate] for rate in sorted({row["rate"] for row in own})]
            bpp = [statistics.fmean(8 * row["bytes"] / row["pixels"] for row in group) for group in groups]
            values = [statistics.fmean(row[key] for row in group) for group in groups]
            label = f"splat2d, {preset}" + ("" if loss == "l2" else f", {loss}")
            panel.plot(bpp, scaled(values), "-", marker="o", markersize=4, linewidth=2, label=label)
        panel.set(xlabel="bits per pixel", ylabel=name, xscale="log", xlim=(low / 1.1, high * 1.1))
        ticks = [tick for tick in (0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5) if low / 1.1 <= tick <= high * 1.1]
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].legend()
    count = len({row["picture"] for row in rows})
    figure.suptitle(f"Kodak, mean of {count} photos" + ("" if count == 24 else "; other codecs: of 24"))
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
