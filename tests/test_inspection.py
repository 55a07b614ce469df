"""The numbers that info and compare print, against closed forms; and how files are told apart."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import splat2d
from splat2d import codec, files
from splat2d.inspection import PictureInfo, SplatsInfo, compare, describe, describe_coding


def test_axes_of_a_rotated_splat() -> None:
    turn = np.array([[math.cos(0.3), -math.sin(0.3)], [math.sin(0.3), math.cos(0.3)]])
    low = np.linalg.cholesky(turn @ np.diag([5.0**2, 0.5**2]) @ turn.T)
    needle = [math.log(low[0, 0]), low[1, 0], math.log(low[1, 1])]
    splats = splat2d.Splats([[4, 3], [-1, 3]], [needle, needle], [[1, -2, 0], [0, 3, 0]], 8, 6, [0.5, 0, 0])
    info = describe(splats)
    assert isinstance(info, SplatsInfo)
    assert info.long_axis == pytest.approx([5] * 5, rel=1e-5) and info.short_axis == pytest.approx([0.5] * 5, rel=1e-5)
    assert (info.splats, info.outside, info.amplitude, info.background) == (2, 1, [-2, 3], [0.5, 0, 0])


def test_extreme_splats_have_finite_axes() -> None:
    wild = [[100, 0, -100], [-100, 1e9, 100], [0, 1e9, 0]]
    info = describe(splat2d.Splats(np.zeros((3, 2)), wild, np.zeros((3, 1)), 8, 6, [0]))
    assert isinstance(info, SplatsInfo)
    assert np.isfinite(info.long_axis + info.short_axis).all()


def test_no_splats_at_all() -> None:
    info = describe(splat2d.Splats(np.zeros((0, 2)), np.zeros((0, 3)), np.zeros((0, 3)), 8, 6, [0, 0, 0]))
    assert isinstance(info, SplatsInfo)
    assert info.splats == 0 and info.long_axis == [] and info.amplitude == []


def test_what_a_profile_does_not_have_is_none() -> None:
    splats = splat2d.Splats([[4, 3]], [[1, 0, 1]], [[1]], 8, 6, [0])
    data = splat2d.encode(splats, quality=50)
    scalar = describe_coding(codec.read(data), len(data))
    assert (scalar.profile, scalar.profile_name, scalar.quality, scalar.tile) == (1, "scalar", 50, None)
    assert [*scalar.bits] == ["positions", "refinement", "shape", "colour", "metadata", "overhead"]
    assert scalar.cell is not None and scalar.margin is not None

    data = splat2d.encode(splats, profile="vector")
    contents = codec.read(data)
    vector = describe_coding(contents, len(data))
    assert (vector.profile, vector.profile_name, vector.tile) == (2, "vector", contents.container.header.margin)
    assert (vector.quality, vector.quality_index, vector.cell, vector.margin) == (None, None, None, None)
    assert [*vector.bits] == ["tables", "positions", "shape", "colour", "metadata", "overhead"]
    assert sum(vector.bits.values()) == 8 * len(data)
    assert (vector.bits["positions"], vector.bits["shape"], vector.bits["colour"]) == (16, 18, 6)  # and no bit is spare


def test_a_picture() -> None:
    image = np.zeros((2, 3, 1), np.float32)
    image[0, 1] = 1.5
    assert describe(image) == PictureInfo(width=3, height=2, channels=1, range=[0, 1.5], mean=[0.25])


@pytest.mark.parametrize("peak", [1.0, 8.0])
def test_the_worst_tile(peak: float) -> None:
    reference = np.zeros((130, 200, 3), np.float32)
    reference[0, 0] = peak
    image = reference.copy()
    image[:20] += 0.01 * peak
    image[129, 150] += 0.5 * peak  # in a tile of 64 x 2 pixels
    found = compare(image, reference)
    worst = found.worst
    assert (worst.x, worst.y, worst.width, worst.height) == (128, 128, 64, 2)
    assert worst.psnr == pytest.approx(-10 * math.log10(0.5**2 / 128), abs=1e-4)
    assert found.max_error == pytest.approx(0.5 * peak)
    assert found.psnr == splat2d.psnr(image, reference)


def test_values_beyond_one_count_only_where_the_reference_has_them() -> None:
    reference = np.ones((12, 12, 1), np.float32)
    assert compare(reference * 3, reference).psnr == math.inf
    assert compare(reference * 3, reference).max_error == 0


def test_pictures_that_do_not_match() -> None:
    image = np.zeros((12, 13, 3), np.float32)
    with pytest.raises(splat2d.InputError, match="sizes of the two differ"):
        compare(image, image[:, :12])
    with pytest.raises(splat2d.InputError, match="channels of the two differ"):
        compare(image, image[..., :1])


def test_an_npz_may_hold_splats_or_a_picture(tmp_path: Path) -> None:
    splats = splat2d.Splats([[4, 3]], [[0, 0, 0]], [[1]], 8, 6, [0])
    image = np.full((2, 3, 1), 7, np.float32)
    splat2d.save(tmp_path / "splats.npz", splats)
    splat2d.save_image(tmp_path / "picture.npz", image)
    read = files.read(tmp_path / "splats.npz")
    assert isinstance(read, splat2d.Splats) and len(read) == 1
    np.testing.assert_array_equal(files.read(tmp_path / "picture.npz"), image)
