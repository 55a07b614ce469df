"""Coded steps, frozen splats and pruning on the GPU, against numpy and the CPU engine."""

import numpy as np
import pytest
import reference
from scenes import random_scene
from test_coding import COUNT, HEIGHT, PENALTY, SEED, STEP, WIDTH, noise_of, perturbed, scene_of, target
from test_cuda_session import gradients

from splat2d import _cpu
from splat2d.config import Loss
from splat2d.engine import Coding, Optimizer, engine

CODING = Coding(STEP, PENALTY, SEED)
RATES = {"mean_rate": 0.05, "diagonal_rate": 0.005, "shear_rate": 0.01, "color_rate": 0.001, "log_min": -1.2}


def begin(chosen, scene, picture, frozen=None, loss=None, **settings):
    session = chosen.start(picture, scene.background, loss or Loss(), Optimizer(**RATES | settings), None)
    session.set_splats(*scene[:3], frozen)
    return session


def energies(scene):
    return (np.float64(scene.colors) ** 2).sum(1) * np.exp(np.float64(scene.log_cholesky)[:, [0, 2]].sum(1))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
def test_gradients_equal_numpy(gpu, channels):
    """Of the second step: its noise is drawn by the update of the first."""
    scene, picture = scene_of(channels), target(channels)
    session = begin(gpu, scene, picture, beta1=0.0)
    session.run(np.zeros(2, np.float32), CODING)
    means, log_cholesky, colors = map(np.float64, scene[:3])
    *seen, scale, added = perturbed(means, log_cholesky, colors, noise_of(1, 5 + channels))
    image = reference.render(*seen, scene.background, HEIGHT, WIDTH, _cpu.CUTOFF)
    d_means, d_log, d_colors = reference.render_backward(*seen, image - picture, _cpu.CUTOFF)
    area = np.exp(log_cholesky[:, 0] + log_cholesky[:, 2])
    share = PENALTY / (energies(scene) + STEP**2)
    by_log = 0.5 * share * energies(scene) - 0.5 * (added * d_colors).sum(1)
    d_log = d_log + by_log[:, None] * [1, 0, 1]
    d_colors = d_colors * scale + (share * area)[:, None] * colors
    for actual, wanted in zip(gradients(session, COUNT, channels), (d_means, d_log, d_colors), strict=True):
        error = abs(actual - wanted) / (abs(wanted) + 1e-2 * np.median(abs(wanted)) + 1e-6)
        assert np.quantile(error, 0.95) < 1e-2
        assert np.median(error) < 5e-4


@pytest.mark.parametrize("loss", [Loss(), Loss(0.5, 0.3, 0.2)], ids=["l2", "mix"])
@pytest.mark.parametrize(
    ("channels", "sizes"), [(1, (0.8, 8)), (3, (0.8, 8)), (3, (30, 200)), (4, (0.8, 8)), (6, (5, 90))]
)
def test_steps_equal_those_of_the_cpu(gpu, channels, sizes, loss):
    height, width = 120, 150
    scene = random_scene(5, 60, channels, height, width, small=sizes[0], large=sizes[1]).astype(np.float32)
    picture = np.random.default_rng(channels).uniform(0.2, 0.8, (height, width, channels)).astype(np.float32)
    frozen = np.arange(60) % 5 == 0
    one, other = (begin(chosen, scene, picture, frozen, loss) for chosen in (gpu, engine("cpu")))
    for steps in (1, 3):
        values = [session.run(np.ones(steps, np.float32), CODING) for session in (one, other)]
        assert values[0] == pytest.approx(values[1], rel=1e-4)
    for ours, theirs, before, rate in zip(
        one.get_splats(), other.get_splats(), scene[:3], (0.05, [0.005, 0.01, 0.005], 0.001), strict=True
    ):
        np.testing.assert_array_equal(ours[frozen], before[frozen])
        off = abs(ours - theirs) / rate  # in steps; a gradient near zero may turn its sign under rounding
        assert np.quantile(off, 0.97) < 0.05
        assert np.median(off) < 1e-3
    assert one.evaluate().loss == pytest.approx(other.evaluate().loss, rel=1e-3)


def test_long_runs_come_to_the_same_on_both(gpu):
    """Through new plans, growth, sorting and relocation; the order in memory differs, and with it the noise."""
    scene = random_scene(5, 300, 3, 96, 128).astype(np.float32)
    picture = (0.5 + 0.3 * np.sin(np.linspace(0, 6, 96)[:, None] * np.linspace(0, 4, 128)))[:, :, None].repeat(3, 2)
    losses = []
    for chosen in (gpu, engine("cpu")):
        session = begin(chosen, scene, np.float32(picture), mean_rate=0.3, diagonal_rate=0.05, color_rate=0.01)
        session.sort()
        for seed in range(3):
            session.run(np.ones(80, np.float32), Coding(0.1, 1e-3, seed))
            session.relocate(10, 2.0, 1.5, seed)
            session.grow(20, 2.0, 1.5, seed)
            session.sort()
        session.run(np.linspace(1, 0.02, 120, dtype=np.float32), Coding(0.1, 1e-3, 9))
        assert session.count == 360
        losses.append(session.evaluate().squared)
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


