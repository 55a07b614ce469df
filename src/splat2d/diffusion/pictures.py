"""Sets of pictures to learn from: an .npz file, a folder of images, or a dataset as torchvision has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsInt

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from splat2d.atomic import unreadable
from splat2d.errors import InputError
from splat2d.images import load_image

HELD_OUT = 10  # one picture in so many is kept for tests where a set does not say which
LARGEST_SIDE = 256  # pixels: the splats of larger pictures are too many for one transformer
ARRAYS = ("x", "y", "x_train", "y_train", "x_test", "y_test", "names")  # of an .npz file
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """Pictures of one size. Those with a fourth channel, alpha, have colours multiplied by it."""

    images: NDArray[np.uint8]  # [n, H, W, C]
    labels: NDArray[np.int64]  # [n], 0 to len(names) - 1; all 0 where a set has no labels
    test: NDArray[np.bool_]  # [n], those held out
    names: tuple[str, ...]  # of the classes; empty where a set has no labels

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        _, height, width, channels = self.images.shape
        return height, width, channels


def load_pictures(source: Path, *, limit: int | None = None) -> Pictures:
    """The pictures of a source, at most `limit` of each of the two parts. Raises InputError.

    An .npz file has pictures uint8 [n, H, W] or [n, H, W, C] as x_train and x_test with labels y_train and y_test, or
    as x with labels y; `names` are the classes. In a folder, each folder inside is a class; folders train and test at
    the top are the two parts. Without parts, a tenth is held out, drawn by a fixed seed. Labels may be missing.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit: must be at least 1, got {limit}")
    pictures = _from_folder(source) if source.is_dir() else _from_npz(source)
    if limit is None:
        return pictures
    # Drawn, since the pictures of a folder come class by class.
    parts = [np.random.default_rng(0).permutation(np.flatnonzero(pictures.test == part)) for part in (False, True)]
    kept = np.concatenate([np.sort(part[:limit]) for part in parts])
    return Pictures(pictures.images[kept], pictures.labels[kept], pictures.test[kept], pictures.names)


def pictures_of(dataset: Sequence[tuple[Any, int]], test: Sequence[tuple[Any, int]] | None = None) -> Pictures:
    """The pictures of datasets as torchvision has them: items (picture, label), a picture being one of Pillow, an array
    uint8 [H, W] or [H, W, C], or a tensor float [C, H, W] of 0..1. Raises InputError.
    """
    images, labels, held_out = [], [], []
    for part, items in ((False, dataset), (True, test or ())):
        for index in range(len(items)):
            picture, label = items[index]
            images.append(_as_bytes(picture))
            if not isinstance(label, SupportsInt):
                raise InputError(f"the dataset: item {index} has no label, a whole number, but {label!r}")
            labels.append(int(label))
            held_out.append(part)
    names = tuple(map(str, getattr(dataset, "classes", range(max(labels, default=-1) + 1))))
    return _checked(
        "the dataset", _stacked("the dataset", images), np.array(labels), names, np.array(held_out) if test else None
    )


