"""Pillow with .s2d files: opened by the header, decoded when pixels are asked for, written by a fit."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError
from skimage.data import astronaut
from test_codec_api import repaired, scattered

import splat2d
from splat2d import Metadata, codec, compression
from splat2d.images import levels_of

FAST = {"splats": 60, "steps": 60, "device": "cpu"}


@pytest.fixture(autouse=True)
def registered() -> None:
    splat2d.register_pillow()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def saved(picture: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, "S2D", **{**FAST, **options})
    return file.getvalue()


def samples_of(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, np.float32)[..., None] / np.float32(255)


def face(mode: str) -> Image.Image:
    picture = Image.fromarray(astronaut()[20:84, 180:228])
    if mode == "RGBA":
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return picture.convert(mode)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_open_gives_what_render_gives(channels: int, mode: str) -> None:
    splats = scattered(40, channels)
    data = splat2d.encode(splats)
    picture = opened(data)
    assert (picture.format, picture.mode, picture.size) == ("S2D", mode, (96, 64))
    assert picture.get_format_mimetype() == "image/x-s2d"
    expected = levels_of(splat2d.render(splat2d.decode(data)))
    np.testing.assert_array_equal(np.asarray(picture).reshape(64, 96, channels), expected)


def test_open_reads_the_header_only(monkeypatch: pytest.MonkeyPatch) -> None:
    data = splat2d.encode(scattered(40))

    def never(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(codec, "decode", never)
    with opened(data) as picture:
        assert picture.size == (96, 64)
    with pytest.raises(AssertionError, match="decoded"):
        opened(data).load()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_save_and_open(mode: str, tmp_path: Path) -> None:
    picture = face(mode)
    picture.save(tmp_path / "face.s2d", **FAST)
    with Image.open(tmp_path / "face.s2d") as again:
        assert (again.mode, again.size) == (mode, picture.size)
        difference = np.asarray(again, np.float64) - np.asarray(picture)
    if mode == "RGBA":  # colour counts as much as alpha lets it show
        difference[..., :3] *= np.asarray(picture)[..., 3:] / 255
    assert np.sqrt(np.square(difference).mean()) < 20
    assert len(splat2d.load(tmp_path / "face.s2d")) <= 60


def test_options_reach_the_fit_and_the_encoder() -> None:
    picture = face("L")
    assert codec.read(saved(picture, splats=30)).container.header.count <= 30
    assert saved(picture, seed=1) == saved(picture, seed=1) != saved(picture, seed=2)
    assert saved(picture) != saved(picture, loss="l1")
    for budget in ({"psnr": 30}, {"bytes": 500}, {"quality": 40}):
        with pytest.raises(splat2d.InputError, match="two budgets"):
            saved(picture, **budget)


def test_budgets_reach_the_compression(monkeypatch: pytest.MonkeyPatch) -> None:
    short = compression.Schedule(fit=40, train=100, stages=4, stage_steps=10)
    monkeypatch.setattr(compression, "SCHEDULES", {"fast": short})
    picture = face("L")

    def compressed(**options: object) -> bytes:
        file = io.BytesIO()
        picture.save(file, "S2D", preset="fast", device="cpu", **options)
        return file.getvalue()

    small = compressed(bytes=400)
    assert 350 < len(small) <= 400
    assert small == splat2d.compress(samples_of(picture), bytes=400, preset="fast", device="cpu").data
    usual = compressed()
    assert len(compressed(quality=20)) < len(usual) == len(compressed(quality=50))
    assert splat2d.psnr(splat2d.render(splat2d.decode(compressed(psnr=24))), samples_of(picture)) >= 24
    with pytest.raises(splat2d.InputError, match="two budgets"):
        compressed(bytes=400, quality=50)
    with pytest.raises(splat2d.InputError, match="steps: goes with a budget of splats"):
        compressed(steps=100)
    with pytest.raises(splat2d.InputError, match="takes at least"):
        compressed(bytes=10)


def test_metadata_counts_as_bytes() -> None:
    exif = Image.Exif()
    exif[0x010E] = "words " * 20
    file = io.BytesIO()
    face("L").save(file, "S2D", preset="fast", device="cpu", bytes=500, exif=exif)
    assert 480 < len(file.getvalue()) <= 500
    assert opened(file.getvalue()).getexif()[0x010E] == "words " * 20


def test_metadata_both_ways() -> None:
    picture = face("RGB")
    exif = Image.Exif()
    exif[0x010E] = "a face"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for data in (saved(picture, exif=exif, icc_profile=icc), saved(picture, exif=exif.tobytes(), icc_profile=icc)):
        again = opened(data)
        assert again.getexif()[0x010E] == "a face" and again.info["icc_profile"] == icc
        twice = opened(saved(again))  # from a picture that has them
        assert twice.getexif()[0x010E] == "a face" and twice.info["icc_profile"] == icc
        assert "exif" not in opened(saved(again, exif=b"")).info
    text = splat2d.encode(scattered(5), metadata=Metadata({"title": "Höhe"}))
    assert opened(text).text == {"title": "Höhe"}  # type: ignore[attr-defined]


def test_modes_that_cannot_be_written() -> None:
    with pytest.raises(OSError, match="cannot write mode CMYK as S2D"):
        saved(face("CMYK"))


def test_foreign_and_damaged_bytes() -> None:
    data = splat2d.encode(scattered(40))
    five = splat2d.encode(scattered(5, channels=5))
    damaged_header = data[:15] + b"\xff" + data[16:]
    for foreign in (b"words", data[:7], data[:30], damaged_header, five, repaired(data[:8] + b"\x02" + data[9:])):
        with pytest.raises(UnidentifiedImageError):
            opened(foreign)
    for damaged in (data[:-1], data[:-9], data[:60], data[:70] + b"\xff" + data[71:], data + b"\0"):
        picture = opened(damaged)
        assert picture.size == (96, 64)
        with pytest.raises(OSError, match=r"the \.s2d file"):
            picture.load()
    opened(data).load()


def test_truncated_files_where_pillow_is_told_to_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    data = splat2d.encode(scattered(1200), quality=50)[:-1]
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    some = splat2d.decode(data, partial=True)
    assert 0 < len(some) < 1200
    np.testing.assert_array_equal(np.asarray(opened(data)), levels_of(splat2d.render(some)))


def test_decompression_bombs(monkeypatch: pytest.MonkeyPatch) -> None:
    data = splat2d.encode(scattered(5))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 96 * 64 - 1)
    with pytest.warns(Image.DecompressionBombWarning):
        opened(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 96 * 64 // 2 - 1)
    with pytest.raises(Image.DecompressionBombError):
        opened(data)


def test_files_are_closed(tmp_path: Path) -> None:
    splat2d.save(tmp_path / "a.s2d", scattered(5))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        with Image.open(tmp_path / "a.s2d") as picture:
            copy = picture.convert("L")
    assert copy.size == (96, 64)


def test_nothing_is_registered_unasked() -> None:
    program = (
        "import splat2d, PIL.Image as I; I.init(); assert 'S2D' not in I.OPEN; splat2d.register_pillow();"
        "assert I.registered_extensions()['.s2d'] == 'S2D' and 'S2D' in I.OPEN and 'S2D' in I.SAVE"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
