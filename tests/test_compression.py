"""compress(): budgets are kept, files hold what is said of them, and awkward pictures pass."""

import numpy as np
import pytest
import skimage.data

import splat2d
from splat2d import InputError, codec
from splat2d.compression import Compressed, compress, compress_steps
from splat2d.config import CompressConfig
from splat2d.fitting import Progress

FAST = {"preset": "fast", "device": "cpu"}


def photo(height=96, width=128, channels=3):
    """A part of a photo, at a fourth of its size."""
    pixels = skimage.data.astronaut()[: 4 * height, : 4 * width].astype(np.float32) / 255
    pixels = pixels.reshape(height, 4, width, 4, 3).mean((1, 3))
    return np.ascontiguousarray(
        np.resize(pixels, (height, width, channels)) if channels > 3 else pixels[..., :channels]
    )


@pytest.mark.parametrize("size", [500, 1500])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_budget_of_bytes_is_kept(size, channels):
    image = photo(channels=channels)
    result = compress(image, bytes=size, **FAST)
    assert 0.99 * size - 8 <= len(result.data) <= size  # a splat takes some 4 bytes
    decoded = splat2d.decode(result.data)
    np.testing.assert_array_equal(decoded.means, result.splats.means)
    np.testing.assert_array_equal(decoded.colors, result.splats.colors)
    assert splat2d.psnr(splat2d.render(decoded, device="cpu"), image) == pytest.approx(result.psnr, abs=1e-3)
    plain = np.broadcast_to(decoded.background, image.shape)
    assert result.psnr > splat2d.psnr(plain, image) + 3


def test_more_bytes_are_better():
    image = photo()
    found = [compress(image, bytes=size, **FAST).psnr for size in (400, 800, 1600)]
    assert found[0] + 1 < found[1]
    assert found[1] + 1 < found[2]


def test_training_beats_rounding_a_fit():
    """What the phases are for: the same bytes, spent on rounding a fit at once."""
    image = photo()
    trained = compress(image, bytes=1200, **FAST)
    best = 0.0
    for count in (250, 330, 420):
        splats = splat2d.fit(image, splats=count, steps=1000, device="cpu").splats
        for quality in range(10, 60, 2):
            data = codec.encode(splats, quality=quality)
            if len(data) <= 1200:
                best = max(best, splat2d.psnr(splat2d.render(splat2d.decode(data), device="cpu"), image))
    assert trained.psnr > best + 0.5


def test_quality_orders_size_and_error():
    image = photo()
    coarse, fine = (compress(image, quality=quality, **FAST) for quality in (20, 50))
    assert len(coarse.data) < len(fine.data)
    assert coarse.psnr < fine.psnr


def test_a_wanted_psnr_is_reached_by_the_decoded_file():
    image = photo()
    result = compress(image, psnr=27, **FAST)
    shown = splat2d.render(splat2d.decode(result.data), device="cpu")
    assert 27 <= splat2d.psnr(shown, image) < 27.6


def test_events():
    events = list(compress_steps(photo(), CompressConfig(bytes=900, **FAST)))
    assert all(isinstance(event, Progress) for event in events[:-1])
    assert isinstance(events[-1], Compressed)
    steps = [event.step for event in events[:-1]]
    assert steps == sorted(steps)
    assert events[-2].steps == events[-2].step == events[-1].steps


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_threads():
    image = photo()
    one, two = (compress(image, bytes=900, threads=threads, seed=3, **FAST).data for threads in (1, 2))
    assert one == two
    assert one != compress(image, bytes=900, seed=4, **FAST).data


@pytest.mark.parametrize(
    "image",
    [
        np.full((1, 1, 3), 0.3, np.float32),
        np.full((5, 4, 1), 0.7, np.float32),
        np.zeros((16, 16, 4), np.float32),
        np.linspace(0, 1, 40, dtype=np.float32).reshape(1, 40, 1),
        photo(24, 24, 4),
        0.5 + 0.001 * photo(24, 24),
        photo(24, 24) * 200 - 30,
        photo(12, 12, 7),
        np.random.default_rng(0).random((24, 24, 3), np.float32),
    ],
    ids=["pixel", "flat", "black", "row", "rgba", "faint", "bright", "channels", "noise"],
)
@pytest.mark.parametrize("budget", [{"bytes": 200}, {"quality": 40}])
def test_awkward_pictures(image, budget):
    result = compress(image, **budget, **FAST)
    assert len(result.data) <= budget.get("bytes", 10_000)
    shown = splat2d.render(splat2d.decode(result.data), device="cpu")
    assert shown.shape == image.shape
    flat = np.broadcast_to(image.mean((0, 1)), image.shape)
    assert np.mean((shown - image) ** 2) <= np.mean((flat - image) ** 2) + 1e-5


def test_an_impossible_budget_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"bytes: a file of this picture takes at least \d+ bytes, got 12") as caught:
        compress(photo(), bytes=12, **FAST)
    assert "\n" not in str(caught.value)
    least = int(str(caught.value).split("at least ")[1].split()[0])
    assert len(compress(photo(), bytes=least, **FAST).data) <= least


def test_a_psnr_out_of_reach_is_refused():
    with pytest.raises(InputError, match=r"psnr: .* dB is what this picture reaches"):
        compress(np.random.default_rng(1).random((16, 16, 3), np.float32), psnr=90, **FAST)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"bytes": 0}, "bytes"),
        ({"quality": 101}, "quality"),
        ({"quality": float("nan")}, "quality"),
        ({"psnr": -1}, "psnr"),
        ({"bytes": 100, "quality": 5}, "two budgets"),
    ],
)
def test_bad_budgets(bad, message):
    with pytest.raises(InputError, match=message):
        compress(photo(), **bad, **FAST)
