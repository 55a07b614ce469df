"""What each choice of the fit is worth, beside the product as it is: a row of docs/experiments.md per variant.

    python benchmarks/experiments.py --pictures 5 8 19 23 --crop 192 128 --pixels-per-splat 39 8 --seeds 2
    python benchmarks/experiments.py --device cuda --splats 10000 50000 --only relocation

A variant changes named constants or functions of the product for the time of its fits; nothing else differs. Prints a
Markdown table: mean of PSNR in dB (float render clamped to [0, 1]) over pictures and seeds, and the difference from the
product on the same picture and seed, with its standard error. --also adds means of other measures.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from drawings import Normalized, Sum, Window
from laboratory import LabEngine, Methods
from machine import DATA, describe
from similarity import ms_ssim

import splat2d
from splat2d import _cpu, fitting, seeding
from splat2d.engine import Optimizer

Floats = np.ndarray
Variant = Callable[[], AbstractContextManager[object]]
SHIPPED = "as shipped"


def constants(module: Any, **values: Any) -> Variant:
    """A variant with other values of a module's constants or functions."""
    return lambda: patch.multiple(module, **values)


def recipe(**changes: Any) -> Variant:
    """A variant of every preset."""
    return constants(fitting, RECIPES={name: replace(r, **changes) for name, r in fitting.RECIPES.items()})


def optimizer(**changes: Any) -> Variant:
    return constants(fitting, Optimizer=partial(Optimizer, **changes))


def both(*variants: Variant) -> Variant:
    @contextmanager
    def all_of_them() -> Iterator[None]:
        with ExitStack() as stack:
            for variant in variants:
                stack.enter_context(variant())
            yield

    return all_of_them


def floor(log_min: float) -> Variant:
    """A variant whose splats measure at least e^log_min pixels across the ridge, whatever the density."""
    return constants(fitting, log_thinnest=lambda pixels_per_splat: log_min)


def constant_for(share: float, final: float = fitting.RATE_FINAL) -> Variant:
    rates = partial(fitting.cosine_rates, constant=share)
    return both(constants(fitting, cosine_rates=rates), constants(fitting, RATE_FINAL=final))


def scaled(factor: float, **others: float) -> Variant:
    """A variant with all learning rates times factor, but for others."""
    o = Optimizer()
    names = ("mean_rate", "diagonal_rate", "shear_rate", "color_rate")
    return optimizer(**{name: factor * getattr(o, name) for name in names} | others)


def laboratory(**methods: Any) -> Variant:
    """A variant that runs in benchmarks/laboratory.py, on the CPU."""
    return constants(fitting, engine=lambda device: LabEngine(Methods(**methods)))


def flat_rates(steps: int) -> Floats:
    return np.ones(steps, np.float32)


def start_shapes(draw: Callable[[np.random.Generator, int, float], Floats]) -> Variant:
    """A variant whose first splats have L = [[l1, 0], [b, l3]] by draw(generator, count, sigma), [3, count]."""

    def start(image: Floats, background: Floats, count: int, sigma: float, least: float, seed: int) -> Any:
        means, log_cholesky, colors = seeding.initial_splats(image, background, count, sigma, least, seed)
        l1, b, l3 = draw(np.random.default_rng(seed), count, sigma)
        log_cholesky = np.stack([np.log(np.maximum(l1, least)), b, np.log(np.maximum(l3, least))], 1)
        return means, log_cholesky.astype(np.float32), colors

    return constants(fitting, initial_splats=start)


