"""What a fit is asked to do. Free of numpy, so that the command line can show its help without loading it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from splat2d.errors import InputError

Preset = Literal["fast", "balanced", "best"]
Device = Literal["auto", "cpu", "cuda"]
Profile = Literal["scalar", "vector"]
Phase = Literal["fitting", "training", "rounding"]  # of a fit, or of a compression
Panel = Literal["picture", "ellipses", "density", "error", "history"]  # of a plot


@dataclass(frozen=True, slots=True)
class Loss:
    """Weights of the loss l2 * MSE + l1 * MAE + ssim * (1 - SSIM)."""

    l2: float = 1.0
    l1: float = 0.0
    ssim: float = 0.0

    def __post_init__(self) -> None:
        weights = (self.l2, self.l1, self.ssim)
        if any(not 0 <= weight < float("inf") for weight in weights) or sum(weights) <= 0:
            got = f"l2={self.l2} l1={self.l1} ssim={self.ssim}"
            raise InputError(f"loss: weights must be finite, >= 0 and not all 0, got {got}")

    def normalized(self) -> Loss:
        """The same mix with weights that sum to 1."""
        total = self.l2 + self.l1 + self.ssim
        return Loss(self.l2 / total, self.l1 / total, self.ssim / total)

    @classmethod
    def parse(cls, text: str) -> Loss:
        """Reads "l2", "l1", "ssim" or a mix such as "0.8*l1+0.2*ssim". Raises InputError."""
        weights = {"l2": 0.0, "l1": 0.0, "ssim": 0.0}
        for term in text.replace(" ", "").lower().split("+"):
            factor, _, name = term.rpartition("*")
            try:
                weights[name] += float(factor or 1)
            except (KeyError, ValueError):
                advice = "write l2, l1, ssim or a mix such as 0.8*l1+0.2*ssim"
                raise InputError(f'loss: cannot read "{text}"; {advice}') from None
        return cls(**weights)


@dataclass(frozen=True, slots=True)
class FitConfig:
    """Everything that decides the outcome of a fit. Raises InputError.

    Give splats or psnr, not both; with neither, the fit chooses a count that suits the picture.
    """

    splats: int | None = None  # budget: this many splats
    psnr: float | None = None  # budget: as many splats as it takes to reach this, in dB
    preset: Preset = "balanced"
    steps: int | None = None  # None: what the preset says
    loss: Loss = field(default_factory=Loss)
    seed: int = 0
    device: Device = "auto"
    threads: int | None = None  # None: every core; the result does not depend on it

    def __post_init__(self) -> None:
        if self.splats is not None and self.psnr is not None:
            raise InputError("two budgets given, splats and psnr; give one")
        for name in ("splats", "steps", "threads"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, int):
                raise InputError(f"{name}: must be a whole number, got {value}")
            if value is not None and value < 1:
                raise InputError(f"{name}: must be at least 1, got {value}")
        if self.psnr is not None and not 0 < self.psnr < float("inf"):
            raise InputError(f"psnr: must be a finite number of dB above 0, got {self.psnr}")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 1 << 42:
            raise InputError(f"seed: must be a whole number, 0 or more and below 2^42, got {self.seed}")
        for name, known in (("preset", get_args(Preset)), ("device", get_args(Device))):
            if getattr(self, name) not in known:
                raise InputError(f'{name}: "{getattr(self, name)}" is unknown; choose from {", ".join(known)}')


@dataclass(frozen=True, slots=True)
class CompressConfig:
    """Everything that decides what a picture is compressed to. Raises InputError.

    Give one of bytes, quality and psnr, or none for a quality that suits most.
    """

    bytes: int | None = None  # budget: the file must not be larger
    quality: float | None = None  # budget: 0 (small) to 100 (faithful)
    psnr: float | None = None  # budget: dB that the decoded file must reach
    profile: Profile = "scalar"  # vector: larger files, whose splats a GPU reads without decoding
    preset: Preset = "balanced"
    loss: Loss = field(default_factory=Loss)
    seed: int = 0
    device: Device = "auto"
    threads: int | None = None  # None: every core; the result does not depend on it

    def __post_init__(self) -> None:
        given = [name for name in ("bytes", "quality", "psnr") if getattr(self, name) is not None]
        if len(given) > 1:
            raise InputError(f"two budgets given, {given[0]} and {given[1]}; give one")
        if self.bytes is not None and (not isinstance(self.bytes, int) or self.bytes < 1):
            raise InputError(f"bytes: must be a whole number, 1 or more, got {self.bytes}")
        if self.quality is not None and not 0 <= self.quality <= 100:
            raise InputError(f"quality: must be 0 to 100, got {self.quality}")
        if self.profile not in get_args(Profile):
            raise InputError(f'profile: "{self.profile}" is unknown; choose from {", ".join(get_args(Profile))}')
        FitConfig(psnr=self.psnr, preset=self.preset, seed=self.seed, device=self.device, threads=self.threads)
