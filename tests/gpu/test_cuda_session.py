"""The fused step on the GPU, against the reference and the CPU engine."""

from threading import Thread

import numpy as np
import pytest
import reference
from scenes import random_scene, rotated
from test_session import HEIGHT, MIXES, WIDTH, half_drawn, limited_target, numpy_steps, some_splats, target

from splat2d import _cpu
from splat2d.config import FitConfig
from splat2d.fitting import fit, fit_steps

pytest.importorskip("cuda.core", reason="cuda-core is not installed")
from splat2d.engine import cuda as cuda_module


def download(session, buffer, shape):
    out = np.empty(shape, np.float32)
    session._gpu.download(buffer, out)
    return out


def gradients(session, count, channels):
    """What a step of Adam with beta1 = 0 keeps as its first moment."""
    rows = download(session, session._splats.first, (count, 5 + channels))
    return rows[:, :2], rows[:, 2:5], rows[:, 5:]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("sizes", [(0.5, 3), (0.8, 12), (20, 200)], ids=["small", "mixed", "giant"])
def test_gradients(start, channels, sizes):
    height, width = 90, 130
    scene = random_scene(7, 50, channels, height, width, small=sizes[0], large=sizes[1]).astype(np.float32)
    picture = target(channels, height, width)
    session = start(scene, picture, beta1=0.0)
    session.run(np.zeros(1, np.float32))
    image = reference.render(*scene, height, width, _cpu.CUTOFF)
    expected = reference.render_backward(*scene[:3], image - picture, _cpu.CUTOFF)
    for actual, wanted in zip(gradients(session, 50, channels), expected, strict=True):
        error = abs(actual - wanted) / (abs(wanted) + 1e-2 * np.median(abs(wanted)) + 1e-6)
        assert np.quantile(error, 0.98) < 5e-3
        assert np.median(error) < 2e-4


def test_gradients_of_needles_in_many_parts(start, monkeypatch):
    """Needles long enough to be shared out, at all angles; then with fewer parts than they would like."""
    height, width = 300, 420
    angles = np.linspace(0, np.pi, 24)
    log_cholesky = rotated(np.full(24, 300.0), np.full(24, 4.0), angles)
    rng = np.random.default_rng(0)
    scene = random_scene(1, 24, 3, height, width)._replace(
        log_cholesky=log_cholesky, means=rng.uniform((100, 100), (300, 200), (24, 2))
    )
    scene = scene.astype(np.float32)
    picture = target(3, height, width)
    image = reference.render(*scene, height, width, _cpu.CUTOFF)
    expected = reference.render_backward(*scene[:3], image - picture, _cpu.CUTOFF)
    for parts in (cuda_module.PARTS, 1):
        monkeypatch.setattr(cuda_module, "PARTS", parts)
        session = start(scene, picture, beta1=0.0)
        session._splats.most = parts
        session.run(np.zeros(1, np.float32))
        state = np.empty(16, np.int32)
        session._gpu.download(session._splats.state, state)
        assert state[1] + state[2] >= 24 and state[2] >= 20  # narrow, wide
        for actual, wanted in zip(gradients(session, 24, 3), expected, strict=True):
            error = abs(actual - wanted) / (abs(wanted) + 0.1 * np.median(abs(wanted)))
            assert np.quantile(error, 0.95) < 1e-2


@pytest.mark.parametrize(("l2", "l1", "ssim"), MIXES)
@pytest.mark.parametrize("schedule", [(1,), (1, 0.5), (0.3, 0.3, 0.3, 0.1)])
def test_steps_equal_numpy(start, l2, l1, ssim, schedule):
    scene, picture = some_splats(small=0.4), target()
    session = start(scene, picture, l2=l2, l1=l1, ssim=ssim)
    session.run(np.float32(schedule))
    expected, certain = numpy_steps(scene, picture, schedule, l2, l1, ssim)
    for actual, wanted, sure, before in zip(session.get_splats(), expected, certain, scene[:3], strict=True):
        moved = abs(wanted - before)[sure].max()
        error = abs(actual - wanted)[sure] / moved
        assert np.quantile(error, 0.95) < 4e-3
        assert np.median(error) < 2e-4


