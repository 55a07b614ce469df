"""splat2d._cpu.Fit, the fused step, against the reference: gradient, chain rule and Adam in numpy."""

import numpy as np
import pytest
import reference
from scenes import random_scene, using

from splat2d import _cpu

HEIGHT, WIDTH = 37, 70
OPTIONS = {
    **{"l2": 1.0, "l1": 0.0, "ssim": 0.0, "rates": [0.5, 0.05, 0.1, 0.01]},
    **{"beta1": 0.9, "beta2": 0.99, "log_min": -1.2, "log_max": 10.0},
}
MIXES = [(1, 0, 0), (0, 1, 0), (0.5, 0.3, 0.2), (0, 0, 1)]  # l2, l1, ssim


@pytest.fixture(scope="module", params=_cpu.instruction_sets(), autouse=True)
def instruction_set(request):
    with using(request.param) as name:
        yield name


def target(channels=3, height=HEIGHT, width=WIDTH):
    rng = np.random.default_rng(channels)
    x, y = np.meshgrid(np.linspace(0, 6, width), np.linspace(0, 4, height))
    picture = 0.5 + 0.3 * np.sin(x * y)[..., None] + rng.normal(0, 0.1, (height, width, channels))
    return picture.astype(np.float32)


def limited_target():
    """target() at three times the contrast, a third of it at 0 or 1."""
    return (3 * target() - 1).clip(0, 1)


def start(scene, picture, **options):
    fit = _cpu.Fit(picture, scene.background, **{**OPTIONS, **options})
    fit.set_splats(*scene[:3])
    return fit


def some_splats(count=40, channels=3, **sizes):
    return random_scene(channels + 90, count, channels, HEIGHT, WIDTH, **{"small": 0.8, "large": 8, **sizes}).astype(
        np.float32
    )


def limited(log_cholesky):
    """a and c within their limits, and no splat thinner than the floor across its ridge."""
    low, high = OPTIONS["log_min"], OPTIONS["log_max"]
    a, b, c = log_cholesky.T
    a, c = a.clip(low, high), c.clip(low, high)
    return np.stack([a, b, np.maximum(c, low + np.log1p((b / np.exp(a)) ** 2) / 2)], axis=1)


def numpy_steps(scene, picture, schedule, l2, l1, ssim, outside=1.0):
    """The same steps in numpy: the parameters, and where a rounding error could not turn the sign of a gradient."""
    parameters = [np.float64(array) for array in scene[:3]]
    state = [(np.zeros_like(p), np.zeros_like(p)) for p in parameters]
    rates = [0.5, np.array([0.05, 0.1, 0.05]), 0.01]
    certain = [np.ones(p.shape, bool) for p in parameters]
    for step, factor in enumerate(schedule, start=1):
        image = reference.render(*parameters, scene.background, HEIGHT, WIDTH, _cpu.CUTOFF)
        _, d_image = _cpu.loss_gradient(image.astype(np.float32), picture, l2=l2, l1=l1, ssim=ssim, outside=outside)
        d_image = np.float64(d_image) * d_image.size / 2  # the session works in units of H W C / 2
        gradients = reference.render_backward(*parameters, d_image, _cpu.CUTOFF)
        for i, gradient in enumerate(gradients):
            certain[i] &= abs(gradient) > 1e-2 * np.median(abs(gradient))
            parameters[i], *state[i] = reference.adam(
                parameters[i], gradient, *state[i], step, rates[i] * factor, beta2=0.99
            )
        parameters[1] = limited(parameters[1])
    return parameters, certain


@pytest.mark.parametrize(("l2", "l1", "ssim"), MIXES)
@pytest.mark.parametrize("schedule", [(1,), (1, 0.5), (0.3, 0.3, 0.3, 0.1)])
def test_steps_equal_numpy(l2, l1, ssim, schedule):
    scene, picture = some_splats(small=0.4), target()
    fit = start(scene, picture, l2=l2, l1=l1, ssim=ssim)
    fit.run(np.float32(schedule))
    expected, certain = numpy_steps(scene, picture, schedule, l2, l1, ssim)
    for actual, wanted, sure, before in zip(fit.get_splats(), expected, certain, scene[:3], strict=True):
        assert sure.mean() > 0.8
        moved = abs(wanted - before)[sure].max()
        # A pixel at the cut or a difference of 0 may count in one and not in the other: nearly all, and nearly equal.
        error = abs(actual - wanted)[sure] / moved
        assert np.quantile(error, 0.95) < 2e-3
        assert np.median(error) < 1e-4


@pytest.mark.parametrize(("l2", "l1", "ssim"), MIXES)
def test_steps_equal_numpy_where_the_picture_is_at_its_limits(l2, l1, ssim):
    scene, picture = some_splats(small=0.4), limited_target()
    fit = start(scene, picture, l2=l2, l1=l1, ssim=ssim, outside=0.1)
    fit.run(np.ones(1, np.float32))
    expected, certain = numpy_steps(scene, picture, (1,), l2, l1, ssim, 0.1)
    for actual, wanted, sure, before in zip(fit.get_splats(), expected, certain, scene[:3], strict=True):
        error = abs(actual - wanted)[sure] / abs(wanted - before)[sure].max()
        assert np.quantile(error, 0.95) < 2e-3 and np.median(error) < 1e-4


