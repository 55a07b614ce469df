"""The demo: its picture, what it writes, and that its pictures show what they claim."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import splat2d
from splat2d import compression, demo, scene
from splat2d.cli import main
from splat2d.compression import Schedule


@pytest.fixture(scope="module")
def picture() -> demo.Array:
    return scene.draw()


def test_the_picture_is_the_same_every_time_and_has_all_it_should(picture: demo.Array) -> None:
    assert picture.shape == (512, 768, 3) and picture.dtype == np.float32
    assert picture.min() >= 0 and picture.max() <= 1
    np.testing.assert_array_equal(picture, scene.draw())
    difference = np.abs(np.diff(picture.mean(axis=2), axis=1))
    sky, rocks, text = difference[150:170, 400:700], difference[270:325, 150:480], difference[146:156, 44:300]
    assert 0 < sky.mean() < 0.004, "a gradient"
    assert rocks.mean() > 4 * sky.mean(), "texture"
    assert difference[300:370, 570:640].max() > 0.5, "edges"
    assert text.mean() > 0.05, "fine text"


def test_demo_writes_all_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], picture: demo.Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Schedule(fit=20, train=40, stages=2, stage_steps=5)
    monkeypatch.setattr(compression, "SCHEDULES", dict.fromkeys(compression.SCHEDULES, short))
    folder = tmp_path / "new" / "demo"
    assert main(["demo", "-o", str(folder)]) == 0
    out = capsys.readouterr().out
    sizes = {}
    for path in sorted(folder.iterdir()):
        assert str(path) in out
        if path.suffix == ".png":
            sizes[path.name] = splat2d.load_image(path).shape
    assert sizes == {
        "fit.png": (512, 768, 3),
        "original.png": (512, 768, 3),
        "splats.png": (1024, 1536, 3),
        "zoom.png": (634, 1060, 3),
    }
    np.testing.assert_allclose(splat2d.load_image(folder / "original.png"), picture, atol=0.51 / 255)
    splats = splat2d.load(folder / "demo.s2d")
    shown = splat2d.load_image(folder / "fit.png")
    np.testing.assert_allclose(shown, splat2d.render(splats).clip(0, 1), atol=0.51 / 255)
    for name in ("original.png", "demo.s2d", "demo.jpg"):
        assert re.search(rf"{re.escape(str(folder / name))} +{(folder / name).stat().st_size} bytes", out)
    assert f"{len(splats)} splats" in out
    jpeg = splat2d.load_image(folder / "demo.jpg")
    assert splat2d.psnr(jpeg, picture) >= splat2d.psnr(splat2d.render(splats), picture)


def test_the_jpeg_file_is_the_smallest_as_close(picture: demo.Array) -> None:
    part = np.ascontiguousarray(picture[128:256, :128])
    found = [demo.jpeg(part, decibels) for decibels in (22, 28, 38)]
    for (data, reached), wanted in zip(found, (22, 28, 38), strict=True):
        assert wanted <= reached < wanted + 2
        with Image.open(io.BytesIO(data)) as shown:
            assert splat2d.psnr(np.asarray(shown, np.float32) / 255, part) == pytest.approx(reached, abs=1e-4)
    assert len(found[0][0]) < len(found[1][0]) < len(found[2][0])
    _, closest = demo.jpeg(part, 90)
    assert 40 < closest < 90


def test_zoom_shows_the_splats_left_and_the_pixels_right() -> None:
    width, height = 768, 512
    red = splat2d.Splats([[0, 0]], [[0, 0, 0]], [[0, 0, 0]], width, height, [1, 0, 0])
    sheet = demo.zoom(red, np.full((height, width, 3), (0, 0, 1), np.float32))
    middle = sheet.shape[1] // 2
    np.testing.assert_array_equal(sheet[100, middle - 100], (1, 0, 0))
    np.testing.assert_array_equal(sheet[100, middle + 100], (0, 0, 1))


def test_ellipses_lie_where_the_splats_are() -> None:
    # One splat along the diagonal: L = [[32, 0], [32, 8]] has its long axis to the lower right.
    splats = splat2d.Splats([[80, 60]], [[np.log(32), 32, np.log(8)]], [[1, 1, 1]], 160, 120, [0, 0, 0])
    green = np.full((120, 160, 3), (0, 1, 0), np.float32)
    shown = demo.ellipses(splats, green)
    assert shown.shape == (240, 320, 3)
    inside = shown[..., 1] > 0.3
    rows, columns = np.nonzero(inside)
    assert abs(rows.mean() - 120) < 1 and abs(columns.mean() - 160) < 1
    # The area of the ellipse is pi r^2 det L with r = 0.7, and the picture is twice as large.
    assert inside.sum() == pytest.approx(np.pi * 0.7**2 * 256 * 4, rel=0.1)
    assert inside[140, 180] and not inside[140, 140]
    assert shown[120, 160, 1] == 1
