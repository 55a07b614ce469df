"""Optimisers for benchmarks/laboratory.py: rows of state beside the splats, and a step from each gradient.

A step comes in units of the learning rates, and is to be subtracted. Growth adds rows of zeros; a splat that moves to
another place starts anew.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Floats = np.ndarray
EPSILON = 1e-8
GEOMETRY = 5  # x, y, a, b, c before the colours


class Rows:
    """Arrays with a row per splat, by name."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        self.arrays = {name: np.zeros((0, *shape), np.float32) for name, shape in shapes.items()}

    def resize(self, count: int) -> None:
        for name, array in self.arrays.items():
            added = np.zeros((max(count - len(array), 0), *array.shape[1:]), np.float32)
            self.arrays[name] = np.concatenate([array[:count], added])

    def clear(self, index: Floats) -> None:
        for array in self.arrays.values():
            array[index] = 0


class Adam(Rows):
    """Kingma and Ba 2015."""

    def __init__(self, fields: int, beta1: float, beta2: float) -> None:
        super().__init__(m=(fields,), v=(fields,))
        self.beta1, self.beta2 = beta1, beta2

    def step(self, g: Floats, t: int, rate: float) -> Floats:
        a = self.arrays
        a["m"] = self.beta1 * a["m"] + (1 - self.beta1) * g
        a["v"] = self.beta2 * a["v"] + (1 - self.beta2) * g * g
        return a["m"] / (1 - self.beta1**t) / (np.sqrt(self.second() / (1 - self.beta2**t)) + EPSILON)

    def second(self) -> Floats:
        return self.arrays["v"]


class SharedAdam(Adam):
    """Adam with one second moment for the channels of a colour."""

    def second(self) -> Floats:
        v = self.arrays["v"].copy()
        v[:, GEOMETRY:] = v[:, GEOMETRY:].mean(1, keepdims=True)
        return v


class Adan(Rows):
    """Xie et al. 2022, with the betas of GaussianImage."""

    def __init__(self, fields: int, *_: float) -> None:
        super().__init__(m=(fields,), n=(fields,), v=(fields,), g=(fields,))

    def step(self, g: Floats, t: int, rate: float) -> Floats:
        a = self.arrays
        difference = np.where(a["g"] == 0, 0, g - a["g"])
        a["g"] = g
        b1, b2, b3 = 0.98, 0.92, 0.99
        a["m"] = b1 * a["m"] + (1 - b1) * g
        a["n"] = b2 * a["n"] + (1 - b2) * difference
        a["v"] = b3 * a["v"] + (1 - b3) * (g + b2 * difference) ** 2
        direction = a["m"] / (1 - b1**t) + b2 * a["n"] / (1 - b2**t)
        return direction / (np.sqrt(a["v"] / (1 - b3**t)) + EPSILON)


class Lion(Rows):
    """Chen et al. 2023: the sign of a mean gradient."""

    def __init__(self, fields: int, *_: float) -> None:
        super().__init__(m=(fields,))

    def step(self, g: Floats, t: int, rate: float) -> Floats:
        m = self.arrays["m"]
        direction = np.sign(0.9 * m + 0.1 * g)
        self.arrays["m"] = 0.99 * m + 0.01 * g
        return direction


class Soap(Rows):
    """Vyas et al. 2024, for a vector per splat: Adam along the principal axes of its gradients.

    The axes, of the mean of g g^T in units of each field's second moment, are found anew every `every` steps.
    """

    every = 10

    def __init__(self, fields: int, beta1: float, beta2: float) -> None:
        super().__init__(m=(fields,), v=(fields,), scale=(fields,), outer=(fields, fields), axes=(fields, fields))
        self.beta1, self.beta2 = beta1, beta2

    def step(self, g: Floats, t: int, rate: float) -> Floats:
        a = self.arrays
        keep = self.beta2
        a["scale"] = keep * a["scale"] + (1 - keep) * g * g
        unit = np.sqrt(a["scale"] / (1 - keep**t)) + EPSILON
        a["m"] = self.beta1 * a["m"] + (1 - self.beta1) * g
        whitened = g / unit
        a["outer"] = keep * a["outer"] + (1 - keep) * whitened[:, :, None] * whitened[:, None, :]
        if t % self.every == 1 or not a["axes"].any(axis=(1, 2)).all():
            axes = np.linalg.eigh(a["outer"])[1].astype(np.float32)
            a["v"] = np.einsum("nij,nj->ni", np.einsum("nki,nkj->nij", axes, a["axes"]) ** 2, a["v"])
            a["axes"] = axes
        turned = np.einsum("nij,ni->nj", a["axes"], whitened)
        a["v"] = keep * a["v"] + (1 - keep) * turned**2
        mean = np.einsum("nij,ni->nj", a["axes"], a["m"] / (1 - self.beta1**t) / unit)
        # A first gradient leaves all axes but its own empty: rounding must not become a step there.
        return np.einsum("nij,nj->ni", a["axes"], mean / (np.sqrt(a["v"] / (1 - keep**t)) + 1e-2))


class ScheduleFree(Rows):
    """Defazio et al. 2024, for Adam: gradients at y, between the iterate z and its mean x, which is what counts.

    The session holds y; step() answers how far it moves. offset: x - y, to be added where a state is judged.
    """

    power = 3  # of the age of a splat, by which iterates weigh in the mean

    def __init__(self, fields: int, beta1: float, beta2: float) -> None:
        super().__init__(v=(fields,), offset=(fields,), age=(1,), weight=(1,))
        self.beta1, self.beta2 = beta1, beta2

    def step(self, g: Floats, t: int, rate: float) -> Floats:
        a = self.arrays
        a["v"] = self.beta2 * a["v"] + (1 - self.beta2) * g * g
        a["age"] += 1
        weight = a["age"] ** self.power * np.float32(rate**2)
        a["weight"] += weight
        x = a["offset"]  # relative to y, in units of rate
        z = -x * self.beta1 / (1 - self.beta1)  # y = (1 - beta1) z + beta1 x
        z = z - rate * g / (np.sqrt(a["v"] / (1 - self.beta2**t)) + EPSILON)
        x = x + (z - x) * weight / a["weight"]
        y = (1 - self.beta1) * z + self.beta1 * x
        a["offset"] = x - y
        return -y / np.float32(rate)


OPTIMIZERS: dict[str, Any] = {
    "adam": Adam,
    "shared": SharedAdam,
    "adan": Adan,
    "lion": Lion,
    "soap": Soap,
    "schedule-free": ScheduleFree,
}
