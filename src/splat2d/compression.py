"""Compressing: a picture becomes a small .s2d file.

Three phases over one engine session: a fit that knows nothing of the codec; training under the noise of the codec's
steps and the gradient of the rate, in which splats that do not pay for their bits fade and are dropped; freezing, in
which the splats are rounded a few at a time while the others make up for the error.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from splat2d import codec
from splat2d.codec import vector
from splat2d.codec.quantizer import Lattice, dequantize, quantize, step_of
from splat2d.config import CompressConfig, Device, FitConfig, Loss, Phase, Preset, Profile
from splat2d.engine import Coding, Floats, Optimizer, Session, engine
from splat2d.errors import InputError
from splat2d.fitting import NEW_SIZE, NEW_SIZE_LEAST, Progress, Target, checked, cosine_rates, draw_power, fit_steps
from splat2d.metrics import psnr as psnr_of
from splat2d.rendering import render
from splat2d.seeding import SIZE
from splat2d.splats import Splats


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps of the phases. Measured in docs/decisions.md."""

    fit: int
    train: int
    stages: int  # of freezing
    stage_steps: int


SCHEDULES: dict[Preset, Schedule] = {
    "fast": Schedule(300, 600, 10, 20),
    "balanced": Schedule(400, 1500, 20, 20),
    "best": Schedule(600, 8000, 40, 20),
}
OPTIMIZER = Optimizer(mean_rate=0.3, diagonal_rate=0.08, shear_rate=0.12, color_rate=0.02)  # of the last two phases
FREEZING_RATE = 0.25  # of these learning rates, falling to a tenth of that within each stage

RATE_WEIGHT = 1.0  # rho: of the gradient of the rate, where 1 is the balance of error and bits at fine steps
NOISE_SHARE = 0.9  # of the error of the first phase: what rounding its splats at once would add
ERROR_EXPONENT = 1.16  # the squared error of a fit falls with this power of its number of splats
SURPLUS = 1.6  # splats to begin with for every splat that is left in the end
BITS_PER_SPLAT, BITS_PER_CHANNEL = 20, 3  # a first guess, before anything is coded
PIXELS_PER_SPLAT = 100  # of the first guess where the quality is given
GUESSES = 3
FADED = 0.6  # |v| in steps: splats fainter than this have no future
INTERVALS, LEAST_INTERVAL = 30, 20  # looks at the splats during the training, and steps between them
RELOCATING = 0.5  # share of the training in which faded splats move to where the error is; after that they are dropped

# How a file comes to its size: the steps are adapted during the training, then settled; what is too much then is
# dropped, the weakest splats first, a little less than needed so that the others can make up for it.
CONTROLLED, SETTLED = 0.15, 0.7  # shares of the training
CONTROL = 0.5  # of the difference, each time
INDICES_PER_OCTAVE = 20  # of size
GROWTH = 1.035  # of the size by freezing, mostly in its first stages: splats that are not yet rounded grow stronger
SPARE = 1.01
REFINEMENTS = 2  # repetitions with finer steps where a file is smaller than 99 % of its budget, less FEW_BYTES
FEW_BYTES = 8
NEARLY = 0.999  # of a size is enough, where the weakest splats are dropped
FIRST_INDEX, LAST_INDEX, MIDDLE_INDEX = 0, 200, 96

# Of the vector profile. All records are equally precise, so that a strong splat is rounded by more than a weak one:
# freezing begins with the strongest, and the others make up for it. Noise in training costs more there than it brings.
VECTOR_RELOCATED = 0.05  # share of the splats that move each time
VECTOR_STAGES = 2  # of freezing, for each of the other profile

QUALITY = 50.0  # where nothing else is asked for
DECIBELS_PER_INDEX = 0.18
CLOSE = 0.15  # dB above the wanted PSNR that are near enough
TRIES = 6


@dataclass(frozen=True, slots=True)
class Compressed:
    """A file and what it holds."""

    data: bytes
    splats: Splats  # as a decoder gives them
    psnr: float  # dB, of these splats
    steps: int
    seconds: float


