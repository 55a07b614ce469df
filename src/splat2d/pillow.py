"""Pillow reads and writes .s2d files, once register_pillow() has been called."""

from __future__ import annotations

from io import BytesIO
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from splat2d import codec
from splat2d.codec import container
from splat2d.compression import compress
from splat2d.errors import FormatError, InputError
from splat2d.fitting import fit
from splat2d.rendering import render_levels

FORMAT, SUFFIX, MIME = "S2D", ".s2d", "image/x-s2d"

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_COMPRESS_OPTIONS = ("bytes", "quality", "psnr", "preset", "loss", "seed", "device", "threads")
_FIT_OPTIONS = ("splats", "preset", "steps", "loss", "seed", "device", "threads")


def register_pillow() -> None:
    """From now on Image.open reads .s2d files, at the size of their canvas, and Image.save writes them.

    save takes the options of compress(), or with a budget of splats those of fit(). Modes L, RGB and RGBA. EXIF data
    and colour profiles come along, both ways.
    """
    Image.register_open(FORMAT, S2dImageFile, _accept)
    Image.register_save(FORMAT, _save)
    Image.register_extension(FORMAT, SUFFIX)
    Image.register_mime(FORMAT, MIME)


class S2dImageFile(ImageFile.ImageFile):
    """A .s2d file as Pillow sees it: opened by its header, decoded when its pixels are asked for."""

    format = FORMAT
    format_description = "2D Gaussian splats"

    def _open(self) -> None:
        assert self.fp is not None
        self._data: bytes | None = self.fp.read()
        try:
            header, metadata = container.preamble(self._data)
        except FormatError as error:
            raise SyntaxError(str(error)) from error  # how a plugin tells Pillow to ask the next one
        if header.channels not in _MODES:
            raise SyntaxError(f"{header.channels} channels are no picture")
        self._size = header.width, header.height
        self._mode = _MODES[header.channels]
        self.text = metadata.text  # as in Pillow's PNG files
        if metadata.exif:
            self.info["exif"] = metadata.exif
        if metadata.icc:
            self.info["icc_profile"] = metadata.icc

    def load(self) -> Any:
        """Decodes the picture. Raises OSError if the file is damaged."""
        if self._data is not None:
            try:
                splats = codec.decode(self._data, partial=ImageFile.LOAD_TRUNCATED_IMAGES)
                levels = render_levels(splats)
            except InputError as error:
                raise OSError(f"the .s2d file {error}") from error
            if self.fp is not None and self._exclusive_fp:
                self.fp.close()
            self.fp = BytesIO(levels.tobytes())
            self.tile = [ImageFile._Tile("raw", (0, 0, *self.size), 0, self.mode)]
            self._data = None
        return super().load()


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(container.MAGIC)


def _save(picture: Image.Image, file: IO[bytes], _: str | bytes) -> None:
    if picture.mode not in _MODES.values():
        raise OSError(f"cannot write mode {picture.mode} as {FORMAT}")
    options: dict[str, Any] = picture.encoderinfo
    exif = options.get("exif", picture.info.get("exif", b""))
    metadata = codec.Metadata(
        exif=exif.tobytes() if isinstance(exif, Image.Exif) else exif,
        icc=options.get("icc_profile", picture.info.get("icc_profile")) or b"",
    )
    samples = np.asarray(picture, np.float32).reshape(picture.height, picture.width, -1) / np.float32(255)
    if picture.mode == "RGBA":
        samples[..., :3] *= samples[..., 3:]
    file.write(_compressed(samples, options, metadata))


def _compressed(samples: NDArray[np.float32], options: dict[str, Any], metadata: codec.Metadata) -> bytes:
    """The file of a picture [H, W, C]. Raises InputError."""
    if options.get("splats") is None:
        if options.get("steps") is not None:
            raise InputError("steps: goes with a budget of splats only; presets decide otherwise")
        chosen = {name: options[name] for name in _COMPRESS_OPTIONS if name in options}
        return compress(samples, **chosen, metadata=metadata).data
    for name in ("bytes", "quality", "psnr"):
        if options.get(name) is not None:
            raise InputError(f"two budgets given, splats and {name}; give one")
    chosen = {name: options[name] for name in _FIT_OPTIONS if name in options}
    return codec.encode(fit(samples, **chosen).splats, metadata=metadata)
