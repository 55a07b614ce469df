"""splat2d._cpu as a whole: the same bytes for every thread count, arguments, draws, instruction sets."""

import numpy as np
import pytest
from scenes import random_scene, using

from splat2d import _cpu

THREADS = (1, 2, 3, 7)


@pytest.fixture(scope="module")
def scene():
    return random_scene(0, 300, 3, 150, 170, large=40).astype(np.float32)


def assert_same_bytes(results):
    first, *others = ([np.asarray(array).tobytes() for array in arrays] for arrays in results)
    assert all(other == first for other in others)


# The same bytes for every thread count


@pytest.mark.parametrize("name", _cpu.instruction_sets())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_do_not_change_render(scene, dtype, name):
    with using(name):
        assert_same_bytes([_cpu.render(*scene.astype(dtype), 150, 170, threads=n)] for n in (*THREADS, 0))


@pytest.mark.parametrize("name", _cpu.instruction_sets())
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_do_not_change_render_backward(scene, dtype, name):
    d_image = np.random.default_rng(1).normal(size=(150, 170, 3)).astype(dtype)
    with using(name):
        assert_same_bytes(_cpu.render_backward(*scene.astype(dtype)[:3], d_image, threads=n) for n in (*THREADS, 0))


@pytest.mark.parametrize("name", _cpu.instruction_sets())
def test_threads_do_not_change_the_losses(name):
    image, target = np.random.default_rng(2).uniform(size=(2, 150, 170, 3)).astype(np.float32)
    with using(name):
        for l2, l1, ssim in ((1, 0, 0), (0, 1, 0), (0.3, 0.2, 0.5)):
            assert_same_bytes(
                _cpu.loss_gradient(image, target, l2=l2, l1=l1, ssim=ssim, threads=n) for n in (*THREADS, 0)
            )
        assert_same_bytes([_cpu.ssim(image, target, threads=n)] for n in (*THREADS, 0))


def test_threads_do_not_change_the_number_of_pairs(scene):
    assert len({_cpu.count_pairs(*scene[:2], 150, 170, threads=n) for n in (*THREADS, 0)}) == 1


# Instruction sets


def test_instruction_sets():
    names = _cpu.instruction_sets()
    assert names[0] == "portable" and len(set(names)) == len(names)
    assert _cpu.instruction_set() in names
    with using("portable"):
        assert _cpu.instruction_set() == "portable"
    with pytest.raises(ValueError, match="x87"):
        _cpu.use_instruction_set("x87")
    assert _cpu.instruction_set() in names


# Arguments: a wrong type, layout or shape is refused rather than converted


def calls(scene):
    """Each function with good arguments, the positional ones as a list to be spoilt."""
    picture = np.zeros((8, 9, 3), np.float32)
    return {
        "render": (_cpu.render, [*scene, 8, 9]),
        "render_backward": (_cpu.render_backward, [*scene[:3], picture]),
        "loss_gradient": (_cpu.loss_gradient, [picture, picture]),
        "ssim": (_cpu.ssim, [picture, picture]),
        "count_pairs": (_cpu.count_pairs, [*scene[:2], 8, 9]),
        "draw": (_cpu.draw, [picture[..., 0].copy(), 5, 0]),
    }


SPOILERS = {
    "float16": lambda array: array.astype(np.float16),
    "int32": lambda array: array.astype(np.int32),
    "the other precision": lambda array: array.astype(np.float64),
    "byte-swapped": lambda array: array.astype(array.dtype.newbyteorder()),
    "Fortran order": np.asfortranarray,
    "strided": lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    "one axis less": lambda array: array[0],
    "one axis more": lambda array: array[None],
    "an axis too short": lambda array: np.ascontiguousarray(array[..., :-1]),
    "a list": lambda array: array.tolist(),
    "None": lambda array: None,
}


@pytest.mark.parametrize("spoiler", SPOILERS)
@pytest.mark.parametrize("function", ["render", "render_backward", "loss_gradient", "ssim", "count_pairs", "draw"])
def test_wrong_arrays_are_refused(scene, function, spoiler):
    call, good = calls(scene)[function]
    call(*good)
    for position, argument in enumerate(good):
        spoilt = SPOILERS[spoiler](argument) if isinstance(argument, np.ndarray) else argument
        if function == "draw" and spoiler == "an axis too short":
            continue  # any [H, W] will do there
        if spoilt is argument or (spoiler == "Fortran order" and spoilt.flags.c_contiguous):
            continue
        with pytest.raises((TypeError, ValueError)):
            call(*good[:position], spoilt, *good[position + 1 :])


@pytest.mark.parametrize("name", ["means", "log_cholesky", "colors"])
def test_lengths_that_differ_are_refused(scene, name):
    spoilt = scene._replace(**{name: getattr(scene, name)[:-1]})
    for call in (lambda: _cpu.render(*spoilt, 8, 9), lambda: _cpu.render_backward(*spoilt[:3], np.zeros((8, 9, 3)))):
        with pytest.raises((TypeError, ValueError)):
            call()
    if name != "colors":
        with pytest.raises(ValueError, match="same length"):
            _cpu.count_pairs(*spoilt[:2], 8, 9)


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, 0), (-1, 5), (5, -3), (1 << 40, 1), (1, 1 << 31)])
def test_sizes_that_cannot_be_are_refused(scene, height, width):
    for call in (lambda: _cpu.render(*scene, height, width), lambda: _cpu.count_pairs(*scene[:2], height, width)):
        with pytest.raises((TypeError, ValueError)):
            call()


