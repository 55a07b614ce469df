"""An encoder: pictures to splats in a few passes of a network, trained through the rasterizer on the pictures.

Two fits of nearly the same picture may differ much, for their last steps follow the noise. What a network puts out is a
smooth function of the picture, so that a generative model has less to learn by heart. Each pass sees what the splats of
the last one leave over, and the gradient of the squared error, as a learned optimiser does (Andrychowicz et al. 2016).
In the end splats settle where the squared error and the pull of the network's answer balance: near by, there is one
such place, so that it follows the picture smoothly too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from splat2d.diffusion.graphs import Replayed
from splat2d.diffusion.layouts import BETWEEN, GEOMETRY, Layout, SplatLayout, between, squared_error
from splat2d.diffusion.network import Block, slot_waves
from splat2d.errors import InputError

AROUND = 3  # points a side, around each slot, where features of the picture are read
BOUND = 4.0  # of what one pass may change, in the units of tokens
ENCODED_AT_ONCE = 1 << 23  # pixels of the pictures encoded together: bounds the memory of a GPU
ENCODED_AT_ONCE_ON_CPU = 1 << 21
SETTLING_RATE = 0.2  # half of what would still be stable on most clothes
ASTRAY = 1.1  # times the least error of a picture so far: with momentum it swings a little where all is well
SURVEYED = 4096  # pictures that the deviations of fields are found from
PREFIX = "encoder."  # of its tensors in files


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Size and training of an encoder."""

    width: int = 160
    depth: int = 2
    heads: int = 5
    passes: int = 1  # 4 where splats are few for the pixels
    features: int = 96  # channels of what is read off a picture
    steps: int = 4000
    batch: int = 512
    rate: float = 1e-3
    noise: float = 0.1  # added to whitened tokens in training: splats that look the same in spite of small errors
    settling: int = 80  # steps of gradient descent from the network's answer; 220 where splats are few
    between: float = BETWEEN  # weight of errors where four pixels meet
    pull: float = 0.0001  # weight of squared distances from it, by the fields' deviations; else a few drift far away