# Ways to draw the first covariances: those that others use, and one size for all.
SHAPES: dict[str, Callable[[np.random.Generator, int, float], Floats]] = {
    "alike": lambda rng, n, sigma: sigma * np.outer([1, 0, 1], np.ones(n)),
    "L of U(0, 1) px + 0.5 px": lambda rng, n, sigma: rng.random((3, n)) + np.array([[0.5], [0], [0.5]]),
    "log L and shear of N(0, 0.5)": lambda rng, n, sigma: sigma * oriented(*rng.normal(0, 0.5, (3, n))),
    "tanh of N(0, 1)": lambda rng, n, sigma: sigma * oriented(*np.tanh(rng.normal(0, 1, (3, n)))),
    "logit of N(0, 1)": lambda rng, n, sigma: (
        sigma * np.array([[2], [0], [2]]) / (1 + np.exp(rng.normal(0, 1, (3, n))))
    ),
}


def oriented(log_l1: Floats, shear: Floats, log_l3: Floats) -> Floats:
    return np.stack([np.exp(log_l1), shear, np.exp(log_l3)])


def power(value: float) -> Variant:
    return constants(fitting, draw_power=lambda pixels_per_splat: value)


def former_power(pixels_per_splat: float) -> float:
    return float(np.clip(math.log2(pixels_per_splat) - 1.5, 1, 3))


