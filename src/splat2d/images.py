"""Picture files to float32 arrays and back. The only module that knows Pillow."""

from __future__ import annotations

import io
import os
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from splat2d import _cpu
from splat2d.atomic import reason, replacing, unreadable
from splat2d.errors import InputError

# Format and options of each picture suffix. The lossy ones are set to be hard to tell from the original.
_ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 95}),
    ".avif": ("AVIF", {"quality": 90, "subsampling": "4:4:4"}),
    ".tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".bmp": ("BMP", {}),
    ".gif": ("GIF", {}),
}
_ARRAY_SUFFIXES = (".npy", ".npz")
_HDR_SUFFIXES = (".exr", ".hdr")
SUFFIXES = (*_ENCODERS, *_ARRAY_SUFFIXES, *_HDR_SUFFIXES)  # what save_image writes

_WITHOUT_ALPHA = ("JPEG", "BMP", "GIF")  # GIF knows alpha 0 and 1 only, BMP is read without it by most programs

_STRIP = 256  # rows that lose their alpha at once, so that the float copies of a large picture stay small

_ORIENTATION = 0x0112  # the EXIF tag

# Pillow unpacks a 16-bit colour sample to its upper byte. Told that the file has the other byte order, it unpacks the
# lower byte instead, so that two passes give all 16 bits; "16N" is the order of this machine.
_OTHER_ORDER = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}

_SRGB_SLACK = 2  # levels of 255; a profile this close to sRGB is one of its many spellings


