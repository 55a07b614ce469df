"""splat2d.exporting: SVG and PLY, drawn again by a second reading of each format, and by Chromium where it is."""

from __future__ import annotations

import math
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from skimage.data import astronaut

import splat2d
from splat2d import InputError, Splats, editing, exporting, psnr, render
from splat2d.cli import main

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def fitted() -> Splats:
    """A face of 96x80 pixels."""
    image = astronaut()[20:100, 165:261].astype(np.float32) / 255
    return splat2d.fit(image, splats=300, steps=150, device="cpu").splats


def over(picture: np.ndarray, weight: np.ndarray, color: np.ndarray) -> np.ndarray:
    return picture + weight[..., None] * (color - picture)


def centres(width: int, height: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)


def rgb(text: str) -> np.ndarray:
    return np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def draw_svg(text: str) -> np.ndarray:
    """What the elements that svg() uses mean: [H, W, 3]."""
    root = ElementTree.fromstring(text)
    width, height = (int(root.attrib[name]) for name in ("width", "height"))
    ramps = {
        gradient.attrib["id"]: [
            (float(stop.attrib["offset"]), float(stop.attrib["stop-opacity"]), rgb(stop.attrib["stop-color"]))
            for stop in gradient
        ]
        for gradient in root.iter(f"{SVG}radialGradient")
    }
    picture = np.empty((height, width, 3))
    picture[:] = rgb(root.find(f"{SVG}rect").attrib["fill"])
    for circle in root.iter(f"{SVG}circle"):
        m = [float(value) for value in circle.attrib["transform"][len("matrix(") : -1].split()]
        inverse = np.linalg.inv([[m[0], m[2]], [m[1], m[3]]])
        radius = np.linalg.norm((centres(width, height) - m[4:]) @ inverse.T, axis=-1)
        offsets, opacities, colors = zip(*ramps[circle.attrib["fill"][len("url(#") : -1]], strict=True)
        weight = np.interp(radius, offsets, opacities) * (radius <= 1) * float(circle.attrib["fill-opacity"])
        picture = over(picture, weight, colors[0])
    return picture.astype(np.float32)


def vertices(data: bytes) -> dict[str, np.ndarray]:
    header, _, body = data.partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    names = [line.split()[2] for line in lines if line.startswith("property float ")]
    count = next(int(line.split()[2]) for line in lines if line.startswith("element vertex "))
    table = np.frombuffer(body, "<f4").reshape(count, len(names)).astype(np.float64)
    return dict(zip(names, table.T, strict=True))


def draw_ply(data: bytes, width: int, height: int, nearest_last: str) -> np.ndarray:
    """From 4 units before the canvas, y down and so x to the left, as Kerbl et al. 2023 blend: the nearest last.

    nearest_last: by the distance along the view, or from the eye, as viewers do the one or the other.
    """
    v = vertices(data)
    points = (centres(width, height) - (width / 2, height / 2)) * (-4 / max(width, height), 4 / max(width, height))
    picture = np.zeros((height, width, 3))
    away = 4 - v["z"]
    distance = {"depth": away, "eye": np.sqrt(v["x"] ** 2 + v["y"] ** 2 + away**2)}[nearest_last]
    for i in np.argsort(-distance, kind="stable"):
        assert v["rot_1"][i] == v["rot_2"][i] == 0
        angle = 2 * math.atan2(v["rot_3"][i], v["rot_0"][i])
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        seen = 4 / away[i]  # an ellipse that faces the eye keeps its shape in perspective
        scale = np.exp([v["scale_0"][i], v["scale_1"][i]]) * seen
        z = (points - np.array([v["x"][i], v["y"][i]]) * seen) @ turn / scale
        alpha = np.exp(-(z**2).sum(-1) / 2) / (1 + math.exp(-v["opacity"][i]))
        alpha = np.where(alpha < 1 / 255, 0, alpha.clip(0, 0.99))
        color = np.array([v[f"f_dc_{c}"][i] for c in range(3)]) * exporting.SH0 + 0.5
        picture = over(picture, alpha, color.clip(0))
    return picture.astype(np.float32)


