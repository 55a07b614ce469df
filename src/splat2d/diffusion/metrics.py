"""How far two sets of points lie apart, and whether one copies another, in float64 on the device of the points.

Points are [n, ...] arrays or tensors, flattened to [n, d]: features of a classifier, or pictures as bytes. What goes
over all pairs goes in blocks, so that 10,000 x 60,000 pairs fit. Distances in the features of a classifier of this
project compare only where the classifier is the same; none of them is the FID, whose features come from another net.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splat2d.errors import InputError

Points: TypeAlias = NDArray[Any] | Tensor
Distances = NDArray[np.float64]

ROWS, COLUMNS = 1024, 16_384  # pairs at a time: 134 MB in float64
EXTRAPOLATION_POINTS = 15  # subset sizes, as in Chong and Forsyth 2020
SMALL_GAP = 1 / 3  # Yoon et al. 2023 call a sample memorised if its nearest is this much nearer than the second


@dataclass(frozen=True, slots=True)
class KernelDistance:
    mean: float  # over subsets; unbiased, so it may be negative where the distributions are close
    deviation: float  # between subsets


@dataclass(frozen=True, slots=True)
class Neighbourhoods:
    """Overlap of the regions that two sets cover; 1 is best, but for density, which may exceed it."""

    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True, slots=True)
class Memorisation:
    """Distances of samples to their nearest training points, against those of test points.

    Blurred or simplified samples lie nearer to everything: compare with pictures that went through the same
    representation. No such measure proves that nothing was memorised.
    """

    median_ratio: float  # median distance of samples / of test points; below 1: samples are nearer
    below_percentile: float  # share of samples nearer than the 1st percentile of test points; 0.01 where alike
    nearer_probability: float  # that a sample is nearer than a test point; 0.5 where alike
    z_score: float  # of that probability's rank test; far below 0: copies
    gap_median: float  # median of nearest / second nearest distance
    gap_median_test: float  # the same for test points
    gap_share: float  # share of samples whose ratio is below 1/3
    gap_share_test: float


def frechet_distance(generated: Points, real: Points) -> float:
    """|m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) of the Gaussians with their means and covariances. Raises InputError.

    Dowson and Landau 1982; as a measure of generated pictures Heusel et al. 2017, eq. (6), there in other features.
    """
    return _frechet(_gaussian(_matrix(generated)), _gaussian(_matrix(real)))


def frechet_distance_infinity(generated: Points, real: Points, *, seed: int = 0) -> float:
    """frechet_distance() with the bias of a finite number of generated points removed. Raises InputError.

    Chong and Forsyth 2020: the distance of n points is close to a + b / n. The line is fitted through random subsets
    of a tenth of the points up to all of them, and a is returned. The points of `real` are taken as they are.
    """
    x, target = _matrix(generated), _gaussian(_matrix(real))
    if len(x) < 4:
        raise InputError(f"extrapolation needs at least 4 points, got {len(x)}")
    # Below twice the dimension the covariance of a subset is near singular and 1 / n no longer describes the bias.
    smallest = max(len(x) // 10, min(len(x) // 2, 2 * x.shape[1]))
    sizes = np.linspace(smallest, len(x), EXTRAPOLATION_POINTS).astype(int)
    generator = np.random.default_rng(seed)
    distances = [_frechet(_gaussian(x[_subset(generator, len(x), size)]), target) for size in sizes]
    return float(np.polyfit(1 / sizes, distances, 1)[1])


def kernel_distance(
    generated: Points, real: Points, *, subsets: int = 100, size: int = 1000, seed: int = 0
) -> KernelDistance:
    """Squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, unbiased (Binkowski et al. 2018).

    For m points each: sum_(i != j) [k(x_i, x_j) + k(y_i, y_j)] / (m (m - 1)) - 2 sum_(i, j) k(x_i, y_j) / m^2, over
    random subsets without replacement of `size` points, or of as many as the smaller set has. Raises InputError.
    """
    x, y = _matrix(generated), _matrix(real)
    _check(x, y, least=2)
    size = min(size, len(x), len(y))
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        a, b = x[_subset(generator, len(x), size)].double(), y[_subset(generator, len(y), size)].double()
        within = sum(kernel.sum() - kernel.diagonal().sum() for kernel in (_kernel(a, a), _kernel(b, b)))
        values.append(float(within / (size * (size - 1)) - 2 * _kernel(a, b).mean()))
    return KernelDistance(float(np.mean(values)), float(np.std(values)))


def neighbourhoods(generated: Points, real: Points, *, neighbours: int = 5) -> Neighbourhoods:
    """Precision and recall of Kynkaanniemi et al. 2019, density and coverage of Naeem et al. 2020. Raises InputError.

    With B(x) the ball around x that reaches its k-th neighbour in its own set: precision is the share of generated
    points in any B(real), recall the share of real points in any B(generated), density the mean over generated points
    of the number of B(real) that hold it, / k, coverage the share of real points whose B(real) holds a generated one.
    """
    x, y = _matrix(generated), _matrix(real)
    _check(x, y, least=neighbours + 1)
    reach_x, reach_y = (_nearest(points, points, neighbours, others=True)[:, -1] for points in (x, y))
    held = torch.zeros(len(x), dtype=torch.int64, device=x.device)  # balls of real points around each generated one
    recalled, covered = (torch.zeros(len(y), dtype=torch.bool, device=y.device) for _ in range(2))
    for rows in _slices(len(y), ROWS):
        for columns in _slices(len(x), COLUMNS):
            squared = _squared_distances(y[rows], x[columns])
            inside = squared <= reach_y[rows, None]
            held[columns] += inside.sum(0)
            covered[rows] |= inside.any(1)
            recalled[rows] |= (squared <= reach_x[columns]).any(1)
    return Neighbourhoods(
        precision=float((held > 0).double().mean()),
        recall=float(recalled.double().mean()),
        density=float(held.double().mean() / neighbours),
        coverage=float(covered.double().mean()),
    )


def nearest_distances(queries: Points, reference: Points, *, count: int = 1) -> Distances:
    """Distances [n, count] of each query to its nearest points of the reference, nearest first. Raises InputError."""
    x, y = _matrix(queries), _matrix(reference)
    _check(x, y, least=1)
    if len(y) < count:
        raise InputError(f"expected at least {count} points to look among, got {len(y)}")
    distances: Distances = _nearest(x, y, count).sqrt().cpu().numpy()
    return distances


def memorisation(generated: Points, train: Points, test: Points) -> Memorisation:
    """Whether samples lie nearer to training points than unseen points do. Raises InputError.

    The rank test is that of Meehan et al. 2020 (C_T) with the whole space as its one cell: the Mann-Whitney statistic
    U of both sets' distances, less its mean m n / 2, over its deviation (m n (m + n + 1) / 12)^(1/2).
    """
    ours, theirs = nearest_distances(generated, train, count=2), nearest_distances(test, train, count=2)
    d, ordered = ours[:, 0], np.sort(theirs[:, 0])
    # Test points nearer than each sample; those equally near count half.
    nearer_tests = (np.searchsorted(ordered, d, "left") + np.searchsorted(ordered, d, "right")) / 2
    pairs = len(d) * len(ordered)
    z_score = (nearer_tests.sum() - pairs / 2) / np.sqrt(pairs * (len(d) + len(ordered) + 1) / 12)
    gap, gap_test = _gap(ours), _gap(theirs)
    median_test = np.median(ordered)
    return Memorisation(
        median_ratio=float(np.median(d) / median_test) if median_test else 1.0,
        below_percentile=float((d < np.quantile(ordered, 0.01)).mean()),
        nearer_probability=float(1 - nearer_tests.sum() / pairs),
        z_score=float(z_score),
        gap_median=float(np.median(gap)),
        gap_median_test=float(np.median(gap_test)),
        gap_share=float((gap < SMALL_GAP).mean()),
        gap_share_test=float((gap_test < SMALL_GAP).mean()),
    )


def _gaussian(points: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [d] and a factor F [d, d] of the unbiased covariance F F^T, on the CPU, where eigenvectors are fastest."""
    if len(points) < 2:
        raise InputError(f"a covariance needs at least 2 points, got {len(points)}")
    x = points.double()
    mean = x.mean(0)
    centred = x - mean
    values, vectors = torch.linalg.eigh((centred.T @ centred / (len(x) - 1)).cpu())
    return mean.cpu(), vectors * values.clamp_min(0).sqrt()


