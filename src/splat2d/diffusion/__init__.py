"""Generative models whose samples are splats: build a set, train, sample, evaluate. Needs the extra diffusion.

The public names load on first use, so that a missing extra is told at once and torch is imported only where it works.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if find_spec("torch") is None or find_spec("safetensors") is None:
    raise ImportError(
        'splat2d.diffusion needs torch and safetensors; install them by: pip install "splat2d[diffusion]"'
    )

if TYPE_CHECKING:
    from splat2d.diffusion.evaluation import EvaluationConfig, Judges, Report, evaluate, train_judges
    from splat2d.diffusion.layouts import PatchLayout, SplatLayout
    from splat2d.diffusion.model import Model, SampleConfig, generate, load_model, save_model
    from splat2d.diffusion.network import NetworkConfig
    from splat2d.diffusion.pictures import Pictures, load_pictures, pictures_of
    from splat2d.diffusion.splatset import (
        BuildConfig,
        SplatSet,
        build,
        build_by,
        floor_psnr,
        load_splats,
        rendered,
        save_splats,
    )
    from splat2d.diffusion.training import TrainConfig, TrainEvent, train

_HOME = {
    "BuildConfig": "splatset",
    "EvaluationConfig": "evaluation",
    "Judges": "evaluation",
    "Model": "model",
    "NetworkConfig": "network",
    "PatchLayout": "layouts",
    "Pictures": "pictures",
    "Report": "evaluation",
    "SampleConfig": "model",
    "SplatLayout": "layouts",
    "SplatSet": "splatset",
    "TrainConfig": "training",
    "TrainEvent": "training",
    "build": "splatset",
    "build_by": "splatset",
    "evaluate": "evaluation",
    "floor_psnr": "splatset",
    "generate": "model",
    "load_model": "model",
    "load_pictures": "pictures",
    "load_splats": "splatset",
    "pictures_of": "pictures",
    "rendered": "splatset",
    "save_model": "model",
    "save_splats": "splatset",
    "train": "training",
    "train_judges": "evaluation",
}

__all__ = [
    "BuildConfig",
    "EvaluationConfig",
    "Judges",
    "Model",
    "NetworkConfig",
    "PatchLayout",
    "Pictures",
    "Report",
    "SampleConfig",
    "SplatLayout",
    "SplatSet",
    "TrainConfig",
    "TrainEvent",
    "build",
    "build_by",
    "evaluate",
    "floor_psnr",
    "generate",
    "load_model",
    "load_pictures",
    "load_splats",
    "pictures_of",
    "rendered",
    "save_model",
    "save_splats",
    "train",
    "train_judges",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'splat2d.diffusion' has no attribute {name!r}")
    return getattr(import_module(f"splat2d.diffusion.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
