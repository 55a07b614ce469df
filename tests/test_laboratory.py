"""benchmarks/laboratory.py and its parts, which docs/experiments.md compares the product with."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scenes import random_scene

from splat2d.config import Loss
from splat2d.engine import Optimizer
from splat2d.engine.cpu import CpuEngine

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from drawings import Normalized, Sum, Window
from laboratory import Bounds, LabEngine, LabSession, Methods
from optimizers import OPTIMIZERS, ScheduleFree

HEIGHT, WIDTH = 24, 30
BACKGROUND = np.float32([0.2, 0.5, 0.3])
NO_CUT = 60.0


def parameters(extra=0):
    scene = random_scene(3, 12, 3, HEIGHT, WIDTH, small=1, large=4)
    more = np.random.default_rng(1).normal(0, 0.3, (12, extra))
    return np.concatenate([scene.means, scene.log_cholesky, scene.colors, more], 1).astype(np.float32)


def picture():
    x, y = np.meshgrid(np.linspace(0, 5, WIDTH), np.linspace(0, 3, HEIGHT))
    return (0.5 + 0.7 * np.sin(np.stack([x + y, x * y, x - 2 * y], -1))).clip(0, 1).astype(np.float32)


@pytest.mark.parametrize("drawing", [Sum(NO_CUT), Window(9), Window(61), Normalized(0.05, NO_CUT)])
def test_gradients_equal_finite_differences(drawing):
    p = parameters(drawing.extra)
    d_image = np.random.default_rng(0).normal(size=(HEIGHT, WIDTH, 3)).astype(np.float32)
    gradient = drawing.gradient(p, BACKGROUND, d_image, 1)
    numeric = np.zeros(p.shape)
    for index in np.ndindex(p.shape):
        for sign in (1, -1):
            moved = p.copy()
            moved[index] += sign * 3e-3
            image = drawing.image(moved, BACKGROUND, HEIGHT, WIDTH, 1)
            numeric[index] += sign * np.vdot(np.float64(image), d_image) / 6e-3
    np.testing.assert_allclose(gradient, numeric, rtol=5e-3, atol=5e-3 * np.median(abs(numeric)) + 1e-3)


def test_a_wide_window_draws_the_whole_sum():
    p = parameters()
    wide, whole = (drawing.image(p, BACKGROUND, HEIGHT, WIDTH, 1) for drawing in (Window(201), Sum(NO_CUT)))
    np.testing.assert_allclose(wide, whole, atol=2e-6)


@pytest.mark.parametrize("outside", [1.0, 0.1])
def test_as_shipped_it_takes_the_steps_of_the_product(outside):
    p, rates = parameters(), np.float32([1, 1, 0.5, 0.5, 0.1])
    sessions = [
        chosen.start(picture(), BACKGROUND, Loss(), Optimizer(), 1, outside)
        for chosen in (LabEngine(Methods()), CpuEngine())
    ]
    for session in sessions:
        session.set_splats(*(np.ascontiguousarray(part) for part in (p[:, :2], p[:, 2:5], p[:, 5:])))
    squares = [session.run(rates) for session in sessions]
    assert squares[0] == pytest.approx(squares[1], rel=1e-3)
    for one, other in zip(*(session.get_splats() for session in sessions), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)
    evaluations = [session.evaluate() for session in sessions]
    assert evaluations[0].loss == pytest.approx(evaluations[1].loss, rel=1e-3)
    assert evaluations[0].clamped == pytest.approx(evaluations[1].clamped, rel=1e-3)


@pytest.mark.parametrize("methods", [{"means": "tanh"}, {"sizes": "tanh"}, {"sizes": "logit"}])
def test_bounds_can_be_undone_and_know_their_slope(methods):
    bounds = Bounds(WIDTH, HEIGHT, -0.7, Methods(**methods))
    p = parameters()
    p[:, :2] = p[:, :2].clip(1, (WIDTH - 1, HEIGHT - 1))
    p[:, [2, 4]] = p[:, [2, 4]].clip(0, 3)
    free, slope, _ = bounds.free(p)
    np.testing.assert_allclose(bounds.bounded(free), p, atol=1e-4)
    numeric = (bounds.bounded(free + 1e-5) - bounds.bounded(free - 1e-5)) / 2e-5
    np.testing.assert_allclose(slope, numeric, rtol=1e-3)


@pytest.mark.parametrize(
    "methods",
    [
        *({"optimizer": name} for name in OPTIMIZERS),
        *({"drawing": drawing} for drawing in (Window(15), Normalized(0.03))),
        *({"coarse": what, "coarse_steps": 20} for what in ("target", "error")),
        {"means": "tanh"},
        {"sizes": "logit"},
    ],
    ids=str,
)
def test_every_method_approaches_the_picture(methods):
    session = LabSession(picture(), BACKGROUND, Loss(), Optimizer(), 1, 0.1, Methods(**methods))
    p = parameters()
    p[:, :2] = p[:, :2].clip(0, (WIDTH, HEIGHT))
    session.set_splats(p[:, :2], p[:, 2:5], 0.1 * p[:, 5:])
    session.grow(20, 1.0, 2.0, 1)
    before = session.evaluate().loss
    session.run(np.full(60, 0.3, np.float32))
    session.relocate(3, 1.0, 1.5, 2)
    session.run(np.full(60, 0.1, np.float32))
    assert session.count == 32 and session.evaluate().loss < 0.6 * before


def test_schedule_free_finds_the_least_of_a_parabola():
    optimizer = ScheduleFree(1, 0.9, 0.99)
    optimizer.resize(1)
    y = np.array([[3.0]])
    for t in range(1, 400):
        y = y - 0.05 * optimizer.step(2 * (y - 1), t, 1.0)
    assert (y + 0.05 * optimizer.arrays["offset"]).item() == pytest.approx(1, abs=0.02)
