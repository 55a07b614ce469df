"""fit and fit_steps: what comes out of them, on photos and on pictures that are hard to fit."""

import inspect
import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

from splat2d import FitConfig, InputError, fit, fit_steps, fitting, psnr, render, ssim
from splat2d.engine import Optimizer
from splat2d.fitting import RECIPES, THINNEST, crowd_factor, log_thinnest, relocations_in

ONE_CORE = {"preset": "fast", "threads": 1}  # so that a busy machine is no slower than its cores
FAST = {**ONE_CORE, "steps": 100}
MIX = "0.5*l2+0.3*l1+0.2*ssim"
EDGE = 8  # pixels of the frame whose quality is compared with that of the inside


@cache
def picture(name):
    pixels = getattr(skimage.data, name)()
    return np.float32(pixels.reshape(*pixels.shape[:2], -1)) / 255


def crop(name, x, y, size=96):
    return np.ascontiguousarray(picture(name)[y : y + size, x : x + size])


def face(size=96):
    return crop("astronaut", 170, 40, size)


def content(splats):
    arrays = (splats.means, splats.log_cholesky, splats.colors, splats.background)
    return tuple(array.tobytes() for array in arrays)


def mean_square(error):
    return float(np.square(error, dtype=np.float64).mean())


# A photo


@pytest.mark.parametrize(
    ("name", "x", "y", "expected"),
    [("astronaut", 170, 40, 30.5), ("coffee", 200, 100, 37.5), ("camera", 160, 60, 31.5)],
)
def test_a_photo(name, x, y, expected):
    image = crop(name, x, y, 128)
    result = fit(image, splats=400, preset="fast", steps=200)
    assert len(result.splats) == 400
    assert (result.splats.height, result.splats.width, result.splats.channels) == image.shape
    assert result.steps == 200 and result.seconds > 0
    assert result.history[-1] == (200, 400, result.psnr)
    assert result.psnr == pytest.approx(psnr(render(result.splats), image), abs=0.01)
    assert result.psnr > expected
    # Far better than the mean colour, and than the sparse state that the fit begins with.
    assert result.psnr > of_mean_color(image) + 10
    assert result.psnr > result.history[0][2] + 8


def test_more_splats_more_detail():
    values = [fit(face(), splats=count, **FAST).psnr for count in (60, 120, 240, 480)]
    assert all(more > fewer + 1 for fewer, more in pairwise(values))


def test_more_steps_more_detail():
    values = [fit(face(), splats=240, **ONE_CORE, steps=steps).psnr for steps in (10, 40, 160)]
    assert all(more > fewer + 1 for fewer, more in pairwise(values))


def test_without_a_budget_the_count_follows_the_size():
    small, large = (len(fit(face(size), **ONE_CORE, steps=10).splats) for size in (48, 96))
    assert 20 <= small <= 48 * 48 / 10 and large == pytest.approx(4 * small, abs=4)


@pytest.mark.parametrize(("preset", "steps"), [("fast", 500), ("balanced", 1000)])
def test_presets_know_their_steps(preset, steps):
    result = fit(face(48), splats=60, preset=preset)
    assert result.steps == steps and result.psnr > 28


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_a_handful_of_steps_spends_the_whole_budget(steps):
    result = fit(face(48), splats=50, **ONE_CORE, steps=steps)
    assert (len(result.splats), result.steps) == (50, steps)


def test_no_direction_is_preferred():
    image, turns = face(), (lambda a: a, lambda a: a[:, ::-1], lambda a: a[::-1], lambda a: a.transpose(1, 0, 2))
    values = [
        np.mean([fit(turn(image), splats=240, seed=seed, **FAST).psnr for seed in range(3)])  # also: any strides
        for turn in turns
    ]
    assert max(values) - min(values) < 0.5


def across_the_ridge(splats):
    """Standard deviations, pixels."""
    a, b, c = splats.log_cholesky.astype(np.float64).T
    return np.exp(c) / np.hypot(1, b * np.exp(-a))


