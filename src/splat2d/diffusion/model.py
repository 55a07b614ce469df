"""A trained model: its file, and pictures out of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from splat2d.atomic import unreadable
from splat2d.diffusion.encoder import Encoder, encoder_config, encoder_tensors, read_encoder
from splat2d.diffusion.flow import Denoise, Sampler, evaluations, guided, sample, times
from splat2d.diffusion.layouts import Layout, SplatLayout, packed, unpacked
from splat2d.diffusion.network import Denoiser, NetworkConfig
from splat2d.diffusion.splatset import SplatSet, read_safetensors, write_safetensors
from splat2d.errors import InputError

VERSION = 1
AT_ONCE = 1 << 17  # tokens that go through the network together
LARGEST_SEED = 1 << 31
SHIPPED = Path(__file__).parent / "fashion.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A denoiser of whitened tokens with all that it takes to make pictures of them."""

    network: Denoiser
    layout: Layout
    mean: Tensor  # [F] or [N, F], of the tokens it was trained on
    deviation: Tensor  # the same shape; smaller where noise shall hide less
    names: tuple[str, ...]  # of the classes; empty where there are none
    prediction: str  # what the network puts out: "x", the clean tokens, or "v", the velocity
    encoder: Encoder | None = None  # what made splats of the pictures, where it was not a fit of each

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def whitened(self, tokens: Tensor) -> Tensor:
        """Tokens [..., N, F] about mean 0 and deviation 1."""
        return (tokens - self.mean) / self.deviation

    def tokens(self, whitened: Tensor) -> Tensor:
        """The inverse."""
        return whitened * self.deviation + self.mean

    def clean(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """The clean tokens that it expects for x_t [B, N, F], t [B] and labels [B]; all whitened, with gradients."""
        bf16 = self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            out = self.network(x, t, labels)
        return clean_tokens(self.prediction, out.float(), x, t)

    def denoiser(self, labels: Tensor, guidance: float) -> Denoise:
        """clean() for these labels under classifier-free guidance."""
        return guided(self.clean, labels, self.network.classes, guidance)

    def to(self, device: torch.device | str) -> Model:
        """The same on another device."""
        tensors = (self.mean.to(device), self.deviation.to(device))
        encoder = self.encoder and self.encoder.to(device)
        return Model(self.network.to(device), self.layout, *tensors, self.names, self.prediction, encoder)


def clean_tokens(prediction: str, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """The clean tokens that an output of the network means."""
    return out if prediction == "x" else x + (1 - t)[:, None, None] * out


@dataclass(frozen=True, slots=True)
class SampleConfig:
    """How to draw samples. Few steps suit splats, which end smoother then; pixels want 25."""

    steps: int = 4
    sampler: Sampler = "heun"
    guidance: float = 1.5
    shift: float = 1.0
    seed: int = 0


def noise_for(model: Model, indices: range, seed: int) -> Tensor:
    """Noise [n, N, F] of the samples of these indices; each depends on seed and index alone."""
    shape = (model.layout.count, model.layout.fields)
    # Of numpy, which takes both numbers as a seed; torch's generator for the CPU looks at 32 bits of one.
    draws = [np.random.default_rng((seed, index)).standard_normal(shape, np.float32) for index in indices]
    return torch.from_numpy(np.stack(draws)).to(model.device)


@torch.no_grad()
def generate(
    model: Model,
    labels: Tensor,
    config: SampleConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Tokens [n, N, F] of new pictures of the classes labels [n], on the device of the model. Raises InputError.

    progress is told how many of how many passes through the network are done.
    """
    config = config or SampleConfig()
    check_samples(model, labels, config)
    chunk = max(1, AT_ONCE // model.layout.count)
    schedule = times(config.steps, config.shift)
    starts = range(0, len(labels), chunk)
    passes, done = len(starts) * evaluations(config.steps, config.sampler), 0
    parts = []
    for start in starts:
        some = labels[start : start + chunk].to(model.device)
        noise = noise_for(model, range(start, start + len(some)), config.seed)
        denoise = model.denoiser(some, config.guidance)

        def told(x: Tensor, t: Tensor, denoise: Denoise = denoise) -> Tensor:
            nonlocal done
            clean = denoise(x, t)
            done += 1
            if progress:
                progress(done, passes)
            return clean

        parts.append(model.tokens(sample(told, noise, schedule, config.sampler)))
    return torch.cat(parts)


def check_samples(model: Model, labels: Tensor, config: SampleConfig) -> None:
    """Raises InputError for what cannot be drawn."""
    if config.steps < 1:
        raise InputError(f"steps: must be at least 1, got {config.steps}")
    if not 0 <= config.seed < LARGEST_SEED:
        raise InputError(f"seed: must be 0 to {LARGEST_SEED - 1}, got {config.seed}")
    if not 0 < config.shift < math.inf or not math.isfinite(config.guidance):
        raise InputError(f"shift must be above 0 and guidance finite, got {config.shift} and {config.guidance}")
    if not len(labels):
        raise InputError("labels: there are none; give one for each picture")
    if not 0 <= int(labels.min()) <= int(labels.max()) <= model.network.classes:
        known = f"there are {model.network.classes}, numbered from 0, and {model.network.classes} stands for any"
        raise InputError(f"class: {known}; got {int(labels.min())} to {int(labels.max())}")


def check_same(model: Model, splats: SplatSet) -> None:
    """Raises InputError unless the model is one of this set: of its size, its classes and, of splats, its count."""
    layout, of_set = model.layout, splats.layout
    size, size_of_set = ((each.width, each.height, each.channels) for each in (layout, of_set))
    if size != size_of_set:
        raise InputError(f"the model makes pictures of {size} (width, height, channels), the set has {size_of_set}")
    if isinstance(layout, SplatLayout) and layout.count != of_set.count:
        raise InputError(
            f"the model makes {layout.count} splats a picture, the set has {of_set.count}; give its own set"
        )
    if model.names != splats.pictures.names:
        raise InputError(
            f"the model knows classes {', '.join(model.names)}, the set {', '.join(splats.pictures.names)}"
        )


def save_model(path: Path, model: Model, about: Mapping[str, object]) -> None:
    """Writes weights in 16 bits, with everything that sampling needs, as safetensors. Raises InputError."""
    tensors = {name: tensor.half() for name, tensor in model.network.state_dict().items()}
    tensors |= encoder_tensors(model.encoder)
    header = {
        "kind": "model",
        "version": VERSION,
        "layout": packed(model.layout),
        "network": asdict(model.network.config),
        "names": model.names,
        "classes": model.network.classes,
        "prediction": model.prediction,
        "mean": model.mean.tolist(),
        "deviation": model.deviation.tolist(),
        "encoder": model.encoder and asdict(model.encoder.config),
        "about": dict(about),
    }
    write_safetensors(path, tensors, header)


def load_model(path: Path, device: torch.device | str = "cpu") -> Model:
    """Reads a model, ready to sample. Raises InputError."""
    header, tensors = read_safetensors(path, "model", VERSION)
    try:
        layout = unpacked(header["layout"])
        config = NetworkConfig(**header["network"])
        settings = header["encoder"] and encoder_config(header["encoder"])
        encoder, tensors = read_encoder(settings, layout, tensors)
        network = Denoiser(layout, header["classes"], config)
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        mean, deviation = torch.tensor(header["mean"]), torch.tensor(header["deviation"])
        if mean.shape != deviation.shape or mean.shape not in ((layout.fields,), (layout.count, layout.fields)):
            raise ValueError(f"its statistics are not those of {layout.count} tokens of {layout.fields} fields")
        names, prediction = tuple(header["names"]), header["prediction"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise unreadable(path, error, "a model of this version") from error
    network.eval().requires_grad_(False)
    return Model(network, layout, mean, deviation, names, prediction, encoder).to(device)