def test_other_arguments_that_cannot_be_are_refused(scene):
    picture = np.zeros((8, 9, 3), np.float32)
    for call in (
        lambda: _cpu.render(*scene, 8.5, 9),
        lambda: _cpu.render(*scene, 8, 9, cutoff=0),
        lambda: _cpu.render(*scene, 8, 9, cutoff=-1.0),
        lambda: _cpu.render(*scene, 8, 9, cutoff=float("nan")),
        lambda: _cpu.render(*scene, 8, 9, 5.0),
        lambda: _cpu.loss_gradient(picture, picture, l1=-1),
        lambda: _cpu.loss_gradient(picture, np.zeros((9, 8, 3), np.float32)),
        lambda: _cpu.loss_gradient(np.zeros((0, 9, 3), np.float32), np.zeros((0, 9, 3), np.float32)),
        lambda: _cpu.ssim(picture, picture[..., :1].copy()),
        lambda: _cpu.draw(picture[..., 0].copy(), -1, 0),
        lambda: _cpu.draw(np.zeros((0, 4), np.float32), 1, 0),
    ):
        with pytest.raises((TypeError, ValueError)):
            call()


def test_arguments_are_left_as_they_were(scene):
    kept = [array.copy() for array in scene]
    read_only = [array.copy() for array in scene]
    for array in read_only:
        array.flags.writeable = False
    picture = _cpu.render(*read_only, 20, 30)
    before = picture.copy()
    _cpu.render_backward(*read_only[:3], picture)
    _cpu.loss_gradient(picture, picture, ssim=1)
    np.testing.assert_array_equal(picture, before)
    for array, expected in zip(read_only, kept, strict=True):
        np.testing.assert_array_equal(array, expected)


# Draws


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(3)
    return (rng.uniform(size=(23, 31)) ** 6 * (rng.uniform(size=(23, 31)) > 0.3)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 7, 100, 5000])
def test_draws_are_proportional_and_stratified(weights, count):
    """One draw per stratum of mass 1 / count: a pixel gets its share, give or take less than two."""
    drawn = _cpu.draw(weights, count, 4)
    assert drawn.dtype == np.int64 and drawn.shape == (count,)
    assert (np.diff(drawn) >= 0).all()
    assert drawn.min() >= 0 and drawn.max() < weights.size
    share = np.bincount(drawn, minlength=weights.size) - count * np.float64(weights.ravel()) / weights.sum()
    assert abs(share).max() < 2
    # And so does every run of pixels: the whole distribution stays within two draws.
    assert abs(np.cumsum(share)).max() < 2


def test_draws_are_unbiased(weights):
    """Many seeds: the mean count of each pixel is its share, within five standard errors of a binomial."""
    seeds, count = 400, 50
    counts = np.bincount(
        np.concatenate([_cpu.draw(weights, count, seed) for seed in range(seeds)]), minlength=weights.size
    )
    expected = seeds * count * np.float64(weights.ravel()) / weights.sum()
    assert (abs(counts - expected) <= 5 * np.sqrt(expected) + 1e-9).all()


def test_pixels_of_no_weight_are_never_drawn(weights):
    assert (weights.ravel()[_cpu.draw(weights, 20_000, 5)] > 0).all()
    single = np.zeros((40, 50), np.float32)
    single[17, 3] = 1e-30
    np.testing.assert_array_equal(_cpu.draw(single, 9, 6), 17 * 50 + 3)


def test_the_seed_decides_the_draw(weights):
    np.testing.assert_array_equal(_cpu.draw(weights, 60, 7), _cpu.draw(weights, 60, 7))
    assert (_cpu.draw(weights, 60, 7) != _cpu.draw(weights, 60, 8)).any()


def test_no_weight_anywhere_draws_uniformly():
    drawn = _cpu.draw(np.zeros((20, 30), np.float32), 6000, 9)
    share = np.bincount(drawn, minlength=600) - 10
    assert abs(share).max() < 2


def test_draws_of_none_and_of_more_than_there_are_pixels():
    assert _cpu.draw(np.ones((3, 4), np.float32), 0, 0).shape == (0,)
    np.testing.assert_allclose(np.bincount(_cpu.draw(np.ones((3, 4), np.float32), 1200, 1)), 100, atol=2)


def test_a_draw_spreads_over_a_large_picture():
    """The running sum must not lose small weights behind a large one, as it would in float32."""
    flat = np.ones((1000, 2000), np.float32)
    flat[0, 0] = 1e6
    drawn = _cpu.draw(flat, 3000, 2)
    assert np.sum(drawn == 0) == pytest.approx(1000, abs=2)
    assert np.sum(drawn >= 1_000_000) == pytest.approx(1000, abs=2)
