"""Generated pictures in files: a sheet of them, arrays, or splats in a .s2d file each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splat2d import images, storage
from splat2d.atomic import replacing
from splat2d.diffusion.grids import save_sheet
from splat2d.diffusion.layouts import Layout, SplatLayout
from splat2d.diffusion.splatset import rendered
from splat2d.errors import InputError
from splat2d.rendering import render

SPLATS, ARRAYS = ".s2d", ".npz"
SUFFIXES = (*(suffix for suffix in images.SUFFIXES if suffix != ARRAYS), ARRAYS, SPLATS)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """What a model made."""

    layout: Layout
    tokens: Tensor  # [n, N, F] on the CPU
    labels: Tensor  # [n]
    names: tuple[str, ...]  # of the classes; empty where there are none

    def __len__(self) -> int:
        return len(self.tokens)


def labels_for(count: int, wanted: tuple[str, ...], names: tuple[str, ...]) -> Tensor:
    """Labels [count] that take turns: of the wanted classes, by name or number, or of all. Raises InputError."""
    if count < 1:
        raise InputError(f"count: must be at least 1, got {count}")
    classes = [_class(text, names) for text in wanted] or list(range(max(1, len(names))))
    return torch.tensor(classes)[torch.arange(count) % len(classes)]


def labels_like(count: int, known: NDArray[np.int64]) -> Tensor:
    """Labels [count] in the proportions of known ones [n], classes taking turns as evenly as that goes."""
    shares = count * np.bincount(known) / len(known)
    counts = shares.astype(np.int64)
    lacking = np.argsort(counts - shares, kind="stable")  # the largest remainders first
    counts[lacking[: count - counts.sum()]] += 1
    classes = np.repeat(np.arange(len(counts)), counts)
    turns = np.concatenate([(np.arange(each) + 0.5) / each for each in counts if each])
    return torch.from_numpy(classes[np.argsort(turns, kind="stable")])


def label_for(count: int, wanted: str | None, names: tuple[str, ...], any_class: int) -> Tensor:
    """Labels [count] of one class, by name or number, or of the one that stands for any. Raises InputError."""
    if wanted is None:
        return torch.full_like(labels_for(count, (), names), any_class)
    return labels_for(count, (wanted,), names)


def _class(text: str, names: tuple[str, ...]) -> int:
    if not names:
        raise InputError("classes: this model learned from pictures without labels and has none; leave them out")
    if text in names:
        return names.index(text)
    folded = [name.casefold() for name in names]
    if folded.count(text.casefold()) == 1:
        return folded.index(text.casefold())
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    raise InputError(f'classes: there is no "{text}"; known: {", ".join(names)}, or 0 to {len(names) - 1}')


def drawn(samples: Samples, *, scale: float | None = None, width: int | None = None) -> NDArray[np.uint8]:
    """The pictures of samples [n, H, W, C] at the size they were trained at, or at any other. Raises InputError."""
    layout = samples.layout
    if scale is None and width is None:
        return rendered(layout, samples.tokens)
    if not isinstance(layout, SplatLayout):
        raise InputError(
            f"scale, width: this model makes pixels, {layout.width}x{layout.height} of them; leave both out"
        )
    pictures = [render(layout.splats(each).splats(), scale=scale, width=width) for each in samples.tokens]
    return np.rint(np.stack(pictures).clip(0, 1) * 255).astype(np.uint8)


def check_kinds(paths: tuple[Path, ...], layout: Layout) -> None:
    """Raises InputError where the model has no splats to write."""
    for path in paths:
        if path.suffix.lower() == SPLATS and not isinstance(layout, SplatLayout):
            raise InputError(f"{path}: this model makes pixels, not splats; write .png or .npz")


def write_samples(path: Path, samples: Samples, pictures: NDArray[np.uint8], columns: int) -> list[Path]:
    """Writes samples as the suffix says; the files. Raises InputError.

    .s2d: a file each, numbered from NAME-0001.s2d if there are several. .npz: images uint8 [n, H, W, C], labels [n],
    names of the classes and, in pixels of a canvas of width and height, splats: means [n, N, 2], log_cholesky
    [n, N, 3], colors [n, N, C], background [C]. Others: a sheet of the pictures, [n, H, W, C].
    """
    suffix = path.suffix.lower()
    if suffix == SPLATS:
        return _write_splats(path, samples)
    if suffix == ARRAYS:
        _write_arrays(path, samples, pictures)
    else:
        save_sheet(path, pictures, columns)
    return [path]


def _write_splats(path: Path, samples: Samples) -> list[Path]:
    assert isinstance(samples.layout, SplatLayout)  # as check_kinds() found
    paths = [path]
    if len(samples) > 1:
        paths = [path.with_name(f"{path.stem}-{index + 1:04}{path.suffix}") for index in range(len(samples))]
    for tokens, place in zip(samples.tokens, paths, strict=True):
        storage.save(place, samples.layout.splats(tokens).splats())
    return paths


def _write_arrays(path: Path, samples: Samples, pictures: NDArray[np.uint8]) -> None:
    arrays = {"images": pictures, "labels": samples.labels.numpy(), "names": np.array(samples.names, np.str_)}
    if isinstance(samples.layout, SplatLayout):
        splats = samples.layout.splats(samples.tokens)
        arrays |= {name: getattr(splats, name).numpy() for name in ("means", "log_cholesky", "colors", "background")}
        arrays |= {"width": np.array(splats.width), "height": np.array(splats.height)}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
