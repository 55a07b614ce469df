"""The step of two or more commits on the same splats, by turns: what an optimisation brought, on this machine.

    python benchmarks/compare_commits.py 427b51e HEAD --splats 10000 --rounds 9

Each commit is built into an environment of its own under a temporary folder. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Runs in the environment of one commit. Only names that every commit has.
TIMING = """
import json, sys, time
import numpy as np
from splat2d import _cpu
path, sets, threads = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3])
data = np.load(path)
image = data["image"]
result = {}
for name in sets:
    _cpu.use_instruction_set(name)
    fit = _cpu.Fit(image, data["background"], l2=1.0, l1=0.0, ssim=0.0, rates=[0.5, 0.1, 0.1, 0.01], beta1=0.9,
                   beta2=0.99, log_min=-0.7, log_max=10.0, threads=threads)
    fit.set_splats(data["means"], data["log_cholesky"], data["colors"])
    hold = np.zeros(4, np.float32)
    fit.run(hold)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        fit.run(hold)
        times.append((time.perf_counter() - start) / len(hold))
    result[name] = min(times)
print(json.dumps(result))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="+", help="the last one fits the splats that all are timed on")
    parser.add_argument("--picture", type=Path, default=ROOT / "../shared/data/kodak/kodim23.png")
    parser.add_argument("--splats", type=int, default=10_000)
    parser.add_argument("--sets", default="x86-64-v3,x86-64-v4", help="instruction sets, with commas")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        pythons = {commit: build(commit, Path(folder, f"{i}")) for i, commit in enumerate(args.commits)}
        splats = Path(folder, "splats.npz")
        pairs = fit_splats(pythons[args.commits[-1]], args.picture, args.splats, splats)
        command = ["-c", TIMING, str(splats), args.sets, str(args.threads)]
        times: dict[tuple[str, str], list[float]] = {}
        for _ in range(args.rounds):
            for commit, python in pythons.items():
                for name, seconds in json.loads(run([python, *command])).items():
                    times.setdefault((commit, name), []).append(seconds / pairs * 1e9)

    print(f"{args.picture.name}, {args.splats} splats, {pairs} pairs, {args.threads} threads, {args.rounds} rounds\n")
    print("| commit | instruction set | ns per pair: lower quartile, median, upper quartile |\n|---|---|---|")
    for (commit, name), values in times.items():
        subject = run(["git", "-C", str(ROOT), "log", "-1", "--format=%h %s", commit]).strip()
        quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        print(f"| {subject} | {name} | {' '.join(f'{value:.3f}' for value in quartiles)} |")


def build(commit: str, folder: Path) -> str:
    """A Python that has the commit installed."""
    source = folder / "source"
    run(["git", "clone", "--quiet", str(ROOT), str(source)])
    run(["git", "-C", str(source), "checkout", "--quiet", run(["git", "-C", str(ROOT), "rev-parse", commit]).strip()])
    (source / "README.md").touch()  # the first commits have none, and the build asks for it
    run([sys.executable, "-m", "venv", str(folder / "env")])
    python = str(folder / "env/bin/python")
    run([python, "-m", "pip", "install", "--quiet", str(source)])
    return python


def fit_splats(python: str, picture: Path, count: int, path: Path) -> int:
    """Fits and stores what TIMING reads; the number of pairs."""
    program = f"""
import numpy as np, splat2d
from splat2d import _cpu
image = splat2d.load_image({str(picture)!r})
s = splat2d.fit(image, splats={count}, steps=500).splats
arrays = {{name: getattr(s, name) for name in ("means", "log_cholesky", "colors", "background")}}
np.savez({str(path)!r}, image=image, **arrays)
print(_cpu.count_pairs(s.means, s.log_cholesky, *image.shape[:2]))
"""
    return int(run([python, "-c", program]))


def run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(command[:4])} failed:\n{result.stderr}")
    return result.stdout


if __name__ == "__main__":
    main()