VARIANTS: dict[str, Variant] = {
    SHIPPED: ExitStack,
    "growth: none": recipe(start=1.0),
    "growth and relocation: none": recipe(start=1.0, relocations=0),
    "growth: from 30 %": recipe(start=0.3),
    "growth: from 3 %": recipe(start=0.03),
    "growth: half as many events": recipe(growths=6),
    "growth: 30 events": recipe(growths=30),
    "growth: until 45 % of the steps": recipe(growth_end=0.45),
    "growth: until 65 % of the steps": recipe(growth_end=0.65),
    "draw: error": power(1.0),
    "draw: error^2": power(2.0),
    "draw: error^3": power(3.0),
    "draw: error^4": power(4.0),
    "new splats: 0.25 of the grid": constants(fitting, NEW_SIZE=0.25),
    "new splats: 0.5 of the grid": constants(fitting, NEW_SIZE=0.5),
    "new splats: 0.7 of the grid": constants(fitting, NEW_SIZE=0.7),
    "new splats: at least 0.7 px": constants(fitting, NEW_SIZE_LEAST=0.7),
    "start: uniform": constants(seeding, UNIFORM_SHARE=1.0),
    "start: by gradient only": constants(seeding, UNIFORM_SHARE=0.0),
    "no growth, start: uniform": both(recipe(start=1.0), constants(seeding, UNIFORM_SHARE=1.0)),
    "no growth, start: by gradient only": both(recipe(start=1.0), constants(seeding, UNIFORM_SHARE=0.0)),
    **{f"start, covariance: {name}": start_shapes(draw) for name, draw in SHAPES.items()},
    **{
        f"no growth, start, covariance: {name}": both(recipe(start=1.0), start_shapes(draw))
        for name, draw in SHAPES.items()
    },
    "relocation: none": recipe(relocations=0),
    "relocation: 20 times": recipe(relocations=20),
    "relocation: 80 times": recipe(relocations=80),
    "relocation: 160 times": recipe(relocations=160),
    "relocation: 1 %": recipe(relocated=0.01),
    "relocation: 4 %": recipe(relocated=0.04),
    "relocation: until 70 % of the steps": recipe(relocation_end=0.7),
    "relocation: until 95 % of the steps": recipe(relocation_end=0.95),
    "rates: alike at every density": constants(fitting, crowd_factor=lambda pixels_per_splat: 1.0),
    "rates: x 0.5": scaled(0.5),
    "rates: x 0.3": scaled(0.3),
    "rates: x 0.2": scaled(0.2),
    "rates: constant for 0 %": constant_for(0.0),
    "rates: constant for 0 %, x 2": both(scaled(2), constant_for(0.0)),
    "rates: down to 0.5 %": constant_for(0.7, 0.005),
    "rates: x 2": scaled(2),
    "rates: mean x 0.5": optimizer(mean_rate=0.25),
    "rates: mean x 0.2": optimizer(mean_rate=0.1),
    "rates: diagonal x 0.5": optimizer(diagonal_rate=0.05),
    "rates: shear x 0.5": optimizer(shear_rate=0.05),
    "rates: color x 0.5": optimizer(color_rate=0.005),
    "rates: color x 2": optimizer(color_rate=0.02),
    "rates: constant for 30 %": constant_for(0.3),
    "rates: constant for 50 %": constant_for(0.5),
    "rates: constant for 85 %": constant_for(0.85),
    "betas: 0.8, 0.99": optimizer(beta1=0.8),
    "betas: 0.95, 0.99": optimizer(beta1=0.95),
    "betas: 0.9, 0.95": optimizer(beta2=0.95),
    "betas: 0.9, 0.999": optimizer(beta2=0.999),
    "floor: 0.50 px": floor(-0.7),
    "floor: 0.41 px": floor(-0.9),
    "floor: 0.30 px": floor(-1.2),
    "floor: 0.20 px": floor(-1.6),
    "beyond 0 and 1: as elsewhere": constants(fitting, OUTSIDE=1.0),
    "beyond 0 and 1: a third": constants(fitting, OUTSIDE=0.3),
    "beyond 0 and 1: 3 %": constants(fitting, OUTSIDE=0.03),
    "beyond 0 and 1: free": constants(fitting, OUTSIDE=1e-6),
    "growth as before: until 45 %, error^3, 0.5 of the grid": both(
        recipe(growth_end=0.45),
        constants(fitting, NEW_SIZE=0.5, draw_power=former_power),
    ),
    "laboratory: as shipped": laboratory(),
    "laboratory: removal by readjusted error": laboratory(worth="readjusted"),
    "laboratory: removal by energy / (1 + overlaps^2)": laboratory(worth="overlap"),
    "laboratory: removal by energy that 8 neighbours leave over": laboratory(worth="neighbours"),
    "laboratory: placed by pursuit": laboratory(place="pursuit", share=0.7),
    "laboratory: placed by oriented pursuit": laboratory(place="oriented", share=0.7),
    "laboratory: adan": laboratory(optimizer="adan"),
    "laboratory: one second moment for a colour": laboratory(optimizer="shared"),
    "laboratory: lion, rates x 0.03": both(laboratory(optimizer="lion"), scaled(0.03)),
    "laboratory: lion, rates x 0.1": both(laboratory(optimizer="lion"), scaled(0.1)),
    "laboratory: lion, rates x 0.3": both(laboratory(optimizer="lion"), scaled(0.3)),
    "laboratory: soap": laboratory(optimizer="soap"),
    "laboratory: soap, rates x 2": both(laboratory(optimizer="soap"), scaled(2)),
    "laboratory: schedule-free": both(
        laboratory(optimizer="schedule-free"), constants(fitting, cosine_rates=flat_rates)
    ),
    "laboratory: schedule-free, rates x 0.5": both(
        laboratory(optimizer="schedule-free"), constants(fitting, cosine_rates=flat_rates), scaled(0.5)
    ),
    "laboratory: means by tanh": laboratory(means="tanh"),
    "laboratory: sizes bounded by tanh": laboratory(sizes="tanh"),
    "laboratory: sizes bounded by logit": laboratory(sizes="logit"),
    "laboratory: cut-off at 1/1000": laboratory(drawing=Sum(6.9)),
    "laboratory: window of 9 px": laboratory(drawing=Window(9)),
    "laboratory: window of 17 px": laboratory(drawing=Window(17)),
    "laboratory: window of 33 px": laboratory(drawing=Window(33)),
    "laboratory: normalised, epsilon 0.001": laboratory(drawing=Normalized(0.001)),
    "laboratory: normalised, epsilon 0.03": laboratory(drawing=Normalized(0.03)),
    "laboratory: normalised, epsilon 0.3": laboratory(drawing=Normalized(0.3)),
    "laboratory: normalised, epsilon 1": laboratory(drawing=Normalized(1.0)),
    "laboratory: normalised, epsilon 3": laboratory(drawing=Normalized(3.0)),
    "laboratory: normalised, epsilon 0.001, cut-off at e^-11": laboratory(drawing=Normalized(0.001, 11.0)),
    "laboratory: normalised, epsilon 0.3, cut-off at e^-11": laboratory(drawing=Normalized(0.3, 11.0)),
    "laboratory: normalised, epsilon 0.3, equal weights": laboratory(drawing=Normalized(0.3), extra_rate=0.0),
    "laboratory: normalised, epsilon 1, equal weights": laboratory(drawing=Normalized(1.0), extra_rate=0.0),
    "laboratory: coarse to fine, blurred target": laboratory(coarse="target", coarse_steps=400),
    "laboratory: coarse to fine, blurred error": laboratory(coarse="error", coarse_steps=400),
    "laboratory: colours decay by 1e-4 a step": laboratory(weight_decay=1e-4),
    "laboratory: colours decay by 1e-3 a step": laboratory(weight_decay=1e-3),
    "laboratory: colours decay by 1e-2 a step": laboratory(weight_decay=1e-2),
    "laboratory: a third of growth by splitting": laboratory(split=0.33),
    "laboratory: positions with noise": laboratory(noise=0.05),
    "laboratory: colours solved after events": laboratory(color_solve=8),
    "steps: 1,000, 20 relocations of 3 %": recipe(steps=1000, relocations=20, relocated=0.03),
    "steps: 5,000, 40 relocations": recipe(steps=5000, relocations=40),
    "steps: 30,000, 240 relocations": recipe(steps=30000, relocations=240),
    "steps: 50,000, 400 relocations": recipe(steps=50000, relocations=400),
    "everything: as before these experiments": both(
        recipe(steps=5000, relocations=40, growth_end=0.45),
        floor(-0.7),
        constants(fitting, crowd_factor=lambda pixels_per_splat: 1.0),
        constants(fitting, NEW_SIZE=0.5, draw_power=former_power, OUTSIDE=1.0),
    ),
}


