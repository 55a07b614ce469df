"""Picture files to arrays and back: every kind of sample, alpha, orientation, profile; and what is refused."""

import io
import re
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from splat2d import InputError, load_image, save_image
from splat2d.images import SUFFIXES

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (13, 9, 3), dtype=np.uint8)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_image(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    return text


def unit(samples: np.ndarray, peak: int = 255) -> np.ndarray:
    """Samples [H, W] or [H, W, C] as load_image gives them; the last of 2 or 4 channels is alpha."""
    image = samples.astype(np.float32) / np.float32(peak)
    if image.ndim == 2:
        return image[..., None]
    if image.shape[2] in (2, 4):
        alpha = image[..., -1:]
        return np.concatenate([np.broadcast_to(image[..., :-1], (*image.shape[:2], 3)) * alpha, alpha], axis=2)
    return image


def png(samples: np.ndarray, chunks: bytes = b"") -> bytes:
    """A 16-bit PNG [H, W, C] whose rows use all five filters in turn, as Pillow writes none of 16-bit colour."""
    height, width, channels = samples.shape
    step = 2 * channels
    rows, above = b"", np.zeros(width * step, np.int32)
    for y in range(height):
        row = np.frombuffer(samples[y].astype(">u2").tobytes(), np.uint8).astype(np.int32)
        left, corner = (np.concatenate([np.zeros(step, np.int32), line[:-step]]) for line in (row, above))
        estimate = left + above - corner
        distances = np.abs([estimate - left, estimate - above, estimate - corner])
        paeth = np.choose(distances.argmin(axis=0), [left, above, corner])
        predictions = [np.zeros_like(row), left, above, (left + above) // 2, paeth]
        rows += bytes([y % 5]) + ((row - predictions[y % 5]) % 256).astype(np.uint8).tobytes()
        above = row
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    body = chunk(b"IHDR", header) + chunks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def profile(gamma: float, grey: bool = False) -> bytes:
    """An ICC profile with the primaries of sRGB and a power curve."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(65536 * value) for value in values))

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + fixed(*values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * gamma)) + b"\0\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(79)
    tags = {b"desc": text, b"cprt": b"text\0\0\0\0none", b"wtpt": xyz(0.9642, 1.0, 0.8249)}
    if grey:
        tags[b"kTRC"] = curve
    else:
        tags |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
        tags |= {b"rXYZ": xyz(0.43607, 0.22249, 0.01392), b"gXYZ": xyz(0.38515, 0.71687, 0.09708)}
        tags |= {b"bXYZ": xyz(0.14307, 0.06061, 0.71410)}
    table, data, start = b"", b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", start + len(data), len(value))
        data += value
    space = b"GRAY" if grey else b"RGB "
    head = struct.pack(">I4sI4s4s4s", start + len(data), bytes(4), 0x02400000, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def srgb(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


# The test pictures: each loads as stated or is refused.

ROBUST: dict[str, tuple[int, int, int] | str] = {
    "alpha_flower_small.rgba.png": (532, 510, 4),
    "alpha_full-transparent.png": (300, 300, 4),
    "alpha_grey-8bit-alpha.png": (300, 400, 4),
    "animated_dispose_prev.gif": (100, 100, 3),
    "cmyk_pil_sample_cmyk.jpg": (100, 100, 3),
    "corrupt_broken.png": "no picture of a known format",
    "corrupt_negative_size.ppm": "no picture of a known format",
    "corrupt_png_decompression_dos.png": "too large",
    "corrupt_truncated.jpg": "truncated",
    "corrupt_truncated.png": "truncated",
    "corrupt_zero_width.gif": "no picture of a known format",
    "deep16_hopper_16bit.pgm": (128, 128, 1),
    "deep16_mode_16bit.png": (64, 128, 4),
    "deep16_tiff_16bit_RGB.tiff": (40, 100, 3),
    "exif_Landscape_1.jpg": (450, 600, 3),
    "exif_Landscape_3.jpg": (450, 600, 3),
    "exif_Landscape_6.jpg": (450, 600, 3),
    "exif_Landscape_8.jpg": (450, 600, 3),
    "exif_hopper_orientation_6.webp": (128, 128, 3),
    "gray_palette_1_trns.png": (64, 64, 4),
    "gray_palette_hopper_gray.jpg": (128, 128, 1),
    "gray_palette_indexed.png": (442, 290, 3),
    "gray_palette_l_trns.png": (64, 64, 4),
    "tiny_1x1_l.png": (1, 1, 1),
    "tiny_2x2_fdcce6.png": (2, 2, 3),
    "tiny_line_30px.png": (30, 1, 4),
}


def test_every_awkward_picture_is_listed(data: Path) -> None:
    assert {path.name for path in (data / "robust").iterdir()} == set(ROBUST)


@pytest.mark.parametrize("name", ROBUST)
def test_awkward_pictures(data: Path, name: str) -> None:
    path, expected = data / "robust" / name, ROBUST[name]
    if isinstance(expected, str):
        assert expected in refusal(path)
        return
    image = load_image(path)
    assert image.shape == expected
    assert image.dtype == np.float32
    assert image.flags.c_contiguous
    assert 0 <= image.min() <= image.max() <= 1
    if image.shape[2] == 4:
        assert (image[..., :3] <= image[..., 3:]).all()


def test_photos_stored_in_every_direction_show_the_same(data: Path) -> None:
    upright, *others = (load_image(data / "robust" / f"exif_Landscape_{turn}.jpg") for turn in (1, 3, 6, 8))
    for other in others:  # apart from their colours, which differ a little between these files
        assert np.corrcoef(upright.ravel(), other.ravel())[0, 1] > 0.95


def test_deep_test_pictures_have_more_than_256_levels(data: Path) -> None:
    levels = load_image(data / "robust" / "deep16_tiff_16bit_RGB.tiff") * 65535
    np.testing.assert_allclose(levels, levels.round(), atol=0.01)
    assert len(np.unique(levels.round() % 257)) > 1
    raw = (data / "robust" / "deep16_hopper_16bit.pgm").read_bytes()[-128 * 128 * 2 :]
    grey = np.frombuffer(raw, ">u2").reshape(128, 128)
    np.testing.assert_array_equal(load_image(data / "robust" / "deep16_hopper_16bit.pgm"), unit(grey, 65535))


def test_pictures_cut_at_any_length_are_refused_or_load(tmp_path: Path) -> None:
    for suffix in ("png", "jpg", "webp", "avif", "tif", "gif", "bmp", "npy", "npz"):
        whole = tmp_path / f"whole.{suffix}"
        save_image(whole, unit(RGB))
        bytes_ = whole.read_bytes()
        path = tmp_path / f"cut.{suffix}"
        for length in np.linspace(0, len(bytes_) - 1, 12).astype(int):
            path.write_bytes(bytes_[:length])
            try:
                assert load_image(path).shape == (13, 9, 3)
            except InputError as error:
                assert "\n" not in str(error)
        path.write_bytes(b"")
        refusal(path)


# Samples


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_keeps_16_bits(tmp_path: Path, channels: int) -> None:
    samples = RNG.integers(0, 65536, (11, 7, channels), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(png(samples))
    np.testing.assert_allclose(load_image(tmp_path / "a.png"), unit(samples, 65535), rtol=0, atol=1e-7)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_of_16_bits_with_one_transparent_value(tmp_path: Path, channels: int) -> None:
    samples = RNG.integers(0, 65536, (11, 7, channels), dtype=np.uint16)
    key = samples[3, 4]
    (tmp_path / "a.png").write_bytes(png(samples, chunk(b"tRNS", key.astype(">u2").tobytes())))
    image = load_image(tmp_path / "a.png")
    expected = np.broadcast_to(unit(samples, 65535), (11, 7, 3)).copy()
    expected[3, 4] = 0
    np.testing.assert_allclose(image[..., :3], expected, rtol=0, atol=1e-7)
    assert image[3, 4, 3] == 0
    assert image[..., 3].sum() == 11 * 7 - 1


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("extra", [None, "unspecified", "assocalpha", "unassalpha"])
def test_tiff_keeps_16_bits(tmp_path: Path, compression: str | None, byteorder: Any, extra: Any) -> None:
    samples = RNG.integers(0, 65536, (11, 7, 4 if extra else 3), dtype=np.uint16)
    options = {"extrasamples": [extra]} if extra else {}
    tifffile.imwrite(
        tmp_path / "a.tif", samples, photometric="rgb", compression=compression, byteorder=byteorder, **options
    )
    expected = unit(samples[..., :3] if extra == "unspecified" else samples, 65535)
    if extra == "assocalpha":
        expected = samples.astype(np.float32) / np.float32(65535)
    np.testing.assert_allclose(load_image(tmp_path / "a.tif"), expected, rtol=0, atol=1e-7)


def test_tiff_of_16_bits_in_planes(tmp_path: Path) -> None:
    samples = RNG.integers(0, 65536, (3, 11, 7), dtype=np.uint16)
    options: dict[str, Any] = {"photometric": "rgb", "planarconfig": "separate"}
    tifffile.imwrite(tmp_path / "a.tif", samples, **options, compression="zlib")
    expected = unit(np.moveaxis(samples, 0, 2), 65535)  # of which 8 bits come through
    np.testing.assert_allclose(load_image(tmp_path / "a.tif"), expected, atol=1 / 255)
    tifffile.imwrite(tmp_path / "b.tif", samples, **options)
    assert "interleaved" in refusal(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "c.tif", (samples >> 8).astype(np.uint8), **options)
    np.testing.assert_array_equal(load_image(tmp_path / "c.tif"), unit(np.moveaxis(samples >> 8, 0, 2)))


@pytest.mark.parametrize("dtype", [np.uint16, np.dtype(">u2"), np.float32])
def test_grey_tiff(tmp_path: Path, dtype: Any) -> None:
    samples = (RNG.random((11, 7)) * 60000).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", samples, byteorder=">" if dtype == np.dtype(">u2") else "<")
    expected = unit(samples, 1 if dtype == np.float32 else 65535)  # floats are taken as they are
    np.testing.assert_array_equal(load_image(tmp_path / "a.tif"), expected)


def test_tiff_of_32_bit_integers_has_no_known_range(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 4), np.int32))
    assert "convert it to 16 bits" in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_modes(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(RGB).convert(mode)
    if mode in ("LA", "RGBA"):
        picture.putalpha(Image.fromarray(RGB[..., 0]))
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture.save(path)
    shown = picture.convert({"1": "L", "L": "L", "LA": "LA", "RGBA": "RGBA"}.get(mode, "RGB"))
    np.testing.assert_array_equal(load_image(path), unit(np.asarray(shown)))


def test_palette_with_transparency(tmp_path: Path) -> None:
    picture = Image.new("P", (3, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.putdata([0, 1, 2])
    picture.save(tmp_path / "a.png", transparency=bytes([255, 51, 0]))
    expected = [[[1, 0, 0, 1], [0, 0.2, 0, 0.2], [0, 0, 0, 0]]]
    np.testing.assert_allclose(load_image(tmp_path / "a.png"), expected, atol=1e-7)
    picture.save(tmp_path / "b.png", transparency=1)
    expected = [[[1, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 1]]]
    np.testing.assert_array_equal(load_image(tmp_path / "b.png"), expected)


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (5, 4), colour) for colour in ("red", "blue"))
    for suffix in ("gif", "png", "webp", "tif"):
        path = tmp_path / f"a.{suffix}"
        options = {"lossless": True} if suffix == "webp" else {}
        first.save(path, save_all=True, append_images=[second], **options)
        np.testing.assert_array_equal(load_image(path), np.broadcast_to([1, 0, 0], (4, 5, 3)))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tif", "deep.tif"])
def test_exif_orientation(tmp_path: Path, turn: int, kind: str) -> None:
    # How the file must store a picture so that a viewer, told to turn it, shows the original.
    stored = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[turn](RGB)
    path = tmp_path / f"a.{kind}"
    if kind == "deep.tif":
        deep = np.ascontiguousarray(stored).astype(np.uint16) * 257
        tifffile.imwrite(path, deep, photometric="rgb", extratags=[(274, "H", 1, turn, True)])
    else:
        exif = Image.Exif()
        exif[0x0112] = turn
        Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    np.testing.assert_allclose(load_image(path), unit(RGB), rtol=0, atol=1e-7)


def test_orientation_of_jpeg_and_avif(tmp_path: Path) -> None:
    ramp = np.zeros((32, 48, 3), np.uint8)
    ramp[:, :, 0] = np.arange(48) * 5
    ramp[:, :, 1] = np.arange(32)[:, None] * 7
    for suffix in ("jpg", "avif", "webp"):
        path = tmp_path / f"a.{suffix}"
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(np.ascontiguousarray(np.rot90(ramp))).save(path, exif=exif, quality=95)
        np.testing.assert_allclose(load_image(path), unit(ramp), atol=0.05)


def test_broken_exif_is_ignored(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\xff\xff\xff")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), unit(RGB))


# Colour profiles


def test_a_profile_is_converted_to_srgb(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png", icc_profile=profile(gamma=1.0))
    np.testing.assert_allclose(load_image(tmp_path / "a.png"), srgb(unit(RGB)), atol=2 / 255)
    alpha = Image.fromarray(RGB).convert("RGBA")
    alpha.putalpha(128)
    alpha.save(tmp_path / "b.png", icc_profile=profile(gamma=1.0))
    image = load_image(tmp_path / "b.png")
    np.testing.assert_array_equal(image[..., 3], np.float32(128 / 255))
    np.testing.assert_allclose(image[..., :3], srgb(unit(RGB)) * 128 / 255, atol=2 / 255)


def test_a_deep_picture_with_a_profile(tmp_path: Path) -> None:
    deep = RGB.astype(np.uint16) * 257
    compressed = b"test\0\0" + zlib.compress(profile(gamma=1.0))
    (tmp_path / "a.png").write_bytes(png(deep, chunk(b"iCCP", compressed)))
    np.testing.assert_allclose(load_image(tmp_path / "a.png"), srgb(unit(RGB)), atol=2 / 255)


def test_a_grey_profile(tmp_path: Path) -> None:
    grey = Image.fromarray(RGB[..., 0])
    grey.save(tmp_path / "a.png", icc_profile=profile(gamma=1.0, grey=True))
    image = load_image(tmp_path / "a.png")
    assert image.shape == (13, 9, 1)
    np.testing.assert_allclose(image, srgb(unit(RGB[..., 0])), atol=2 / 255)


def test_profiles_that_change_nothing(tmp_path: Path) -> None:
    same = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey = profile(gamma=1.0, grey=True)  # in a colour picture: a mistake
    for number, icc in enumerate((same, grey, b"broken", profile(1.0)[:200])):
        path = tmp_path / f"{number}.png"
        Image.fromarray(RGB).save(path, icc_profile=icc)
        np.testing.assert_array_equal(load_image(path), unit(RGB))


# Arrays


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_float_pictures_are_taken_as_they_are(tmp_path: Path, suffix: str, channels: int) -> None:
    image = RNG.normal(scale=100, size=(5, 6, channels)).astype(np.float32)
    path = tmp_path / f"a{suffix}"
    save_image(path, image)
    np.testing.assert_array_equal(load_image(path), image)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.dtype(">f4"), np.bool_])
def test_other_floats(tmp_path: Path, dtype: Any) -> None:
    array = (RNG.normal(size=(5, 6)) * 3).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    image = load_image(tmp_path / "a.npy")
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[..., 0], array.astype(np.float32))


def test_integers_in_arrays_are_scaled(tmp_path: Path) -> None:
    rgba = RNG.integers(0, 256, (5, 6, 4), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", picture=rgba, other=np.zeros(3))
    np.testing.assert_array_equal(load_image(tmp_path / "a.npz"), unit(rgba))
    np.save(tmp_path / "b.npy", rgba[..., :3].astype(np.uint16))
    np.testing.assert_array_equal(load_image(tmp_path / "b.npy"), unit(rgba[..., :3], 65535))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), "shape"),
        (np.zeros((2, 3, 4, 5)), "shape"),
        (np.zeros((0, 5, 3)), "no pixels"),
        (np.zeros((5, 5, 0)), "no pixels"),
        (np.zeros((5, 5), np.int64), "int64"),
        (np.zeros((5, 5), complex), "complex"),
        (np.full((5, 5), np.nan), "NaN"),
        (np.full((5, 5), -np.inf), "NaN or infinite"),
        (np.full((5, 5), 1e200), "NaN or infinite"),
    ],
)
def test_arrays_that_are_no_picture(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array)
    assert message in refusal(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz", array)
    assert message in refusal(tmp_path / "a.npz")


def test_array_files_that_lie(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", np.array([[{}]]), allow_pickle=True)
    assert "Python objects" in refusal(tmp_path / "p.npy")
    np.savez(tmp_path / "p.npz", np.array([[{}]]))
    assert "allow_pickle=False" in refusal(tmp_path / "p.npz")
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 20, 1 << 20, 3)}
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(100))
    refusal(tmp_path / "a.npy")
    np.savez(tmp_path / "a.npz")
    assert "no array" in refusal(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", means=np.zeros((2, 2)), log_cholesky=np.zeros((2, 3)))
    assert "holds splats" in refusal(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_text("text")
    refusal(tmp_path / "c.npz")


# High dynamic range


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
def test_exr_is_exact(tmp_path: Path, channels: int) -> None:
    pytest.importorskip("OpenImageIO", reason="the extra hdr is not installed")
    image = RNG.normal(scale=1000, size=(5, 6, channels)).astype(np.float32)
    save_image(tmp_path / "a.exr", image)
    np.testing.assert_array_equal(load_image(tmp_path / "a.exr"), image)


@pytest.mark.parametrize("channels", [1, 3])
def test_hdr_is_close(tmp_path: Path, channels: int) -> None:
    pytest.importorskip("OpenImageIO", reason="the extra hdr is not installed")
    image = RNG.uniform(0.1, 1000, size=(15, 16, channels)).astype(np.float32)
    save_image(tmp_path / "a.hdr", image)
    again = load_image(tmp_path / "a.hdr")
    assert again.shape == (15, 16, 3)
    assert (np.abs(again - image) <= image.max(axis=2, keepdims=True) / 128).all()  # 8 bits under a common exponent


@pytest.mark.parametrize("suffix", [".exr", ".hdr"])
def test_broken_hdr(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("OpenImageIO", reason="the extra hdr is not installed")
    assert "no such file" in refusal(tmp_path / f"a{suffix}")
    (tmp_path / f"b{suffix}").mkdir()
    assert "is a folder" in refusal(tmp_path / f"b{suffix}")
    (tmp_path / f"c{suffix}").write_text("text")
    refusal(tmp_path / f"c{suffix}")
    save_image(tmp_path / f"d{suffix}", RNG.random((40, 50, 3)))
    whole = (tmp_path / f"d{suffix}").read_bytes()
    for length in (0, 20, len(whole) // 2, len(whole) - 30):
        (tmp_path / f"e{suffix}").write_bytes(whole[:length])
        refusal(tmp_path / f"e{suffix}")


def test_hdr_obeys_the_limit_of_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("OpenImageIO", reason="the extra hdr is not installed")
    save_image(tmp_path / "a.exr", RNG.random((40, 50, 3)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 999)
    assert "MAX_IMAGE_PIXELS" in refusal(tmp_path / "a.exr")


def test_without_the_extra_the_line_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "OpenImageIO", None)
    (tmp_path / "a.exr").write_bytes(b"x")
    assert 'pip install "splat2d[hdr]"' in refusal(tmp_path / "a.exr")
    with pytest.raises(InputError, match="hdr"):
        save_image(tmp_path / "b.hdr", RNG.random((4, 5, 3)))
    assert not (tmp_path / "b.hdr").exists()


# Refusals


def test_missing_folder_empty_and_text(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a.png").endswith("no such file")
    (tmp_path / "b.png").mkdir()
    assert "is a folder" in refusal(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"")
    assert "no picture" in refusal(tmp_path / "c.png")
    (tmp_path / "d.jpg").write_text("hello")
    assert "no picture" in refusal(tmp_path / "d.jpg")
    (tmp_path / "e.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    assert "drawing" in refusal(tmp_path / "e.eps")


def test_the_bomb_limit_is_kept_but_its_warning_is_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (30, 30)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 899)  # warns above this, refuses above twice this
    assert load_image(tmp_path / "a.png").shape == (30, 30, 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 449)
    assert "MAX_IMAGE_PIXELS" in refusal(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert load_image(tmp_path / "a.png").shape == (30, 30, 1)


# Saving


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".PNG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_round_trip_is_exact(tmp_path: Path, suffix: str, channels: int) -> None:
    samples = RNG.integers(0, 256, (11, 7, channels), dtype=np.uint8)
    save_image(tmp_path / f"a{suffix}", samples.astype(np.float32) / np.float32(255))
    again = load_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(again, samples.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_alpha_round_trip(tmp_path: Path, suffix: str) -> None:
    # Every pair of colour and alpha above 0: nothing may move.
    colour, alpha = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    rgba = np.stack([colour, 255 - colour, colour // 2, alpha], axis=-1).astype(np.uint8)
    Image.fromarray(rgba).save(tmp_path / f"a{suffix}")
    image = load_image(tmp_path / f"a{suffix}")
    save_image(tmp_path / f"b{suffix}", image)
    with Image.open(tmp_path / f"b{suffix}") as picture:
        again = np.asarray(picture)
    np.testing.assert_array_equal(again[:, 1:], rgba[:, 1:])
    assert (again[:, 0] == 0).all()


@pytest.mark.parametrize(("suffix", "least"), [(".jpg", 38), (".jpeg", 38), (".webp", 36), (".avif", 38), (".gif", 30)])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossy_formats_are_good(tmp_path: Path, suffix: str, least: float, channels: int) -> None:
    y, x = np.mgrid[:64, :96] / 96
    image = np.stack([x, y, 0.5 + 0.5 * np.sin(20 * x * y)], axis=-1)[..., -channels:].astype(np.float32)
    save_image(tmp_path / f"a{suffix}", image)
    again = load_image(tmp_path / f"a{suffix}")
    assert -10 * np.log10(np.mean((again - image) ** 2)) > least


def test_values_are_clamped_and_rounded_half_up(tmp_path: Path) -> None:
    levels = np.array([[-3.0, 0.49, 0.5, 1.49, 1.5, 127.5, 254.5, 254.4, 255.0, 9000.0]])
    save_image(tmp_path / "a.png", levels / 255)
    with Image.open(tmp_path / "a.png") as picture:
        assert np.asarray(picture).tolist() == [[0, 0, 1, 1, 2, 128, 255, 254, 255, 255]]


def test_alpha_out_of_range(tmp_path: Path) -> None:
    # What a fit may render: alpha below 0, above 1, and next to nothing under a colour.
    rgba = np.array([[[0.5, 0, 0, -0.1], [0.5, 2, -1, 1.5], [0.5, -0.5, 0, 1e-42], [3e38, 0, 0, 0.5]]], np.float32)
    save_image(tmp_path / "a.png", rgba)
    with Image.open(tmp_path / "a.png") as picture:
        assert np.asarray(picture).tolist() == [[[0, 0, 0, 0], [128, 255, 0, 255], [255, 0, 0, 0], [255, 0, 0, 128]]]


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".gif"])
def test_without_room_for_alpha_the_picture_lies_on_white(tmp_path: Path, suffix: str) -> None:
    image = np.zeros((8, 8, 4), np.float32)
    image[4:] = (0.5, 0, 0, 0.5)
    save_image(tmp_path / f"a{suffix}", image)
    expected = np.ones((8, 8, 3))
    expected[4:] = (1, 0.5, 0.5)
    np.testing.assert_allclose(load_image(tmp_path / f"a{suffix}"), expected, atol=0.02)


@pytest.mark.parametrize("suffix", [".webp", ".avif"])
def test_lossy_formats_with_alpha(tmp_path: Path, suffix: str) -> None:
    image = np.zeros((16, 16, 4), np.float32)
    image[4:] = (0.5, 0.25, 0, 0.5)
    save_image(tmp_path / f"a{suffix}", image)
    np.testing.assert_allclose(load_image(tmp_path / f"a{suffix}"), image, atol=0.1)


def test_what_cannot_be_saved_leaves_nothing(tmp_path: Path) -> None:
    def attempt(name: str, image: np.ndarray, message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            save_image(tmp_path / name, image)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.iterdir())

    grey = np.zeros((4, 5, 1))
    attempt("a.xyz", grey, r"known: \.png")
    attempt("a", grey, re.escape("known: " + " ".join(SUFFIXES)))
    attempt("a.png", np.zeros((4, 5, 2)), r"1, 3 or 4 channels, not 2; write \.npy")
    attempt("a.jpg", np.zeros((4, 5, 7)), "not 7")
    attempt("a.hdr", np.zeros((4, 5, 4)), "not 4")
    attempt("a.png", np.zeros((0, 5, 3)), "no pixels")
    attempt("a.png", np.zeros(5), "shape")
    attempt("a.npy", np.full((4, 5, 3), np.nan), "NaN")
    attempt("a.webp", np.zeros((1, 20000, 3)), "16383")
    attempt("a.avif", np.zeros((1, 70000, 3)), "cannot be written")
    attempt("a.gif", np.zeros((1, 70000, 3)), "cannot be written")


def test_a_failing_encoder_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    save_image(path, RGB)
    before = path.read_bytes()

    def failing(self: Image.Image, target: Path, **options: Any) -> None:
        target.write_bytes(b"half")
        raise OSError("encoder error -2")

    monkeypatch.setattr(Image.Image, "save", failing)
    with pytest.raises(InputError, match="encoder error -2"):
        save_image(path, RGB)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_arrays_on_disk_are_plain(tmp_path: Path) -> None:
    save_image(tmp_path / "a.npz", unit(RGB))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["image"], unit(RGB))
    save_image(tmp_path / "a.npy", unit(RGB))
    assert np.load(io.BytesIO((tmp_path / "a.npy").read_bytes())).dtype == np.float32
