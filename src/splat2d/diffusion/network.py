"""The denoiser: a transformer over the tokens of a picture (Peebles and Xie 2023, "DiT")."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from splat2d.diffusion.layouts import Layout, joined, squares

FREQUENCIES = 128  # of the embedding of time


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Size of a denoiser."""

    width: int = 256
    depth: int = 8
    heads: int = 4
    slots: bool = True  # whether tokens know their slot; without, the network treats them as a set
    group: int = 1  # slots a side of the square that the blocks see as one token; the fewer tokens, the faster


class Block(nn.Module):
    """Attention among the tokens, then two layers for each of them; time and class modulate both."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.inner = nn.Linear(width, 4 * width)
        self.outer = nn.Linear(4 * width, width)
        # What this block adds to the modulation that all blocks share ("adaLN-single", Chen et al. 2023).
        self.bias = nn.Parameter(torch.zeros(6, width))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """x [B, N, width], modulation [B, 6, width] -> [B, N, width]"""
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.bias).unsqueeze(2).unbind(1)
        q, k, v = self.qkv(_modulated(x, shift1, scale1)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # Queries and keys of one length keep attention from saturating in bf16.
        q, k = functional.rms_norm(q, q.shape[-1:]), functional.rms_norm(k, k.shape[-1:])
        mixed = functional.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        x = x + gate1 * self.mix(mixed.transpose(1, 2).flatten(2))
        hidden = functional.gelu(self.inner(_modulated(x, shift2, scale2)), approximate="tanh")
        return x + gate2 * self.outer(hidden)


class Denoiser(nn.Module):
    """Noisy tokens, time and class -> a prediction for each token: of the clean tokens, or of the velocity."""

    def __init__(self, layout: Layout, classes: int, config: NetworkConfig) -> None:
        """layout: of the tokens, whose rows and columns group divides; classes without the empty one, the last."""
        super().__init__()
        self.config, self.classes = config, classes
        self.rows, self.columns = layout.rows, layout.columns
        width, together = config.width, config.group**2 * layout.fields
        self.enter = nn.Linear(together, width)
        if config.slots:
            # Learned, from a start in which neighbours are alike.
            middles = self._grouped(layout.positions()).unflatten(-1, (-1, 2)).mean(-2)
            self.slots = nn.Parameter(0.5 * slot_waves(middles, width))
        self.time = nn.Sequential(nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(classes + 1, width)
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.depth))
        self.last = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, together)
        nn.init.normal_(self.label.weight, std=0.02)
        # Every block starts as the identity, and the whole as zero: the mean of whitened tokens.
        for layer in (self.modulation, self.last, self.leave):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """x [B, N, fields], t [B] of 0 (noise) to 1 (data), labels [B] -> [B, N, fields]"""
        angles = (
            t[:, None]
            * 1000
            * torch.exp(
                -math.log(10000) * torch.arange(FREQUENCIES, device=t.device, dtype=torch.float32) / FREQUENCIES
            )
        )
        condition = functional.silu(self.time(torch.cat([angles.cos(), angles.sin()], 1)) + self.label(labels))
        h = self.enter(self._grouped(x))
        if self.config.slots:
            h = h + self.slots
        modulation = self.modulation(condition).unflatten(1, (6, -1))
        for block in self.blocks:
            h = block(h, modulation)
        shift, scale = self.last(condition)[:, None].chunk(2, -1)
        return self._apart(self.leave(_modulated(h, shift, scale)))

    def matrices(self) -> list[tuple[nn.Parameter, int]]:
        """The weights of the blocks' layers, each with the number of maps that its rows are made of."""
        found = []
        for block in self.blocks:
            assert isinstance(block, Block)
            found += [(block.qkv.weight, 3), *((layer.weight, 1) for layer in (block.mix, block.inner, block.outer))]
        return found

    def _grouped(self, x: Tensor) -> Tensor:
        """[..., N, F] -> [..., N / group^2, group^2 F], the squares row by row."""
        return squares(x.unflatten(-2, (self.rows, self.columns)), self.config.group)

    def _apart(self, h: Tensor) -> Tensor:
        """The inverse."""
        side = self.config.group
        return joined(h, self.rows // side, self.columns // side, side).flatten(-3, -2)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


def slot_waves(positions: Tensor, width: int) -> Tensor:
    """Sines and cosines of x and y at wavelengths from 2 down to 1/16 of the picture. [N, width]"""
    steps = width // 4
    rates = math.pi * 2 ** (5 * torch.arange(steps) / max(1, steps - 1))
    angles = positions[:, :, None] * rates
    waves = torch.cat([angles.sin(), angles.cos()], 2).flatten(1)
    return functional.pad(waves, (0, width - waves.shape[1]))
