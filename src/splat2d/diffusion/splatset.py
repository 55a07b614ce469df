"""Sets of pictures as splats, a fixed number each: what the generative models learn from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from splat2d.atomic import unreadable, write_bytes
from splat2d.diffusion.encoder import (
    Encoder,
    EncoderConfig,
    encoded,
    encoder_config,
    encoder_tensors,
    read_encoder,
    train_encoder,
)
from splat2d.diffusion.layouts import (
    BETWEEN,
    GEOMETRY,
    Layout,
    SplatLayout,
    between,
    grid_for,
    packed,
    squared_error,
    unpacked,
    usual_count,
)
from splat2d.diffusion.pictures import Pictures
from splat2d.errors import InputError

VERSION = 1
AT_ONCE = 1 << 26  # pixels of the pictures fitted together: bounds the memory of a GPU
AT_ONCE_ON_CPU = 1 << 20


@dataclass(frozen=True, slots=True)
class BuildConfig:
    """How each picture becomes splats."""

    splats: int | None = None  # as many as usual_count() says unless given
    steps: int = 500  # of a fit
    rate: float = 0.03  # of a fit by Adam, in units of the slot's sigma and of colour
    anchor: float = 0.002  # weight of squared offsets of geometry beside the squared error summed over pixels
    encoder: EncoderConfig | None = None  # an encoder gives the splats, not a fit of each picture


@dataclass(frozen=True, slots=True, eq=False)
class SplatSet:
    """The fitted splats of a set of pictures, with the pictures."""

    layout: SplatLayout
    pictures: Pictures
    tokens: Tensor  # [n, N, F], float16 on the CPU
    config: BuildConfig
    encoder: Encoder | None = None  # on the CPU

    def part(self, test: bool) -> NDArray[np.intp]:
        """Indices of the pictures to train on, or of those held out."""
        return np.flatnonzero(self.pictures.test == test)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each field over the pictures to train on. [F], [F]"""
        return statistics(self.tokens[torch.from_numpy(self.part(False))])

    def fingerprint(self) -> str:
        """Of the tokens and labels; two sets with the same one train the same model."""
        digest = hashlib.sha256(self.tokens.numpy().tobytes())
        digest.update(self.pictures.labels.tobytes())
        return digest.hexdigest()[:16]