def test_dense_splats_may_be_thinner():
    sparse, dense = (across_the_ridge(fit(face(), splats=count, **FAST).splats).min() for count in (200, 1500))
    assert sparse > 0.496
    assert 0.299 < dense < 0.4


def test_the_limits_follow_the_density():
    sizes = [math.exp(log_thinnest(pixels)) for pixels in (0.1, 4, 7.3, 12, 25, 1000)]
    assert sizes == sorted(sizes)
    assert sizes[:2] == pytest.approx([THINNEST, THINNEST])
    assert sizes[-1] == pytest.approx(math.exp(Optimizer().log_min))
    rates = [crowd_factor(pixels) for pixels in (0.1, 2, 8, 12, 16, 1000)]
    assert rates == sorted(rates)
    assert rates[-2:] == [1, 1]
    assert crowd_factor(0.01) < rates[0] < 0.5


def test_longer_fits_relocate_oftener():
    recipe = RECIPES["best"]
    share = recipe.relocation_end - recipe.growth_end
    often = [relocations_in(recipe, steps, share) for steps in (100, 1000, 15_000, 30_000)]
    assert often == [10, 30, 120, 240]


@pytest.mark.parametrize("factor", [1024, -4, 0.1, 0.001])
def test_bright_and_faint_pictures_are_fitted_as_well(factor):
    image = face(64)
    plain, other = (fit(image * np.float32(f), splats=100, **FAST) for f in (1, factor))
    error = mean_square((render(other.splats) - image * np.float32(factor)) / factor)
    assert -10 * math.log10(error) > plain.psnr - 0.7


def test_beyond_0_and_1_errors_count_less(monkeypatch):
    """Lines as black as white can be: what a clamp hides may be used to draw the rest."""
    image = np.ones((64, 64, 1), np.float32)
    image[::8] = image[:, ::8] = 0
    free = fit(image, splats=120, **FAST)
    monkeypatch.setattr(fitting, "OUTSIDE", 1.0)
    assert free.psnr > fit(image, splats=120, **FAST).psnr + 0.5


def test_a_value_is_a_limit_only_where_pixels_are_clamped(monkeypatch):
    """Values are of other units in faint pictures, and no limits in bright ones."""
    for image in (face() * np.float32(0.2), face() * 2, face() - 0.5):
        monkeypatch.setattr(fitting, "OUTSIDE", 0.1)
        one = fit(image, splats=30, **FAST)
        monkeypatch.setattr(fitting, "OUTSIDE", 1.0)
        assert content(one.splats) == content(fit(image, splats=30, **FAST).splats)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_any_float_type(dtype):
    image = np.float16(face(48)).astype(dtype)  # values that every type holds
    assert content(fit(image, splats=30, **FAST).splats) == content(fit(np.float32(image), splats=30, **FAST).splats)


# Losses


def test_each_loss_is_good_at_what_it_measures():
    images = [crop("astronaut", 170, 40, 128), crop("coffee", 200, 100, 128), crop("camera", 160, 60, 128)]
    rendered = {
        loss: [render(fit(image, splats=150, **ONE_CORE, steps=200, loss=loss).splats) for image in images]
        for loss in ("l2", "l1", "l2+0.2*ssim")
    }

    def mean(measure, loss):
        return np.mean([measure(out, image) for out, image in zip(rendered[loss], images, strict=True)])

    def absolute(out, image):
        return abs(out - image).mean()

    assert mean(psnr, "l2") > mean(psnr, "l1") + 0.1
    assert mean(absolute, "l1") < 0.98 * mean(absolute, "l2")
    assert mean(ssim, "l2+0.2*ssim") > mean(ssim, "l2") + 0.01


@pytest.mark.parametrize("loss", ["l1", "ssim", MIX])
def test_every_loss_approaches_the_picture(loss):
    result = fit(face(), splats=240, loss=loss, **FAST)
    assert result.psnr > 28 and result.psnr == pytest.approx(psnr(render(result.splats), face()), abs=0.01)