def test_what_is_seen_outside_has_no_noise(gpu):
    scene, picture = scene_of(), target()
    session = begin(gpu, scene, picture)
    plain = session.evaluate()
    values = session.run(np.zeros(3, np.float32), CODING)
    assert session.evaluate() == plain and values != pytest.approx(plain.squared, rel=1e-3)
    for now, before in zip(session.get_splats(), scene[:3], strict=True):
        np.testing.assert_array_equal(now, before)
    assert session.run(np.zeros(1, np.float32)) == pytest.approx(plain.squared, rel=1e-5)


def test_no_step_means_no_noise_and_no_rate(gpu):
    scene, picture = scene_of(), target()
    one, other = (begin(gpu, scene, picture) for _ in range(2))
    one.run(np.ones(20, np.float32))
    other.run(np.ones(20, np.float32), Coding(0.0, 1.0, 3))
    for a, b in zip(one.get_splats(), other.get_splats(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("channels", [3, 5])
def test_frozen_splats_stay_and_are_drawn(gpu, channels):
    scene, picture = scene_of(channels), target(channels)
    frozen = np.arange(COUNT) % 3 == 0
    session = begin(gpu, scene, picture, frozen)
    assert session.evaluate() == begin(gpu, scene, picture).evaluate()
    session.run(np.ones(12, np.float32))
    session.run(np.ones(12, np.float32), CODING)
    session.relocate(COUNT, 1.0, 2.0, 5)
    for before, after in zip(scene[:3], session.get_splats(), strict=True):
        np.testing.assert_array_equal(before[frozen], after[frozen])
        assert (before[~frozen] != after[~frozen]).any(axis=1).all()
    session.grow(2000, 1.0, 2.0, 6)  # into other memory
    session.sort()
    session.run(np.ones(70, np.float32), CODING)
    means, _, colors = session.get_splats()
    for mean, color in zip(scene.means[frozen], scene.colors[frozen], strict=True):
        assert ((means == mean).all(1) & (colors == color).all(1)).any()


def test_all_frozen(gpu):
    scene, picture = scene_of(), target()
    session = begin(gpu, scene, picture, np.ones(COUNT, bool))
    session.run(np.ones(5, np.float32), CODING)
    session.relocate(COUNT, 1.0, 2.0, 5)
    session.prune(np.inf)
    for before, after in zip(scene[:3], session.get_splats(), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("count", [40, 5000])
def test_pruning_drops_the_weak_and_keeps_the_frozen(gpu, count):
    scene = random_scene(3, count, 3, HEIGHT, WIDTH).astype(np.float32)
    energy = energies(scene)
    frozen = np.zeros(count, bool)
    frozen[np.argsort(energy)[:3]] = True
    threshold = float(np.median(energy))
    one, other = (begin(chosen, scene, target(), frozen, mean_rate=0.0) for chosen in (gpu, engine("cpu")))
    for session in (one, other):
        session.prune(threshold)
    kept = (energy >= threshold) | frozen
    assert one.count == other.count == kept.sum()
    for ours, theirs, before in zip(one.get_splats(), other.get_splats(), scene[:3], strict=True):
        np.testing.assert_array_equal(ours, before[kept])
        np.testing.assert_array_equal(theirs, before[kept])
    one.run(np.ones(2, np.float32), CODING)
    one.grow(30, 1.0, 2.0, 5)
    assert one.count == kept.sum() + 30
    one.prune(np.inf)
    assert one.count == 3
    one.set_splats(*(array[:0] for array in scene[:3]))
    one.prune(1.0)
    assert one.count == 0


def test_pruning_keeps_the_state_of_the_others(gpu):
    scene, picture = scene_of(), target()
    energy = energies(scene)
    threshold = float(np.median(energy))
    kept = energy >= threshold
    session = begin(gpu, scene, picture, color_rate=0.0, diagonal_rate=0.0)
    session.run(np.ones(2, np.float32))
    before = gradients(session, COUNT, 3)
    session.prune(threshold)
    for now, then in zip(gradients(session, session.count, 3), before, strict=True):
        np.testing.assert_array_equal(now, then[kept])


def test_the_same_bytes_every_time(gpu):
    scene = random_scene(91, 400, 3, 150, 170).astype(np.float32)
    picture = np.random.default_rng(0).random((150, 170, 3), np.float32)
    states = []
    for _ in range(3):
        session = begin(gpu, scene, picture, np.arange(400) < 50)
        values = [session.run(np.ones(60, np.float32), CODING), session.evaluate()]
        session.prune(1e-4)
        session.grow(500, 1.5, 2.0, 7)
        session.sort()
        values.append(session.run(np.ones(30, np.float32), Coding(0.1, 0.01, 5)))
        states.append((values, *(array.tobytes() for array in session.get_splats())))
    assert states[0] == states[1] == states[2]


def test_a_mask_of_the_wrong_length(gpu):
    with pytest.raises(ValueError, match="entry per splat"):
        begin(gpu, scene_of(), target(), np.zeros(COUNT + 1, bool))