def load_image(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Reads a picture as float32 [H, W, C]: 1 grey, 3 RGB, 4 RGBA with the colour premultiplied by alpha.

    Picture files give values in [0, 1], in sRGB: other colour profiles are converted, EXIF orientation is applied, of
    an animation the first frame is taken. All 16 bits of PNG, TIFF and PGM count, except in colour pictures with a
    profile other than sRGB, in CMYK and in TIFF with separate planes, which are read with 8.
    .exr and .hdr (extra `hdr`), .npy and .npz (the first array; [H, W] or [H, W, C], any C) are taken as they are,
    without a clamp; arrays of uint8 and uint16 are scaled like picture files.

    Raises InputError if the file is missing, broken, no picture, empty, or has a value that is NaN or infinite.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    try:
        if suffix in _ARRAY_SUFFIXES:
            image = _read_array(path)
        elif suffix in _HDR_SUFFIXES:
            image = _read_hdr(path)
        else:
            image = _read_picture(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{path}: has more pixels than is safe to decode ({reason(error)}); "
            "make it smaller first or, if you trust it, raise PIL.Image.MAX_IMAGE_PIXELS in Python"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: is no picture of a known format, or its beginning is damaged") from error
    except Exception as error:  # the decoders raise nearly every kind for a broken file
        raise unreadable(path, error, "a picture") from error
    _check(image, path)
    return image


def save_image(path: str | os.PathLike[str], image: NDArray[Any]) -> None:
    """Writes a picture [H, W, C] or [H, W]; the suffix picks the format, see SUFFIXES. Raises InputError.

    Formats of 8 bits take 1, 3 or 4 channels: alpha is divided out, values are clamped to [0, 1] and rounded. JPEG, BMP
    and GIF have no room for alpha: there the picture lies on white. .npy, .npz and .exr (extra `hdr`) keep float32
    values of any number of channels as they are, .hdr those of 1 or 3 channels.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f'{path}: pictures have no format of suffix "{path.suffix}"; known: {" ".join(SUFFIXES)}')
    image = _from_array(np.asarray(image), "picture:")
    _check(image, "picture")
    channels = image.shape[2]
    if suffix in _ENCODERS and channels not in (1, 3, 4):
        raise InputError(f"{path}: {suffix} takes 1, 3 or 4 channels, not {channels}; write .npy, .npz or .exr")
    if suffix == ".hdr" and channels not in (1, 3):
        raise InputError(f"{path}: .hdr takes 1 or 3 channels, not {channels}; write .npy, .npz or .exr")
    with replacing(path) as temporary:
        try:
            if suffix in _ENCODERS:
                _write_picture(temporary, image, *_ENCODERS[suffix])
            elif suffix in _HDR_SUFFIXES:
                _write_hdr(temporary, image)
            else:
                with temporary.open("wb") as file:
                    np.save(file, image) if suffix == ".npy" else np.savez(file, image=image)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except Exception as error:  # the encoders, too, raise many kinds
            raise InputError(f"{path}: cannot be written ({reason(error)})") from error


def to_png(image: NDArray[np.float32], *, compression: int = 6) -> bytes:
    """A picture [H, W, C] of 1, 3 or 4 channels as a PNG file of 8 bits. Raises InputError.

    compression: 0 (quick) to 9 (small).
    """
    if image.shape[2] not in (1, 3, 4):
        raise InputError(f"only pictures of 1, 3 or 4 channels can be shown, not of {image.shape[2]}")
    levels = levels_of(image)
    file = io.BytesIO()
    Image.fromarray(levels[..., 0] if image.shape[2] == 1 else levels).save(file, "PNG", compress_level=compression)
    return file.getvalue()


def _check(image: NDArray[np.float32], what: object) -> None:
    if image.size == 0:
        raise InputError(f"{what}: has no pixels, its shape is {image.shape}")
    if not np.isfinite(image).all():
        raise InputError(f"{what}: has values that are NaN or infinite; replace them first")


def _read_picture(path: Path) -> NDArray[np.float32]:
    # Pillow warns of many things, a large picture among them; here a picture is read or refused.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as picture:
            if picture.format == "EPS":  # Pillow would start another program to draw it
                raise InputError("is a drawing, not a picture; convert it to PNG first")
            rawmode = _rawmode(picture)
            colour, _, order = rawmode.partition(";")
            transform = _transform_to_srgb(picture)
            if picture.mode.startswith("I"):
                samples, peak = _grey_16(picture, rawmode)
            elif picture.mode == "F":
                samples, peak = np.asarray(picture), 1
            elif order in _OTHER_ORDER and colour in ("RGB", "RGBX", "RGBA", "RGBa", "LA") and transform is None:
                samples, peak = _colour_16(path, picture, colour, order), 65535
            else:
                _refuse_planes_16(picture)
                samples, peak = _colour_8(picture, transform), 255
            orientation = _orientation(picture)  # asked after the pixels: some decoders apply it themselves
    return _scaled(_turned(samples, orientation), peak, premultiplied=colour == "RGBa" and peak == 65535)


def _scaled(samples: NDArray[Any], peak: int, premultiplied: bool = False) -> NDArray[np.float32]:
    """Samples [H, W] or [H, W, 1 to 4] divided by their peak; grey with alpha becomes RGBA. float32 [H, W, C]"""
    if samples.ndim == 2:
        samples = samples[..., None]
    height, width, channels = samples.shape
    image = np.empty((height, width, 4 if channels == 2 else channels), np.float32)
    colours = slice(0, 1) if channels == 2 else slice(0, 3)
    np.divide(samples[..., colours], peak, out=image[..., :3], dtype=np.float32)
    if image.shape[2] == 4:
        np.divide(samples[..., -1:], peak, out=image[..., 3:], dtype=np.float32)
        if not premultiplied:
            image[..., :3] *= image[..., 3:]
    return image


def _rawmode(picture: ImageFile.ImageFile) -> str:
    """Pillow's name for how the samples lie in the file, such as "RGB;16B"; empty where it has none."""
    args = picture.tile[0].args if picture.tile else None
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _grey_16(picture: ImageFile.ImageFile, rawmode: str) -> tuple[NDArray[Any], int]:
    """Grey samples [H, W], or with alpha [H, W, 2], and their peak."""
    if picture.mode == "I" and picture.format != "PPM":
        raise InputError("has integers of more than 16 bits or with a sign; convert it to 16 bits or to float")
    samples = np.asarray(picture)
    if picture.mode == "I":
        return samples, 65535
    peak = 4095 if rawmode == "I;12" else 65535
    transparent = picture.info.get("transparency")
    if transparent is None:
        return samples, peak
    return np.dstack((samples, np.where(samples == transparent, 0, peak))), peak


def _colour_16(path: Path, picture: ImageFile.ImageFile, colour: str, order: str) -> NDArray[np.uint16]:
    """All 16 bits of a colour picture [H, W, 2, 3 or 4], premultiplied where the file says "RGBa"."""
    if colour == "LA":  # four bytes a pixel, taken as if they were RGBA: upper and lower byte of grey and alpha
        pairs = _unpacked(picture, "RGBA")
        return _joined(pairs[..., ::2], pairs[..., 1::2])
    name = "RGBA" if colour == "RGBa" else colour  # as RGBa, Pillow would divide the bytes by alpha
    upper = _unpacked(picture, f"{name};{order}")
    with Image.open(path) as again:
        samples = _joined(upper, _unpacked(again, f"{name};{_OTHER_ORDER[order]}"))
    transparent = picture.info.get("transparency")
    if transparent is None or samples.shape[2] != 3:
        return samples
    alpha = np.where((samples == transparent).all(axis=2), 0, 65535).astype(np.uint16)
    return np.dstack((samples, alpha))


def _joined(upper: NDArray[np.uint8], lower: NDArray[np.uint8]) -> NDArray[np.uint16]:
    samples = upper.astype(np.uint16)
    samples <<= 8
    samples |= lower
    return samples


def _unpacked(picture: ImageFile.ImageFile, rawmode: str) -> NDArray[np.uint8]:
    picture.tile = [
        tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)
        for tile in picture.tile
    ]
    return np.asarray(picture)


def _refuse_planes_16(picture: ImageFile.ImageFile) -> None:
    # Pillow takes the bytes of uncompressed planes of 16 bits for samples of 8: noise, and no error.
    bits, planar = 258, 284  # TIFF tags
    tags = getattr(picture, "tag_v2", {})
    if tags.get(planar) == 2 and max(tags.get(bits, (8,))) > 8 and picture.tile[0].codec_name == "raw":
        raise InputError("is a TIFF of 16 bits in separate planes; save it with interleaved channels")


def _colour_8(picture: Image.Image, transform: ImageCms.ImageCmsTransform | None) -> NDArray[np.uint8]:
    """Samples of any other picture: L [H, W], LA, RGB or RGBA [H, W, 2 to 4], in sRGB."""
    picture.load()
    grey = picture.mode in ("1", "L", "LA", "La")
    alpha = None
    if picture.has_transparency_data:
        picture = picture.convert("LA" if grey else "RGBA")
        if transform is None:
            return np.asarray(picture)
        alpha = np.asarray(picture.getchannel("A"))
    if transform is None:
        return np.asarray(picture.convert("L" if grey else "RGB"))
    picture = picture.convert(transform.input_mode)
    samples = np.asarray(_applied(transform, picture))
    if grey:
        samples = samples[..., 0]
    return samples if alpha is None else np.dstack((samples, alpha))


def _transform_to_srgb(picture: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """What brings the picture's colours to sRGB; None if they are sRGB or its profile is none that fits."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
        grey = picture.mode in ("1", "L", "LA", "La")
        space = profile.profile.xcolor_space.strip()
        mode = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}[space]
        if (space == "GRAY") != grey or (space == "CMYK") != (picture.mode == "CMYK"):
            return None
        transform = ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            # For grey, the shortcut of the library is off by several levels near black.
            ImageCms.Flags.BLACKPOINTCOMPENSATION | (ImageCms.Flags.NOOPTIMIZE if grey else 0),
        )
        if mode == "CMYK":
            return transform
        levels = np.linspace(0, 255, 9).round().astype(np.uint8)
        cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
        probe = Image.fromarray(cube if mode == "RGB" else levels[None])
        before, after = (np.asarray(side, np.int16) for side in (probe.convert("RGB"), _applied(transform, probe)))
        return transform if np.abs(after - before).max() > _SRGB_SLACK else None
    except Exception:  # no profile, or a broken one, which is worth no more
        return None


def _applied(transform: ImageCms.ImageCmsTransform, picture: Image.Image) -> Image.Image:
    return cast(Image.Image, ImageCms.applyTransform(picture, transform))  # None only where it works in place


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF data is no reason to refuse a picture
        return 1


def _turned(samples: NDArray[Any], orientation: int) -> NDArray[Any]:
    """A view of samples [H, W, ...] the right way up; orientation as EXIF counts, 1 (and anything unknown): as is."""
    if orientation in (5, 6, 7, 8):
        samples = samples.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    return samples


def _read_array(path: Path) -> NDArray[np.float32]:
    if path.suffix.lower() == ".npy":
        # Mapped, so that a header that promises more than the file holds is found before memory is taken.
        return _from_array(np.load(path, mmap_mode="r", allow_pickle=False), "the array")
    with path.open("rb") as file, NpzFile(file, allow_pickle=False) as archive:
        if "log_cholesky" in archive:
            raise InputError("holds splats, not a picture; render them first")
        if not archive.files:
            raise InputError("holds no array")
        return _from_array(archive[archive.files[0]], "the array")


def _from_array(array: NDArray[Any], what: str) -> NDArray[np.float32]:
    """An array [H, W] or [H, W, C] as float32 [H, W, C]; integers are scaled, as in picture files."""
    if array.ndim not in (2, 3):
        raise InputError(f"{what} must have the shape [H, W] or [H, W, C], got {array.shape}")
    if array.ndim == 2:
        array = array[..., None]
    if array.dtype in (np.uint8, np.uint16):
        image: NDArray[np.float32] = np.divide(array, np.iinfo(array.dtype).max, dtype=np.float32)
        if image.shape[2] == 4:
            image[..., :3] *= image[..., 3:]
        return image
    if array.dtype.kind not in "fb":
        raise InputError(f"{what} must hold floats, uint8 or uint16, got {array.dtype}")
    with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is refused
        return np.ascontiguousarray(array, dtype=np.float32)


def _read_hdr(path: Path) -> NDArray[np.float32]:
    if not path.is_file():
        path.open("rb").close()  # for the words of the system
    oiio = _openimageio()
    source = oiio.ImageInput.open(str(path))
    if source is None:
        raise InputError(f"cannot be read as a picture ({_one_line(oiio.geterror())})")
    try:
        spec = source.spec()
        limit = Image.MAX_IMAGE_PIXELS  # one limit for all formats; Pillow, too, refuses at twice its value
        if limit is not None and spec.width * spec.height > 2 * limit:
            raise Image.DecompressionBombError(f"{spec.width}x{spec.height} pixels")
        pixels = source.read_image(format="float")
        if pixels is None:
            raise InputError(f"is broken ({_one_line(source.geterror())})")
    finally:
        source.close()
    image = np.asarray(pixels, np.float32).reshape(spec.height, spec.width, spec.nchannels)
    names = list(spec.channelnames)
    for wanted in ("RGBA", "RGB", "Y"):  # of many layers the picture itself; other sets of channels stay whole
        if set(wanted) <= set(names):
            image = image[..., [names.index(name) for name in wanted]]
            break
    return np.ascontiguousarray(image)


def _write_hdr(path: Path, image: NDArray[np.float32]) -> None:
    oiio = _openimageio()
    if path.suffix.lower() == ".hdr" and image.shape[2] == 1:
        image = np.repeat(image, 3, axis=2)
    height, width, channels = image.shape
    spec = oiio.ImageSpec(width, height, channels, "float")
    if channels == 1:
        spec.channelnames = ("Y",)
    elif channels not in (3, 4):  # neutral names, in the order in which the format sorts them
        spec.channelnames = tuple(f"C{index:05d}" for index in range(channels))
    target = oiio.ImageOutput.create(str(path))
    if target is None:
        raise InputError(f"cannot be written ({_one_line(oiio.geterror())})")
    if not (target.open(str(path), spec) and target.write_image(np.ascontiguousarray(image)) and target.close()):
        raise InputError(f"cannot be written ({_one_line(target.geterror())})")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _openimageio() -> Any:
    try:
        return import_module("OpenImageIO")
    except ImportError:
        raise InputError('.exr and .hdr need one more package: pip install "splat2d[hdr]"') from None


def _write_picture(path: Path, image: NDArray[np.float32], form: str, options: dict[str, Any]) -> None:
    height, _, channels = image.shape
    on_white = channels == 4 and form in _WITHOUT_ALPHA
    levels = np.empty((*image.shape[:2], 3 if on_white else channels), np.uint8)
    for top in range(0, height, _STRIP):
        levels[top : top + _STRIP] = levels_of(image[top : top + _STRIP], on_white)
    Image.fromarray(levels[..., 0] if channels == 1 else levels).save(path, format=form, **options)


def levels_of(image: NDArray[np.float32], on_white: bool = False) -> NDArray[np.uint8]:
    """Values in [0, 1] as 0 to 255; where there is alpha, it is divided out or the picture laid on white."""
    if image.shape[2] == 4 and on_white:
        image = image[..., :3] + (1 - image[..., 3:].clip(0, 1))
    return _cpu.levels(np.ascontiguousarray(image, np.float32))
