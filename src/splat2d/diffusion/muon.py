"""Muon, the optimizer of the blocks' matrices: momentum, made orthogonal (Jordan et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
ROUNDS = 5
# Of the odd polynomial that pulls singular values towards 1 the fastest; they end between 0.7 and 1.2 (Jordan et al.).
POLYNOMIAL = (3.4445, -4.7750, 2.0315)
# The root mean square of an update of AdamW, so that both take one learning rate (Liu et al. 2025, eq. 4).
UPDATE_RMS = 0.2


class Muon(torch.optim.Optimizer):
    """A step changes a matrix by an orthogonal one: what few directions of a gradient show counts as much as the rest.

    torch has one as well; this one works on all matrices of a shape together, and a CUDA graph can hold its step, whose
    rate is a tensor.
    """

    def __init__(self, matrices: Sequence[tuple[nn.Parameter, int]], lr: Tensor, weight_decay: float) -> None:
        """matrices: each with the number of matrices that its rows are made of; lr [], read at every step."""
        super().__init__([weight for weight, _ in matrices], {"lr": lr, "weight_decay": weight_decay})
        self._parts = [parts for _, parts in matrices]

    @torch.no_grad()
    def step(self) -> None:
        """Takes the gradients, all of which must be there."""
        group = self.param_groups[0]
        weights, rate = group["params"], group["lr"]
        gradients = [weight.grad for weight in weights]
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        momenta = [self.state[weight]["momentum"] for weight in weights]
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov's
        changes = orthogonal([part for each, n in zip(ahead, self._parts, strict=True) for part in each.chunk(n)])
        sizes = [-rate * UPDATE_RMS * math.sqrt(max(change.shape)) for change in changes]
        scaled = iter([size * change for size, change in zip(sizes, changes, strict=True)])
        torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
        torch._foreach_add_(weights, [torch.cat([next(scaled) for _ in range(n)]) for n in self._parts])


def orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """About the nearest matrix to each whose singular values are 1, by Newton-Schulz steps. [rows, columns] each"""
    places: dict[tuple[int, int], list[int]] = {}
    for i, matrix in enumerate(matrices):
        shape = min(matrix.shape), max(matrix.shape)
        places.setdefault(shape, []).append(i)
    results: list[Tensor] = [torch.empty(0)] * len(matrices)
    for some in places.values():
        x = torch.stack([_wide(matrices[i]) for i in some])
        kind = x.dtype
        x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
        if x.is_cuda:
            x = x.bfloat16()
        a, b, c = POLYNOMIAL
        for _ in range(ROUNDS):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
        for i, each in zip(some, x.to(kind).unbind(), strict=True):
            results[i] = each if matrices[i].shape == each.shape else each.mT
    return results


def _wide(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
