"""A session of the fit in NumPy over the native renderer, whose parts can be exchanged for experiments.

With its defaults it does what splat2d.engine.cpu.CpuSession does for an L2 loss, a few times more slowly. Ways to draw
are in drawings.py, optimisers in optimizers.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from drawings import Drawing, Sum
from optimizers import OPTIMIZERS

from splat2d import _cpu
from splat2d.config import Loss
from splat2d.engine import Evaluation, Optimizer

Floats = np.ndarray
SPREAD = 4.0  # as kSpread of native/cpu/engine.cpp
WIDEST = 40.0  # pixels, where sizes are bounded


@dataclass(frozen=True, slots=True)
class Methods:
    """Which parts to use; the defaults are those of the product."""

    worth: str = "energy"  # which splats relocation takes: energy, overlap, neighbours, readjusted
    place: str = "error"  # where new ones go: error, pursuit, oriented
    optimizer: str = "adam"  # see optimizers.py
    share: float = 0.5  # of what is missing that a new splat takes
    drawing: Drawing = field(default_factory=Sum)
    extra_rate: float = 0.05  # of what a drawing has beyond geometry and colour
    means: str = "pixels"  # or tanh: x = width (1 + tanh u) / 2
    sizes: str = "log"  # or tanh, logit: of e^a and e^c between the floor and WIDEST
    weight_decay: float = 0.0  # of colours, a step
    split: float = 0.0  # share of a growth that goes to splitting splats
    noise: float = 0.0
    color_solve: int = 0  # conjugate-gradient steps on the colours after each event
    coarse: str = ""  # what is blurred in the first coarse_steps: target, error
    coarse_steps: int = 0
    coarse_sigma: float = 2.0  # pixels, falling to 0


class LabSession:
    def __init__(
        self,
        image: Floats,
        background: Floats,
        loss: Loss,
        optimizer: Optimizer,
        threads: int | None,
        outside: float,
        methods: Methods,
    ) -> None:
        assert loss == Loss(), "the laboratory knows the L2 loss only"
        self.image, self.background, self.o, self.methods = image, background, optimizer, methods
        self.threads, self.outside = threads or 0, outside
        self.steps = 0
        o, extra = optimizer, methods.drawing.extra
        rates = [o.mean_rate] * 2 + [o.diagonal_rate, o.shear_rate, o.diagonal_rate] + [o.color_rate] * image.shape[2]
        self.rate = np.array(rates + [methods.extra_rate] * extra, np.float32)
        self.bounds = Bounds(image.shape[1], image.shape[0], o.log_min, methods)
        self.state = OPTIMIZERS[methods.optimizer](len(self.rate), o.beta1, o.beta2)
        self.rng = np.random.default_rng(0)

    @property
    def count(self) -> int:
        return len(self.p)

    def set_splats(self, means: Floats, log_cholesky: Floats, colors: Floats, frozen: Any = None) -> None:
        self.p = np.concatenate([means, log_cholesky, colors], 1).astype(np.float32)
        if self.methods.drawing.extra:  # a mean of colours, not a sum of differences
            height, width, _ = self.image.shape
            x, y = (np.clip(self.p[:, k].astype(int), 0, (width, height)[k] - 1) for k in (0, 1))
            self.p[:, 5:] = self.image[y, x]
            self.p = np.concatenate([self.p, np.zeros((len(means), self.methods.drawing.extra), np.float32)], 1)
        self.state.resize(0)
        self.state.resize(self.count)
        self.norm = np.zeros(self.count, np.float32)
        self.steps = 0

    def get_splats(self) -> tuple[Floats, Floats, Floats]:
        p = self.judged()
        return tuple(np.ascontiguousarray(part) for part in (p[:, :2], p[:, 2:5], p[:, 5 : 5 + self.image.shape[2]]))

    def judged(self) -> Floats:
        """The parameters of the state that counts, where that is not where gradients are taken."""
        offset = self.state.arrays.get("offset")
        return self.p if offset is None else self.p + self.rate * offset

    def residual(self, p: Floats) -> tuple[Floats, Floats]:
        """Render - image, and the same times the weights of the loss: its gradient."""
        height, width, _ = self.image.shape
        r = self.methods.drawing.image(p, self.background, height, width, self.threads) - self.image
        hidden = ((self.image >= 1) & (r > 0)) | ((self.image <= 0) & (r < 0))
        return r, np.where(hidden, np.float32(self.outside), np.float32(1)) * r

    def run(self, rates: Floats, coding: Any = None) -> float:
        squares = 0.0
        for rate in rates:
            r, d = self.residual(self.p)
            squares = float(np.vdot(r, d))
            g = self.methods.drawing.gradient(self.p, self.background, self.coarse(r, d), self.threads)
            self.update(g, rate)
        return squares / self.image.size

    def coarse(self, r: Floats, d: Floats) -> Floats:
        """The gradient of the picture, in the first steps of a fit from coarse to fine."""
        m = self.methods
        if not m.coarse or self.steps >= m.coarse_steps:
            return d
        sigma = m.coarse_sigma * (1 - self.steps / m.coarse_steps)
        if m.coarse == "target":
            return r + self.image - gaussian_blurred(self.image, sigma)
        return gaussian_blurred(gaussian_blurred(d, sigma), sigma)

    def update(self, g: Floats, rate: float) -> None:
        self.steps += 1
        self.norm += np.hypot(g[:, 0], g[:, 1])
        free, slope, scale = self.bounds.free(self.p)
        step = self.state.step(g * slope, self.steps, rate)
        self.p = self.bounds.bounded(free - self.rate * scale * rate * step).astype(np.float32)
        if self.methods.noise:
            sigma = np.exp(0.5 * (self.p[:, 2] + self.p[:, 4]))[:, None]
            self.p[:, :2] += self.methods.noise * rate * sigma * self.rng.standard_normal((self.count, 2), np.float32)
        if self.methods.weight_decay:
            self.p[:, 5:] *= 1 - np.float32(self.methods.weight_decay * rate)
        self.limit()

    def limit(self) -> None:
        p, o = self.p, self.o
        p[:, 2] = np.clip(p[:, 2], o.log_min, o.log_max)
        slope = p[:, 3] * np.exp(-p[:, 2])
        p[:, 4] = np.clip(np.maximum(p[:, 4], o.log_min + 0.5 * np.log1p(slope**2)), o.log_min, o.log_max)

    def evaluate(self) -> Evaluation:
        r, d = self.residual(self.judged())
        squared = float(np.vdot(r, d)) / r.size
        clamped = float(np.square(np.clip(r + self.image, 0, 1) - self.image, dtype=np.float64).mean())
        return Evaluation(squared, clamped, squared)

    def sort(self) -> None:
        pass

    # ---- density control

    def grow(self, added: int, power: float, sigma: float, seed: int) -> None:
        before = self.count
        split = min(int(self.methods.split * added), before)
        self.p = np.concatenate([self.p, np.zeros((added, self.p.shape[1]), np.float32)])
        if self.methods.drawing.extra:
            self.p[before:, -1] = -20  # not drawn yet
        self.state.resize(self.count)
        self.norm = np.concatenate([self.norm, np.zeros(added, np.float32)])
        if split:
            self.split(np.argsort(-self.norm[:before])[:split], np.arange(before, before + split))
        self.place(np.arange(before + split, before + added), power, sigma, seed)
        self.norm[:] = 0
        self.solve_colors()

    def split(self, parents: Floats, children: Floats) -> None:
        """Each into two of 0.7 times the size, one standard deviation apart along the longer axis."""
        p = self.p
        for i, j in zip(parents, children, strict=True):
            l1, b, l3 = math.exp(p[i, 2]), p[i, 3], math.exp(p[i, 4])
            u, s, _ = np.linalg.svd(np.array([[l1, 0], [b, l3]]))
            along = u[:, 0] * s[0]
            p[j] = p[i]
            p[i, :2] += 0.6 * along
            p[j, :2] -= 0.6 * along
            q = u @ np.diag([0.75 * s[0], s[1]])
            cov = q @ q.T
            chol = np.linalg.cholesky(cov)
            p[[i, j], 2], p[[i, j], 3], p[[i, j], 4] = math.log(chol[0, 0]), chol[1, 0], math.log(chol[1, 1])
            p[[i, j], 5:] *= 0.62
            self.state.clear([i, j])
        self.limit()

    def relocate(self, moved: int, power: float, sigma: float, seed: int) -> None:
        if self.methods.worth == "readjusted":
            chosen = self.remove_readjusted(moved)
        else:
            worth = self.energies()
            if self.methods.worth == "overlap":
                worth /= 1 + (self.overlaps() ** 2).sum(1)
            elif self.methods.worth == "neighbours":
                worth *= 1 - explained(self.overlaps(), 8)
            chosen = np.sort(np.argsort(worth, kind="stable")[:moved])
            self.p[chosen, 5:] = 0
            if self.methods.drawing.extra:
                self.p[chosen, -1] = -20
        self.place(chosen, power, sigma, seed)
        self.norm[:] = 0
        self.solve_colors()

    def energies(self) -> Floats:
        """Of what each splat draws; where it is a share of a mean, of what changes without it, about."""
        p = self.p
        drawn = p[:, 5:]
        if self.methods.drawing.extra:
            height, width, channels = self.image.shape
            x, y = (np.clip(p[:, k].astype(int), 0, (width, height)[k] - 1) for k in (0, 1))
            over, under = self.methods.drawing.both(p, self.background, height, width, self.threads)
            v = np.exp(p[:, -1:])
            drawn = v / np.maximum(under[y, x] - v, 1e-3) * (p[:, 5 : 5 + channels] - (over / under)[y, x])
        return (drawn**2).sum(1) * np.exp(p[:, 2] + p[:, 4])

    def gram(self) -> Floats:
        """Integrals of the products of all weights. [N, N]"""
        p = self.p.astype(np.float64)
        l1, b, l3 = np.exp(p[:, 2]), p[:, 3], np.exp(p[:, 4])
        xx, xy, yy = l1 * l1, l1 * b, b * b + l3 * l3
        dx, dy = p[:, None, 0] - p[None, :, 0], p[:, None, 1] - p[None, :, 1]
        sxx, sxy, syy = xx[:, None] + xx, xy[:, None] + xy, yy[:, None] + yy
        det = sxx * syy - sxy * sxy
        z = (syy * dx * dx - 2 * sxy * dx * dy + sxx * dy * dy) / det
        area = l1 * l3
        return 2 * np.pi * area[:, None] * area / np.sqrt(det) * np.exp(-0.5 * z)

    def overlaps(self) -> Floats:
        """Cosines of the angles between weights, 0 of each with itself. [N, N]"""
        return cosines(self.gram())

    def remove_readjusted(self, moved: int) -> Floats:
        """Those whose removal costs least once the colours of all others have made up for it (Hassibi and Stork 1993),
        no two of them neighbours; the others' colours are changed by just that."""
        gram = self.gram()
        gram[np.diag_indices_from(gram)] *= 1 + 1e-3
        inverse = np.linalg.inv(gram)
        colors = self.p[:, 5:].astype(np.float64)
        worth = (colors**2).sum(1) / np.diag(inverse)
        overlaps = cosines(gram)
        chosen: list[int] = []
        blocked = np.zeros(self.count, bool)
        for i in np.argsort(worth, kind="stable"):
            if len(chosen) == moved:
                break
            if not blocked[i]:
                chosen.append(int(i))
                blocked |= overlaps[i] > 0.3
        index = np.sort(np.array(chosen))
        self.p[:, 5:] -= (inverse[:, index] @ np.linalg.solve(inverse[np.ix_(index, index)], colors[index])).astype(
            "f4"
        )
        self.p[index, 5:] = 0
        return index

    def place(self, index: Floats, power: float, sigma: float, seed: int) -> None:
        count = len(index)
        if not count:
            return
        height, width, _ = self.image.shape
        _, r = self.residual(self.judged())
        if self.methods.place == "error":
            map_, atoms = box_blurred((r**2).sum(2)), None
        else:
            atoms = Atoms.best(r, sigma, self.o.log_min, self.methods.place == "oriented")
            map_ = atoms.gain
        map_ = (map_ / map_.mean()).astype(np.float32) ** np.float32(power)
        map_ = flattened(map_, count, 1 / (SPREAD * sigma * sigma))
        y, x = np.divmod(_cpu.draw(map_.astype(np.float32), count, seed), width)
        share = self.methods.share / max(SPREAD * sigma * sigma * count / (height * width), 1.0)
        jitter = np.random.default_rng(seed).random((count, 2), np.float32)
        self.state.clear(index)
        p = self.p
        if atoms is None:
            p[index, 0], p[index, 1] = x + jitter[:, 0], y + jitter[:, 1]
            p[index, 2:5] = np.log(sigma), 0, np.log(sigma)
            if self.methods.drawing.extra:
                p[index, 5:-1], p[index, -1] = self.image[y, x], math.log(share)
            else:
                p[index, 5:] = -share * r[y, x]
        else:
            p[index, 0], p[index, 1] = x + 0.5, y + 0.5
            p[index, 2:5] = atoms.shape[atoms.which[y, x]]
            p[index, 5:] = -share * atoms.color[y, x]
        self.limit()

    def solve_colors(self) -> None:
        """Conjugate gradients on the colours alone, geometry fixed."""
        if not self.methods.color_solve:
            return
        means, shapes, colors = self.get_splats()
        height, width, channels = self.image.shape
        zero = np.zeros(channels, np.float32)

        def weighted(c: Floats) -> Floats:
            return _cpu.render(means, shapes, c, zero, height, width, threads=self.threads)

        def pulled(image: Floats) -> Floats:
            return _cpu.render_backward(means, shapes, colors, image, threads=self.threads)[2]

        scale = np.exp(-0.5 * (shapes[:, 0] + shapes[:, 2]))[:, None]  # Jacobi
        d = -self.residual(self.p)[1]
        s = scale * pulled(d)
        direction, gamma = s.copy(), (s * s).sum(0)
        for _ in range(self.methods.color_solve):
            q = weighted(scale * direction)
            alpha = gamma / np.maximum((q * q).sum((0, 1)), 1e-20)
            colors = colors + scale * direction * alpha
            d = d - q * alpha
            s = scale * pulled(d)
            after = (s * s).sum(0)
            direction = s + direction * (after / np.maximum(gamma, 1e-20))
            gamma = after
        self.p[:, 5:] = colors


