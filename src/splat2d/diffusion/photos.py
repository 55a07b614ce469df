"""Pictures and masks of a user as a model needs them: of its size and its channels, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from splat2d.diffusion.editing import Known, known_grey, known_means, known_pixels
from splat2d.diffusion.layouts import Layout
from splat2d.errors import InputError
from splat2d.images import load_image

SQUEEZE = 1.05  # how much wider or taller a resized picture may become
KINDS = {1: "grey", 3: "RGB", 4: "RGBA"}

Task = Literal["inpaint", "outpaint", "upscale", "colorize"]
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Photo:
    """A picture to complete."""

    path: Path
    mask: Path | None = None  # inpaint: a picture that is white where it is made anew
    scale: float = 0.5  # outpaint: its side, relative to that of the result


def load_photos(paths: tuple[Path, ...], layout: Layout, note: Note) -> Tensor:
    """Picture files at the size of a layout, [n, H, W, C]; note is told of other sizes. Raises InputError."""
    return torch.stack([resized(path, load_photo(path, layout.channels), layout, note) for path in paths])


def known_of(task: Task, photo: Photo, layout: Layout, count: int, note: Note) -> Known:
    """What a photo says of the results of a task, so many of them; note is told if it is resized. Raises InputError."""
    if task == "inpaint" and photo.mask is None:
        raise InputError("inpaint: needs --mask FILE, a picture that is white where the photo is to be made anew")

    def each(picture: Tensor) -> Tensor:
        return picture.expand(count, *picture.shape)

    picture = load_photo(photo.path, layout.channels, grey=task == "colorize")
    if task == "upscale":
        return known_means(each(picture), layout.height, layout.width)
    if task == "outpaint":
        canvas, keep = centred(resized(photo.path, picture, layout, note, photo.scale), layout)
        return known_pixels(each(canvas), keep)
    whole = resized(photo.path, picture, layout, note)
    if task == "colorize":
        return known_grey(each(whole))
    assert photo.mask is not None
    return known_pixels(each(whole), ~resized_mask(load_mask(photo.mask, picture), layout))


def load_photo(path: Path, channels: int, *, grey: bool = False) -> Tensor:
    """A picture file as [h, w, C] of so many channels; a grey one will do for RGB if asked for. Raises InputError."""
    photo = torch.from_numpy(load_image(path).copy())
    if grey and photo.shape[2] == 1 and channels == 3:
        return photo.expand(-1, -1, 3)
    if photo.shape[2] != channels:
        there, wanted = (f"{count} channels ({KINDS.get(count, 'no colours')})" for count in (photo.shape[2], channels))
        raise InputError(f"{path}: has {there}, the model makes {wanted}; convert the picture first")
    return photo


def load_mask(path: Path, photo: Tensor) -> Tensor:
    """Which pixels of a photo [h, w, C] a picture shows in white: bool [h, w]. Raises InputError."""
    mask = torch.from_numpy(load_image(path).copy())
    if mask.shape[:2] != photo.shape[:2]:
        height, width = photo.shape[:2]
        raise InputError(
            f"{path}: a mask of {mask.shape[1]}x{mask.shape[0]} pixels for a picture of {width}x{height}; "
            "they must be of one size"
        )
    return mask[..., :3].mean(-1) > 0.5


def resized(path: Path, photo: Tensor, layout: Layout, note: Note, scale: float = 1.0) -> Tensor:
    """A photo [h, w, C] at so much of the size of a layout. Raises InputError where that would distort it."""
    if not 0 < scale <= 1:
        raise InputError(f"scale: must be above 0 and at most 1, got {scale:g}")
    height, width = photo.shape[:2]
    stretch = layout.width / layout.height * height / width
    if not 1 / SQUEEZE <= stretch <= SQUEEZE:
        raise InputError(
            f"{path}: is {width}x{height} pixels, the model makes {layout.width}x{layout.height}; crop it to that shape"
        )
    size = (max(1, round(scale * layout.height)), max(1, round(scale * layout.width)))
    if (height, width) == size:
        return photo
    note(f"{path}: resized from {width}x{height} to {size[1]}x{size[0]} pixels")
    planes = photo.permute(2, 0, 1)[None]
    return functional.interpolate(planes, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).clamp(0, 1)


def resized_mask(mask: Tensor, layout: Layout) -> Tensor:
    """A mask [h, w] at the size of a layout; a pixel is in it if any part of it is."""
    if mask.shape == (layout.height, layout.width):
        return mask
    planes = mask[None, None].float()
    size = (layout.height, layout.width)
    return functional.interpolate(planes, size, mode="bilinear", antialias=True)[0, 0] > 0.01


def centred(photo: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """A photo [h, w, C] amid the canvas of a layout, [H, W, C], and where it lies there, bool [H, W]."""
    height, width, channels = photo.shape
    top, left = (layout.height - height) // 2, (layout.width - width) // 2
    canvas = photo.new_zeros(layout.height, layout.width, channels)
    canvas[top : top + height, left : left + width] = photo
    keep = torch.zeros(layout.height, layout.width, dtype=torch.bool)
    keep[top : top + height, left : left + width] = True
    return canvas, keep
