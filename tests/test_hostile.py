"""Parameters no fit should reach but some will: finite pictures, finite gradients, and still the right values."""

import numpy as np
import pytest
import reference
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scenes import using

from splat2d import _cpu

HEIGHT, WIDTH = 21, 37
SHAPES = {
    "needle": (-1.0, 100.0, -1.0),
    "flat needle": (5.0, 0.0, -6.0),
    "upright needle": (-6.0, 0.0, 5.0),
    "dot": (-10.0, 0.0, -10.0),
    "giant": (12.0, 0.0, 12.0),
    "sheared giant": (12.0, -1e5, 12.0),
    "past the limits": (50.0, 1e12, -50.0),
    "past the limits, the other way": (-50.0, -1e30, 50.0),
    "tiny": (-50.0, 0.0, -50.0),
    "huge": (50.0, 0.0, 50.0),
}


@pytest.fixture(scope="module", params=_cpu.instruction_sets(), autouse=True)
def instruction_set(request):
    with using(request.param) as name:
        yield name


logs = st.one_of(st.floats(-3, 5, width=32), st.floats(-50, 50, width=32), st.sampled_from([-50.0, -20.0, 20.0, 50.0]))
shears = st.one_of(st.floats(-10, 10, width=32), st.floats(-1e6, 1e6, width=32), st.sampled_from([-1e30, 0.0, 1e30]))


def positions(size):
    exact = [0.0, 0.5, 1.0, size - 0.5, size, size + 0.5, -1e6, 1e6, 3e38, -3e38]
    return st.one_of(st.floats(-50, size + 50, width=32), st.floats(-1e6, 1e6, width=32), st.sampled_from(exact))


amplitudes = st.one_of(st.floats(-2, 2, width=32), st.floats(-1e6, 1e6, width=32), st.sampled_from([-1e6, 0.0, 1e6]))
splats = st.lists(
    st.tuples(positions(WIDTH), positions(HEIGHT), logs, shears, logs, amplitudes, amplitudes), min_size=1, max_size=6
)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(rows=splats)
@example(rows=[(WIDTH, HEIGHT, *shape, 1e6, -1e6) for shape in SHAPES.values()])
@example(rows=[(18.5, 10.5, *shape, 1e6, -1e6) for shape in SHAPES.values()])
@example(rows=[(1e6, -1e6, *shape, 1e6, -1e6) for shape in SHAPES.values()])
def test_pictures_and_gradients_are_finite(rows, dtype):
    table = np.array(rows, dtype)
    means, log_cholesky, colors = (np.ascontiguousarray(table[:, s]) for s in np.s_[:2, 2:5, 5:])
    picture = _cpu.render(means, log_cholesky, colors, np.zeros(2, dtype), HEIGHT, WIDTH)
    assert np.isfinite(picture).all()
    assert (abs(picture) <= abs(colors).sum(axis=0) * (1 + 2e-5)).all()
    for gradient in _cpu.render_backward(means, log_cholesky, colors, np.ones((HEIGHT, WIDTH, 2), dtype)):
        assert np.isfinite(gradient).all()
    pairs = _cpu.count_pairs(means, log_cholesky, HEIGHT, WIDTH)
    assert 0 <= pairs <= len(rows) * HEIGHT * WIDTH


@settings(max_examples=150, deadline=None, derandomize=True)
@given(rows=splats)
def test_values_in_float64(rows):
    """As far as the numbers allow: k = b / e^a amplifies the rounding of a position."""
    table = np.array(rows)
    table[:, :2] = np.clip(table[:, :2], -1e6, 1e6)
    means, log_cholesky, colors = (np.ascontiguousarray(table[:, s]) for s in np.s_[:2, 2:5, 5:])
    half_q = reference.exponents(means, log_cholesky, HEIGHT, WIDTH)
    a, b, c = np.clip(log_cholesky.T, -reference.LIMITS, reference.LIMITS)
    reach = WIDTH + abs(means).max(axis=1)
    # z0 and z1 carry the rounding of their largest term, and the exponent that of z times it.
    z_error = 1e-15 * reach * (1 + abs(b) * np.exp(-a)) * np.exp(-c) + 1e-15 * reach * np.exp(-a)
    error = 20 * z_error[:, None, None] * (1 + np.sqrt(half_q)) + 1e-14 * half_q
    certain = (error < 1e-6) & (abs(half_q - _cpu.CUTOFF) > 1e-5 + error) | (half_q > 2 * _cpu.CUTOFF + 10 * error)
    expected = np.tensordot(np.exp(-half_q) * (half_q <= _cpu.CUTOFF), colors, (0, 0))
    actual = _cpu.render(means, log_cholesky, colors, np.zeros(2), HEIGHT, WIDTH)
    checked = certain.all(axis=0)
    tolerance = 1e-6 * max(1, abs(colors).sum())
    np.testing.assert_allclose(actual[checked], expected[checked], atol=tolerance)


@pytest.mark.parametrize("shape", [name for name in SHAPES if "past" not in name])  # too steep for any float32
@pytest.mark.parametrize("mean", [(18.5, 10.5), (17.3, 9.9), (0, 0), (37, 21), (-2, 30)])
def test_values_in_float32(shape, mean):
    splat = np.float32([mean]), np.float32([SHAPES[shape]]), np.float32([[1]])
    half_q = reference.exponents(*splat[:2], HEIGHT, WIDTH)[0]
    a, b, c = np.clip(SHAPES[shape], *(sign * reference.LIMITS[:, 0] for sign in (-1, 1)))
    slope = abs(b) * np.exp(-a)
    error = 4e-7 * 40 * ((1 + slope) * np.exp(-c) + np.exp(-a)) * (1 + np.sqrt(half_q)) + 1e-6 * half_q
    certain = abs(half_q - _cpu.CUTOFF) > 2 * error + 1e-4
    expected = np.exp(-half_q) * (half_q <= _cpu.CUTOFF)
    actual = _cpu.render(*splat, np.zeros(1, np.float32), HEIGHT, WIDTH)[..., 0]
    assert (abs(actual - expected)[certain] <= (2e-5 + np.minimum(error, 1) * expected)[certain]).all()
