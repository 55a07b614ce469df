"""Pictures changed by a model: parts made anew, sizes and colours restored, variations, and ways between two.

A model knows which pictures are likely; what a user gives says something about one of them: some of its pixels, its
means over squares, its grey. complete() draws pictures that both agree on. It needs no training for that: all it asks
is what the tokens show, so that one routine serves every task, and splats and pixels alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from splat2d.diffusion.flow import Denoise, evaluations, noised, sample, times
from splat2d.diffusion.layouts import SplatLayout
from splat2d.diffusion.model import LARGEST_SEED, Model, SampleConfig, check_samples, noise_for
from splat2d.diffusion.splatset import BuildConfig, fit_tokens
from splat2d.errors import InputError

FIT = BuildConfig(steps=300)  # of a picture, where a model of splats has to have its tokens
INNER, INNER_RATE = 8, 0.4  # steps of Adam at each pass, and their size relative to what the model leaves open
TRUST = 0.1  # error of the pixels of a prediction, relative to that of its tokens
NEAR = 0.005  # error of pixels that is left alone: 46 dB
LAST, LAST_RATE, LAST_DEVIATION = 300, 0.1, 0.3  # steps of Adam at the end, their size, and how far tokens may go
REST = 0.1  # how far pixels may go at the end where nothing is known
BEYOND = 0.1  # share of what lies beyond 0..1 that counts: none is seen, but without any there is no way back
COLORS = 3  # channels with colour; a fourth is alpha

Progress = Callable[[int, int], None]  # passes through the network that are done, of how many


@dataclass(frozen=True, slots=True)
class EditConfig:
    """How to draw what completes a picture."""

    # Many steps, since what is known enters with each.
    sampling: SampleConfig = field(default_factory=lambda: SampleConfig(steps=25, sampler="dpm++"))
    repeats: int = 2  # times that the picture goes back to noise and is made again, which joins its parts
    back_to: float = 0.5  # the time it goes back to


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What is known of pictures x: measure(x) = values, measure being linear."""

    measure: Callable[[Tensor], Tensor]  # [B, H, W, C] -> [B, ...]
    values: Tensor  # [n, ...]

    def to(self, device: torch.device | str) -> Known:
        """The same on another device."""
        return Known(self.measure, self.values.to(device))

    def psnr(self, pictures: Tensor) -> Tensor:
        """Agreement of pictures [n, H, W, C], clamped to 0..1, with the values, in dB, at most 99. [n]"""
        error = (self.measure(pictures.clamp(0, 1)) - self.values).flatten(1).square().mean(1)
        return (-10 * error.clamp_min(1e-12).log10()).clamp_max(99)


def known_pixels(pictures: Tensor, keep: Tensor) -> Known:
    """Pixels of pictures [n, H, W, C] where keep [H, W] is true: inpainting and outpainting. Raises InputError."""
    if keep.shape != pictures.shape[1:3]:
        raise InputError(f"mask: is of {_size(keep.shape)} pixels, the pictures of {_size(pictures.shape[1:3])}")
    if not keep.any() or keep.all():
        raise InputError(f"mask: {'all' if keep.all() else 'none'} of the picture is kept; part of it has to be made")
    places = keep.flatten().nonzero()[:, 0]

    def seen(shown: Tensor) -> Tensor:
        return shown.flatten(1, 2)[:, places.to(shown.device)]

    return Known(seen, seen(pictures))