class Encoder(nn.Module):
    """Pictures -> tokens of a splat per slot."""

    def __init__(self, layout: SplatLayout, config: EncoderConfig) -> None:
        super().__init__()
        self.layout, self.config = layout, config
        width, features = config.width, config.features
        self.look = nn.Sequential(
            nn.Conv2d(2 * layout.channels, features // 2, 5, padding=2),
            nn.GELU(),
            nn.Conv2d(features // 2, features, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(features, features, 3, padding=1),
            nn.GELU(),
        )
        self.own = -(-2 * layout.fields // 8) * 8  # rows of whole 16 bytes are what tensor cores read fast
        self.enter = nn.Linear(AROUND * AROUND * features + self.own, width)
        self.slots = nn.Parameter(0.5 * slot_waves(layout.positions(), width))
        self.passes = nn.Parameter(torch.zeros(config.passes, 6, width))
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.leave = nn.Linear(width, layout.fields)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.register_buffer("reading", _reading(layout), persistent=False)
        self.register_buffer("spread", torch.ones(layout.fields))  # deviation of each field of the answers

    def forward(self, images: Tensor) -> Tensor:
        """images [B, H, W, C] of 0..1 -> tokens [B, N, F]"""
        return self._settled(images, self.refine(images)[-1].detach())

    def _settled(self, images: Tensor, answer: Tensor) -> Tensor:
        """Nesterov's gradient descent on the squared error, in units of each field's deviation.

        The error of a few pictures, those with the brightest splats, curves so much that descent diverges. A picture
        whose error grows goes back to its best splats, without momentum, and goes on at half the rate.
        """
        layout, each = self.layout, (len(images), 1, 1)
        # The error's curvature grows with the area of a slot and with the channels.
        rate = answer.new_full(each, SETTLING_RATE / (layout.sigma**2 * layout.channels))
        age, least = answer.new_zeros(each), answer.new_full(each, math.inf)
        now = before = best = torch.zeros_like(answer)
        goals = between(images)
        for _ in range(self.config.settling):
            with torch.enable_grad():
                ahead = (now + age / (age + 3) * (now - before)).requires_grad_()
                tokens = answer + self.spread * ahead
                error = squared_error(layout, tokens, images, goals, self.config.between)
                error = error + self.config.pull * ahead.square().sum((1, 2))
                (slope,) = torch.autograd.grad(error.sum(), ahead)
            ahead, error = ahead.detach(), error.detach().view(each)
            better = error < least
            best, least = torch.where(better, ahead, best), torch.where(better, error, least)
            astray = ~(error <= ASTRAY * least)  # also where the error is no number
            rate = torch.where(astray, rate / 2, rate)
            age = torch.where(astray, 0.0, age + 1)
            now, before = torch.where(astray, best, ahead - rate * slope), torch.where(astray, best, now)
        return answer + self.spread * now

    def refine(self, images: Tensor) -> list[Tensor]:
        """The tokens after each pass. Gradients do not reach from one pass into those before."""
        tokens = self.layout.start(images)
        after = []
        for index in range(self.config.passes):
            with torch.enable_grad():
                known = tokens.detach().requires_grad_()
                rest = self.layout.pictures(known) - images
                (slope,) = torch.autograd.grad(0.5 * rest.square().sum(), known)
            tokens = known.detach() + self._change(images, rest.detach(), known.detach(), slope, self.passes[index])
            after.append(tokens)
        return after

    def _change(self, images: Tensor, rest: Tensor, tokens: Tensor, slope: Tensor, modulation: Tensor) -> Tensor:
        """What one pass adds to tokens that leave `rest` over."""
        seen = torch.cat([images, 4 * rest], -1).permute(0, 3, 1, 2)
        features = (self.look(seen).flatten(2) @ self.reading).unflatten(2, (self.layout.count, -1))
        own = torch.cat([tokens, torch.asinh(4 * slope)], -1)
        own = functional.pad(own, (0, self.own - own.shape[-1]))
        h = self.enter(torch.cat([features.transpose(1, 2).flatten(2), own.to(features.dtype)], -1)) + self.slots
        # For each picture its own copy: compiled for a GPU by torch 2.11, a block that broadcasts one modulation
        # returns a gradient of it that is wrong by orders of magnitude.
        modulation = modulation.expand(len(images), *modulation.shape).contiguous()
        for block in self.blocks:
            h = block(h, modulation)
        change = self.leave(functional.layer_norm(h, h.shape[-1:])).float()
        return BOUND * torch.tanh(change / BOUND)  # what shows nowhere has no gradient that would keep it from growing


def train_encoder(
    images: Tensor,
    layout: SplatLayout,
    config: EncoderConfig | None = None,
    *,
    anchor: float = 0.002,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Encoder:
    """An encoder of pictures like these, uint8 [n, H, W, C], trained on their device.

    It minimises the squared error of what its splats show, summed over pixels, and anchor times the squared offsets of
    geometry, as fits do.
    """
    config = config or EncoderConfig()
    check(config)
    device = images.device
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        encoder = Encoder(layout, config).to(device)
    gpu = device.type == "cuda"
    rate = torch.zeros((), device=device)
    optimizer = torch.optim.AdamW(
        encoder.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True, capturable=gpu
    )

    def step(pictures: Tensor, noise: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=gpu):
            passes = encoder.refine(pictures)
        goals = between(pictures)
        loss = pictures.new_zeros(())
        for index, tokens in enumerate(passes):
            spread = tokens.detach().flatten(0, 1).std(0)
            error = squared_error(layout, tokens + config.noise * spread * noise, pictures, goals, config.between).sum()
            error = error + anchor * tokens[..., :GEOMETRY].square().sum()
            loss = loss + error / len(pictures) * 0.5 ** (len(passes) - 1 - index)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        return loss.detach()

    generator = torch.Generator(device).manual_seed(seed)

    def batch() -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(images), (config.batch,), generator=generator, device=device)
        shape = (config.batch, layout.count, layout.fields)
        return images[chosen].float() / 255, torch.randn(shape, generator=generator, device=device)

    if gpu:
        for block in encoder.blocks:
            block.compile(dynamic=False)
        run: Callable[..., Tensor] = Replayed(step, batch(), encoder, [optimizer])
    else:
        run = step
    for index in range(config.steps):
        warm = min(1, (index + 1) / 100)
        rate.fill_(config.rate * warm * 0.5 * (1 + math.cos(math.pi * index / config.steps)))
        run(*batch())
        if progress:
            progress(index + 1)
    encoder.eval().requires_grad_(False)
    if not all(bool(weight.isfinite().all()) for weight in encoder.parameters()):
        raise InputError(f"rate: the encoder's training went astray, take a lower one than {config.rate:g}")
    for weight in encoder.parameters():
        weight.copy_(weight.half())  # as a file has it, so that a picture encoded later gets the same splats
    some = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:SURVEYED].to(device)]
    answers = torch.cat([encoder.refine(part.float() / 255)[-1] for part in some.split(config.batch)])
    encoder.spread.copy_(answers.flatten(0, 1).std(0).clamp_min(1e-3).half())
    return encoder


@torch.no_grad()
def encoded(encoder: Encoder, images: Tensor, progress: Callable[[int], None] | None = None) -> Tensor:
    """Tokens [n, N, F] of pictures uint8 [n, H, W, C], where the encoder is; progress is told how many are done."""
    pixels = ENCODED_AT_ONCE if encoder.slots.is_cuda else ENCODED_AT_ONCE_ON_CPU
    chunk = max(1, pixels // images[0, ..., 0].numel())
    parts = []
    for start in range(0, len(images), chunk):
        some = images[start : start + chunk].to(encoder.slots.device).float() / 255
        parts.append(encoder(some))
        if progress:
            progress(start + len(some))
    return torch.cat(parts)


def encoder_tensors(encoder: Encoder | None) -> dict[str, Tensor]:
    """What a file keeps of an encoder, beside its configuration; of none nothing."""
    state = {} if encoder is None else encoder.state_dict()
    return {PREFIX + name: tensor.half() for name, tensor in state.items()}


def encoder_config(values: Mapping[str, Any]) -> EncoderConfig:
    """That of a file. Raises TypeError for a broken one. What is from before errors between pixels has none."""
    return EncoderConfig(**{"between": 0.0, **values})


def read_encoder(
    config: EncoderConfig | None, layout: Layout, tensors: Mapping[str, Tensor]
) -> tuple[Encoder | None, dict[str, Tensor]]:
    """The encoder of a file, and the tensors that are not its. Raises ValueError and RuntimeError for a broken one."""
    rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(PREFIX)}
    if config is None:
        return None, rest
    if not isinstance(layout, SplatLayout):
        raise ValueError("an encoder of pixels")
    encoder = Encoder(layout, config)
    own = {name.removeprefix(PREFIX): tensor.float() for name, tensor in tensors.items() if name.startswith(PREFIX)}
    encoder.load_state_dict(own)
    return encoder.eval().requires_grad_(False), rest


def check(config: EncoderConfig) -> None:
    """Raises InputError for what makes no encoder."""
    for name in ("width", "depth", "heads", "passes", "features", "steps", "batch"):
        if getattr(config, name) < 1:
            raise InputError(f"{name}: must be at least 1, got {getattr(config, name)}")
    if config.width % config.heads:
        raise InputError(f"width: must be a multiple of the heads, {config.heads}, got {config.width}")
    if not 0 < config.rate < math.inf:
        raise InputError(f"rate: must be above 0, got {config.rate}")
    for name in ("noise", "settling", "between", "pull"):
        if not 0 <= getattr(config, name) < math.inf:
            raise InputError(f"{name}: must be at least 0 and finite, got {getattr(config, name)}")


def _reading(layout: SplatLayout) -> Tensor:
    """Weights [H W, N AROUND^2] that read the features of a picture around each slot, bilinear.

    As a matrix, for the gradient of sampling would sum in an order that changes from run to run.
    """
    shift = (torch.arange(AROUND) - AROUND // 2) * 2 / AROUND  # of half the distance of slots
    y, x = torch.meshgrid(shift / layout.rows, shift / layout.columns, indexing="ij")
    around = torch.stack([x, y], -1).flatten(0, 1)
    points = (layout.positions()[:, None] + around) * 2 - 1
    pixels = torch.eye(layout.height * layout.width).view(1, -1, layout.height, layout.width)
    weights = functional.grid_sample(pixels, points[None], padding_mode="border", align_corners=False)
    return weights[0].flatten(1)