def _as_bytes(picture: Any) -> NDArray[np.uint8]:
    """One item of a dataset as uint8 [H, W] or [H, W, C]."""
    array = np.asarray(picture)
    if np.issubdtype(array.dtype, np.floating) and array.ndim == 3:
        array = np.rint(array.transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(
            f"the dataset: expected pictures of 8 bits or tensors [C, H, W] of 0..1, got {array.dtype} {array.shape}"
        )
    return _premultiplied(array) if array.ndim == 3 else array[..., None]


def _premultiplied(images: NDArray[Any]) -> NDArray[Any]:
    """Pictures [..., H, W, C] with their colours times alpha, where there is a fourth channel; all else unchanged."""
    if images.dtype != np.uint8 or images.shape[-1] != 4:
        return images
    alpha = images[..., 3:].astype(np.uint16)
    return np.concatenate([(images[..., :3] * alpha + 127) // 255, alpha], -1).astype(np.uint8)


def _from_npz(path: Path) -> Pictures:
    try:
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as archive:
            arrays = {name: np.asarray(archive[name]) for name in ARRAYS if name in archive}
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
        raise unreadable(path, error, "an .npz file of pictures") from error
    names = None
    if "names" in arrays:
        if arrays["names"].ndim != 1:
            raise InputError(f"{path}: names must be a list of the classes, got {arrays['names'].shape}")
        names = tuple(map(str, arrays["names"]))
    if "x_train" in arrays and "x_test" in arrays:
        return _parted(path, arrays, names)
    if "x" not in arrays:
        raise InputError(f"{path}: expected arrays x and y, or x_train, y_train, x_test and y_test")
    images = _premultiplied(arrays["x"]) if arrays["x"].ndim == 4 else arrays["x"]
    return _checked(str(path), images, arrays.get("y"), names if "y" in arrays else None, None)


def _parted(path: Path, arrays: dict[str, NDArray[Any]], names: tuple[str, ...] | None) -> Pictures:
    """The pictures of an .npz file with x_train and x_test."""
    parts = [arrays[name] for name in ("x_train", "x_test")]
    parts = [_premultiplied(part) if part.ndim == 4 else part for part in parts]
    labels = [arrays[name] for name in ("y_train", "y_test") if name in arrays]
    if len(labels) == 1:
        raise InputError(f"{path}: labels are needed for both parts, y_train and y_test, or for none")
    kinds = [f"{part.dtype} {part.shape[1:]}" for part in parts]
    if kinds[0] != kinds[1] or not all(part.ndim for part in parts):
        raise InputError(f"{path}: pictures must be of one size, got {kinds[0]} in x_train, {kinds[1]} in x_test")
    for name, part, label in zip(("train", "test"), parts, labels, strict=False):
        if label.shape != (len(part),):
            raise InputError(
                f"{path}: x_{name} has {len(part)} pictures, y_{name} is {label.shape}; each needs one label"
            )
    held_out = np.repeat([False, True], [len(part) for part in parts])
    return _checked(str(path), np.concatenate(parts), np.concatenate(labels) if labels else None, names, held_out)


def _from_folder(folder: Path) -> Pictures:
    """Pictures in folders of classes, or straight in the folder; parts where it holds train and test."""
    roots = [(folder / "train", False), (folder / "test", True)]
    parted = all(root.is_dir() for root, _ in roots)
    files: list[tuple[Path, str, bool]] = []
    for root, part in roots if parted else [(folder, False)]:
        for path in sorted(root.rglob("*")):
            if path.suffix.lower() in SUFFIXES and path.is_file():
                inside = path.relative_to(root).parts
                files.append((path, inside[0] if len(inside) > 1 else "", part))
    if not files:
        raise InputError(f"{folder}: there are no pictures in this folder")
    names = tuple(sorted({name for _, name, _ in files}))
    unsorted = [path for path, name, _ in files if not name]
    if unsorted and len(names) > 1:
        raise InputError(f"{unsorted[0]}: has no class, as other pictures have; put it into the folder of one")
    images = [np.rint(load_image(path) * 255).astype(np.uint8) for path, _, _ in files]
    labels = np.array([names.index(name) for _, name, _ in files]) if names != ("",) else None
    held_out = np.array([part for _, _, part in files]) if parted else None
    paths = [str(path) for path, _, _ in files]
    return _checked(str(folder), _stacked(str(folder), images, paths), labels, names, held_out)


def _stacked(where: str, images: list[NDArray[np.uint8]], paths: list[str] | None = None) -> NDArray[np.uint8]:
    """All pictures as one array, which needs them to be of one size."""
    if not images:
        raise InputError(f"{where}: there are no pictures")
    for index, image in enumerate(images):
        if image.shape != images[0].shape:
            name = paths[index] if paths else f"{where}: picture {index}"
            first = images[0].shape
            raise InputError(
                f"{name}: is {image.shape}, the first is {first}; bring all to one size and kind of colour"
            )
    return np.stack(images)


def _checked(
    where: str,
    images: NDArray[Any],
    labels: NDArray[Any] | None,
    names: tuple[str, ...] | None,
    held_out: NDArray[np.bool_] | None,
) -> Pictures:
    """Everything a set must be. Raises InputError."""
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3, 4):
        raise InputError(
            f"{where}: expected pictures uint8 [n, H, W] or [n, H, W, C] of 1, 3 or 4 channels, "
            f"got {images.dtype} {images.shape}"
        )
    if len(images) < 2 or not images.size:
        raise InputError(f"{where}: expected at least two pictures, got {images.shape}")
    if max(images.shape[1:3]) > LARGEST_SIDE:
        raise InputError(
            f"{where}: pictures may have {LARGEST_SIDE} pixels a side, got {images.shape[1:3]}; shrink them"
        )
    if labels is None:
        labels, names = np.zeros(len(images), np.int64), ()
    else:
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise InputError(f"{where}: labels must be whole numbers [n], got {labels.dtype} {labels.shape}")
        if len(labels) != len(images):
            raise InputError(f"{where}: {len(images)} pictures have {len(labels)} labels; each needs one")
        if names is None:
            names = tuple(map(str, range(int(labels.max()) + 1)))
        if labels.min() < 0 or labels.max() >= len(names):
            bad = labels.min() if labels.min() < 0 else labels.max()
            raise InputError(f"{where}: label {bad} is out of range; there are {len(names)} classes")
    if held_out is None:
        held_out = np.zeros(len(images), np.bool_)
        held_out[np.random.default_rng(0).permutation(len(images))[: max(1, len(images) // HELD_OUT)]] = True
    if held_out.all() or not held_out.any():
        raise InputError(f"{where}: expected pictures to train on and pictures to test on")
    return Pictures(np.ascontiguousarray(images), labels.astype(np.int64), np.asarray(held_out, np.bool_), names)
