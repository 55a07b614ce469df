"""Splats as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from splat2d import splats as arrays
from splat2d.errors import InputError
from splat2d.torch.rasterizing import rasterize


@dataclass(frozen=True, slots=True, eq=False)
class Splats:
    """splat2d.Splats as tensors that may have gradients and, until .splats(), leading dimensions."""

    means: Tensor  # [..., N, 2] x, y in pixels
    log_cholesky: Tensor  # [..., N, 3] a, b, c
    colors: Tensor  # [..., N, C]
    width: int  # pixels
    height: int  # pixels
    background: Tensor  # [..., C]

    @classmethod
    def of(
        cls, splats: arrays.Splats, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> Splats:
        """A copy of the splats on a device, torch's default one unless given."""
        means, log_cholesky, colors, background = (
            torch.tensor(array, device=device, dtype=dtype)
            for array in (splats.means, splats.log_cholesky, splats.colors, splats.background)
        )
        return cls(means, log_cholesky, colors, splats.width, splats.height, background)

    def splats(self) -> arrays.Splats:
        """A copy as splat2d.Splats, to save or render at any size. Raises InputError unless of one picture, finite."""
        tensors = (self.means, self.log_cholesky, self.colors, self.background)
        if self.means.ndim != 2:
            raise InputError(f"Splats: expected one picture, means [N, 2], got {tuple(self.means.shape)}; index it")
        means, log_cholesky, colors, background = (tensor.detach().cpu().numpy() for tensor in tensors)
        return arrays.Splats(means, log_cholesky, colors, self.width, self.height, background)

    def picture(self) -> Tensor:
        """rasterize() at the size of the canvas: [..., height, width, C]."""
        size = {"height": self.height, "width": self.width}
        return rasterize(self.means, self.log_cholesky, self.colors, **size, background=self.background)