@dataclass(frozen=True, slots=True)
class Case:
    """What is fitted, alike for every variant."""

    picture: int
    seed: int
    splats: int
    image: Floats  # [H, W, 3]


@dataclass(frozen=True, slots=True)
class Outcome:
    psnr: float  # dB
    seconds: float
    also: dict[str, float] = field(default_factory=dict)


def run(case: Case, options: argparse.Namespace) -> Outcome:
    started = time.perf_counter()
    config = splat2d.FitConfig(
        splats=case.splats,
        preset=options.preset,
        steps=options.steps,
        loss=splat2d.Loss.parse(options.loss),
        seed=case.seed,
        device=options.device,
        threads=options.threads,
    )
    *_, last = fitting.fit_steps(case.image, config)
    seconds = time.perf_counter() - started
    return Outcome(last.psnr, seconds, {name: MEASURES[name](last.splats, case.image) for name in options.also})


BORDER = 8  # pixels


def border_error(splats: splat2d.Splats, image: Floats) -> float:
    """dB by which the mean squared error of the frame exceeds that of the inside."""
    squares = (splat2d.render(splats).clip(0, 1) - image) ** 2
    inside = squares[BORDER:-BORDER, BORDER:-BORDER]
    frame = (squares.sum() - inside.sum()) / (squares.size - inside.size)
    return float(10 * np.log10(frame / inside.mean()))


def flip(splats: splat2d.Splats, image: Floats) -> float:
    """FLIP (Andersson et al. 2020), mean; of the package flip-evaluator."""
    import flip_evaluator

    rendered = splat2d.render(splats).clip(0, 1)
    return float(flip_evaluator.evaluate(image, rendered, "LDR", applyMagma=False)[1])


def overlap(splats: splat2d.Splats, image: Floats) -> float:
    """Splats that meet a pixel, in the mean."""
    pairs = _cpu.count_pairs(splats.means, splats.log_cholesky, *image.shape[:2])
    return pairs / (image.shape[0] * image.shape[1])


