"""The files of a command: what it may write, checked before the work begins, and what a suffix stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from splat2d import codec, exporting, images, storage, viewing
from splat2d.atomic import replacing, write_bytes
from splat2d.codec.container import Header
from splat2d.config import Profile
from splat2d.errors import FormatError, InputError
from splat2d.splats import Splats

CODED = ".s2d"  # the suffix of splats that lose something
PAGE = ".html"  # of such splats in a page that shows them


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


def write(path: Path, splats: Splats, picture: NDArray[np.float32], data: bytes | None = None) -> int:
    """Writes the splats, for us or for others, or the picture of them, as the suffix says; the bytes on disk.

    Raises InputError.

    data: what a .s2d file, or that in a page, is to hold; the splats at the default quality unless given.
    """
    if is_page(path):
        coded = codec.encode(splats) if data is None else data
        write_bytes(path, viewing.page(coded, path.with_suffix(CODED).name))
    elif data is not None and is_coded(path):
        write_bytes(path, data)
    elif holds_splats(path):
        storage.save(path, splats)
    elif is_export(path):
        exporting.export(path, splats)
    else:
        images.save_image(path, picture)
    return path.stat().st_size


def encode_within(splats: Splats, size: int, profile: Profile = "scalar") -> bytes:
    """The bytes of a .s2d file, at most so many if a header fits: all splats, as finely as that allows.

    What is too much even at the coarsest quality, or in the one precision of profile vector, is left out, the weakest
    splats first.
    """
    if profile == "scalar":
        data = _largest(lambda quality: codec.encode(splats, quality=quality), 0, 101, size)
        if len(data) <= size:
            return data
    strongest = splats.strongest()

    def some(count: int) -> bytes:
        return codec.encode(splats.take(strongest[:count]), quality=0 if profile == "scalar" else None, profile=profile)

    return _largest(some, 0, len(splats) + 1, size)


def _largest(encode: Callable[[int], bytes], low: int, high: int, size: int) -> bytes:
    """encode(n) of the largest n in low <= n < high that gives at most so many bytes; of low if none does."""
    best = encode(low)
    while high - low > 1:
        middle = (low + high) // 2
        data = encode(middle)
        if len(data) <= size:
            low, best = middle, data
        else:
            high = middle
    return best


def is_coded(path: Path) -> bool:
    """Whether the suffix is that of splats that lose something."""
    return path.suffix.lower() == CODED


def is_page(path: Path) -> bool:
    """Whether the suffix is that of a page that shows splats."""
    return path.suffix.lower() == PAGE


def holds_splats(path: Path) -> bool:
    """Whether the suffix is one of splats."""
    return path.suffix.lower() in storage.SUFFIXES


def is_export(path: Path) -> bool:
    """Whether the suffix is one of splats for other programs."""
    return path.suffix.lower() in exporting.SUFFIXES


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
    check_places(outputs, source, [*((*storage.SUFFIXES, PAGE) if splats else ()), *exporting.SUFFIXES, *pictures])


def check_places(outputs: Sequence[Path], source: Path, suffixes: Sequence[str]) -> None:
    """The same for outputs of any of these suffixes."""
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


def check_encoders(outputs: Sequence[Path], image: NDArray[np.float32], count: int = 0) -> None:
    """Writes a row and a column of the size of the image [H, W, C] in each format of others; of .s2d checks the header.

    A package that is missing, a number of channels, a size or a count of splats that the format cannot take shows here,
    before the work. Raises InputError.
    """
    height, width, channels = image.shape
    with TemporaryDirectory() as folder:
        for path in outputs:
            if is_coded(path) or is_page(path):
                _check_header(path, width, height, channels, count)
            elif is_export(path):
                means, shapes, colors = (np.zeros((0, n), np.float32) for n in (2, 3, channels))
                none = Splats(means, shapes, colors, 1, 1, np.zeros(channels, np.float32))
                exporting.export(Path(folder, f"trial{path.suffix}"), none)
            elif not holds_splats(path):
                for shape in ((1, width, channels), (height, 1, channels)):
                    images.save_image(Path(folder, f"trial{path.suffix}"), np.zeros(shape, np.float32))


def _check_header(path: Path, width: int, height: int, channels: int, count: int) -> None:
    """Raises InputError if no .s2d file may say this of its picture."""
    try:
        Header(width, height, count, (0.0,) * channels, quality_index=0, cell_exponent=0, margin=0)
    except FormatError as error:
        raise InputError(f"{path}: {error}; write .npz") from error


class _Tried(Exception):
    pass


def _check_writable(path: Path) -> None:
    """Begins to write and thinks better of it: nothing tells more surely, and nothing remains. Raises InputError."""
    try:
        with replacing(path):
            raise _Tried
    except _Tried:
        pass
