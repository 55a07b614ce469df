"""Splats in files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from splat2d import codec
from splat2d.atomic import replacing, unreadable, write_bytes
from splat2d.errors import FormatError, InputError
from splat2d.splats import Splats

SUFFIXES = (".npz", ".s2d")

_FORMAT = "splat2d"
_VERSION = 1
_ARRAYS = ("means", "log_cholesky", "colors", "background")


def save(path: str | os.PathLike[str], splats: Splats, *, quality: float | None = None) -> None:
    """Writes splats to a file; the suffix picks the format. The same splats give the same bytes. Raises InputError.

    .npz: the fields of Splats under their names, beside `format` and `version`; exact.
    .s2d: small; what splat2d.encode gives at this quality.
    """
    if _suffix(Path(path)) == ".s2d":
        write_bytes(path, codec.encode(splats, quality=quality))
        return
    if quality is not None:
        raise InputError(f"{path}: .npz keeps splats as they are and takes no quality; write .s2d")
    arrays = {name: getattr(splats, name) for name in _ARRAYS}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, format=_FORMAT, version=_VERSION, width=splats.width, height=splats.height, **arrays)


def load(path: str | os.PathLike[str]) -> Splats:
    """Reads splats from a file that `save` wrote. Raises InputError if it is damaged or something else."""
    path = Path(path)
    if _suffix(path) == ".s2d":
        return load_s2d(path).splats
    try:
        return _load_npz(path)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
        raise unreadable(path, error, "splats") from error


def load_s2d(path: str | os.PathLike[str], *, partial: bool = False) -> codec.Contents:
    """All that a .s2d file holds; partial as in splat2d.decode. Raises InputError, FormatError for what is in it."""
    path = Path(path)
    try:
        return codec.read(path.read_bytes(), partial=partial)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error
    except (OSError, MemoryError) as error:
        raise unreadable(path, error, "splats") from error


def _load_npz(path: Path) -> Splats:
    with path.open("rb") as file, NpzFile(file, allow_pickle=False) as archive:
        if "format" not in archive or archive["format"] != _FORMAT:
            raise InputError("holds no splats; splat2d.save writes files that do")
        if archive["version"] != _VERSION:
            raise InputError(f"has version {archive['version']}, known is {_VERSION}; update splat2d")
        width, height = (_whole(archive[name]) for name in ("width", "height"))
        arrays = {name: _floats(archive[name]) for name in _ARRAYS}
    return Splats(width=width, height=height, **arrays)


def _suffix(path: Path) -> str:
    """The suffix in small letters. Raises InputError if it is none of splats."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f'{path}: splats have no format of suffix "{path.suffix}"; known: {" ".join(SUFFIXES)}')
    return suffix


def _whole(array: NDArray[Any]) -> int:
    if array.shape != () or array.dtype.kind not in "iu":
        raise InputError("width and height must be whole numbers")
    return int(array)


def _floats(array: NDArray[Any]) -> NDArray[np.float32]:
    if array.dtype != np.float32:
        raise InputError(f"expected float32 arrays, got {array.dtype}")
    return array