# Progress


@pytest.mark.parametrize("budget", [{"splats": 150}, {"psnr": 27.0}])
def test_progress(budget):
    image = face(64)
    steps = fit_steps(image, FitConfig(**budget, **FAST))
    assert inspect.isgenerator(steps)
    events = list(steps)
    assert len(events) > 3
    for before, after in pairwise(events):
        assert before.step <= after.step and before.count <= after.count and before.seconds <= after.seconds
    for event in events:
        assert 0 < event.step <= event.steps
        assert event.count == len(event.splats)
        assert event.psnr == pytest.approx(psnr(render(event.splats), image), abs=0.01)
    assert len({event.step for event in events[:-1]}) == len(events) - 1
    last = events[-1]
    assert last.best and last.step == last.steps
    # Only states with the final number of splats can be the best of a fit to a count.
    if "splats" in budget:
        assert all(event.count == 150 for event in events if event.best)
        assert {event.steps for event in events} == {100}


def test_the_best_state_is_returned():
    """A single splat on noise is soon as good as it gets; from then on steps lead away as often as nearer."""
    worse_at_the_end = 0
    for seed in range(8):
        image = np.random.default_rng(seed).random((8, 8, 3), dtype=np.float32)
        *events, last = fit_steps(image, FitConfig(splats=1, **ONE_CORE, steps=20))
        best = [event for event in events if event.best]
        assert best[0] is events[0]  # the first has no rival
        assert content(last.splats) == content(best[-1].splats) and last.psnr == best[-1].psnr
        errors = [mean_square(render(event.splats) - image) for event in events]  # the loss is taken without a clamp
        assert mean_square(render(last.splats) - image) <= min(errors) * (1 + 1e-5)
        for i, event in enumerate(events[1:], start=1):
            ratio = errors[i] / min(errors[:i])
            assert ratio <= 1 + 1e-5 if event.best else ratio >= 1 - 1e-5
        worse_at_the_end += not events[-1].best
    assert worse_at_the_end > 0


def test_the_result_is_as_good_as_any_full_state():
    for count in (30, 300):
        result = fit(face(64), splats=count, **FAST)
        assert result.psnr > max(value for _, splats, value in result.history if splats == count) - 0.05


def test_leaving_early():
    image, config = face(64), FitConfig(splats=100, **FAST)
    complete = [content(event.splats) for event in fit_steps(image, config)]
    for events in (1, 2, 5):
        steps = fit_steps(image, config)
        assert [content(next(steps).splats) for _ in range(events)] == complete[:events]
        steps.close()
    # Two fits by turns do not disturb each other, nor does one that was left.
    turns = list(zip(fit_steps(image, config), fit_steps(image, config), strict=True))
    assert [(content(one.splats), content(other.splats)) for one, other in turns] == [(c, c) for c in complete]


def test_a_state_stays_as_it_was():
    steps = fit_steps(face(64), FitConfig(splats=100, **FAST))
    first = next(steps)
    before = content(first.splats)
    list(steps)
    assert content(first.splats) == before


def test_the_picture_is_left_alone():
    image = face(48)
    before = image.copy()
    image.flags.writeable = False
    fit(image, splats=20, **FAST)
    np.testing.assert_array_equal(image, before)


# Determinism


@pytest.mark.parametrize("loss", ["l2", MIX])
@pytest.mark.parametrize("budget", [{"splats": 300}, {"psnr": 26.0}])
def test_threads_do_not_change_a_byte(loss, budget):
    image = crop("coffee", 200, 100, 150)[:, :130]
    settings = {**FAST, **budget, "loss": loss}
    results = [fit(image, **{**settings, "threads": threads}) for threads in (1, 2, 3, None)]
    assert len({(*content(result.splats), result.history) for result in results}) == 1


