"""Distances between sets of points against closed forms, hand-made sets and torchmetrics."""

import numpy as np
import pytest

from splat2d.errors import InputError

pytest.importorskip("torch", reason='torch is not installed: pip install "splat2d[diffusion]"')
import torch

from splat2d.diffusion import metrics
from splat2d.diffusion.metrics import (
    frechet_distance,
    frechet_distance_infinity,
    kernel_distance,
    memorisation,
    nearest_distances,
    neighbourhoods,
)


def normal(count, dimensions, seed=0, mean=0.0, scale=1.0):
    return mean + scale * np.random.default_rng(seed).normal(size=(count, dimensions))


def test_frechet_distance_to_itself_is_zero_even_where_the_covariance_is_singular():
    x = normal(500, 12)
    x[:, 3] = x[:, :3].sum(axis=1)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)


def with_moments(count, mean, covariance, seed=0):
    """Points whose sample mean and unbiased covariance are exactly these."""
    x = normal(count, len(mean), seed)
    x -= x.mean(axis=0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T)).T)
    return mean + x @ np.linalg.cholesky(covariance).T


def test_frechet_distance_of_commuting_gaussians():
    mean, other = np.array([1.0, -2, 0]), np.array([0.0, 1, 4])
    rotation, _ = np.linalg.qr(normal(3, 3, seed=5))
    variances, others = np.array([4.0, 1, 0.25]), np.array([1.0, 9, 0.04])
    x, y = (with_moments(50, m, rotation * v @ rotation.T) for m, v in ((mean, variances), (other, others)))
    expected = 1 + 9 + 16 + ((np.sqrt(variances) - np.sqrt(others)) ** 2).sum()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-12)
    assert frechet_distance(torch.tensor(x), torch.tensor(y)) == frechet_distance(x, y)


def test_frechet_distance_of_any_gaussians_in_two_dimensions():
    # For 2x2 matrices tr (S S')^(1/2) = (tr S S' + 2 det(S S')^(1/2))^(1/2), whether they commute or not.
    first, second = np.array([[2.0, 0.7], [0.7, 1]]), np.array([[1.0, -0.9], [-0.9, 3]])
    product = first @ second
    root = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    x, y = with_moments(40, np.zeros(2), first), with_moments(30, np.zeros(2), second, seed=1)
    assert frechet_distance(x, y) == pytest.approx(np.trace(first + second) - 2 * root, rel=1e-12)


def test_extrapolation_removes_the_bias_of_few_points():
    target = normal(40_000, 16, seed=1)
    plain = [frechet_distance(normal(600, 16, seed), target) for seed in (2, 3, 4)]
    better = [frechet_distance_infinity(normal(600, 16, seed), target) for seed in (2, 3, 4)]
    assert np.mean(plain) > 0.1  # 0 for an endless number of points
    assert abs(np.mean(better)) < 0.2 * np.mean(plain)
    assert frechet_distance_infinity(target[:50], target, seed=7) == frechet_distance_infinity(
        target[:50], target, seed=7
    )


def test_kernel_distance_is_unbiased():
    values = [kernel_distance(normal(60, 4, seed), normal(60, 4, 1000 + seed), subsets=1).mean for seed in range(200)]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_kernel_distance_in_closed_form():
    # k(x, y) = (x y + 1)^3 on the line: points +-1 have 8 with their like and 0 with the other, points 0 always have 1.
    x, y = np.array([[1.0], [-1], [1], [-1]]), np.zeros((4, 1))
    assert kernel_distance(x, y, subsets=3).mean == pytest.approx(4 * 8 / 12 + 1 - 2)


def test_subsets_follow_the_seed():
    x, y = normal(300, 8), normal(300, 8, 1, mean=0.3)
    one, same, other = (kernel_distance(x, y, subsets=5, size=50, seed=seed) for seed in (1, 1, 2))
    assert one == same != other
    assert one.deviation > 0


class Given(torch.nn.Module):
    """The "net" whose features are its inputs, so that torchmetrics works on points."""

    num_features = 12

    def forward(self, points):
        return points


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save all:UserWarning")
@pytest.mark.parametrize("kind", ["fid", "kid"])
def test_distances_agree_with_torchmetrics(kind):
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    x, y = (torch.tensor(normal(200, 12, seed, mean=seed, scale=1 + seed)) for seed in (0, 1))
    if kind == "fid":
        from torchmetrics.image.fid import FrechetInceptionDistance

        measure, ours = FrechetInceptionDistance(Given()), frechet_distance(x, y)
    else:
        from torchmetrics.image.kid import KernelInceptionDistance

        measure, ours = (
            KernelInceptionDistance(Given(), subsets=1, subset_size=200),
            kernel_distance(x, y, subsets=1).mean,
        )
    measure.set_dtype(torch.float64)
    measure.update(x, real=False)
    measure.update(y, real=True)
    theirs = measure.compute()
    assert float(theirs[0] if kind == "kid" else theirs) == pytest.approx(ours, rel=1e-8)