def _frechet(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> float:
    """With S = F F^T and S' = G G^T, the eigenvalues of S S' are the squared singular values of F^T G.

    No root of a product of covariances is taken, whose near-zero eigenvalues would lose half of their digits.
    """
    (mean, factor), (other_mean, other_factor) = first, second
    if mean.shape != other_mean.shape:
        raise InputError(f"points of {len(mean)} and of {len(other_mean)} dimensions cannot be compared")
    squares = (mean - other_mean).square().sum() + factor.square().sum() + other_factor.square().sum()
    return float(squares - 2 * torch.linalg.svdvals(factor.T @ other_factor).sum())


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _subset(generator: np.random.Generator, count: int, size: int) -> Tensor:
    return torch.from_numpy(generator.permutation(count)[:size])


def _gap(distances: Distances) -> Distances:
    """Nearest / second nearest distance, 1 where both are 0: [n, 2] to [n]."""
    nearest, second = distances.T
    ratio: Distances = np.divide(nearest, second, out=np.ones_like(nearest), where=second > 0)
    return ratio


def _nearest(x: Tensor, y: Tensor, count: int, others: bool = False) -> Tensor:
    """Squared distances [n, count] from x to the nearest of y; `others`: y is x, and no point is its own neighbour."""
    result = torch.empty(len(x), count, dtype=torch.float64, device=x.device)
    for rows in _slices(len(x), ROWS):
        best = torch.empty(rows.stop - rows.start, 0, dtype=torch.float64, device=x.device)
        for columns in _slices(len(y), COLUMNS):
            squared = _squared_distances(x[rows], y[columns])
            if others:
                own = torch.arange(rows.start, rows.stop, device=x.device)[:, None]
                squared.masked_fill_(own == torch.arange(columns.start, columns.stop, device=x.device), torch.inf)
            best = _smallest(torch.cat([best, _smallest(squared, count)], 1), count)
        result[rows] = best
    return result


def _smallest(values: Tensor, count: int) -> Tensor:
    """The `count` smallest of each row, or all of a shorter one, in ascending order."""
    return values.topk(min(count, values.shape[1]), largest=False).values


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """[n, m] in float64. Exact for bytes, whose products are integers: a copy is at distance 0."""
    x, y = x.double(), y.double()
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp_min(0)


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _matrix(points: Points) -> Tensor:
    """[n, d], of the type and on the device of the points."""
    tensor = points if isinstance(points, Tensor) else torch.tensor(np.ascontiguousarray(points))
    if tensor.ndim < 2 or not tensor.numel():
        raise InputError(f"points: expected [n, ...] with n >= 1, got shape {tuple(tensor.shape)}")
    return tensor.flatten(1)


def _check(x: Tensor, y: Tensor, least: int) -> None:
    if x.shape[1] != y.shape[1]:
        raise InputError(f"points of {x.shape[1]} and of {y.shape[1]} dimensions cannot be compared")
    if min(len(x), len(y)) < least:
        raise InputError(f"expected at least {least} points in each set, got {len(x)} and {len(y)}")