def compress(
    image: Floats,
    *,
    bytes: int | None = None,
    quality: float | None = None,
    psnr: float | None = None,
    profile: Profile = "scalar",
    preset: Preset = "balanced",
    loss: str | Loss = "l2",
    seed: int = 0,
    device: Device = "auto",
    threads: int | None = None,
    metadata: codec.Metadata | None = None,
) -> Compressed:
    """The best .s2d file for image, float [H, W, C], within one budget. Raises InputError.

    bytes: the size that the file must not exceed. quality: 0 (small) to 100 (faithful). psnr: dB that the decoded file
    must reach. Without a budget: a quality of QUALITY. profile: as in CompressConfig.
    """
    config = CompressConfig(
        bytes=bytes,
        quality=quality,
        psnr=psnr,
        profile=profile,
        preset=preset,
        loss=Loss.parse(loss) if isinstance(loss, str) else loss,
        seed=seed,
        device=device,
        threads=threads,
    )
    *_, file = (event for event in compress_steps(image, config, metadata) if isinstance(event, Compressed))
    return file


def compress_steps(
    image: Floats, config: CompressConfig, metadata: codec.Metadata | None = None
) -> Iterator[Progress | Compressed]:
    """Compresses image, float [H, W, C]; yields after every block of steps, and the file last. Raises InputError.

    The search for a PSNR also yields every file that reaches it and is smaller than those before.
    """
    run = _Run(checked(image), config, metadata)
    if config.psnr is not None:
        yield from _to_psnr(run, config.psnr)
    elif config.bytes is not None:
        yield from _to_bytes(run, config.bytes)
    else:
        yield from _at_index(run, codec.quality_index(QUALITY if config.quality is None else config.quality))


class _Run:
    """What all phases share."""

    def __init__(self, image: Floats, config: CompressConfig, metadata: codec.Metadata | None) -> None:
        self.started = time.perf_counter()
        self.config, self.metadata = config, metadata
        self.schedule = SCHEDULES[config.preset]
        self.image = image
        self.target = Target.of(image)
        self.height, self.width, self.channels = image.shape
        self.step = 0

    def session(self, splats: Splats) -> Session:
        loss = self.config.loss.normalized()
        target = self.target
        made = engine(self.config.device).start(
            target.image, target.base, loss, OPTIMIZER, self.config.threads, target.outside
        )
        self.set_splats(made, splats, None)
        made.sort()
        return made

    def set_splats(self, session: Session, splats: Splats, frozen: NDArray[np.bool_] | None) -> None:
        colors = splats.colors / np.float32(self.target.unit)
        session.set_splats(splats.means, splats.log_cholesky, colors, frozen)

    def splats(self, session: Session) -> Splats:
        means, log_cholesky, colors = session.get_splats()
        return self.target.splats(means, log_cholesky, colors)

    def coding(self, index: float) -> Coding:
        step = _step(index) / self.target.unit
        return Coding(step, 7 / 12 * RATE_WEIGHT * math.pi * step**2, self.config.seed)

    def progress(self, session: Session, planned: int, phase: Phase) -> Progress:
        decibels = self.target.psnr(session.evaluate())
        seconds = time.perf_counter() - self.started
        return Progress(self.step, planned, session.count, decibels, seconds, self.splats(session), False, phase)

    def finished(self, data: bytes) -> Compressed:
        splats = codec.decode(data)
        pixels = render(splats, device=self.config.device, threads=self.config.threads)
        return Compressed(data, splats, psnr_of(pixels, self.image), self.step, time.perf_counter() - self.started)


