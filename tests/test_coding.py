"""Steps that see splats as a decoder may (native/coding.h), against the same in numpy; frozen splats; pruning."""

import numpy as np
import pytest
import reference
from scenes import random_scene, using

from splat2d import _cpu

HEIGHT, WIDTH, COUNT = 37, 70, 40
STEP, PENALTY, SEED = 0.2, 0.05, 11
OPTIONS = {
    **{"l2": 1.0, "l1": 0.0, "ssim": 0.0, "rates": [0.05, 0.005, 0.01, 0.001]},
    **{"beta1": 0.9, "beta2": 0.99, "log_min": -1.2, "log_max": 10.0},
}


@pytest.fixture(scope="module", params=_cpu.instruction_sets(), autouse=True)
def instruction_set(request):
    with using(request.param) as name:
        yield name


def scene_of(channels=3):
    return random_scene(channels + 90, COUNT, channels, HEIGHT, WIDTH, small=1.5, large=8).astype(np.float32)


def target(channels=3):
    return np.random.default_rng(channels).uniform(0.2, 0.8, (HEIGHT, WIDTH, channels)).astype(np.float32)


def start(scene, picture, frozen=None):
    fit = _cpu.Fit(picture, scene.background, **OPTIONS)
    fit.set_splats(*scene[:3], frozen)
    return fit


def random_bits(seed, index):
    """SplitMix64's finaliser of a counter, as in native/gaussian.h."""
    mask = (1 << 64) - 1
    z = (seed + 0x9E3779B97F4A7C15 * (index + 1)) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def noise_of(step, fields):
    """Uniform in (-1/2, 1/2). [COUNT, fields]"""
    noise = np.empty((COUNT, fields))
    for splat in range(COUNT):
        for field in range(fields):
            bits = random_bits((SEED + 0xD1B54A32D192ED03 * step) % (1 << 64), splat << 16 | field // 4)
            noise[splat, field] = ((bits >> 16 * (field % 4) & 0xFFFF) + 0.5) / 65536 - 0.5
    return noise


def perturbed(means, log_cholesky, colors, noise):
    """The splats with every coded parameter moved within its step, and how colour follows: scale, noise [N, C]."""
    a, b, c = log_cholesky.T
    v = np.exp((a + c) / 2)[:, None] * colors
    e = np.maximum(np.sqrt((v**2).sum(1)), 0.7 * STEP)
    unit = np.sqrt(2) * STEP / e
    slope = b / np.exp(a)
    dx = np.minimum(unit * np.exp(a), 4) * noise[:, 0]
    dy = np.minimum(unit * np.exp(c), 4) * noise[:, 1] + slope * dx
    a2, c2 = a + np.minimum(unit, 1) * noise[:, 2], c + np.minimum(unit, 1) * noise[:, 4]
    beta = slope * np.exp(a2 - c2) + np.minimum(np.sqrt(2) * unit, 1) * noise[:, 3]
    size = np.exp(-(a2 + c2) / 2)[:, None]
    added = size * STEP * noise[:, 5:]
    scale = size * np.exp((a + c) / 2)[:, None]
    return means + np.stack([dx, dy], 1), np.stack([a2, beta * np.exp(c2), c2], 1), colors * scale + added, scale, added


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_coded_steps_equal_numpy(channels):
    scene, picture = scene_of(channels), target(channels)
    fit = start(scene, picture)
    fit.run(np.ones(3, np.float32), step=STEP, penalty=PENALTY, seed=SEED)

    parameters = [np.float64(array) for array in scene[:3]]
    state = [(np.zeros_like(p), np.zeros_like(p)) for p in parameters]
    rates = [0.05, np.array([0.005, 0.01, 0.005]), 0.001]
    for step in range(3):
        means, log_cholesky, colors = parameters
        seen = perturbed(means, log_cholesky, colors, noise_of(step, 5 + channels))
        image = reference.render(*seen[:3], scene.background, HEIGHT, WIDTH, _cpu.CUTOFF)
        d_means, d_log, d_colors = reference.render_backward(*seen[:3], image - picture, _cpu.CUTOFF)
        scale, added = seen[3:]
        through_size = (added * d_colors).sum(1) / 2
        area = np.exp(log_cholesky[:, 0] + log_cholesky[:, 2])
        energy = (colors**2).sum(1) * area
        share = PENALTY / (energy + STEP**2)
        d_log = d_log + np.stack(
            [0.5 * share * energy - through_size, 0 * share, 0.5 * share * energy - through_size], 1
        )
        d_colors = d_colors * scale + (share * area)[:, None] * colors
        for p, (m, v), g, rate in zip(parameters, state, (d_means, d_log, d_colors), rates, strict=True):
            m += 0.1 * (g - m)
            v += 0.01 * (g**2 - v)
            p -= rate * (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.99 ** (step + 1))) + 1e-8)
    for ours, theirs, rate in zip(fit.get_splats(), parameters, rates, strict=True):
        # In units of a step's length; a gradient near zero may turn its sign under rounding.
        off = np.abs(ours - theirs) / rate
        assert np.quantile(off, 0.98) < 0.02
        assert off.max() < 3


