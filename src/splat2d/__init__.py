"""Pictures to 2D Gaussian splats and back.

The public names load on first use, so that `import splat2d` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splat2d.batch import BatchResult, fit_batch
    from splat2d.codec import Metadata, decode, encode, read_metadata
    from splat2d.compression import Compressed, compress, compress_steps
    from splat2d.config import CompressConfig, FitConfig, Loss
    from splat2d.errors import FormatError, InputError
    from splat2d.fitting import FitResult, Progress, fit, fit_steps
    from splat2d.images import load_image, save_image
    from splat2d.metrics import psnr, ssim
    from splat2d.pillow import register_pillow
    from splat2d.progress import track
    from splat2d.rendering import render
    from splat2d.splats import Splats
    from splat2d.storage import load, save

__version__ = "0.1.0"

_HOME = {
    "BatchResult": "batch",
    "CompressConfig": "config",
    "Compressed": "compression",
    "FitConfig": "config",
    "FitResult": "fitting",
    "FormatError": "errors",
    "InputError": "errors",
    "Loss": "config",
    "Metadata": "codec",
    "Progress": "fitting",
    "Splats": "splats",
    "compress": "compression",
    "compress_steps": "compression",
    "decode": "codec",
    "encode": "codec",
    "fit": "fitting",
    "fit_batch": "batch",
    "fit_steps": "fitting",
    "load": "storage",
    "load_image": "images",
    "psnr": "metrics",
    "read_metadata": "codec",
    "register_pillow": "pillow",
    "render": "rendering",
    "save": "storage",
    "save_image": "images",
    "ssim": "metrics",
    "track": "progress",
}

__all__ = [
    "BatchResult",
    "CompressConfig",
    "Compressed",
    "FitConfig",
    "FitResult",
    "FormatError",
    "InputError",
    "Loss",
    "Metadata",
    "Progress",
    "Splats",
    "compress",
    "compress_steps",
    "decode",
    "encode",
    "fit",
    "fit_batch",
    "fit_steps",
    "load",
    "load_image",
    "psnr",
    "read_metadata",
    "register_pillow",
    "render",
    "save",
    "save_image",
    "ssim",
    "track",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'splat2d' has no attribute {name!r}")
    return getattr(import_module(f"splat2d.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