def test_svg_comes_near_to_the_picture(fitted: Splats) -> None:
    picture = render(fitted)
    text = exporting.svg(fitted)
    assert psnr(draw_svg(text), picture) > 29
    # Without what it does about splats that subtract, a quarter of the range would be missing.
    assert psnr(render(replace(fitted, colors=fitted.colors.clip(0))), picture) < 20
    assert "script" not in text and "style" not in text and "href" not in text
    assert "<desc>2D Gaussian splats, approximated by layers</desc>" in text


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_chromium_draws_the_svg_as_we_read_it(fitted: Splats, tmp_path: Path) -> None:
    picture, shot = tmp_path / "face.svg", tmp_path / "face.png"
    exporting.export(picture, fitted)
    # A window has a least width; the picture stands in its corner.
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-color-profile=srgb"]
    subprocess.run(
        [
            CHROMIUM,
            *options,
            f"--user-data-dir={tmp_path}",
            "--window-size=800,600",
            f"--screenshot={shot}",
            picture.as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    shown = splat2d.load_image(shot)[:80, :96, :3]
    assert psnr(shown, draw_svg(picture.read_text(encoding="utf-8"))) > 38
    assert psnr(shown, render(fitted)) > 29


@pytest.mark.parametrize(("nearest_last", "decibels"), [("depth", 29), ("eye", 27)])
def test_ply_comes_near_to_the_picture_from_the_front(fitted: Splats, nearest_last: str, decibels: float) -> None:
    data = exporting.ply(fitted)
    v = vertices(data)
    assert list(v) == [*exporting.PROPERTIES]
    assert abs(v["x"]).max() < 4 and abs(v["y"]).max() < 4 and v["z"].max() < 0
    np.testing.assert_allclose(v["rot_0"] ** 2 + v["rot_3"] ** 2, 1, atol=1e-6)
    inside = np.s_[4:-4, 4:-4]  # the ground fades towards the border
    assert psnr(draw_ply(data, 96, 80, nearest_last)[inside], render(fitted)[inside]) > decibels


def test_a_single_splat_is_nearly_itself() -> None:
    one = Splats([[20, 14]], [[2, 3, 1.2]], [[0.4, -0.3, 0.1]], 40, 30, [0.5, 0.5, 0.5])
    np.testing.assert_allclose(draw_svg(exporting.svg(one)), render(one), atol=0.02)
    seen = draw_ply(exporting.ply(one), 40, 30, "eye")
    np.testing.assert_allclose(seen[4:-4, 4:-4], render(one)[4:-4, 4:-4], atol=0.04)


def test_grey_and_what_lies_on_white() -> None:
    grey = Splats([[8, 6]], [[1, 0, 1]], [[0.5]], 16, 12, [0.25])
    np.testing.assert_allclose(draw_svg(exporting.svg(grey)), np.repeat(render(grey), 3, axis=2), atol=0.02)
    clear = Splats([[8, 6]], [[1, 0, 1]], [[0.2, 0.3, 0.4, 0.5]], 16, 12, [0, 0, 0, 0])
    picture = render(clear)
    np.testing.assert_allclose(draw_svg(exporting.svg(clear)), picture[..., :3] + 1 - picture[..., 3:], atol=0.02)
    with pytest.raises(InputError, match="2 channels"):
        exporting.ply(Splats([[1, 1]], [[0, 0, 0]], [[1, 1]], 4, 4, [0, 0]))


@pytest.mark.parametrize(
    "splats",
    [
        Splats(np.empty((0, 2)), np.empty((0, 3)), np.empty((0, 3)), 9, 7, [0.2, 0.4, 1.3]),
        Splats([[400, 3], [2, 2]], [[0, 0, 0], [-19, 0, -19]], np.ones((2, 3)), 9, 7, [0, 0, 0]),  # nothing to see
        Splats([[4, 3]] * 3, [[60, 0, 60], [-60, 0, 3], [2, 1e12, 2]], np.ones((3, 3)) * 9, 9, 7, [0, 0, 0]),
    ],
    ids=["none", "unseen", "hostile"],
)
def test_odd_splats_make_whole_files(splats: Splats, tmp_path: Path) -> None:
    for suffix in exporting.SUFFIXES:
        exporting.export(tmp_path / f"odd{suffix}", splats)
    v = vertices((tmp_path / "odd.ply").read_bytes())
    assert all(np.isfinite(column).all() for column in v.values()) and len(v["x"]) >= exporting.GROUND
    picture = draw_svg((tmp_path / "odd.svg").read_text(encoding="utf-8"))
    assert picture.shape == (7, 9, 3) and np.isfinite(picture).all()


def test_the_same_splats_give_the_same_files(fitted: Splats) -> None:
    part = editing.crop(fitted, (30, 20, 40, 30))
    assert exporting.svg(part) == exporting.svg(part) and exporting.ply(part) == exporting.ply(part)


def test_every_kind_of_picture_at_any_size(fitted: Splats, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splat2d.save(tmp_path / "face.npz", fitted)
    outputs = [tmp_path / f"face{suffix}" for suffix in (".png", ".jpg", ".webp", ".avif", ".tif", ".npy")]
    options = [part for path in outputs for part in ("-o", str(path))]
    crop = ["--crop", "10", "20", "50", "40", "--width", "125"]
    assert main(["render", str(tmp_path / "face.npz"), *crop, *options]) == 0
    assert capsys.readouterr().out.count("125x100 pixels") == len(outputs)
    expected = render(fitted, crop=(10, 20, 50, 40), width=125).clip(0, 1)
    for path in outputs:
        assert psnr(splat2d.load_image(path).clip(0, 1), expected) > 30, path.suffix
    np.testing.assert_array_equal(splat2d.load_image(outputs[-1]).clip(0, 1), expected)


def test_render_writes_svg_of_a_part_at_a_size(fitted: Splats, tmp_path: Path) -> None:
    splat2d.save(tmp_path / "face.npz", fitted)
    part = tmp_path / "part.svg"
    assert (
        main(["render", str(tmp_path / "face.npz"), "--crop", "10", "20", "50", "40", "--scale", "2", "-o", str(part)])
        == 0
    )
    assert psnr(draw_svg(part.read_text(encoding="utf-8")), render(fitted, crop=(10, 20, 50, 40), scale=2)) > 27


def test_fit_finds_out_before_the_work_that_a_format_does_not_take_the_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "five.npy", np.zeros((20, 20, 5), np.float32))
    assert main(["fit", str(tmp_path / "five.npy"), "-o", str(tmp_path / "five.ply")]) == 1
    assert ".ply shows grey, RGB and RGBA; of 5 channels" in capsys.readouterr().err
