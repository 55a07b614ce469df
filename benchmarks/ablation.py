"""What the settings of the fit are worth: each row changes one of them.

    python benchmarks/ablation.py --pictures 5 19 23 --seeds 1

Prints a Markdown table: PSNR (float render clamped to [0, 1]) of each picture, mean over the seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import splat2d
from splat2d import fitting, seeding
from splat2d.engine import Optimizer

ROOT = Path(__file__).resolve().parents[1]


def optimizer(**changes: Any) -> Callable[[], None]:
    """A variant with other settings of the optimiser."""
    return lambda: setattr(fitting, "Optimizer", partial(Optimizer, **changes))


def recipe(**changes: Any) -> Callable[[], None]:
    """A variant of every preset."""
    return lambda: setattr(fitting, "RECIPES", {name: replace(r, **changes) for name, r in fitting.RECIPES.items()})


def constant(module: Any, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(module, name, value)


VARIANTS: dict[str, Callable[[], None]] = {
    "as shipped": lambda: None,
    "floor of the short axis 0.30 px": optimizer(log_min=-1.2),
    "floor of the short axis 0.41 px": optimizer(log_min=-0.9),
    "floor of the short axis 0.61 px": optimizer(log_min=-0.5),
    "rates fall from 30 % on": constant(fitting, "RATE_CONSTANT", 0.3),
    "rates fall from 50 % on": constant(fitting, "RATE_CONSTANT", 0.5),
    "all rates x 0.5": optimizer(mean_rate=0.25, diagonal_rate=0.05, shear_rate=0.05, color_rate=0.005),
    "all rates x 1.5": optimizer(mean_rate=0.75, diagonal_rate=0.15, shear_rate=0.15, color_rate=0.015),
    "diagonal rate 0.05": optimizer(diagonal_rate=0.05),
    "beta2 0.999": optimizer(beta2=0.999),
    "no relocation": recipe(relocations=0),
    "10 relocations of 3 %": recipe(relocations=10, relocated=0.03),
    "start at 30 %": recipe(start=0.3),
    "no growth: start at 100 %": recipe(start=1.0),
    "draw by the error itself, not its cube": constant(fitting, "draw_power", lambda pixels: 1.0),
    "all splats placed uniformly": constant(seeding, "UNIFORM_SHARE", 1.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[5, 19, 23])
    parser.add_argument("--folder", type=Path, default=ROOT / "../shared/data/kodak")
    parser.add_argument("--splats", type=int, default=10_000)
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", help="rows whose name contains one of these")
    args = parser.parse_args()

    images = {n: splat2d.load_image(args.folder / f"kodim{n:02d}.png") for n in args.pictures}
    print(f"{args.splats} splats, {args.preset}, {args.seeds} seeds\n")
    print(f"| | {' | '.join(f'kodim{n:02d}' for n in images)} | mean |\n|---|{'---|' * (len(images) + 1)}")
    shipped = {name: getattr(fitting, name) for name in ("Optimizer", "RECIPES", "RATE_CONSTANT", "draw_power")}
    share = seeding.UNIFORM_SHARE
    for name, change in VARIANTS.items():
        if args.only and not any(part in name for part in args.only):
            continue
        change()
        fit = partial(splat2d.fit, splats=args.splats, preset=args.preset, steps=args.steps, device="cpu")
        values = [np.mean([fit(image, seed=seed).psnr for seed in range(args.seeds)]) for image in images.values()]
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in values)} | {np.mean(values):.2f} |", flush=True)
        for key, value in shipped.items():
            setattr(fitting, key, value)
        seeding.UNIFORM_SHARE = share


if __name__ == "__main__":
    main()