def statistics(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each field of tokens [n, N, F]; a constant field has deviation 1."""
    flat = tokens.flatten(0, 1).double()
    deviation = flat.std(0)
    return flat.mean(0).float(), torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)).float()


def build(
    pictures: Pictures,
    config: BuildConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> SplatSet:
    """Gives every picture its splats. progress is told how many of how many steps are done. Raises InputError."""
    config = config or BuildConfig()
    height, width, channels = pictures.size
    count = usual_count(height, width) if config.splats is None else config.splats
    config = replace(config, splats=count)
    for name, value in (("splats", count), ("steps", config.steps)):
        if value < 1:
            raise InputError(f"{name}: must be at least 1, got {value}")
    if not 0 < config.rate < math.inf or not 0 <= config.anchor < math.inf:
        raise InputError(f"rate: must be above 0, and anchor at least 0, got {config.rate} and {config.anchor}")
    rows, columns = grid_for(count, height, width)
    # The middle colour; of pictures on a plain ground that of the ground, where splats then have nothing to do.
    middle = np.median(pictures.images[:: max(1, len(pictures) // 5000)], axis=(0, 1, 2)) / 255
    layout = SplatLayout(height, width, channels, rows, columns, tuple(float(value) for value in middle))
    if config.encoder:
        return _encoded(pictures, layout, config, config.encoder, device, progress)
    pixels = AT_ONCE if torch.device(device).type == "cuda" else AT_ONCE_ON_CPU
    chunk = max(1, pixels // (height * width))
    starts = range(0, len(pictures), chunk)
    parts = []
    for index, start in enumerate(starts):
        images = torch.from_numpy(pictures.images[start : start + chunk]).to(device).float() / 255

        def told(step: int, before: int = index) -> None:
            if progress:
                progress(before * config.steps + step, len(starts) * config.steps)

        parts.append(fit_tokens(images, layout, config, told).half().cpu())
    return SplatSet(layout, pictures, torch.cat(parts), config)


def _encoded(
    pictures: Pictures,
    layout: SplatLayout,
    config: BuildConfig,
    settings: EncoderConfig,
    device: torch.device | str,
    progress: Callable[[int, int], None] | None,
) -> SplatSet:
    """The set by an encoder that learns from the pictures to train on."""
    images = torch.from_numpy(pictures.images)
    known = images[torch.from_numpy(~pictures.test)].to(device)

    def told(step: int) -> None:
        if progress:
            progress(step, settings.steps)

    encoder = train_encoder(known, layout, settings, anchor=config.anchor, progress=told)
    tokens = encoded(encoder, images).half().cpu()
    return SplatSet(layout, pictures, tokens, config, encoder.cpu())


def build_by(
    encoder: Encoder,
    pictures: Pictures,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> SplatSet:
    """The set by an encoder that is there. progress is told how many of how many pictures are done. Raises InputError.

    A model learns from it, or is judged by it, as from the set that the encoder was trained for.
    """
    layout = encoder.layout
    if pictures.size != (layout.height, layout.width, layout.channels):
        height, width, channels = pictures.size
        wanted = f"{layout.width}x{layout.height} pixels and {layout.channels} channels"
        raise InputError(f"encoder: is for pictures of {wanted}, these have {width}x{height} and {channels}")

    def told(done: int) -> None:
        if progress:
            progress(done, len(pictures))

    tokens = encoded(encoder.to(device), torch.from_numpy(pictures.images), told).half().cpu()
    config = BuildConfig(layout.count, encoder=encoder.config)
    return SplatSet(layout, pictures, tokens, config, encoder.cpu())


def fit_tokens(
    images: Tensor,
    layout: SplatLayout,
    config: BuildConfig,
    progress: Callable[[int], None] | None = None,
    start: Tensor | None = None,
) -> Tensor:
    """Tokens [n, N, F] of pictures [n, H, W, C] of 0..1, by Adam on all at once.

    They start from `start`, or from the grid of slots with half the colour there: one start for all pictures is what
    makes the fits alike, hence learnable.
    """
    if start is None:
        start = layout.start(images)
    tokens = start.clone().requires_grad_()
    fused = images.device.type == "cuda"
    optimizer = torch.optim.Adam([tokens], lr=config.rate, betas=(0.9, 0.99), eps=1e-8, fused=fused)
    smallest = math.log(0.5 / layout.sigma)
    goals = between(images)
    for step in range(config.steps):
        optimizer.param_groups[0]["lr"] = config.rate * (
            0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        )
        optimizer.zero_grad()
        error = squared_error(layout, tokens, images, goals, BETWEEN).sum()
        (error + config.anchor * tokens[..., :GEOMETRY].square().sum()).backward()
        optimizer.step()
        with torch.no_grad():
            tokens[..., 2:5:2].clamp_(min=smallest)
        if progress:
            progress(step + 1)
    return tokens.detach()


@torch.no_grad()
def rendered(layout: Layout, tokens: Tensor, device: torch.device | str = "cpu") -> NDArray[np.uint8]:
    """The pictures of tokens [n, N, F], in parts that fit the memory: [n, H, W, C], rounded to 8 bits."""
    chunk = max(1, (AT_ONCE_ON_CPU << 3) // (layout.height * layout.width))
    parts = [
        layout.pictures(tokens[start : start + chunk].to(device).float()).clamp(0, 1).mul(255).round().byte().cpu()
        for start in range(0, len(tokens), chunk)
    ]
    return torch.cat(parts).numpy()


def floor_psnr(splats: SplatSet, test: bool, device: torch.device | str = "cpu") -> float:
    """Mean over the pictures of a part of the PSNR of their splats, in dB, on 8-bit pixels; 99 where equal."""
    part = splats.part(test)
    shown = rendered(splats.layout, splats.tokens[torch.from_numpy(part)], device).astype(np.float32)
    squared = ((shown - splats.pictures.images[part]) / 255).reshape(len(part), -1)
    errors = np.square(squared).mean(1, dtype=np.float64)
    return float(np.minimum(99, -10 * np.log10(np.maximum(errors, 1e-12))).mean())


def save_splats(path: Path, splats: SplatSet) -> None:
    """Writes a set as safetensors. Raises InputError."""
    pictures = splats.pictures
    tensors = {
        "tokens": splats.tokens,
        "images": torch.from_numpy(pictures.images),
        "labels": torch.from_numpy(pictures.labels),
        "test": torch.from_numpy(pictures.test.astype(np.uint8)),
    }
    tensors |= encoder_tensors(splats.encoder)
    header = {"layout": packed(splats.layout), "names": pictures.names, "config": asdict(splats.config)}
    write_safetensors(path, tensors, {"kind": "splats", "version": VERSION, **header})


def load_splats(path: Path) -> SplatSet:
    """Reads a set. Raises InputError."""
    header, tensors = read_safetensors(path, "splats", VERSION)
    try:
        layout = unpacked(header["layout"])
        names = tuple(header["names"])
        fields = dict(header["config"])
        fields["encoder"] = fields["encoder"] and encoder_config(fields["encoder"])
        config = BuildConfig(**fields)
        encoder, tensors = read_encoder(config.encoder, layout, tensors)
        arrays = {name: tensors[name].numpy() for name in ("images", "labels", "test")}
        tokens = tensors["tokens"]
        count = len(tokens)
        if not isinstance(layout, SplatLayout) or any(len(array) != count for array in arrays.values()):
            raise ValueError("its parts do not fit together")
        if tokens.shape[1:] != (layout.count, layout.fields):
            raise ValueError(f"it has {tuple(tokens.shape[1:])} numbers a picture, not {(layout.count, layout.fields)}")
        if arrays["images"].shape[1:] != (layout.height, layout.width, layout.channels):
            raise ValueError("its pictures are not of its size")
        if not 0 <= arrays["labels"].min() <= arrays["labels"].max() < max(1, len(names)):
            raise ValueError(f"it has labels out of range for {len(names)} classes")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise unreadable(path, error, "a set of splats") from error
    pictures = Pictures(arrays["images"], arrays["labels"], arrays["test"].astype(np.bool_), names)
    return SplatSet(layout, pictures, tokens, config, encoder)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Writes tensors and a header of values for JSON. Raises InputError."""
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"splat2d": json.dumps(header)})
    write_bytes(path, data)


def read_safetensors(path: Path, kind: str, version: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file of ours. Raises InputError for others, for broken ones and other versions."""
    with _opened(path, kind, version) as (header, file):
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_header(path: Path, kind: str, version: int) -> dict[str, Any]:
    """The header alone."""
    with _opened(path, kind, version) as (header, _):
        return header


@contextmanager
def _opened(path: Path, kind: str, version: int) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yields the header and the file."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("splat2d", "{}"))
            if header.get("kind") != kind:
                article = "a set of splats" if kind == "splats" else f"a {kind}"
                raise InputError(f"{path}: is not {article} of splat2d (it says {header.get('kind', 'nothing')})")
            if header.get("version") != version:
                raise InputError(
                    f"{path}: is of version {header.get('version')}, this splat2d reads {version}; make it again"
                )
            yield header, file
    except (OSError, SafetensorError, json.JSONDecodeError, AttributeError) as error:
        raise unreadable(path, error, "safetensors") from error
