"""Flow matching between noise (t = 0) and data (t = 1), and samplers that follow the flow.

x_t = t x + (1 - t) noise (Lipman et al. 2023; Liu et al. 2023). All samplers ask for the clean tokens, D(x, t), from
which the velocity is (D - x) / (1 - t).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]  # x [B, N, F], t [B] -> clean tokens [B, N, F]
Sampler = Literal["euler", "heun", "dpm++"]

NEAREST = 0.05  # 1 - t is taken to be no smaller in the loss, whose weight would have no bound


def noised(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t for x, noise [B, N, F] and t [B]."""
    t = t[:, None, None]
    return t * x + (1 - t) * noise


def velocity_loss(clean: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Squared error of the velocity that a prediction of the clean tokens implies, mean over all. (B, N, F)

    It is the squared error of the clean tokens over (1 - t)^2 (Li and He 2025, "Back to basics", eq. 7).
    """
    return (velocity_weight(t)[:, None, None] * (clean - x).square()).mean()


def velocity_weight(t: Tensor) -> Tensor:
    """What makes squared errors of the clean tokens those of the velocity: (1 - t)^-2, with a bound. [B]"""
    return (1 - t).clamp_min(NEAREST) ** -2


def times(steps: int, shift: float = 1.0) -> Tensor:
    """steps + 1 times from 0 to 1. shift < 1 puts more of them near the data, > 1 near the noise. [steps + 1]"""
    even = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return even / (even + shift * (1 - even))


def sample(denoise: Denoise, noise: Tensor, schedule: Tensor, sampler: Sampler) -> Tensor:
    """Follows the flow from noise [B, N, F] at schedule[0] to schedule[-1], at most 1. [B, N, F]

    euler: first order, one evaluation a step. heun: second order, two, but for the last step where it ends at 1.
    dpm++: DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), second order, one evaluation.
    """
    x, before = noise, None
    ts = schedule.tolist()
    for i, (t, after) in enumerate(pairwise(ts)):
        clean = denoise(x, _all(x, t))
        if sampler == "dpm++":
            estimate = clean
            if before is not None and ts[i - 1] > 0 and after < 1:
                last, now, coming = (_log_ratio(value) for value in (ts[i - 1], t, after))
                estimate = clean + (coming - now) / (2 * (now - last)) * (clean - before)
            # sigma_s / sigma_t x + alpha_s (1 - e^-h) D, with e^-h = alpha_t sigma_s / (alpha_s sigma_t)
            rest = (1 - after) / (1 - t)
            x, before = rest * x + (after - t * rest) * estimate, clean
            continue
        velocity = (clean - x) / (1 - t)
        there = x + (after - t) * velocity
        if sampler == "heun" and after < 1:
            second = (denoise(there, _all(x, after)) - there) / (1 - after)
            there = x + (after - t) * 0.5 * (velocity + second)
        x = there
    return x


def evaluations(steps: int, sampler: Sampler) -> int:
    """How often sample() asks the denoiser on a schedule of so many steps that ends at 1."""
    return 2 * steps - 1 if sampler == "heun" else steps


def guided(denoise: Callable[[Tensor, Tensor, Tensor], Tensor], labels: Tensor, empty: int, scale: float) -> Denoise:
    """Classifier-free guidance (Ho and Salimans 2022) of a denoiser (x, t, labels).

    scale 1 is the conditional model, more exaggerates what the class adds. It acts for 0.1 < t < 0.9 only, elsewhere it
    costs variety and brings nothing (Kynkaanniemi et al. 2024).
    """

    def clean(x: Tensor, t: Tensor) -> Tensor:
        if scale == 1 or not 0.1 < float(t[0]) < 0.9:
            return denoise(x, t, labels)
        both = denoise(torch.cat([x, x]), torch.cat([t, t]), torch.cat([labels, torch.full_like(labels, empty)]))
        with_class, without = both.chunk(2)
        return without + scale * (with_class - without)

    return clean


def _all(x: Tensor, t: float) -> Tensor:
    return torch.full((len(x),), t, device=x.device, dtype=torch.float32)


def _log_ratio(t: float) -> float:
    """Half the logarithm of the signal-to-noise ratio."""
    return float(torch.log(torch.tensor(t / (1 - t), dtype=torch.float64)))
