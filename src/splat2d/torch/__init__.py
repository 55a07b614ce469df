"""Splats in torch: a rasterizer with gradients, and tensors of splats. docs/torch.md shows both in use."""

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise ImportError('splat2d.torch needs torch; install it by: pip install "splat2d[torch]"') from None

from splat2d.torch.ordering import z_order
from splat2d.torch.rasterizing import rasterize
from splat2d.torch.splats import Splats

__all__ = ["Splats", "rasterize", "z_order"]