def _at_index(run: _Run, index: int) -> Iterator[Progress | Compressed]:
    """A file of this quality index, with as many splats as pay for their bits."""
    pixels = run.width * run.height
    count = max(1, pixels // PIXELS_PER_SPLAT)
    for _ in range(GUESSES):
        splats, squares = yield from _first_fit(run, count)
        # Noise grows with the count and the error falls; the count to take is where their ratio is NOISE_SHARE.
        noise = count * _noise_of_splat(index, run.channels)
        ratio = NOISE_SHARE * squares / max(noise, 1e-12)
        wanted = min(max(1, round(count * ratio ** (1 / (1 + ERROR_EXPONENT)))), pixels)
        if wanted == count or count / 1.5 < wanted < 1.25 * count:
            break
        count = wanted
    if run.config.profile == "vector":
        yield from _vector_coded(run, splats)
        return
    yield from _coded(run, splats, float(index), None)


def _to_bytes(run: _Run, size: int) -> Iterator[Progress | Compressed]:
    """The best file of at most so many bytes."""
    if run.config.profile == "vector":
        yield from _vector_to_bytes(run, size)
        return
    least = _size(run, _dot(run), 0)
    _check_budget(size, least)
    count = round(SURPLUS * 8 * size / (BITS_PER_SPLAT + BITS_PER_CHANNEL * run.channels))
    count = min(max(count, 1), run.width * run.height)
    splats, squares = yield from _first_fit(run, count)
    # Steps such that rounding all splats at once would add NOISE_SHARE of their error.
    index = 8 * math.log2(max(count * _noise_of_splat(0, run.channels), 1e-12) / max(NOISE_SHARE * squares, 1e-12))
    yield from _coded(run, splats, min(max(index, FIRST_INDEX), LAST_INDEX), size)


def _check_budget(size: int, least: int) -> None:
    if size < least:
        raise InputError(f"bytes: a file of this picture takes at least {least} bytes, got {size}")


def _vector_to_bytes(run: _Run, size: int) -> Iterator[Progress | Compressed]:
    """As many records as so many bytes hold."""
    dot = _dot(run)
    _check_budget(size, len(codec.encode(dot, profile="vector", metadata=run.metadata)))
    count = codec.records_that_fit(size, run.width, run.height, dot.background, run.metadata)
    splats, _ = yield from _first_fit(run, count)
    yield from _vector_coded(run, splats)


def _vector_coded(run: _Run, splats: Splats) -> Iterator[Progress | Compressed]:
    """Trains splats further, and freezes them as records."""
    schedule = run.schedule
    session = run.session(splats)
    stages = VECTOR_STAGES * schedule.stages
    planned = run.step + schedule.train + (stages - 1) * schedule.stage_steps
    rates = cosine_rates(schedule.train, constant=0)
    interval = max(LEAST_INTERVAL, schedule.train // INTERVALS)
    for first in range(0, schedule.train, interval):
        session.run(rates[first : first + interval])
        run.step += len(rates[first : first + interval])
        if first + interval <= RELOCATING * schedule.train:
            _relocate(run, session, int(VECTOR_RELOCATED * session.count))
        yield run.progress(session, planned, "training")

    splats = run.splats(session)
    frame = vector.frame_for(splats, vector.tile_for(run.width, run.height, len(splats)))

    def rounding(splats: Splats) -> tuple[Splats, NDArray[np.int64]]:
        records, kept = vector.quantize(splats, frame)
        return vector.dequantize(records, splats.background), kept

    turn = np.empty(len(splats))
    turn[splats.strongest()] = np.arange(len(splats)) / len(splats)
    frozen = np.zeros(len(splats), bool)
    for stage in range(1, stages):
        splats, frozen, keep = _freeze(splats, frozen, turn < stage / stages, rounding)
        turn = turn[keep]
        run.set_splats(session, splats, frozen)
        session.run(_freezing_rates(schedule))
        run.step += schedule.stage_steps
        splats = run.splats(session)
        yield run.progress(session, planned, "rounding")
    yield run.finished(codec.write_records(vector.quantize(splats, frame)[0], splats.background, run.metadata))


def _to_psnr(run: _Run, wanted: float) -> Iterator[Progress | Compressed]:
    """The smallest file that these schedules find whose picture reaches so many dB."""
    index, best = MIDDLE_INDEX, None
    tried: dict[int, float] = {}
    while len(tried) < TRIES and index not in tried:
        for event in _at_index(run, index):
            if isinstance(event, Progress):
                yield event
            else:
                found = event
        tried[index] = found.psnr
        if found.psnr >= wanted and (best is None or len(found.data) < len(best.data)):
            best = found
            yield best
        if wanted <= found.psnr < wanted + CLOSE:
            break
        index = min(max(_next_index(tried, wanted), FIRST_INDEX), LAST_INDEX)
    if best is None:
        raise InputError(f"psnr: {max(tried.values()):.2f} dB is what this picture reaches, {wanted:g} is not")
    if found is not best:
        yield best


def _next_index(tried: dict[int, float], wanted: float) -> int:
    """The quality index where the PSNR of those tried leads to expect the wanted one."""
    below = max((i for i, decibels in tried.items() if decibels < wanted), default=None)
    above = min((i for i, decibels in tried.items() if decibels >= wanted), default=None)
    if below is None or above is None or below > above:
        nearest = min(tried, key=lambda i: abs(tried[i] - wanted))
        return nearest + math.ceil((wanted - tried[nearest]) / DECIBELS_PER_INDEX)
    share = (wanted - tried[below]) / (tried[above] - tried[below])
    return min(below + max(1, math.ceil(share * (above - below))), max(above - 1, below + 1))


def _first_fit(run: _Run, count: int) -> Generator[Progress, None, tuple[Splats, float]]:
    """Splats that know nothing of the codec, and their squared error, a sum over pixels and channels."""
    config = run.config
    plain = FitConfig(
        splats=count,
        preset="fast",
        steps=run.schedule.fit,
        loss=config.loss,
        seed=config.seed,
        device=config.device,
        threads=config.threads,
    )
    for progress in fit_steps(run.image, plain):
        yield replace(progress, seconds=time.perf_counter() - run.started, best=False)
    run.step += progress.step
    return progress.splats, 10 ** (-progress.psnr / 10) * run.target.peak**2 * run.image.size


def _noise_of_splat(index: float, channels: int) -> float:
    """Squared error that rounding adds per splat: each of its parameters a twelfth of pi step^2."""
    return (5 + channels) / 12 * math.pi * _step(index) ** 2


def _step(index: float) -> float:
    """step_of() between the quality indices, too."""
    return float(2 ** (2 - index / 16))


def _coded(run: _Run, splats: Splats, index: float, size: int | None) -> Iterator[Progress | Compressed]:
    """Trains and freezes splats; size: bytes not to be exceeded, for which the quality index may change."""
    schedule = run.schedule
    session = run.session(splats)
    planned = run.step + schedule.train + (schedule.stages - 1) * schedule.stage_steps
    rates = cosine_rates(schedule.train, constant=0)
    interval = max(LEAST_INTERVAL, schedule.train // INTERVALS)
    for first in range(0, schedule.train, interval):
        session.run(rates[first : first + interval], run.coding(index))
        run.step += len(rates[first : first + interval])
        done = (first + interval) / schedule.train
        if size is not None and CONTROLLED <= done < SETTLED:
            now = _size(run, run.splats(session), round(index))
            expected = size * SPARE / (GROWTH if done > RELOCATING else 1.0)
            index -= CONTROL * INDICES_PER_OCTAVE * math.log2(now / expected)
            index = min(max(index, FIRST_INDEX), LAST_INDEX)
        elif done >= SETTLED:
            index = math.ceil(index)
        _tend(run, session, index, relocate=done <= RELOCATING)
        if size is not None and done >= SETTLED:
            index = _settle(run, session, math.ceil(index), SPARE * size / GROWTH)
        yield run.progress(session, planned, "training")

    trained = run.splats(session)
    for finer in range(REFINEMENTS + 1):
        data = yield from _frozen(run, session, trained, min(math.ceil(index) + finer, LAST_INDEX), size, planned)
        if size is None or len(data) >= 0.99 * size - FEW_BYTES:
            break
        planned += (schedule.stages - 1) * schedule.stage_steps
    yield run.finished(data)


def _tend(run: _Run, session: Session, index: float, *, relocate: bool) -> None:
    """Moves faded splats to where they are needed, or drops them."""
    faded = (FADED * run.coding(index).step) ** 2
    if not relocate:
        if session.count > 1:
            session.prune(min(faded, float(np.max(_energies(session)))))
        return
    _relocate(run, session, int((_energies(session) < faded).sum()))


def _relocate(run: _Run, session: Session, moved: int) -> None:
    """Moves the splats that contribute least to where the error is, at most half of them."""
    moved = min(moved, session.count // 2)
    if moved:
        pixels = run.width * run.height / session.count
        size = max(NEW_SIZE_LEAST, NEW_SIZE * SIZE * math.sqrt(pixels))
        session.relocate(moved, draw_power(pixels), size, run.config.seed * 1_000_003 + run.step)
        session.sort()


def _energies(session: Session) -> Floats:
    """|v|^2 of the splats, in units of the session. [N]"""
    _, log_cholesky, colors = session.get_splats()
    energies: Floats = (colors**2).sum(1) * np.exp(log_cholesky[:, 0] + log_cholesky[:, 2])
    return energies


def _settle(run: _Run, session: Session, index: int, size: float) -> int:
    """Drops the faintest splats until the file is no larger; if it is smaller by an index, the next finer index."""
    splats = run.splats(session)
    whole = _size(run, splats, index)
    if whole * 2 ** (1 / INDICES_PER_OCTAVE) < size:
        return min(index + 1, LAST_INDEX)
    if whole > size:
        kept = max(1, _most_that_fit(run, splats, index, size, whole))
        session.prune(float(np.sort(_energies(session))[len(splats) - kept]))
    return index


def _most_that_fit(
    run: _Run, splats: Splats, index: int, size: float, whole: int, lattice: Lattice | None = None
) -> int:
    """How many of the splats, the strongest first, a file of so many bytes can hold; whole: bytes with all of them."""
    high, high_size = len(splats), whole
    order = splats.strongest()
    low, low_size = 0, 0
    while high - low > 1 and low_size < NEARLY * size:  # sizes are nearly proportional to counts
        guess = low + int((high - low) * (size - low_size) / (high_size - low_size))
        middle = min(max(guess, low + 1), high - 1)
        found = _size(run, splats.take(order[:middle]), index, lattice)
        if found <= size:
            low, low_size = middle, found
        else:
            high, high_size = middle, found
    return low


def _frozen(
    run: _Run, session: Session, splats: Splats, index: int, size: int | None, planned: int
) -> Generator[Progress, None, bytes]:
    """Rounds a random share of the splats, lets the others make up for it, and so on until none is left; the file."""
    schedule = run.schedule
    quantized, kept = quantize(splats, index)
    lattice = quantized.lattice
    splats = splats.take(kept)
    turn = np.random.default_rng(run.config.seed).permutation(len(splats)) / max(1, len(splats))
    frozen = np.zeros(len(splats), bool)
    rates = _freezing_rates(schedule)

    def rounding(splats: Splats) -> tuple[Splats, NDArray[np.int64]]:
        quantized, kept = quantize(splats, index, lattice)
        return dequantize(quantized, splats.background), kept

    for stage in range(1, schedule.stages):
        share = stage / schedule.stages
        splats, frozen, keep = _freeze(splats, frozen, turn < share, rounding)
        turn = turn[keep]
        if size is not None:
            expected = _size(run, splats, index, lattice) * (1 + (GROWTH - 1) * (1 - share) ** 3)
            excess = len(splats) * (1 - size * (1 + (SPARE - 1) * (1 - share)) / expected)
            keep = _without_weakest(splats, ~frozen, int(excess))
            splats, frozen, turn = splats.take(keep), frozen[keep], turn[keep]
        run.set_splats(session, splats, frozen)
        session.run(rates)
        run.step += len(rates)
        splats = run.splats(session)
        yield run.progress(session, planned, "rounding")
    if size is not None:
        splats = splats.take(splats.strongest())  # another order of the same splats may differ by a byte
    data = _file(run, splats, index, lattice)
    if size is not None and len(data) > size:
        fitting = _most_that_fit(run, splats, index, size, len(data), lattice)
        data = _file(run, splats.take(np.arange(fitting)), index, lattice)
    return data


def _freezing_rates(schedule: Schedule) -> Floats:
    return np.linspace(FREEZING_RATE, FREEZING_RATE / 10, schedule.stage_steps, dtype=np.float32)


def _freeze(
    splats: Splats,
    frozen: NDArray[np.bool_],
    due: NDArray[np.bool_],
    rounding: Callable[[Splats], tuple[Splats, NDArray[np.int64]]],
) -> tuple[Splats, NDArray[np.bool_], NDArray[np.int64]]:
    """Rounds the splats that are due and not yet frozen; also which are left: those that do not round to nothing.

    rounding: splats as decoded, and which they are of those given.
    """
    rounded, survivors = rounding(splats)
    fresh = due & ~frozen
    means, log_cholesky, colors = splats.means.copy(), splats.log_cholesky.copy(), splats.colors.copy()
    at = fresh[survivors]
    into = survivors[at]
    means[into], log_cholesky[into], colors[into] = rounded.means[at], rounded.log_cholesky[at], rounded.colors[at]
    lost = fresh.copy()
    lost[survivors] = False
    keep = np.flatnonzero(~lost)
    changed = replace(splats, means=means, log_cholesky=log_cholesky, colors=colors)
    return changed.take(keep), (frozen | fresh)[keep], keep


def _without_weakest(splats: Splats, candidates: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """Indices of all splats but the count weakest of the candidates, in their order."""
    order = splats.strongest()
    weakest = order[candidates[order]][::-1][: max(count, 0)]
    keep = np.ones(len(splats), bool)
    keep[weakest] = False
    return np.flatnonzero(keep)


def _file(run: _Run, splats: Splats, index: int, lattice: Lattice | None = None) -> bytes:
    return codec.write(quantize(splats, index, lattice)[0], splats.background, run.metadata)


def _size(run: _Run, splats: Splats, index: int, lattice: Lattice | None = None) -> int:
    """Bytes of _file()."""
    return codec.size(quantize(splats, index, lattice)[0], splats.background, run.metadata)


def _dot(run: _Run) -> Splats:
    """One splat that survives the coarsest steps."""
    size = np.log(np.float32(step_of(0)))
    return run.target.splats(
        np.array([[run.width / 2, run.height / 2]], np.float32),
        np.array([[size, 0, size]], np.float32),
        np.full((1, run.channels), 1 / run.target.unit, np.float32),
    )