def known_means(small: Tensor, height: int, width: int) -> Known:
    """Means over squares of pixels, those of small pictures [n, h, w, C]: super-resolution. Raises InputError."""
    _, low, narrow, _ = small.shape
    factor = height // low
    if factor < 2 or (low * factor, narrow * factor) != (height, width):
        sizes = [_size((height // each, width // each)) for each in (2, 4) if not height % each and not width % each]
        raise InputError(
            f"a picture of {_size((low, narrow))} pixels cannot become {_size((height, width))}: it takes whole "
            f"squares of pixels; make it {' or '.join(sizes) or 'smaller'}"
        )

    def means(shown: Tensor) -> Tensor:
        return functional.avg_pool2d(shown.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1)

    return Known(means, small)


def known_grey(pictures: Tensor) -> Known:
    """The mean of the colours of each pixel of pictures [n, H, W, C], and alpha: colourisation. Raises InputError."""
    channels = pictures.shape[-1]
    if channels < COLORS:
        raise InputError(f"colorize: this model has no colours, its pictures have {channels} channel")

    def grey(shown: Tensor) -> Tensor:
        return torch.cat([shown[..., :COLORS].mean(-1, keepdim=True), shown[..., COLORS:]], -1)

    return Known(grey, grey(pictures))


def tokens_of(model: Model, pictures: Tensor) -> Tensor:
    """Tokens [n, N, F] of pictures [n, H, W, C] of 0..1, made as those that the model learned from."""
    pictures = pictures.to(model.device)
    if model.encoder:
        encoded: Tensor = model.encoder(pictures)
        return encoded
    if isinstance(model.layout, SplatLayout):
        with torch.enable_grad():
            return fit_tokens(pictures, model.layout, FIT)
    return model.layout.tokens(pictures)


@torch.no_grad()
def complete(
    model: Model, known: Known, labels: Tensor, config: EditConfig | None = None, progress: Progress | None = None
) -> Tensor:
    """Tokens [n, N, F] of pictures that agree with what is known, of the classes labels [n]. Raises InputError.

    The class after the last one stands for any. Each pass through the network predicts a picture; agreeing() pulls it
    towards what is known, and the sampler goes on from there. settled() meets the values in the end.
    """
    config = config or EditConfig()
    sampling = config.sampling
    check_samples(model, labels, sampling)
    if config.repeats < 0 or not 0 < config.back_to < 1:
        raise InputError(
            f"repeats: must be at least 0, from a time between 0 and 1, got {config.repeats} and {config.back_to}"
        )
    if len(labels) != len(known.values):
        raise InputError(f"labels: {len(labels)} for {len(known.values)} pictures; give one for each")
    whole = times(sampling.steps, sampling.shift)
    end = _from(config.back_to, sampling)
    passes = evaluations(len(whole) - 1, sampling.sampler) + config.repeats * evaluations(
        len(end) - 1, sampling.sampler
    )
    base = _told(model.denoiser(labels.to(model.device), sampling.guidance), passes, progress)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return agreeing(model, known, base, x, t)

    x = sample(denoise, noise_for(model, range(len(labels)), sampling.seed), whole, sampling.sampler)
    for repeat in range(config.repeats):
        x = sample(denoise, _noised(model, x, config.back_to, sampling.seed, repeat + 1), end, sampling.sampler)
    return model.tokens(settled(model, known, x))


def agreeing(model: Model, known: Known, denoise: Denoise, x: Tensor, t: Tensor) -> Tensor:
    """The clean tokens that a denoiser expects for x_t [B, N, F], given what is known too; whitened.

    If they were independent and normal around its prediction, the likeliest would be those of a few steps from there,
    none longer than their deviation allows, which keeps splats where their pictures are nearly linear. But they depend
    on each other, by the covariance (1 - t)^2 / t times the denoiser's Jacobian: what the steps changed goes through it
    (Song et al. 2023, "Pseudoinverse-guided diffusion models") and so reaches the rest of the picture.
    """
    now = float(t[0])
    deviation = (1 - now) / math.hypot(now, 1 - now)  # of tokens of unit variance
    with torch.enable_grad():
        noisy = x.detach().requires_grad_()
        clean = denoise(noisy, t)
    start = clean.detach()
    error = max(NEAR, TRUST * deviation)
    change = _pulled(model, known, start, (deviation, error, math.inf), INNER, INNER_RATE * deviation) - start
    if now == 0:
        return start + change  # all that is known of the covariance is that of whitened tokens, 1 for each
    (through,) = torch.autograd.grad(clean, noisy, change)
    return start + (1 - now) ** 2 / now / deviation**2 * through


def settled(model: Model, known: Known, clean: Tensor) -> Tensor:
    """The whitened tokens [B, N, F] nearest to these, and in what they show, that show what is known."""
    return _pulled(model, known, clean, (LAST_DEVIATION, NEAR, REST), LAST, LAST_RATE)


def _pulled(
    model: Model, known: Known, start: Tensor, deviations: tuple[float, float, float], steps: int, rate: float
) -> Tensor:
    """Lessens the squared distance from start, the squared errors of known values and the squared changes of pixels,
    each in units of its deviation.

    By Adam, whose steps do not depend on the other pictures of the batch.
    """
    tokens = start.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([tokens], lr=rate, betas=(0.8, 0.95))
    first = model.layout.pictures(model.tokens(start))
    near, error, change = deviations
    with torch.enable_grad():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
            optimizer.zero_grad()
            shown = model.layout.pictures(model.tokens(tokens))
            wrong = known.measure(torch.lerp(shown.clamp(0, 1), shown, BEYOND)) - known.values
            loss = wrong.square().sum() / error**2 + (tokens - start).square().sum() / near**2
            loss = loss + (shown - first).square().sum() / change**2
            loss.backward()
            optimizer.step()
    return tokens.detach()


@torch.no_grad()
def vary(
    model: Model,
    tokens: Tensor,
    labels: Tensor,
    strength: float,
    config: SampleConfig | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Tokens [n, N, F] made again from where noise hides the details of others [n, N, F] (Meng et al. 2022, "SDEdit").

    strength: the share of noise, from 0, which changes nothing, to 1, which leaves nothing. Raises InputError.
    """
    config = config or SampleConfig()
    check_samples(model, labels, config)
    if not 0 <= strength <= 1:
        raise InputError(f"strength: must be 0 to 1, got {strength:g}")
    if strength == 0:
        return tokens
    begin = 1 - strength
    schedule = _from(begin, config)
    passes = evaluations(len(schedule) - 1, config.sampler)
    denoise = _told(model.denoiser(labels.to(model.device), config.guidance), passes, progress)
    x = _noised(model, model.whitened(tokens), begin, config.seed, 0)
    return model.tokens(sample(denoise, x, schedule, config.sampler))


def blend(first: Tensor, second: Tensor, count: int) -> Tensor:
    """Tokens [count, N, F] on the straight way from first to second [N, F], both included. Raises InputError.

    Splat n of one picture becomes splat n of the other: both belong to the same slot.
    """
    weights = _weights(count).to(first)[:, None, None]
    return torch.lerp(first[None], second[None], weights)


@torch.no_grad()
def blend_seeds(
    model: Model,
    label: int,
    seeds: tuple[int, int],
    count: int,
    config: SampleConfig | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Tokens [count, N, F] from the first sample of one seed to that of another; all are samples. Raises InputError.

    Noise goes along a great circle, whose points are as long as noise is.
    """
    config = config or SampleConfig()
    labels = torch.full((count,), label)
    weights = _weights(count).to(model.device)[:, None, None]
    check_samples(model, labels, config)
    if not all(0 <= seed < LARGEST_SEED for seed in seeds):
        raise InputError(f"seeds: must be 0 to {LARGEST_SEED - 1}, got {seeds[0]} and {seeds[1]}")
    first, second = (noise_for(model, range(1), seed) for seed in seeds)
    cosine = functional.cosine_similarity(first.flatten(), second.flatten(), dim=0)
    angle = cosine.clamp(-1, 1).acos().clamp_min(1e-4)
    noise = (first * ((1 - weights) * angle).sin() + second * (weights * angle).sin()) / angle.sin()
    schedule = times(config.steps, config.shift)
    denoise = _told(
        model.denoiser(labels.to(model.device), config.guidance), evaluations(config.steps, config.sampler), progress
    )
    return model.tokens(sample(denoise, noise, schedule, config.sampler))


def _noised(model: Model, x: Tensor, t: float, seed: int, draw: int) -> Tensor:
    """x_t of whitened tokens [n, N, F]; each draw of a seed is another."""
    noise = noise_for(model, range(len(x)), seed + draw * LARGEST_SEED)
    return noised(x, noise, x.new_full((len(x),), t))


def _from(t: float, config: SampleConfig) -> Tensor:
    """Times from t to 1, in steps as long as those from 0."""
    steps = max(1, round(config.steps * (1 - t)))
    return t + (1 - t) * times(steps, config.shift)


def _told(denoise: Denoise, passes: int, progress: Progress | None) -> Denoise:
    """The same, and progress is told."""
    done = 0

    def clean(x: Tensor, t: Tensor) -> Tensor:
        nonlocal done
        result = denoise(x, t)
        done += 1
        if progress:
            progress(done, passes)
        return result

    return clean


def _weights(count: int) -> Tensor:
    """From 0 to 1. [count]"""
    if count < 2:
        raise InputError(f"count: a way between two has at least 2 pictures, got {count}")
    return torch.linspace(0, 1, count)


def _size(shape: torch.Size | tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