def test_a_seed_decides():
    results = [fit(face(64), splats=100, seed=seed, **FAST) for seed in (0, 0, 1, 2**40)]
    one, again, *others = (content(result.splats) for result in results)
    assert one == again
    assert len({one, *others}) == 3
    values = [result.psnr for result in results]
    assert max(values) - min(values) < 1.5


# A budget in dB


def test_psnr_budget():
    image = face()
    results = {target: fit(image, psnr=target, **FAST) for target in (22, 26, 30, 34)}
    for target, result in results.items():
        assert result.psnr >= target
        assert result.psnr == pytest.approx(psnr(render(result.splats), image), abs=0.01)
    counts = [len(result.splats) for result in results.values()]
    assert all(more > 1.5 * fewer for fewer, more in pairwise(counts))


def test_psnr_budget_on_noise():
    """Where splats bring little each, the first count that seemed enough was not."""
    image = np.random.default_rng(0).random((16, 16, 3), dtype=np.float32)
    *events, last = fit_steps(image, FitConfig(psnr=12, **FAST))
    assert of_mean_color(image) < 11.5 and last.psnr >= 12 and last.count < 64
    assert events[-1].steps > events[0].steps and all(event.step <= event.steps for event in events)


def test_psnr_budget_is_not_overspent():
    image = face(128)
    result = fit(image, psnr=32, **ONE_CORE)
    assert 32 <= result.psnr < 34
    assert fit(image, splats=len(result.splats) * 2 // 3, **ONE_CORE).psnr < 32


def test_psnr_budget_takes_more_splats_for_more_structure():
    smooth, busy = crop("coffee", 200, 100), crop("astronaut", 170, 40)
    assert len(fit(busy, psnr=30, **FAST).splats) > 2 * len(fit(smooth, psnr=30, **FAST).splats)


@pytest.mark.parametrize("value", [0, 0.4, 1, -3, 5000])
def test_psnr_budget_on_a_flat_picture(value):
    result = fit(np.full((50, 60, 3), value, np.float32), psnr=45, **FAST)
    assert len(result.splats) <= 3 and result.psnr > 60


def test_psnr_beyond_reach():
    image = np.random.default_rng(0).random((8, 8, 3), dtype=np.float32)
    result = fit(image, psnr=190, **FAST)
    assert len(result.splats) == 64  # one per pixel is where it gives up
    full = [value for _, count, value in result.history if count == 64]
    assert max(full) - 0.05 < result.psnr < 190


# Pictures that are hard to fit


def rows_and_columns():
    noise = np.random.default_rng(1).random((1, 60, 3), dtype=np.float32)
    return {"row": noise, "column": noise.transpose(1, 0, 2), "grey row": noise[..., :1]}


def flat():
    return {
        "flat": np.full((40, 50, 3), 0.37, np.float32),
        "flat grey": np.full((40, 50, 1), 0.63, np.float32),
        "black": np.zeros((40, 50, 3), np.float32),
        "white": np.ones((40, 50, 3), np.float32),
        "one pixel": np.float32([[[0.2, 0.5, 0.9]]]),
        "flat row": np.full((1, 60, 3), 0.3, np.float32),
        "flat and clear": np.zeros((40, 50, 4), np.float32),
        "nearly flat": np.float32(0.5) + np.random.default_rng(2).uniform(-2e-3, 2e-3, (40, 50, 3)).astype(np.float32),
    }


def hostile():
    rng = np.random.default_rng(3)
    x, y = np.meshgrid(np.arange(50), np.arange(40))
    spark = np.zeros((40, 50, 3), np.float32)
    spark[20, 25] = 1
    photo = face(48)
    return {
        **rows_and_columns(),
        "noise": rng.random((40, 50, 3), dtype=np.float32),
        "checkerboard": np.float32((x + y) % 2)[..., None],
        "stripes": np.float32(x % 2)[..., None],
        "step": np.float32(x >= 25)[..., None],
        "spark": spark,
        "bright spark": spark * np.float32(1e6),
        "tiny": rng.random((8, 8, 3), dtype=np.float32),
        "high dynamic range": np.exp(np.float32(math.log(1e4)) * photo),
        "high dynamic range noise": np.exp(rng.uniform(0, math.log(1e4), (40, 50, 3))).astype(np.float32),
        "negative values": photo * 4 - 2,
        "negative only": -1 - photo,
        "huge values": photo * np.float32(1e30),
        "dark": photo * np.float32(1e-3),
        "rgba": np.concatenate([photo / 2, np.full((48, 48, 1), 0.5, np.float32)], axis=2),
        "two channels": photo[..., :2],
        "five channels": np.concatenate([photo, photo[..., :2]], axis=2),
    }


def of_mean_color(image):
    """PSNR in dB of the mean colour alone, which is what a fit begins with."""
    peak = 1 if image.min() >= 0 and image.max() <= 1 else abs(image).max()
    return -10 * math.log10(mean_square((image - image.mean((0, 1), dtype=np.float64)) / peak))


def fitted(image, count, loss="l2"):
    """A fit of 60 steps whose result holds together: the promised count, finite splats, finite render, true PSNR."""
    result = fit(image, splats=count, steps=60, loss=loss, **ONE_CORE)
    rendered = render(result.splats)
    assert len(result.splats) == count
    assert rendered.shape == image.shape and np.isfinite(rendered).all()
    assert not any(math.isnan(value) for _, _, value in result.history)
    # Exact to float32: the last digits of an excellent fit depend on the order of a sum.
    measured = psnr(rendered, image)
    faint = abs(image - image.mean((0, 1))).max() < 0.25  # judged without a clamp, which can only help
    slack = math.inf if faint else 0.01
    assert -0.01 < measured - result.psnr < slack or min(result.psnr, measured) > 80
    return result, rendered


@pytest.mark.parametrize("count", [1, 30, 400])
@pytest.mark.parametrize("name", flat())
def test_flat_pictures(name, count):
    image = flat()[name]
    _, rendered = fitted(image, count)
    assert abs(rendered - image).max() < 0.02


@pytest.mark.parametrize("loss", ["l2", MIX])
@pytest.mark.parametrize("count", [1, 30, 400])
@pytest.mark.parametrize("name", hostile())
def test_hostile_pictures(name, count, loss):
    image = hostile()[name]
    result, _ = fitted(image, count, loss)
    if loss == "l2":  # at least as good as the mean colour alone, or close beyond what 8 bits can hold
        assert result.psnr > min(of_mean_color(image), 60) - 0.1


@pytest.mark.parametrize("count", [30, 400])
@pytest.mark.parametrize("name", ["high dynamic range", "negative values", "rgba", "two channels", "five channels"])
def test_unusual_pictures_of_a_photo_improve(name, count):
    result, _ = fitted(hostile()[name], count)
    assert result.psnr > result.history[0][2] + 5


@pytest.mark.parametrize("name", ["row", "column"])
def test_a_line_of_pixels_is_resolved(name):
    image = rows_and_columns()[name]
    _, rendered = fitted(image, 400)
    assert abs(rendered - image).max() < 0.1


@pytest.mark.parametrize("per_pixel", [2, 5])
def test_more_splats_than_pixels(per_pixel):
    image = face(12)
    result, rendered = fitted(image, per_pixel * 144)
    assert result.psnr > 42 and abs(rendered - image).max() < 0.05


@pytest.mark.parametrize("size", [2, 3, 12])
def test_a_hundred_splats_per_pixel(size):
    """They move as one: whatever does not reckon with that overshoots more at each step."""
    image = face(size)
    result, _ = fitted(image, 100 * size**2)
    assert result.psnr > 45


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_any_picture_holds_together(data):
    height, width, channels = (data.draw(st.integers(1, most)) for most in (24, 24, 5))
    exponent, offset = data.draw(st.integers(-4, 5)), data.draw(st.sampled_from([0, 0, -1, 10]))
    count, seed = data.draw(st.integers(1, 2 * height * width)), data.draw(st.integers(0, 99))
    values = np.random.default_rng(seed).random((height, width, channels), dtype=np.float32)
    if data.draw(st.booleans()):  # rare bright pixels on black rather than noise
        values *= values > 0.95
    fitted((values + np.float32(offset)) * np.float32(10.0**exponent), count, data.draw(st.sampled_from(["l2", MIX])))


# The border


def test_the_border_is_fitted_as_well_as_the_inside():
    """Each tile is fitted alone and as the middle of a larger piece with as many splats per pixel.

    So the same pixels are once a border and once an inside, whatever they show.
    """
    tile, margin, count = 128, 16, 400
    frame = np.ones((tile, tile), bool)
    frame[EDGE:-EDGE, EDGE:-EDGE] = False
    inner = slice(margin, margin + tile)

    def fitted_pixels(image, count):
        return render(fit(image, splats=count, steps=200, **ONE_CORE).splats)

    def frame_to_inside(square):
        """How many dB more the frame has than the inside; square: [tile, tile]"""
        return 10 * math.log10(square[frame].mean() / square[~frame].mean())

    relative_to_contrast, relative_to_itself = [], []
    for name in ("astronaut", "coffee", "camera", "rocket"):
        for y, x in ((20, 30), (20, 220), (200, 30), (200, 220)):
            larger = crop(name, x, y, tile + 2 * margin)
            image = larger[inner, inner]
            alone = fitted_pixels(image, count)
            within = fitted_pixels(larger, round(count * larger.size / image.size))[inner, inner]
            contrast = sum(np.square(gradient).mean(2) for gradient in np.gradient(image, axis=(0, 1)))
            of_alone = frame_to_inside(np.square(alone - image).mean(2))
            relative_to_contrast.append(of_alone - frame_to_inside(contrast))
            relative_to_itself.append(of_alone - frame_to_inside(np.square(within - image).mean(2)))
    assert np.mean(relative_to_contrast) <= 1
    assert np.mean(relative_to_itself) <= 1


# Bad input


def with_pixel(*values):
    image = face(24)
    image.reshape(-1)[: len(values)] = values
    return image


@pytest.mark.parametrize(
    ("image", "what"),
    [
        (face(24)[..., 0], r"float32 \(24, 24\)"),
        (face(24)[None], r"float32 \(1, 24, 24, 3\)"),
        (np.uint8(255 * face(24)), "uint8"),
        (face(24) > 0.5, "bool"),
        (face(24) + 0j, "complex64"),
        (face(24).tolist(), "list"),
        (None, "NoneType"),
        (face(24)[:0], "no pixels"),
        (face(24)[..., :0], "no pixels"),
        (with_pixel(math.nan), "NaN or infinite"),
        (with_pixel(math.inf), "NaN or infinite"),
        (with_pixel(-math.inf), "NaN or infinite"),
        (with_pixel(math.inf, -math.inf), "NaN or infinite"),
    ],
)
def test_pictures_that_are_none(image, what):
    with pytest.raises(InputError, match=rf"^fit: .*{what}.*$") as refused:
        fit(image, splats=10, **FAST)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"splats": 10, "psnr": 30}, "two budgets"),
        ({"splats": 0}, "splats: must be at least 1"),
        ({"splats": -5}, "splats: must be at least 1"),
        ({"psnr": 0}, "psnr: "),
        ({"psnr": math.nan}, "psnr: "),
        ({"steps": 0}, "steps: must be at least 1"),
        ({"threads": 0}, "threads: must be at least 1"),
        ({"seed": -1}, "seed: "),
        ({"preset": "good"}, 'preset: "good" is unknown'),
        ({"loss": "l3"}, 'loss: cannot read "l3"'),
    ],
)
def test_options_that_cannot_be_meant(options, what):
    with pytest.raises(InputError, match=f"^{what}") as refused:
        fit(face(24), **options)
    assert "\n" not in str(refused.value)