@pytest.mark.parametrize(("l2", "l1", "ssim"), MIXES)
def test_steps_equal_numpy_where_the_picture_is_at_its_limits(start, l2, l1, ssim):
    scene, picture = some_splats(small=0.4), limited_target()
    session = start(scene, picture, l2=l2, l1=l1, ssim=ssim, outside=0.1)
    session.run(np.ones(1, np.float32))
    expected, certain = numpy_steps(scene, picture, (1,), l2, l1, ssim, 0.1)
    for actual, wanted, sure, before in zip(session.get_splats(), expected, certain, scene[:3], strict=True):
        error = abs(actual - wanted)[sure] / abs(wanted - before)[sure].max()
        assert np.quantile(error, 0.95) < 4e-3
        assert np.median(error) < 2e-4


@pytest.mark.parametrize(("l2", "l1", "ssim"), MIXES)
def test_steps_in_one_call_or_in_many(start, l2, l1, ssim):
    scene, picture = some_splats(count=300), target()
    schedule = np.linspace(1, 0.1, 120, dtype=np.float32)
    whole, parts = (start(scene, picture, l2=l2, l1=l1, ssim=ssim) for _ in range(2))
    whole.run(schedule)
    for first, last in ((0, 1), (1, 17), (17, 60), (60, 120)):
        parts.run(schedule[first:last])
        parts.evaluate()
    for one, other in zip(whole.get_splats(), parts.get_splats(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_run_returns_the_error_before_its_last_update(start, channels):
    scene, picture = some_splats(channels=channels), target(channels)
    session = start(scene, picture)
    for _ in range(2):
        between = session.get_splats()
        image = reference.render(*between, scene.background, HEIGHT, WIDTH, _cpu.CUTOFF)
        assert session.run(np.ones(1, np.float32)) == pytest.approx(np.mean((image - picture) ** 2), rel=1e-4)


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_evaluate(start, channels):
    scene, picture = some_splats(channels=channels), target(channels)
    evaluation = start(scene, picture, l1=0.25, ssim=0.5).evaluate()
    image = reference.render(*scene, HEIGHT, WIDTH, _cpu.CUTOFF)
    assert evaluation.squared == pytest.approx(np.mean((image - picture) ** 2), rel=1e-4)
    assert evaluation.clamped == pytest.approx(np.mean((image.clip(0, 1) - picture) ** 2), rel=1e-4)
    assert evaluation.loss == pytest.approx(reference.loss(image, picture, 1, 0.25, 0.5), rel=1e-4)


def test_errors_beyond_the_limits_weigh_less(start):
    scene, picture = some_splats(), limited_target()
    session = start(scene, picture, l1=0.25, ssim=0.5, outside=0.1)
    evaluation = session.evaluate()
    image = reference.render(*scene, HEIGHT, WIDTH, _cpu.CUTOFF)
    weighted = reference.loss(image, picture, outside=0.1)
    assert evaluation.squared == pytest.approx(weighted, rel=1e-4)
    assert evaluation.clamped == pytest.approx(np.mean((image.clip(0, 1) - picture) ** 2), rel=1e-4)
    assert evaluation.loss == pytest.approx(reference.loss(image, picture, 1, 0.25, 0.5, 0.1), rel=1e-4)
    assert session.run(np.zeros(1, np.float32)) == pytest.approx(weighted, rel=1e-4)


@pytest.mark.parametrize(("l2", "l1", "ssim"), MIXES)
def test_the_same_bytes_every_time(start, l2, l1, ssim):
    picture = target(height=150, width=170)
    scene = random_scene(91, 300, 3, 150, 170).astype(np.float32)
    states = []
    for _ in range(3):
        session = start(scene, picture, l2=l2, l1=l1, ssim=ssim)
        values = [session.run(np.ones(2, np.float32))]
        session.grow(5000, 1.5, 2.0, 7)
        session.sort()
        values.append(session.run(np.ones(30, np.float32)))
        session.relocate(200, 2.0, 1.5, 8)
        values.append(session.run(np.ones(20, np.float32)))
        values.append(session.evaluate())
        states.append((values, *(array.tobytes() for array in session.get_splats())))
    assert states[0] == states[1] == states[2]


def test_sizes_stay_within_their_limits(start):
    scene, picture = some_splats(small=0.31, large=0.4), target()
    session = start(scene, picture, log_min=-1.0, log_max=-0.9)
    session.run(np.ones(3, np.float32))
    a, b, c = np.float64(session.get_splats()[1]).T
    assert a.min() == -1 and a.max() == pytest.approx(-0.9)
    across = c - np.log1p((b / np.exp(a)) ** 2) / 2
    assert across.min() == pytest.approx(-1, abs=2e-6)
    assert across.max() <= -0.9 + 2e-6


def test_grow_equals_the_cpu(start):
    scene, picture = some_splats(count=300), target()
    session = start(scene, picture)
    other = _cpu.Fit(
        *(picture, scene.background),
        **{"l2": 1, "l1": 0, "ssim": 0, "rates": [0.5, 0.05, 0.1, 0.01], "beta1": 0.9, "beta2": 0.99},
        **{"log_min": -1.2, "log_max": 10},
    )
    other.set_splats(*scene[:3])
    for power in (1.0, 1.7, 2.0, 3.0):
        session.grow(100, power, 1.5, 11)
        other.grow(100, power, 1.5, 11)
        same = (abs(session.get_splats()[0] - other.get_splats()[0]) < 1e-3).all(axis=1)
        assert same.mean() > 0.98
        session.set_splats(*other.get_splats())
    colors = session.get_splats()[2].copy()
    session.relocate(150, 2.0, 1.5, 12)
    other.relocate(150, 2.0, 1.5, 12)
    for one, two in zip(session.get_splats(), other.get_splats(), strict=True):
        assert (abs(one - two) < 1e-3).all(axis=1).mean() > 0.98
    assert (abs(session.get_splats()[2] - colors) > 0).any(axis=1).sum() >= 145


def test_grow_adds_splats_where_the_error_is(start):
    scene, picture = half_drawn()
    session = start(scene, picture)
    session.grow(25, 2.0, 1.5, 3)
    assert session.count == 55
    means, log_cholesky, colors = session.get_splats()
    for array, before in zip((means, log_cholesky, colors), scene[:3], strict=True):
        np.testing.assert_array_equal(array[:30], before)
    new = means[30:]
    assert ((new[:, 0] >= 37) & (new[:, 0] <= 53)).all() and ((new[:, 1] >= 0) & (new[:, 1] <= HEIGHT)).all()
    np.testing.assert_allclose(log_cholesky[30:], [[np.log(1.5), 0, np.log(1.5)]] * 25, rtol=1e-6)


def test_relocate_moves_the_splats_that_draw_nothing(start):
    scene, picture = half_drawn()
    bright = np.arange(30) % 3 == 0
    scene = scene._replace(colors=np.where(bright[:, None], 0.01, 0).astype(np.float32) * np.ones((1, 3), np.float32))
    session = start(scene, picture)
    session.relocate(20, 2.0, 1.5, 3)
    means, _, colors = session.get_splats()
    np.testing.assert_array_equal(means[bright], scene.means[bright])
    np.testing.assert_array_equal(colors[bright], scene.colors[bright])
    assert ((means[~bright, 0] >= 37) & (means[~bright, 0] <= 53)).all()


def test_a_perfect_fit_still_grows(start):
    scene = some_splats(count=5)._replace(background=np.full(3, 0.5, np.float32))
    scene = scene._replace(colors=scene.colors * 0)
    session = start(scene, np.full((HEIGHT, WIDTH, 3), 0.5, np.float32))
    session.grow(200, 2.0, 1.5, 1)
    means = session.get_splats()[0][5:]
    assert np.isfinite(means).all() and means[:, 0].std() > WIDTH / 6 and means[:, 1].std() > HEIGHT / 6


@pytest.mark.parametrize("count", [1, 31, 200, 2500, 40_000])
def test_sort_keeps_every_splat_and_its_state(start, count):
    picture = target()
    scene = random_scene(3, count, 3, HEIGHT, WIDTH).astype(np.float32)
    session = start(scene, picture)
    session.run(np.ones(2, np.float32))

    def rows():
        splats = session._splats
        return np.hstack(
            [download(session, buffer, (count, 8)) for buffer in (splats.params, splats.first, splats.second)]
        )

    before = rows()
    session.sort()
    after = rows()
    np.testing.assert_array_equal(before[np.lexsort(before.T)], after[np.lexsort(after.T)])
    if count == 2500:
        jumps = [np.hypot(*np.diff(array[:, :2], axis=0).T).mean() for array in (before, after)]
        assert jumps[1] < 0.3 * jumps[0]


def test_capacity_grows(start):
    scene, picture = some_splats(count=100), target()
    session = start(scene, picture)
    session.run(np.ones(3, np.float32))
    for _ in range(4):
        before = session.get_splats()
        count = session.count
        session.grow(3 * count, 1.0, 1.0, 5)
        for one, other in zip(session.get_splats(), before, strict=True):
            np.testing.assert_array_equal(one[:count], other)
        session.sort()
        session.run(np.ones(3, np.float32))
    assert session.count == 25600
    assert all(np.isfinite(array).all() for array in session.get_splats())


@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_a_fit_equals_that_of_the_cpu(gpu, channels):
    picture = target(channels, 96, 128).clip(0, 1)
    results = [fit(picture, splats=400, steps=300, device=device) for device in ("cuda", "cpu")]
    assert len(results[0].splats) == 400
    assert results[0].psnr == pytest.approx(results[1].psnr, abs=0.3)
    splats = results[0].splats
    image = _cpu.render(splats.means, splats.log_cholesky, splats.colors, splats.background, 96, 128)
    clamped = np.mean((image.clip(0, 1) - picture) ** 2)
    assert -10 * np.log10(clamped) == pytest.approx(results[0].psnr, abs=0.01)


def test_a_fit_to_a_psnr(gpu):
    picture = target(3, 64, 80)
    result = fit(picture, psnr=25.0, device="cuda")
    assert result.psnr >= 25


def test_fits_are_reproducible(gpu):
    picture = target(3, 96, 128)
    one, other = ([*fit_steps(picture, FitConfig(splats=700, steps=200, device="cuda"))][-1] for _ in range(2))
    assert one.psnr == other.psnr
    for a, b in zip((one.splats.means, one.splats.colors), (other.splats.means, other.splats.colors), strict=True):
        np.testing.assert_array_equal(a, b)


def test_arguments_that_cannot_be(start):
    scene, picture = some_splats(), target()
    session = start(scene, picture)
    for call in (
        lambda: session.set_splats(scene.means, scene.log_cholesky, scene.colors[:, :2].copy()),
        lambda: session.set_splats(scene.means[1:], scene.log_cholesky, scene.colors),
        lambda: session.relocate(41, 1.0, 1.0, 0),
        lambda: session.grow(-1, 1.0, 1.0, 0),
    ):
        with pytest.raises(ValueError):
            call()


def test_a_fit_in_another_thread(gpu):
    results = []
    picture = target(3, 64, 80).clip(0, 1)
    thread = Thread(target=lambda: results.append(fit(picture, splats=100, steps=30, device="cuda")))
    thread.start()
    thread.join()
    assert len(results[0].splats) == 100
