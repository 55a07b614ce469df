"""Classifiers trained in the project: their features and decisions judge generated pictures.

Two architectures that share no layer are at hand, so that pictures made to please one net can be judged by another. All
pictures lie on the device as bytes; one gather takes, shifts and mirrors a batch, so there are no loader processes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from splat2d.atomic import unreadable, write_bytes
from splat2d.errors import InputError

Architecture = Literal["residual", "plain"]
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

FORMAT = "splat2d classifier 1"  # the file's own kind and version, in its metadata
PASSES = (
    1024 * 28 * 28
)  # pixels that pass through a net at once when it does not learn: under 1 GB at the default widths


@dataclass(frozen=True, slots=True)
class ClassifierConfig:
    """A net and how it is trained. Raises InputError.

    The defaults are for 10,000 to 60,000 pictures of 28x28 to 64x64 on a GPU; `compact` is for a CPU.
    """

    architecture: Architecture = "residual"
    widths: tuple[int, ...] = (
        64,
        128,
        256,
    )  # channels per stage, each at half the size of the last; the last: features
    depth: int = 2  # convolutions per stage ("plain"), residual blocks of two convolutions per stage ("residual")
    steps: int = 2000
    batch: int = 512
    learning_rate: float = 0.01  # at the peak
    weight_decay: float = 0.02
    label_smoothing: float = 0.1
    shift: int = 2  # pixels; the largest random shift along each axis
    flip: bool = False  # mirror half of the pictures left to right

    def __post_init__(self) -> None:
        if self.architecture not in get_args(Architecture):
            raise InputError(
                f'classifier: no architecture "{self.architecture}"; choose one of {get_args(Architecture)}'
            )
        counts = {"depth": self.depth, "steps": self.steps, "batch": self.batch, "widths": min(self.widths, default=0)}
        for name, value in counts.items():
            if value < 1:
                raise InputError(f"classifier: {name} must be at least 1, got {value}")
        if self.batch < 2:
            raise InputError("classifier: batch must be at least 2; the nets normalise over it")
        if self.shift < 0:
            raise InputError(f"classifier: shift must be >= 0, got {self.shift}")

    @classmethod
    def compact(cls, architecture: Architecture = "residual") -> ClassifierConfig:
        """A net that learns 8x8 digits within seconds on a CPU."""
        return cls(architecture, widths=(16, 32, 64), depth=1, steps=150, batch=128, shift=1)


class _Block(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Identity()
        if inputs != outputs or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.path(x) + self.shortcut(x))


def _residual(channels: int, config: ClassifierConfig) -> nn.Sequential:
    """A small ResNet: strided residual blocks, ReLU, mean over the picture. [n, channels, h, w] to [n, widths[-1]]"""
    first = config.widths[0]
    layers = [nn.Conv2d(channels, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU()]
    inputs = first
    for stage, width in enumerate(config.widths):
        for block in range(config.depth):
            layers.append(_Block(inputs, width, stride=2 if stage and not block else 1))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _plain(channels: int, config: ClassifierConfig) -> nn.Sequential:
    """No shortcuts: 5x5, then 3x3 convolutions, GELU, halved by maxima, the maximum over the picture. As above."""
    layers: list[nn.Module] = []
    inputs = channels
    for stage, width in enumerate(config.widths):
        if stage:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        for _ in range(config.depth):
            size = 3 if layers else 5
            layers += [nn.Conv2d(inputs, width, size, padding=size // 2, bias=False), nn.BatchNorm2d(width), nn.GELU()]
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())


class _Network(nn.Module):
    """Pictures in 0..255 to layer-normed features (no scale or shift of their own) and to the logits of the classes."""

    mean: Tensor  # [1, C, 1, 1] of the training pictures, in 0..255
    deviation: Tensor  # the same shape

    def __init__(self, channels: int, classes: int, config: ClassifierConfig) -> None:
        super().__init__()
        build = {"residual": _residual, "plain": _plain}[config.architecture]
        self.body = build(channels, config)
        self.head = nn.Linear(config.widths[-1], classes) if classes else nn.Identity()
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("deviation", torch.ones(1, channels, 1, 1))

    def features(self, pictures: Tensor) -> Tensor:
        """[n, C, h, w] to [n, widths[-1]]: mean 0 and variance 1 over the features of each picture."""
        pooled = self.body((pictures - self.mean) / self.deviation)
        return functional.layer_norm(pooled.float(), pooled.shape[1:])

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.features(pictures))


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """A net for pictures of one shape, on a device."""

    config: ClassifierConfig
    shape: tuple[int, int, int]  # height, width, channels of its pictures
    classes: int  # 0: never trained, for features only
    seed: int
    network: nn.Module

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    @property
    def digest(self) -> str:
        """12 hexadecimal digits of SHA-256 over weights and configuration: equal where the net is the same."""
        digest = hashlib.sha256(json.dumps(self._description(), sort_keys=True).encode())
        for name, tensor in sorted(self.network.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    def features(self, images: Images) -> NDArray[np.float32]:
        """Layer-normed penultimate features [n, widths[-1]] of pictures [n, H, W, C]. Raises InputError."""
        return self._apply(images, self.network.features)

    def predict(self, images: Images) -> Labels:
        """The most likely class of each picture, [n]. Raises InputError, also from a net that was never trained."""
        if not self.classes:
            raise InputError("this classifier was never trained: it has features but no classes")
        classes: Labels = self._apply(images, self.network).argmax(axis=1)
        return classes

    def accuracy(self, images: Images, labels: Labels) -> float:
        """The share of the pictures whose predicted class is their label. Raises InputError."""
        return float((self.predict(images) == labels).mean())

    def _apply(self, images: Images, function: Any) -> NDArray[np.float32]:
        """function over batches in float32; autocast would make features depend on the kind of device."""
        _check_images(images)
        if images.shape[1:] != self.shape:
            raise InputError(f"this classifier takes pictures of shape {self.shape}, got {images.shape[1:]}")
        rows = max(1, PASSES // (self.shape[0] * self.shape[1]))
        self.network.eval()
        with torch.inference_mode():
            batches = (_on_device(images[start : start + rows], self.device) for start in range(0, len(images), rows))
            return np.concatenate([function(_planes(batch)).float().cpu().numpy() for batch in batches])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a safetensors file that holds the configuration too. Raises InputError."""
        metadata = {"format": FORMAT, "classifier": json.dumps(self._description(), sort_keys=True)}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        write_bytes(path, save(tensors, metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Classifier:
        """Reads what save() wrote. Raises InputError for any other file."""
        path = Path(path)
        try:
            with safe_open(str(path), "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        except (OSError, SafetensorError) as error:
            raise unreadable(path, error, "a safetensors file") from error
        if metadata.get("format") != FORMAT:
            raise InputError(f'{path}: is no file of the kind "{FORMAT}"; train the classifier again')
        try:
            return cls._restored(json.loads(metadata["classifier"]), tensors, torch.device(device))
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise InputError(f"{path}: its weights do not fit its configuration; train the classifier again") from error

    @classmethod
    def _restored(cls, description: dict[str, Any], tensors: dict[str, Tensor], device: torch.device) -> Classifier:
        values = description["config"]
        config = ClassifierConfig(**{**values, "widths": tuple(values["widths"])})
        height, width, channels = description["shape"]
        network = _network(channels, description["classes"], config, description["seed"])
        network.load_state_dict(tensors)
        network.to(device, memory_format=torch.channels_last)
        return cls(config, (height, width, channels), description["classes"], description["seed"], network)

    def _description(self) -> dict[str, Any]:
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "network"}
        return {**plain, "config": asdict(self.config)}


def train_classifier(
    images: Images,
    labels: Labels,
    config: ClassifierConfig | None = None,
    *,
    classes: int | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Classifier:
    """A classifier of pictures [n, H, W, C] with labels [n] in 0..classes-1 (by default the largest label + 1).

    AdamW on the one-cycle schedule (Smith and Topin 2018), cross-entropy with smoothed labels; bf16 on CUDA. The same
    seed on the CPU gives the same net at the same number of threads. Raises InputError.
    """
    config = config or ClassifierConfig()
    _check_labels(images, labels)
    device = torch.device(device)
    classes = classes or int(labels.max()) + 1
    if labels.max() >= classes:
        raise InputError(f"labels: {int(labels.max())} is out of range for {classes} classes")
    pictures, targets = _on_device(images, device), torch.tensor(labels, device=device, dtype=torch.int64)
    network = _prepared(pictures, classes, config, seed).train()
    optimizer = torch.optim.AdamW(network.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    # One step more than are taken: the schedule is asked for a rate after the last one too.
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, config.steps + 1)
    generator = torch.Generator(device).manual_seed(seed)
    for chosen in _batches(len(pictures), min(config.batch, len(pictures)), config.steps, generator):
        batch = _planes(_augmented(pictures, chosen, config, generator))
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = functional.cross_entropy(network(batch), targets[chosen], label_smoothing=config.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return Classifier(config, images.shape[1:], classes, seed, network.eval())


def untrained_classifier(
    images: Images, config: ClassifierConfig | None = None, *, device: torch.device | str = "cpu", seed: int = 0
) -> Classifier:
    """A net of random weights, for features that no training has chosen and that need no labels. Raises InputError.

    Only what batch normalisation needs, the mean and variance of every channel, is taken from the pictures.
    """
    config = config or ClassifierConfig()
    _check_images(images, least=2)
    device = torch.device(device)
    pictures = _on_device(images, device)
    network = _prepared(pictures, 0, config, seed).train()
    generator = torch.Generator(device).manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain mean over the batches
    with torch.no_grad():
        for chosen in _batches(len(pictures), min(config.batch, len(pictures)), 10, generator):
            network.features(_planes(pictures[chosen]))
    return Classifier(config, images.shape[1:], 0, seed, network.eval())


def _network(channels: int, classes: int, config: ClassifierConfig, seed: int) -> _Network:
    """A network with random weights that depend on nothing but the seed; torch's own generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reset those of all GPUs too
        return _Network(channels, classes, config)


def _prepared(pictures: Tensor, classes: int, config: ClassifierConfig, seed: int) -> _Network:
    """A network on the device of the pictures that knows their mean and deviation."""
    network = _network(pictures.shape[3], classes, config, seed)
    sample = pictures[:10_000].double()
    network.mean.copy_(sample.mean((0, 1, 2)).view_as(network.mean))
    network.deviation.copy_(sample.std((0, 1, 2)).clamp_min(1.0).view_as(network.deviation))  # a constant channel
    network.to(pictures.device, memory_format=torch.channels_last)
    return network


def _batches(count: int, size: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices [size] of `steps` batches: each picture once before any comes again, but for the rest of an epoch."""
    per_epoch = count // size
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(count, generator=generator, device=generator.device)
        start = step % per_epoch * size
        yield order[start : start + size]


def _augmented(pictures: Tensor, chosen: Tensor, config: ClassifierConfig, generator: torch.Generator) -> Tensor:
    """The chosen pictures [b, H, W, C], each shifted by some pixels, the border repeated, and perhaps mirrored."""
    height, width, size = pictures.shape[1], pictures.shape[2], len(chosen)
    rows = torch.arange(height, device=pictures.device).repeat(size, 1)
    columns = torch.arange(width, device=pictures.device).repeat(size, 1)
    draw = {"generator": generator, "device": pictures.device}
    if config.flip:
        columns = torch.where(torch.rand(size, 1, **draw) < 0.5, columns.flip(1), columns)
    shifts = torch.randint(-config.shift, config.shift + 1, (2, size, 1), **draw)
    rows, columns = (rows + shifts[0]).clamp(0, height - 1), (columns + shifts[1]).clamp(0, width - 1)
    return pictures[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]


def _planes(pictures: Tensor) -> Tensor:
    """Bytes [n, H, W, C] as floats [n, C, H, W], in 0..255 and with the channels last in memory."""
    return pictures.permute(0, 3, 1, 2).float()


def _on_device(images: Images, device: torch.device) -> Tensor:
    return torch.tensor(np.ascontiguousarray(images), device=device)


def _check_images(images: Images, least: int = 1) -> None:
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) < least or not images.size:
        got = f"{images.dtype} {images.shape}"
        raise InputError(f"pictures: expected at least {least} as uint8 [n, height, width, channels], got {got}")


def _check_labels(images: Images, labels: Labels) -> None:
    _check_images(images, least=2)
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        got = f"{labels.dtype} {labels.shape}"
        raise InputError(f"labels: expected {len(images)} integers >= 0, one per picture, got {got}")
