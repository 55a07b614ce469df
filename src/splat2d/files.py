"""The files of a command: what it may write, checked before the work begins, and what a suffix stands for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from splat2d import codec, images, storage
from splat2d.atomic import replacing
from splat2d.errors import InputError
from splat2d.splats import Splats

CODED = ".s2d"  # the suffix of splats that lose something


def read(path: Path) -> Splats | NDArray[np.float32]:
    """The splats of a file, or else its picture. Raises InputError."""
    if not holds_splats(path):
        return images.load_image(path)
    try:
        return storage.load(path)
    except InputError as error:
        if path.suffix.lower() not in images.SUFFIXES:
            raise
        try:
            return images.load_image(path)  # an .npz may hold a float picture too
        except InputError:
            raise error from None


def write(path: Path, splats: Splats, picture: NDArray[np.float32]) -> int:
    """Writes the splats or the picture of them, as the suffix says; the bytes on disk. Raises InputError."""
    if holds_splats(path):
        storage.save(path, splats)
    else:
        images.save_image(path, picture)
    return path.stat().st_size


def as_stored(path: Path | None, splats: Splats) -> Splats:
    """The splats that this file will give back. Raises InputError."""
    if path is None or path.suffix.lower() != CODED:
        return splats
    return codec.decode(codec.encode(splats))


def holds_splats(path: Path) -> bool:
    """Whether the suffix is one of splats."""
    return path.suffix.lower() in storage.SUFFIXES


def default_output(source: Path, suffix: str = storage.SUFFIXES[0]) -> Path:
    """Where the splats of a photo or of another file go unless the user says.

    Raises InputError if something else is in that place.
    """
    path = source.with_suffix(suffix)
    if path.is_file() and path.resolve() != source.resolve():
        try:
            storage.load(path)
        except InputError:
            raise InputError(f"{path} exists and holds no splats, so it is kept; name an output with -o") from None
    return path


def check_outputs(outputs: Sequence[Path], source: Path, *, splats: bool) -> None:
    """Finds out before the work what could only fail after it. splats: whether these may be among the outputs.

    Raises InputError for an unknown suffix, for the source or one file named twice, for a place that cannot be
    written.
    """
    pictures = [suffix for suffix in images.SUFFIXES if suffix not in storage.SUFFIXES]
    suffixes = [*storage.SUFFIXES, *pictures] if splats else pictures
    places = [source.resolve()]
    for path in outputs:
        if path.suffix.lower() not in suffixes:
            raise InputError(f'{path}: cannot write a file of suffix "{path.suffix}"; known: {" ".join(suffixes)}')
        place = path.resolve()
        if place == places[0] or (path.exists() and source.exists() and path.samefile(source)):
            raise InputError(f"{path} is the input, which is never overwritten; choose another name with -o")
        if place in places:
            raise InputError(f"{path} is named twice; give every output a name of its own")
        places.append(place)
        _check_writable(path)


def check_encoders(outputs: Sequence[Path], image: NDArray[np.float32]) -> None:
    """Writes a row and a column of the size of the image [H, W, C] in each picture format, and no splats in theirs.

    A package that is missing, a number of channels or a size that the format cannot take shows here, before the work.
    Raises InputError.
    """
    height, width, channels = image.shape
    nothing = np.zeros((0, 3 + channels), np.float32)
    none = Splats(nothing[:, :2], nothing[:, :3], nothing[:, 3:], width, height, np.zeros(channels, np.float32))
    with TemporaryDirectory() as folder:
        for path in outputs:
            if holds_splats(path):
                as_stored(path, none)
            else:
                for shape in ((1, width, channels), (height, 1, channels)):
                    images.save_image(Path(folder, f"trial{path.suffix}"), np.zeros(shape, np.float32))


class _Tried(Exception):
    pass


def _check_writable(path: Path) -> None:
    """Begins to write and thinks better of it: nothing tells more surely, and nothing remains. Raises InputError."""
    try:
        with replacing(path):
            raise _Tried
    except _Tried:
        pass
