"""The picture that the GPU draws, against the dense reference and the CPU engine."""

import numpy as np
import pytest
import reference
from scenes import random_scene, rotated

from splat2d import _cpu
from splat2d.errors import InputError

SHAPES = [  # a, b, c that no fit should reach but some will
    (-1.0, 100.0, -1.0),
    (5.0, 0.0, -6.0),
    (-6.0, 0.0, 5.0),
    (-10.0, 0.0, -10.0),
    (12.0, 0.0, 12.0),
    (12.0, -1e5, 12.0),
    (50.0, 1e12, -50.0),
    (-50.0, -1e30, 50.0),
    (-50.0, 0.0, -50.0),
    (50.0, 0.0, 50.0),
]


def draw(gpu, scene, height, width):
    return gpu.render(*scene.astype(np.float32), height, width, None)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (16, 16), (37, 70), (97, 33), (5, 300)])
def test_values(gpu, channels, height, width):
    scene = random_scene(channels, 60, channels, height, width)
    expected = reference.render(*scene, height, width, _cpu.CUTOFF)
    # At the edge of the cut-off a weight of 1/255 may count on one side only.
    half_q = reference.exponents(*scene[:2], height, width)
    certain = (abs(half_q - _cpu.CUTOFF) > 1e-4).all(axis=0)
    picture = draw(gpu, scene, height, width)
    assert picture.shape == (height, width, channels) and picture.dtype == np.float32
    np.testing.assert_allclose(picture[certain], expected[certain], atol=2e-5)


def test_no_splats(gpu):
    empty = random_scene(0, 0, 3, 20, 30)
    np.testing.assert_array_equal(draw(gpu, empty, 20, 30), np.broadcast_to(np.float32(empty.background), (20, 30, 3)))


def test_thousands_on_one_spot(gpu):
    """More than a tile can hold at once: it is drawn in several turns and none is lost."""
    scene = random_scene(3, 20_000, 3, 24, 24, small=0.6, large=6)
    scene = scene._replace(colors=abs(scene.colors) / 1000)
    expected = _cpu.render(*scene.astype(np.float64), 24, 24)
    np.testing.assert_allclose(draw(gpu, scene, 24, 24), expected, atol=1e-3)


def test_needles_at_every_angle(gpu):
    height, width = 150, 200
    angles = np.linspace(0, np.pi, 37)
    log_cholesky = rotated(np.full(37, 70.0), np.full(37, 0.5), angles)
    scene = random_scene(1, 37, 3, height, width)._replace(log_cholesky=log_cholesky).astype(np.float32)
    half_q = reference.exponents(*scene[:2], height, width)
    certain = (abs(half_q - _cpu.CUTOFF) > 1e-2).all(axis=0)
    expected = reference.render(*scene, height, width, _cpu.CUTOFF)
    assert certain.mean() > 0.9
    np.testing.assert_allclose(draw(gpu, scene, height, width)[certain], expected[certain], atol=2e-4)


def test_hostile_parameters_stay_finite(gpu):
    rng = np.random.default_rng(5)
    for mean in ((18.5, 10.5), (37, 21), (1e6, -1e6), (3e38, -3e38), (-0.5, 10)):
        shapes = np.float32(SHAPES)
        means = np.broadcast_to(np.float32(mean), (len(shapes), 2)).copy()
        colors = rng.uniform(-1e6, 1e6, (len(shapes), 2)).astype(np.float32)
        picture = gpu.render(means, shapes, colors, np.zeros(2, np.float32), 21, 37, None)
        assert np.isfinite(picture).all()
        assert (abs(picture) <= abs(colors).sum(axis=0) * (1 + 2e-5)).all()


def test_large_and_small_beside_each_other(gpu):
    height, width = 200, 260
    small = random_scene(1, 500, 3, height, width, small=0.5, large=2)
    large = random_scene(2, 20, 3, height, width, small=30, large=200)
    both = type(small)(*(np.concatenate(pair) for pair in zip(small[:3], large[:3], strict=True)), small.background)
    expected = _cpu.render(*both, height, width)
    assert np.quantile(abs(draw(gpu, both, height, width) - expected), 0.999) < 1e-4


def test_order_does_not_matter_to_a_byte_of_the_same_order(gpu):
    scene = random_scene(7, 3000, 3, 100, 120)
    one, other = draw(gpu, scene, 100, 120), draw(gpu, scene, 100, 120)
    np.testing.assert_array_equal(one, other)


def test_a_picture_beyond_the_indices(gpu):
    scene = random_scene(0, 1, 1, 10, 10).astype(np.float32)
    with pytest.raises(InputError, match="cuda: a picture of 65536x65536 pixels"):
        gpu.render(*scene, 65536, 65536, None)


def test_a_picture_beyond_the_memory(gpu):
    scene = random_scene(0, 1, 64, 10, 10).astype(np.float32)
    with pytest.raises(InputError, match=r"cuda: out of memory, .* asked for and .* free"):
        gpu.render(*scene, 32768, 65535, None)
    assert np.isfinite(draw(gpu, random_scene(0, 9, 3, 10, 10), 10, 10)).all()
