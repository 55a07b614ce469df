"""How far the end of a fit is from a minimum: Gauss-Newton steps with conjugate gradients over all parameters.

    python benchmarks/gauss_newton.py --picture 5 --pixels-per-splat 39.3 --steps 5000

Products with the Jacobian are central differences of the float64 render, those with its transpose its gradients.
Everything here is drawn to a weight of e^-11 instead of 1/255, so that differences do not meet the cut-off; that is why
the first PSNR (not clamped) is below that of the fit. Preconditioned by the curvature that a splat alone would have.
"""

import argparse
import math

import numpy as np
from experiments import cropped
from machine import DATA, describe

import splat2d
from splat2d import _cpu
from splat2d.fitting import log_thinnest
from splat2d.splats import Splats

CUTOFF = 11.0
Floats = np.ndarray


class Problem:
    def __init__(self, image: Floats, splats: Splats) -> None:
        self.image, self.background = image.astype(np.float64), splats.background.astype(np.float64)
        self.height, self.width = image.shape[:2]
        self.p = np.concatenate([splats.means, splats.log_cholesky, splats.colors], 1).astype(np.float64)

    def residual(self, p: Floats) -> Floats:
        drawn = _cpu.render(*parts(p), self.background, self.height, self.width, cutoff=CUTOFF, threads=1)
        return drawn - self.image

    def pulled_back(self, image: Floats) -> Floats:
        return np.concatenate(_cpu.render_backward(*parts(self.p), image, cutoff=CUTOFF, threads=1), 1)

    def pushed_forward(self, direction: Floats) -> Floats:
        h = 1e-3 / abs(direction).max()
        return (self.residual(self.p + h * direction) - self.residual(self.p - h * direction)) / (2 * h)

    def scale(self) -> Floats:
        """One over the root of the curvature of a splat that overlaps no other."""
        p = self.p
        l1, b, l3 = np.exp(p[:, 2]), p[:, 3], np.exp(p[:, 4])
        area = np.pi * l1 * l3
        energy = area * ((p[:, 5:] ** 2).sum(1) + 1e-6)
        geometry = (
            *(energy * (1 / l1**2 + (b / (l1 * l3)) ** 2) / 2, energy / l3**2 / 2),
            *(energy * (0.75 + 0.25 * (b / l3) ** 2), energy / l3**2 / 4, 0.75 * energy),
        )
        return 1 / np.sqrt(np.stack([*geometry, *[area] * (p.shape[1] - 5)], 1) + 1e-9)

    def direction(self, residual: Floats, iterations: int, damping: float) -> Floats:
        scale = self.scale()
        x = np.zeros_like(self.p)
        left = -scale * self.pulled_back(residual)
        d, norm = left.copy(), (left**2).sum()
        for _ in range(iterations):
            product = scale * self.pulled_back(self.pushed_forward(scale * d)) + damping * d
            step = norm / (d * product).sum()
            x, left = x + step * d, left - step * product
            before, norm = norm, (left**2).sum()
            d = left + d * norm / before
        return scale * x


def parts(p: Floats) -> list[Floats]:
    return [np.ascontiguousarray(part) for part in (p[:, :2], p[:, 2:5], p[:, 5:])]


def limited(p: Floats, least: float) -> Floats:
    p[:, 2] = np.maximum(p[:, 2], least)
    p[:, 4] = np.maximum(p[:, 4], least + 0.5 * np.log1p((p[:, 3] * np.exp(-p[:, 2])) ** 2))
    return p


def db(residual: Floats) -> float:
    return -10 * math.log10(np.square(residual).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=int, default=5, help="number of a Kodak photo")
    parser.add_argument("--pixels-per-splat", type=float, default=39.3)
    parser.add_argument("--steps", type=int, default=5000, help="of the fit")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--iterations", type=int, default=30, help="of conjugate gradients, in a round")
    options = parser.parse_args()
    print(describe(1), end="\n\n")
    image = cropped(splat2d.load_image(DATA / f"kodak/kodim{options.picture:02}.png"), [192, 128])
    count = round(image.shape[0] * image.shape[1] / options.pixels_per_splat)
    result = splat2d.fit(image, splats=count, preset="best", steps=options.steps, device="cpu", threads=1)
    problem = Problem(image, result.splats)
    least = log_thinnest(options.pixels_per_splat)
    problem.p = limited(problem.p, least)
    residual, damping = problem.residual(problem.p), 1e-2
    print(f"fit {result.psnr:.2f} dB; to e^-{CUTOFF:.0f}: {db(residual):.3f}", flush=True)
    for number in range(1, options.rounds + 1):
        direction = problem.direction(residual, options.iterations, damping)
        for length in (1.0, 0.5, 0.25, 0.1):
            tried = limited(problem.p + length * direction, least)
            after = problem.residual(tried)
            if db(after) > db(residual):
                problem.p, residual = tried, after
                damping *= 0.5 if length == 1 else 2
                break
        else:
            damping *= 4
        print(f"round {number}: {db(residual):.3f} dB, damping {damping:.2g}", flush=True)


if __name__ == "__main__":
    main()