def test_the_rate_lowers_energies():
    scene, picture = scene_of(), target()
    energies = []
    for penalty in (0.0, 1.0):
        fit = start(scene, picture)
        fit.run(np.ones(50, np.float32), step=STEP, penalty=penalty, seed=1)
        _, log_cholesky, colors = fit.get_splats()
        energies.append(((colors**2).sum(1) * np.exp(log_cholesky[:, 0] + log_cholesky[:, 2])).sum())
    assert energies[1] < 0.98 * energies[0]


@pytest.mark.parametrize("coding", [{}, {"step": STEP, "penalty": PENALTY, "seed": SEED}])
def test_frozen_splats_stay_and_are_drawn(coding):
    scene, picture = scene_of(), target()
    frozen = np.arange(COUNT) % 3 == 0
    fit = start(scene, picture, frozen.astype(np.float32))
    fit.run(np.ones(4, np.float32), **coding)
    fit.relocate(COUNT, 1, 2, 5)
    for before, after in zip(scene[:3], fit.get_splats(), strict=True):
        assert (before[frozen] == after[frozen]).all()
        assert (before[~frozen] != after[~frozen]).any()
    # They are part of the picture: without them the residual would be another.
    alone = start(
        scene._replace(means=scene.means[frozen], log_cholesky=scene.log_cholesky[frozen], colors=scene.colors[frozen]),
        picture,
    )
    assert fit.evaluate()[0] != alone.evaluate()[0]


def test_sorting_carries_the_frozen_along():
    scene, picture = scene_of(), target()
    frozen = np.arange(COUNT) % 2 == 0
    fit = start(scene, picture, frozen.astype(np.float32))
    fit.sort()
    fit.run(np.ones(4, np.float32), step=STEP, penalty=PENALTY, seed=SEED)
    means, _, colors = fit.get_splats()
    for mean, color in zip(scene.means[frozen], scene.colors[frozen], strict=True):
        assert ((means == mean).all(1) & (colors == color).all(1)).any()


def test_pruning_drops_the_weak_and_keeps_the_frozen():
    scene, picture = scene_of(), target()
    energy = (scene.colors.astype(np.float64) ** 2).sum(1) * np.exp(
        scene.log_cholesky[:, 0].astype(np.float64) + scene.log_cholesky[:, 2]
    )
    frozen = np.arange(COUNT) == np.argmin(energy)
    fit = start(scene, picture, frozen.astype(np.float32))
    threshold = float(np.median(energy))
    fit.prune(threshold)
    kept = (energy >= threshold) | frozen
    means, log_cholesky, colors = fit.get_splats()
    assert (means == scene.means[kept]).all()
    assert (log_cholesky == scene.log_cholesky[kept]).all()
    assert (colors == scene.colors[kept]).all()
    fit.run(np.ones(2, np.float32), step=STEP, penalty=PENALTY, seed=SEED)
    fit.grow(30, 1, 2, 5)
    assert fit.count == kept.sum() + 30