# What --also adds: measures of splats as the product draws them.
MEASURES: dict[str, Callable[[splat2d.Splats, Floats], float]] = {
    "ssim": lambda splats, image: splat2d.ssim(splat2d.render(splats).clip(0, 1), image),
    "ms-ssim": lambda splats, image: ms_ssim(splat2d.render(splats).clip(0, 1), image),
    "flip": flip,
    "border": border_error,
    "overlap": overlap,
    "bright": lambda splats, image: float((abs(splats.colors).max(1) > 1).mean()),  # share of |colour| beyond 1
}


def cases(options: argparse.Namespace) -> dict[str, list[Case]]:
    """By the heading of their columns."""
    images = {
        n: cropped(splat2d.load_image(options.folder / f"kodim{n:02}.png"), options.crop) for n in options.pictures
    }
    (height, width, _) = next(iter(images.values())).shape
    counts = options.splats or [round(height * width / share) for share in options.pixels_per_splat]
    return {
        f"{count:,} splats": [
            Case(n, seed, count, image) for n, image in images.items() for seed in range(options.seeds)
        ]
        for count in counts
    }


def cropped(image: Floats, size: list[int] | None) -> Floats:
    """The middle of image, width x height pixels."""
    if size is None:
        return image
    width, height = size
    y, x = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[y : y + height, x : x + width])


def cell(outcomes: list[Outcome], shipped: list[Outcome]) -> str:
    values = np.array([o.psnr for o in outcomes])
    text = f"{values.mean():.2f}"
    if outcomes is not shipped:
        gains = values - [o.psnr for o in shipped]
        error = gains.std(ddof=1) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
        text += f" ({gains.mean():+.2f} ± {error:.2f})"
    for name in outcomes[0].also:
        text += f", {np.mean([o.also[name] for o in outcomes]):.4f}"
    return f"{text}, {np.mean([o.seconds for o in outcomes]):.1f} s"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[5, 8, 19, 23], help="numbers of Kodak photos")
    parser.add_argument("--folder", type=Path, default=DATA / "kodak", help="with kodim01.png and so on")
    parser.add_argument("--crop", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help="fit the middle of each photo")
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--splats", type=int, nargs="+", help="counts")
    budget.add_argument("--pixels-per-splat", type=float, nargs="+", default=[39.3, 7.9], help="counts by density")
    parser.add_argument("--seeds", type=int, default=2, help="how many")
    parser.add_argument("--preset", default="best", choices=list(fitting.RECIPES))
    parser.add_argument("--steps", type=int, help="instead of those of the preset")
    parser.add_argument("--loss", default="l2")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--also", nargs="+", default=[], choices=list(MEASURES), help="further means in each cell")
    parser.add_argument("--only", nargs="+", help="rows whose name contains one of these; the product is always there")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    columns = cases(options)
    what = "whole pictures" if options.crop is None else "the middle {} x {} pixels".format(*options.crop)
    print(describe(options.threads, options.device))
    print(
        f"Kodak {' '.join(f'{n:02}' for n in options.pictures)}, {what}; {options.seeds} seeds, {options.preset}",
        end="",
    )
    print(f", {options.steps} steps" if options.steps else "", f", loss {options.loss}", sep="")
    print(f"PSNR (difference ± standard error), {''.join(f'{name}, ' for name in options.also)}seconds\n")
    print(f"`python benchmarks/experiments.py {' '.join(sys.argv[1:])}`\n")
    print(f"| | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    shipped: dict[str, list[Outcome]] = {}
    for name, variant in VARIANTS.items():
        if name != SHIPPED and options.only and not any(part in name for part in options.only):
            continue
        cells = []
        for heading, column in columns.items():
            with variant():
                outcomes = [run(case, options) for case in column]
            cells.append(cell(outcomes, shipped.setdefault(heading, outcomes)))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