def dense_neighbourhoods(x, y, k):
    """The definitions, in numpy, over all pairs at once."""
    pairs = [np.sqrt(((a[:, None] - b) ** 2).sum(axis=2)) for a, b in ((x, x), (y, y), (y, x))]
    reach_x, reach_y = (np.sort(distances, axis=1)[:, k] for distances in pairs[:2])
    in_y, in_x = pairs[2] <= reach_y[:, None], pairs[2] <= reach_x[None, :]
    return in_y.any(axis=0).mean(), in_x.any(axis=1).mean(), in_y.sum() / (k * len(x)), in_y.any(axis=1).mean()


@pytest.mark.parametrize("counts", [(90, 70), (6, 41)])
def test_neighbourhoods_in_blocks_equal_the_definition(monkeypatch, counts):
    monkeypatch.setattr(metrics, "ROWS", 16)
    monkeypatch.setattr(metrics, "COLUMNS", 7)
    x, y = normal(counts[0], 3, mean=0.8), normal(counts[1], 3, seed=1)
    found = neighbourhoods(x, y, neighbours=5)
    expected = dense_neighbourhoods(x, y, 5)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected)


def test_neighbourhoods_of_hand_made_sets():
    """Real points in two far clusters; the samples sit in one of them, and a third of them in nobody's place."""
    grid = np.stack(np.meshgrid(range(6), range(6)), axis=-1).reshape(-1, 2).astype(float)
    real = np.concatenate([grid, grid + 100])
    samples = np.concatenate([grid, grid[:18] - 1000])
    found = neighbourhoods(samples, real, neighbours=3)
    assert found.precision == pytest.approx(36 / 54)
    assert found.recall == 0.5
    assert found.coverage == 0.5
    same = neighbourhoods(real, real.copy(), neighbours=3)
    assert same.precision == same.recall == same.coverage == 1
    far = neighbourhoods(real + 1e6, real)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)


def test_nearest_distances_are_ascending_and_exact_for_bytes(monkeypatch):
    monkeypatch.setattr(metrics, "COLUMNS", 10)
    generator = np.random.default_rng(0)
    train = generator.integers(0, 256, (35, 8, 8, 1), dtype=np.uint8)
    queries = generator.integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
    queries[4] = train[33]
    found = nearest_distances(queries, train, count=3)
    flat, others = queries.reshape(20, -1).astype(float), train.reshape(35, -1).astype(float)
    expected = np.sort(np.linalg.norm(flat[:, None] - others, axis=2), axis=1)[:, :3]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[4, 0] == 0


def test_arrays_that_are_read_only_or_views_are_taken():
    x, y = normal(50, 4), normal(60, 4, seed=1)
    x.flags.writeable = False
    assert frechet_distance(x[::-1], y) == pytest.approx(frechet_distance(x.copy(), y), abs=1e-12)


def test_memorisation_finds_copies_and_clears_new_points():
    train, test, new = normal(2000, 6), normal(800, 6, seed=1), normal(500, 6, seed=2)
    clean = memorisation(new, train, test)
    assert clean.median_ratio == pytest.approx(1, abs=0.08)
    assert clean.nearer_probability == pytest.approx(0.5, abs=0.04) and abs(clean.z_score) < 3
    assert clean.below_percentile < 0.03
    assert clean.gap_share == pytest.approx(clean.gap_share_test, abs=0.02)
    copies = np.concatenate([new[:250], train[:250] + 1e-3])
    half = memorisation(copies, train, test)
    assert half.below_percentile == pytest.approx(0.5, abs=0.02)
    assert half.gap_share == pytest.approx(0.5, abs=0.05)
    assert half.nearer_probability > 0.7 and half.z_score < -10
    assert half.median_ratio < 0.7


def test_rank_test_equals_that_of_scipy():
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    train, test, new = (np.round(normal(count, 2, count) * 3) for count in (300, 120, 90))  # with ties
    distances, others = nearest_distances(new, train)[:, 0], nearest_distances(test, train)[:, 0]
    found = memorisation(new, train, test)
    statistic = stats.mannwhitneyu(distances, others).statistic
    assert found.nearer_probability == pytest.approx(1 - statistic / (90 * 120))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frechet_distance(normal(1, 3), normal(5, 3)), "at least 2 points"),
        (lambda: frechet_distance(normal(5, 3), normal(5, 4)), "3 and of 4 dimensions"),
        (lambda: frechet_distance_infinity(normal(3, 3), normal(5, 3)), "at least 4 points"),
        (lambda: kernel_distance(normal(5, 3), normal(5, 4)), "3 and of 4 dimensions"),
        (lambda: neighbourhoods(normal(5, 3), normal(9, 3)), "at least 6 points in each set, got 5 and 9"),
        (lambda: nearest_distances(normal(5, 3), normal(1, 3), count=2), "at least 2 points"),
        (lambda: nearest_distances(np.zeros((0, 3)), normal(1, 3)), r"got shape \(0, 3\)"),
    ],
)
def test_sets_that_cannot_be_judged(call, message):
    with pytest.raises(InputError, match=message):
        call()