def test_errors_beyond_the_limits_weigh_less():
    scene, picture = some_splats(), limited_target()
    image = reference.render(*scene, HEIGHT, WIDTH, _cpu.CUTOFF)
    fit = start(scene, picture, ssim=0.5, outside=0.1)
    squares, absolutes, clamped, ssim = fit.evaluate()
    weighted = reference.loss(image, picture, outside=0.1) * image.size
    assert weighted < 0.99 * np.sum((image - picture) ** 2)
    assert squares == pytest.approx(weighted, rel=1e-4)
    assert absolutes == pytest.approx(reference.loss(image, picture, 0, 1, outside=0.1) * image.size, rel=1e-4)
    assert clamped == pytest.approx(np.sum((image.clip(0, 1) - picture) ** 2), rel=1e-4)
    assert ssim == pytest.approx(1 - reference.loss(image, picture, 0, 0, 1, 0.1), abs=1e-5)
    assert fit.run(np.zeros(1, np.float32)) == pytest.approx(weighted, rel=1e-4)


def test_steps_in_one_call_or_in_many():
    scene, picture = some_splats(), target()
    schedule = np.float32([1, 0.9, 0.5, 0.4, 0.1])
    whole, parts = start(scene, picture), start(scene, picture)
    whole.run(schedule)
    for i in range(5):
        parts.run(schedule[i : i + 1])
    for one, other in zip(whole.get_splats(), parts.get_splats(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_run_returns_the_squares_before_its_last_update(channels):
    scene, picture = some_splats(channels=channels), target(channels)
    fit = start(scene, picture)
    image = reference.render(*scene, HEIGHT, WIDTH, _cpu.CUTOFF)
    assert fit.run(np.ones(1, np.float32)) == pytest.approx(np.sum((image - picture) ** 2), rel=1e-4)
    between = fit.get_splats()
    image = reference.render(*between, scene.background, HEIGHT, WIDTH, _cpu.CUTOFF)
    assert fit.run(np.ones(1, np.float32)) == pytest.approx(np.sum((image - picture) ** 2), rel=1e-4)


def test_evaluate():
    scene, picture = some_splats(), target()
    squares, absolutes, clamped, ssim = start(scene, picture, ssim=0.5).evaluate()
    image = reference.render(*scene, HEIGHT, WIDTH, _cpu.CUTOFF)
    assert image.min() < 0 and image.max() > 1
    assert squares == pytest.approx(np.sum((image - picture) ** 2), rel=1e-4)
    assert absolutes == pytest.approx(np.sum(abs(image - picture)), rel=1e-4)
    assert clamped == pytest.approx(np.sum((image.clip(0, 1) - picture) ** 2), rel=1e-4)
    assert ssim == pytest.approx(1 - reference.loss(image, picture, 0, 0, 1), abs=1e-5)


def test_evaluating_changes_nothing():
    scene, picture = some_splats(), target()
    plain, watched = start(scene, picture), start(scene, picture)
    for fit in (plain, watched):
        for _ in range(3):
            fit.run(np.ones(1, np.float32))
            if fit is watched:
                fit.evaluate()
    for one, other in zip(plain.get_splats(), watched.get_splats(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("l2", "l1", "ssim"), MIXES)
def test_many_steps_lower_the_loss(l2, l1, ssim):
    scene, picture = some_splats(count=80), target()
    fit = start(scene, picture, l2=l2, l1=l1, ssim=ssim)

    def loss():
        image = _cpu.render(*fit.get_splats(), scene.background, HEIGHT, WIDTH)
        return _cpu.loss_gradient(image, picture, l2=l2, l1=l1, ssim=ssim)[0]

    before = loss()
    fit.run(np.linspace(1, 0.1, 80, dtype=np.float32))
    assert loss() < 0.8 * before


def test_sizes_stay_within_their_limits():
    scene, picture = some_splats(small=0.31, large=0.4), target()
    fit = start(scene, picture, log_min=-1.0, log_max=-0.9)
    fit.run(np.ones(3, np.float32))
    a, b, c = np.float64(fit.get_splats()[1]).T
    assert a.min() == -1 and a.max() == pytest.approx(-0.9)
    # The same floor across the ridge, where a sheared splat measures e^c / sqrt(1 + k^2).
    across = c - np.log1p((b / np.exp(a)) ** 2) / 2
    assert across.min() == pytest.approx(-1, abs=1e-6)
    assert across.max() <= -0.9 + 1e-6


@pytest.mark.parametrize(("l2", "l1", "ssim"), MIXES)
def test_threads_do_not_change_a_byte(l2, l1, ssim):
    picture = target(height=150, width=170)
    scene = random_scene(91, 300, 3, 150, 170).astype(np.float32)
    states = []
    for threads in (1, 2, 3, 7):
        fit = start(scene, picture, l2=l2, l1=l1, ssim=ssim, threads=threads)
        squares = [fit.run(np.ones(2, np.float32))]
        fit.grow(50, 1.5, 2.0, 7)
        fit.sort()
        squares.append(fit.run(np.ones(2, np.float32)))
        fit.relocate(20, 2.0, 1.5, 8)
        squares.append(fit.run(np.ones(2, np.float32)))
        squares.extend(fit.evaluate())
        states.append((squares, *(array.tobytes() for array in fit.get_splats())))
    assert all(state == states[0] for state in states[1:])


# Growth


def half_drawn():
    """A picture whose left half is drawn already: all that is missing lies in columns 40 to 49."""
    picture = np.full((HEIGHT, WIDTH, 3), 0.5, np.float32)
    picture[:, 40:50] = (1.0, 0.5, 0.2)
    scene = some_splats(count=30)
    scene = scene._replace(colors=scene.colors * 0, background=np.full(3, 0.5, np.float32))
    return scene, picture


def test_grow_adds_splats_where_the_error_is():
    scene, picture = half_drawn()
    fit = start(scene, picture)
    fit.grow(25, 2.0, 1.5, 3)
    assert fit.count == 55
    means, log_cholesky, colors = fit.get_splats()
    for array, before in zip((means, log_cholesky, colors), scene[:3], strict=True):
        np.testing.assert_array_equal(array[:30], before)
    new = means[30:]
    assert ((new[:, 0] >= 37) & (new[:, 0] <= 53)).all() and ((new[:, 1] >= 0) & (new[:, 1] <= HEIGHT)).all()
    np.testing.assert_allclose(log_cholesky[30:], [[np.log(1.5), 0, np.log(1.5)]] * 25, rtol=1e-6)
    # Colours point from the render towards the picture.
    inside = (new[:, 0] >= 40) & (new[:, 0] < 50)
    assert inside.sum() > 10
    missing = np.float32([0.5, 0, -0.3])
    share = colors[30:][inside][:, 0] / missing[0]
    assert ((share > 0) & (share <= 1)).all()
    np.testing.assert_allclose(colors[30:][inside], share[:, None] * missing, atol=1e-6)


def test_relocate_moves_the_splats_that_draw_nothing():
    scene, picture = half_drawn()
    bright = np.arange(30) % 3 == 0
    scene = scene._replace(colors=np.where(bright[:, None], 0.01, 0).astype(np.float32) * np.ones((1, 3), np.float32))
    fit = start(scene, picture)
    fit.relocate(20, 2.0, 1.5, 3)
    assert fit.count == 30
    means, _, colors = fit.get_splats()
    np.testing.assert_array_equal(means[bright], scene.means[bright])
    np.testing.assert_array_equal(colors[bright], scene.colors[bright])
    assert ((means[~bright, 0] >= 37) & (means[~bright, 0] <= 53)).all()


def test_the_others_keep_their_optimiser_state():
    """After growth by splats that see no gradient, the next step of the others is what it would have been."""
    scene, picture = some_splats(), target()
    plain, grown = start(scene, picture), start(scene, picture)
    for fit in (plain, grown):
        fit.run(np.ones(3, np.float32))
    grown.grow(0, 1.0, 1.0, 0)
    grown.relocate(0, 1.0, 1.0, 0)
    grown.sort()
    for fit in (plain, grown):
        fit.run(np.ones(1, np.float32))
    orders = [np.lexsort(fit.get_splats()[2].T) for fit in (plain, grown)]
    for one, other in zip(plain.get_splats(), grown.get_splats(), strict=True):
        np.testing.assert_allclose(one[orders[0]], other[orders[1]], atol=2e-3)


def test_sort_brings_neighbours_together():
    scene, picture = some_splats(count=200), target()
    fit = start(scene, picture)
    fit.sort()
    means, log_cholesky, colors = fit.get_splats()

    def rows(*arrays):
        return sorted(map(tuple, np.hstack(arrays)))

    assert rows(means, log_cholesky, colors) == rows(*scene[:3])

    def jumps(points):
        return np.hypot(*np.diff(points, axis=0).T).mean()

    assert jumps(means) < 0.4 * jumps(scene.means)


def test_arguments_that_cannot_be():
    scene, picture = some_splats(), target()
    fit = start(scene, picture)
    for call in (
        lambda: fit.set_splats(*scene.astype(np.float64)[:3]),
        lambda: fit.set_splats(scene.means, scene.log_cholesky, scene.colors[:, :2].copy()),
        lambda: fit.set_splats(scene.means[1:], scene.log_cholesky, scene.colors),
        lambda: fit.run(np.ones(2)),
        lambda: fit.relocate(41, 1.0, 1.0, 0),
        lambda: fit.grow(-1, 1.0, 1.0, 0),
        lambda: start(scene, picture[..., 0].copy()),
        lambda: start(scene._replace(background=scene.background[:2]), picture),
        lambda: start(scene, picture, rates=[1.0, 1.0]),
        lambda: start(scene, picture, l1=-1.0),
        lambda: start(scene, picture, outside=0.0),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()
