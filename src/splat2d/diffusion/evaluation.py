"""Judging generated pictures: distances to test pictures, conditional accuracy, memorisation, between bracketing rows.

Distances are taken in the features of a classifier trained in the project on the same training pictures; they compare
models judged by the same net, whose digest stands in the report, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splat2d.atomic import reason
from splat2d.diffusion.classifier import (
    Classifier,
    ClassifierConfig,
    Images,
    Labels,
    train_classifier,
    untrained_classifier,
)
from splat2d.diffusion.metrics import (
    Memorisation,
    frechet_distance,
    frechet_distance_infinity,
    kernel_distance,
    memorisation,
    neighbourhoods,
)
from splat2d.errors import InputError

Sets = Mapping[str, Tensor]  # points [n, d] by name, on the device
Labelled = tuple[Images, Labels | None]
Make = Callable[[], Classifier]

LEAST = 10  # pictures of a kind; with fewer no measure says anything


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """Nets and parameters; the defaults are for 10,000 samples on a GPU, `compact` for small pictures on a CPU."""

    features: ClassifierConfig = field(default_factory=ClassifierConfig)
    second: ClassifierConfig = field(default_factory=lambda: ClassifierConfig("plain", widths=(96, 192, 256)))
    learner: ClassifierConfig = field(default_factory=lambda: ClassifierConfig(steps=1000))  # learns from samples
    neighbours: int = 5
    kernel_subsets: int = 100
    kernel_size: int = 1000

    @classmethod
    def compact(cls) -> EvaluationConfig:
        small = ClassifierConfig.compact()
        return cls(small, ClassifierConfig.compact("plain"), small, kernel_subsets=20, kernel_size=200)


@dataclass(frozen=True, slots=True, eq=False)
class Judges:
    """The nets that judge. Two reports can be compared if their judges have the same digests."""

    features: Classifier  # `untrained` where there are no labels
    second: Classifier | None  # of another architecture and seed; None where there are no labels
    untrained: Classifier

    @property
    def digests(self) -> dict[str, str]:
        nets = {"features": self.features, "second": self.second, "untrained": self.untrained}
        return {name: net.digest for name, net in nets.items() if net is not None}


@dataclass(frozen=True, slots=True)
class Row:
    """A set of pictures against the test pictures."""

    name: str
    count: int
    frechet: float
    frechet_infinity: float
    kernel: float
    kernel_deviation: float  # between subsets
    precision: float
    recall: float
    density: float
    coverage: float
    frechet_untrained: float  # in the features of the net of random weights


@dataclass(frozen=True, slots=True)
class Accuracies:
    """Shares of correct classes, the given labels being the truth."""

    samples: float
    real: float
    floor: float | None = None  # renders of fitted test pictures

    @property
    def ratio(self) -> float | None:
        return _ratio(self.samples, self.real)


@dataclass(frozen=True, slots=True)
class Nearness:
    """How near pictures of a set lie to training pictures."""

    name: str
    space: str  # pixels, features
    measures: Memorisation


@dataclass(frozen=True, slots=True)
class Report:
    """What evaluate() found."""

    rows: tuple[Row, ...]
    second: Accuracies | None  # of the second classifier, on samples and on test pictures
    learned: Accuracies | None  # on test pictures, of nets trained on samples and on as many real pictures
    memorisation: tuple[Nearness, ...]
    finite: float | None  # share of samples whose every number was finite
    judges: dict[str, str]  # digests
    train_count: int
    test_count: int
    seed: int
    device: str
    seconds_judges: float  # to train or load the nets that judge
    seconds: float  # all in all
    notes: tuple[str, ...]

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    @property
    def floor_share(self) -> float | None:
        """Frechet distance of the renders of fitted test pictures / of the samples: what the fit is to blame for."""
        names = {row.name for row in self.rows}
        return _ratio(self.row("floor").frechet, self.row("samples").frechet) if "floor" in names else None

    def to_json(self) -> str:
        ratios = {
            "floor_share": self.floor_share,
            "second_ratio": self.second and self.second.ratio,
            "learned_ratio": self.learned and self.learned.ratio,
        }
        return json.dumps({**asdict(self), **ratios}, indent=2, allow_nan=False)

    def to_markdown(self) -> str:
        """Tables in Markdown whose columns are aligned, so that they read well on a terminal too."""
        parts = [_table(*self._distances())]
        accuracies = self._accuracies()
        if accuracies:
            parts.append(_table(["accuracy", "samples", "real", "samples / real", "floor"], accuracies))
        parts.append(_table(*self._nearness()))
        facts = [
            f"{self.train_count:,} training and {self.test_count:,} test pictures, seed {self.seed}, {self.device}"
        ]
        facts.append("judges: " + ", ".join(f"{name} {digest}" for name, digest in self.judges.items()))
        if self.finite is not None:
            facts.append(f"finite samples: {self.finite:.2%}")
        if self.floor_share is not None:
            facts.append(f"Fréchet distance of the floor / of the samples: {self.floor_share:.3f}")
        facts.append(f"{self.seconds:.1f} s, of which judges {self.seconds_judges:.1f} s")
        return "\n\n".join([*parts, "\n".join(f"- {fact}" for fact in [*facts, *self.notes])]) + "\n"

    def _distances(self) -> tuple[list[str], list[list[str]]]:
        head = ["against test", "count", "FD", "FD∞", "KD x 1000", "precision", "recall", "density", "coverage"]
        body = [
            [
                *(row.name, f"{row.count:,}", f"{row.frechet:.4g}", f"{row.frechet_infinity:.4g}"),
                f"{1000 * row.kernel:.4g} ± {1000 * row.kernel_deviation:.3g}",
                *(f"{value:.3f}" for value in (row.precision, row.recall, row.density, row.coverage)),
                f"{row.frechet_untrained:.4g}",
            ]
            for row in self.rows
        ]
        return [*head, "FD untrained"], body

    def _accuracies(self) -> list[list[str]]:
        named = {"second classifier": self.second, "trained on it, tested on real": self.learned}
        return [
            [
                *(name, f"{each.samples:.2%}", f"{each.real:.2%}"),
                "" if each.ratio is None else f"{each.ratio:.3f}",
                "" if each.floor is None else f"{each.floor:.2%}",
            ]
            for name, each in named.items()
            if each is not None
        ]

    def _nearness(self) -> tuple[list[str], list[list[str]]]:
        head = ["nearest training picture, against test", "space", "median ratio", "below 1st percentile"]
        body = [
            [
                *(each.name, each.space, f"{each.measures.median_ratio:.3f}", f"{each.measures.below_percentile:.2%}"),
                *(f"{each.measures.nearer_probability:.3f}", f"{each.measures.z_score:.1f}"),
                f"{each.measures.gap_median:.3f} / {each.measures.gap_median_test:.3f}",
                f"{each.measures.gap_share:.2%} / {each.measures.gap_share_test:.2%}",
            ]
            for each in self.memorisation
        ]
        return [*head, "P(nearer)", "z", "d1/d2, of test", "d1/d2 < 1/3, of test"], body


def train_judges(
    train: Images,
    train_labels: Labels | None,
    config: EvaluationConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
) -> Judges:
    """The nets that judge what learned from these pictures [n, H, W, C], labels [n] or None. Raises InputError.

    A folder keeps them: the next call with the same pictures, configuration and seed loads what this one trained.
    """
    config = config or EvaluationConfig()

    def untrained() -> Classifier:
        return untrained_classifier(train, config.features, device=device, seed=seed + 2)

    def trained(settings: ClassifierConfig, own_seed: int, labels: Labels) -> Make:
        return lambda: train_classifier(train, labels, settings, device=device, seed=own_seed)

    blank = _kept(folder, "untrained", (config.features, seed + 2, train.shape, train), device, untrained)
    if train_labels is None:
        return Judges(features=blank, second=None, untrained=blank)
    nets = {"features": (config.features, seed), "second": (config.second, seed + 1)}
    made = {
        name: _kept(folder, name, (*key, train.shape, train, train_labels), device, trained(*key, train_labels))
        for name, key in nets.items()
    }
    return Judges(**made, untrained=blank)


def evaluate(
    generated: Images,
    generated_labels: Labels | None,
    train: Images,
    train_labels: Labels | None,
    test: Images,
    test_labels: Labels | None,
    *,
    floor: Images | None = None,
    fitted: Images | None = None,
    finite: float | None = None,
    config: EvaluationConfig | None = None,
    judges: Judges | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Report:
    """Judges generated pictures uint8 [n, H, W, C] with labels [n]. Raises InputError.

    `floor`: renders of the fitted test pictures, in their order. `fitted`: renders of fitted training pictures, best as
    many as there are samples: the like of them a model would draw that had learned its set perfectly. `finite`: the
    share of samples that had only finite numbers, which bytes no longer tell. `judges`: nets of train_judges(), trained
    here unless given. Without labels of the real pictures, distances are taken in the features of a net of random
    weights; a note in the report says so.
    """
    start = time.perf_counter()
    config, device = config or EvaluationConfig(), torch.device(device)
    _check((generated, generated_labels), (train, train_labels), (test, test_labels), floor, fitted)
    judges = judges or train_judges(train, train_labels, config, device=device, seed=seed)
    seconds_judges = time.perf_counter() - start

    # As many real training pictures as there are samples: for a bracketing row, and to learn from.
    chosen = some_of(np.arange(len(train)), len(generated), seed)
    mean = np.rint(train.mean(axis=0, keepdims=True)).astype(np.uint8).repeat(len(generated), axis=0)
    judged = {"samples": generated, "train": train[chosen]}
    judged |= {} if fitted is None else {"fitted train": fitted}
    judged |= {} if floor is None else {"floor": floor}
    judged |= {"mean picture": mean}
    features = _features(judges.features, judged | {"all train": train, "test": test}, device)
    untrained = _features(judges.untrained, judged | {"test": test}, device)
    rows = [_row(name, features, untrained, config, seed) for name in judged]

    copies = {name: images for name, images in judged.items() if name in ("samples", "floor")}
    pixels = _points(copies | {"all train": train, "test": test}, device)
    near = [
        Nearness(name, space, memorisation(points[name], points["all train"], points["test"]))
        for space, points in (("pixels", pixels), ("features", features))
        for name in copies
    ]

    second = learned = None
    notes = []
    if len(chosen) < len(generated):
        notes.append(f"only {len(chosen):,} training pictures stand beside {len(generated):,} samples")
    if judges.second is None or train_labels is None or test_labels is None:
        notes.append("no labels of real pictures: features are those of a net of random weights, nothing is classified")
    elif generated_labels is None:
        notes.append("samples without labels: they are not classified")
    else:
        second = Accuracies(
            samples=judges.second.accuracy(generated, generated_labels),
            real=judges.second.accuracy(test, test_labels),
            floor=None if floor is None else judges.second.accuracy(floor, test_labels),
        )
        settings = {"classes": judges.second.classes, "device": device, "seed": seed + 3}
        from_samples = train_classifier(generated, generated_labels, config.learner, **settings)
        from_real = train_classifier(train[chosen], train_labels[chosen], config.learner, **settings)
        learned = Accuracies(from_samples.accuracy(test, test_labels), from_real.accuracy(test, test_labels))
    return Report(
        rows=tuple(rows),
        second=second,
        learned=learned,
        memorisation=tuple(near),
        finite=finite,
        judges=judges.digests,
        train_count=len(train),
        test_count=len(test),
        seed=seed,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        seconds_judges=seconds_judges,
        seconds=time.perf_counter() - start,
        notes=tuple(notes),
    )


def some_of(indices: NDArray[np.intp], count: int, seed: int) -> NDArray[np.intp]:
    """count of them, or all, drawn by the seed."""
    return np.random.default_rng(seed).permutation(indices)[:count]


def _row(name: str, features: Sets, untrained: Sets, config: EvaluationConfig, seed: int) -> Row:
    """All measures of the set of this name against the one named test."""
    points, test = features[name], features["test"]
    kernel = kernel_distance(points, test, subsets=config.kernel_subsets, size=config.kernel_size, seed=seed)
    overlap = neighbourhoods(points, test, neighbours=config.neighbours)
    return Row(
        name=name,
        count=len(points),
        frechet=frechet_distance(points, test),
        frechet_infinity=frechet_distance_infinity(points, test, seed=seed),
        kernel=kernel.mean,
        kernel_deviation=kernel.deviation,
        precision=overlap.precision,
        recall=overlap.recall,
        density=overlap.density,
        coverage=overlap.coverage,
        frechet_untrained=frechet_distance(untrained[name], untrained["test"]),
    )


def _ratio(value: float, reference: float) -> float | None:
    return value / reference if reference else None


def _features(net: Classifier, sets: Mapping[str, Images], device: torch.device) -> Sets:
    return _points({name: net.features(images) for name, images in sets.items()}, device)


def _points(sets: Mapping[str, NDArray[Any]], device: torch.device) -> Sets:
    return {name: torch.tensor(np.ascontiguousarray(points), device=device) for name, points in sets.items()}


def _kept(
    folder: str | os.PathLike[str] | None, name: str, parts: Sequence[object], device: torch.device | str, make: Make
) -> Classifier:
    """What make() returns, or what an earlier call with equal parts left in the folder."""
    if folder is None:
        return make()
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    path = Path(folder) / f"{name}-{digest.hexdigest()[:16]}.safetensors"
    if path.exists():
        return Classifier.load(path, device)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made a folder ({reason(error)})") from error
    net = make()
    net.save(path)
    return net


def _check(generated: Labelled, train: Labelled, test: Labelled, floor: Images | None, fitted: Images | None) -> None:
    """Raises InputError unless all sets have pictures of one shape, enough of them, and labels that go with them."""
    if (train[1] is None) != (test[1] is None):
        raise InputError("labels: give those of training and of test pictures, or neither")
    classes = None if train[1] is None else int(train[1].max(initial=0)) + 1
    sets = {"samples": generated, "train": train, "test": test}
    sets |= {name: (images, None) for name, images in (("floor", floor), ("fitted", fitted)) if images is not None}
    for name, (images, labels) in sets.items():
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != train[0].shape[1:]:
            got = f"{images.dtype} {images.shape}"
            raise InputError(f"{name}: expected pictures uint8 [n, H, W, C] like those of training, got {got}")
        if len(images) < LEAST:
            raise InputError(f"{name}: {len(images)} pictures are too few to judge by; give at least {LEAST}")
        if labels is None:
            continue
        if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
            got = f"{labels.dtype} {labels.shape}"
            raise InputError(f"{name}: expected {len(images)} integer labels, one per picture, got {got}")
        if classes is not None and not 0 <= labels.min() <= labels.max() < classes:
            raise InputError(f"{name}: labels must be 0 to {classes - 1}, got {labels.min()} to {labels.max()}")
    if floor is not None and len(floor) != len(test[0]):
        raise InputError(f"floor: expected a render of each of the {len(test[0])} test pictures, got {len(floor)}")


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is flush left, numbers are flush right."""
    widths = [max(len(line[column]) for line in (head, *body)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return f"| {' | '.join([first.strip().ljust(widths[0]), *rest])} |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])])
    return "\n".join([line(head), f"|{rule}|", *map(line, body)])
