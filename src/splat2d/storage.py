"""Splats in files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from splat2d.atomic import replacing, unreadable
from splat2d.errors import InputError
from splat2d.splats import Splats

SUFFIXES = (".npz",)

_FORMAT = "splat2d"
_VERSION = 1
_ARRAYS = ("means", "log_cholesky", "colors", "background")


def save(path: str | os.PathLike[str], splats: Splats) -> None:
    """Writes splats to a file; the suffix picks the format. The same splats give the same bytes. Raises InputError.

    .npz: the fields of Splats under their names, beside `format` and `version`.
    """
    _check_suffix(Path(path))
    arrays = {name: getattr(splats, name) for name in _ARRAYS}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, format=_FORMAT, version=_VERSION, width=splats.width, height=splats.height, **arrays)


def load(path: str | os.PathLike[str]) -> Splats:
    """Reads splats from a file that `save` wrote. Raises InputError if it is damaged or something else."""
    path = Path(path)
    _check_suffix(path)
    try:
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as archive:
            if "format" not in archive or archive["format"] != _FORMAT:
                raise InputError("holds no splats; splat2d.save writes files that do")
            if archive["version"] != _VERSION:
                raise InputError(f"has version {archive['version']}, known is {_VERSION}; update splat2d")
            width, height = (_whole(archive[name]) for name in ("width", "height"))
            arrays = {name: _floats(archive[name]) for name in _ARRAYS}
        return Splats(width=width, height=height, **arrays)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
        raise unreadable(path, error, "splats") from error


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f'{path}: splats have no format of suffix "{path.suffix}"; known: {" ".join(SUFFIXES)}')


def _whole(array: NDArray[Any]) -> int:
    if array.shape != () or array.dtype.kind not in "iu":
        raise InputError("width and height must be whole numbers")
    return int(array)


def _floats(array: NDArray[Any]) -> NDArray[np.float32]:
    if array.dtype != np.float32:
        raise InputError(f"expected float32 arrays, got {array.dtype}")
    return array