def cosines(gram: Floats) -> Floats:
    """Of the angles between what products [N, N] were taken of; 0 of each with itself. [N, N]"""
    scale = 1 / np.sqrt(np.diag(gram))
    found = gram * scale[:, None] * scale
    np.fill_diagonal(found, 0)
    return found


def explained(overlaps: Floats, neighbours: int) -> Floats:
    """The share of each splat that the nearest of the others could draw in its place, if they were alone. [N]"""
    near = np.argpartition(-overlaps, neighbours, axis=1)[:, :neighbours]
    mine = np.take_along_axis(overlaps, near, 1)
    theirs = overlaps[near[:, :, None], near[:, None, :]] + 1.001 * np.eye(neighbours)
    return np.clip((mine * np.linalg.solve(theirs, mine[..., None])[..., 0]).sum(1), 0, 0.999)


class Bounds:
    """Free variables behind parameters that have bounds."""

    def __init__(self, width: int, height: int, log_min: float, methods: Methods) -> None:
        self.half = np.array([width, height]) / 2
        self.low, self.high = math.exp(log_min), WIDEST
        self.methods = methods

    def free(self, p: Floats) -> tuple[Floats, Floats, Floats]:
        """The free variables, the derivatives of the parameters by them, and factors of the learning rates."""
        u, slope = p.astype(np.float64), np.ones_like(p)
        scale = np.ones(p.shape[1])
        if self.methods.means == "tanh":
            t = np.clip(p[:, :2] / self.half - 1, -1 + 1e-6, 1 - 1e-6)
            u[:, :2], slope[:, :2], scale[:2] = np.arctanh(t), self.half * (1 - t * t), 1 / self.half
        if self.methods.sizes == "tanh":
            middle, half = (math.log(self.high * self.low) / 2, math.log(self.high / self.low) / 2)
            t = np.clip((p[:, [2, 4]] - middle) / half, -1 + 1e-6, 1 - 1e-6)
            u[:, [2, 4]], slope[:, [2, 4]], scale[[2, 4]] = np.arctanh(t), half * (1 - t * t), 1 / half
        if self.methods.sizes == "logit":
            size = np.exp(p[:, [2, 4]].astype(np.float64))
            t = np.clip((size - self.low) / (self.high - self.low), 1e-6, 1 - 1e-6)
            u[:, [2, 4]] = np.log(t / (1 - t))
            slope[:, [2, 4]] = (self.high - self.low) * t * (1 - t) / size
        return u, slope, scale

    def bounded(self, u: Floats) -> Floats:
        p = u.copy()
        if self.methods.means == "tanh":
            p[:, :2] = self.half * (1 + np.tanh(u[:, :2]))
        if self.methods.sizes == "tanh":
            middle, half = (math.log(self.high * self.low) / 2, math.log(self.high / self.low) / 2)
            p[:, [2, 4]] = middle + half * np.tanh(u[:, [2, 4]])
        if self.methods.sizes == "logit":
            p[:, [2, 4]] = np.log(self.low + (self.high - self.low) / (1 + np.exp(-u[:, [2, 4]])))
        return p


