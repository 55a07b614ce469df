"""An encoder: pictures to splats in one pass, trained through the rasterizer on the pictures themselves.

Two fits of nearly the same picture may differ much, for their last steps follow the noise. What a network puts out is a
smooth function of the picture, so that a generative model has less to learn by heart.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from splat2d.diffusion.layouts import GEOMETRY, SplatLayout
from splat2d.diffusion.network import Block, slot_waves

AROUND = 3  # points a side, around each slot, where features of the picture are read
FEATURES = 96  # channels of the picture's features


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """Size and training of an encoder."""

    width: int = 192
    depth: int = 4
    heads: int = 4
    steps: int = 4000
    batch: int = 512
    rate: float = 1e-3
    noise: float = 0.05  # added to whitened tokens in training: splats that look the same in spite of small errors


class Encoder(nn.Module):
    """Pictures -> tokens of a splat per slot."""

    def __init__(self, layout: SplatLayout, config: EncoderConfig) -> None:
        super().__init__()
        self.config, self.background = config, layout.background
        width = config.width
        self.look = nn.Sequential(
            nn.Conv2d(layout.channels, FEATURES // 2, 5, padding=2),
            nn.GELU(),
            nn.Conv2d(FEATURES // 2, FEATURES, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(FEATURES, FEATURES, 3, padding=1),
            nn.GELU(),
        )
        self.enter = nn.Linear(AROUND * AROUND * FEATURES, width)
        self.slots = nn.Parameter(0.5 * slot_waves(layout.positions(), width))
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.leave = nn.Linear(width, layout.fields)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.register_buffer("points", _points(layout), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """images [B, H, W, C] of 0..1 -> tokens [B, N, F]"""
        seen = images.permute(0, 3, 1, 2)
        points = self.points.expand(len(images), -1, -1, -1)
        features = functional.grid_sample(self.look(seen), points.to(seen), padding_mode="border", align_corners=False)
        h = self.enter(features.permute(0, 2, 3, 1).flatten(2)) + self.slots
        plain = h.new_zeros(1, 6, self.config.width)
        for block in self.blocks:
            h = block(h, plain)
        out = self.leave(functional.layer_norm(h, h.shape[-1:])).float()
        # Half the colour at the slot, as fits start.
        middle = points[:, :, AROUND * AROUND // 2 : AROUND * AROUND // 2 + 1]
        colors = functional.grid_sample(seen.float(), middle.float(), padding_mode="border", align_corners=False)
        start = 0.5 * (colors[..., 0].transpose(1, 2) - out.new_tensor(self.background))
        return torch.cat([out[..., :GEOMETRY], out[..., GEOMETRY:] + start], -1)


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
    device = images.device
    torch.manual_seed(seed)
    encoder = Encoder(layout, config).to(device)
    gpu = device.type == "cuda"
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=config.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=gpu)
    generator = torch.Generator(device).manual_seed(seed)
    for step in range(config.steps):
        warm = min(1, (step + 1) / 100)
        optimizer.param_groups[0]["lr"] = config.rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        chosen = torch.randint(len(images), (config.batch,), generator=generator, device=device)
        pictures = images[chosen].float() / 255
        with torch.autocast(device.type, torch.bfloat16, enabled=gpu):
            tokens = encoder(pictures)
        spread = tokens.detach().flatten(0, 1).std(0)
        noise = torch.randn(tokens.shape, generator=generator, device=device)
        shown = layout.pictures(tokens + config.noise * spread * noise)
        loss = (shown - pictures).square().sum() + anchor * tokens[..., :GEOMETRY].square().sum()
        optimizer.zero_grad(set_to_none=True)
        (loss / config.batch).backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        if progress:
            progress(step + 1)
    return encoder.eval().requires_grad_(False)


def _points(layout: SplatLayout) -> Tensor:
    """Where to read around each slot, in -1..1 as grid_sample counts. [1, N, AROUND^2, 2]"""
    shift = (torch.arange(AROUND) - AROUND // 2) * 2 / AROUND  # of the distance of slots
    y, x = torch.meshgrid(shift / layout.rows, shift / layout.columns, indexing="ij")
    around = torch.stack([x, y], -1).flatten(0, 1)
    return ((layout.positions()[:, None] + around) * 2 - 1)[None]