def gaussian_blurred(picture: Floats, sigma: float) -> Floats:
    """Cut at three sigma and at the border. [H, W, C]"""
    reach = math.ceil(3 * sigma)
    window = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-3)) ** 2)
    window = (window / window.sum()).astype(np.float32)
    for axis in (0, 1):
        size = picture.shape[axis]
        padded = np.pad(picture, [(reach, reach) if k == axis else (0, 0) for k in range(picture.ndim)], "edge")
        picture = sum(w * np.take(padded, range(k, k + size), axis) for k, w in enumerate(window))
    return picture


def box_blurred(picture: Floats) -> Floats:
    padded = np.pad(picture, 2)
    rows = sum(padded[k : k + picture.shape[0]] for k in range(5))
    return sum(rows[:, k : k + picture.shape[1]] for k in range(5))


def flattened(map_: Floats, count: int, most: float) -> Floats:
    """As Fit::flatten of native/cpu/engine.cpp."""
    most = max(most, 2 * count / map_.size)
    scale = count / max(float(map_.sum(dtype=np.float64)), 1e-30)
    for _ in range(8):
        scale *= count / float(np.minimum(map_ * scale, most).sum(dtype=np.float64))
    return np.minimum(map_ * scale, most)


@dataclass(frozen=True, slots=True)
class Atoms:
    """For each pixel the splat that takes away most of the squared error, of a set of shapes."""

    gain: Floats  # [H, W]
    which: Floats  # [H, W], index of a shape
    color: Floats  # [H, W, C], least squares, of the residual
    shape: Floats  # [K, 3], a, b, c

    @classmethod
    def best(cls, residual: Floats, sigma: float, log_min: float, oriented: bool) -> Atoms:
        height, width, _ = residual.shape
        shapes = []
        for size in sigma * 2.0 ** np.arange(-1.0, 1.51, 0.5):
            if math.log(size) < log_min:
                continue
            shapes.append((math.log(size), 0.0, math.log(size)))
            for aspect in (2.0, 4.0) if oriented else ():
                for angle in np.arange(8) * np.pi / 8:
                    long, short = size * math.sqrt(aspect), size / math.sqrt(aspect)
                    if math.log(short) < log_min:
                        continue
                    u = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
                    chol = np.linalg.cholesky(u @ np.diag([long**2, short**2]) @ u.T)
                    shapes.append((math.log(chol[0, 0]), chol[1, 0], math.log(chol[1, 1])))
        reach = 48
        padded = np.fft.rfft2(residual, s=(height + reach, width + reach), axes=(0, 1))
        fy, fx = np.fft.fftfreq(height + reach)[:, None], np.fft.rfftfreq(width + reach)[None]
        gain = np.full((height, width), -1.0)
        which = np.zeros((height, width), int)
        color = np.zeros_like(residual)
        for k, (a, b, c) in enumerate(shapes):
            l1, l3 = math.exp(a), math.exp(c)
            quadratic = (l1 * fx + b * fy) ** 2 + (l3 * fy) ** 2  # f^T S f, S = L L^T
            kernel = 2 * np.pi * l1 * l3 * np.exp(-2 * np.pi**2 * quadratic)
            inner = np.fft.irfft2(padded * kernel[..., None], s=(height + reach, width + reach), axes=(0, 1))
            inner = inner[:height, :width]
            this = (inner**2).sum(2) / (np.pi * l1 * l3)
            better = this > gain
            gain[better], which[better] = this[better], k
            color[better] = inner[better] / (np.pi * l1 * l3)
        return cls(gain, which, color, np.array(shapes, np.float32))


class LabEngine:
    """See splat2d.engine.Engine; starts sessions only."""

    def __init__(self, methods: Methods) -> None:
        self.methods = methods

    def start(
        self,
        image: Floats,
        background: Floats,
        loss: Loss,
        optimizer: Optimizer,
        threads: int | None,
        outside: float = 1.0,
    ) -> LabSession:
        return LabSession(image, background, loss, optimizer, threads, outside, self.methods)
