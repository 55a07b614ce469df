"""Training of a denoiser, on one device or, started by `accelerate launch` or torchrun, on several.

Nothing random outlives a step: the draws of step k follow from the seed, k and the rank. A training that was killed
goes on from its last checkpoint as if nothing had happened.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from splat2d.atomic import reason, replacing
from splat2d.diffusion.flow import noised
from splat2d.diffusion.grids import save_sheet
from splat2d.diffusion.layouts import Layout, PatchLayout, SplatLayout
from splat2d.diffusion.model import LARGEST_SEED, Model, generate, save_model
from splat2d.diffusion.network import Denoiser, NetworkConfig
from splat2d.diffusion.splatset import SplatSet, read_header, read_safetensors, rendered, statistics, write_safetensors
from splat2d.diffusion.updates import Batch, GraphedUpdate, Rules, Update
from splat2d.errors import InputError

VERSION = 2
CHECKPOINT, MODEL, LOG = "checkpoint.safetensors", "model.safetensors", "log.jsonl"
SAMPLES = 40  # on a sheet
SURVEYED, PROBES = 512, 8  # pictures, and products with noise of each, to find out what shows
LEAST_ROOM = 0.1  # of a number that never shows
EMA_WARMUP = 10  # the average forgets at 1 - (1 + k) / (EMA_WARMUP + k) while that is faster


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """What to train, and for how long. The batch is that of all devices together."""

    tokens: Literal["splats", "pixels"] = "splats"
    patch: int = 4  # pixels a side of a token of the pixel model
    network: NetworkConfig = field(default_factory=NetworkConfig)
    prediction: Literal["x", "v"] = "v"
    steps: int = 20_000
    batch: int = 512
    rate: float = 1e-3
    warmup: int = 500  # steps, at most a tenth of all
    decay: float = 0.01  # of weights
    average: float = 0.9995  # EMA of the weights
    drop: float = 0.1  # of labels, for classifier-free guidance
    flip: bool = False  # mirror half of the pictures
    middle: float = 0.0  # mean of the logit of t, whose deviation is 1: the higher, the less noise (Esser et al. 2024)
    render: float = 0.0  # weight of the error of the velocity as pictures show it, where little noise is left
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrainEvent:
    """One report of a training."""

    step: int
    steps: int
    loss: float  # mean since the last report
    render_loss: float
    rate: float
    seconds: float  # of this process, since it began
    pictures_per_second: float
    saved: bool  # whether a checkpoint was written


@dataclass(frozen=True, slots=True)
class _Workers:
    """The processes that train together."""

    rank: int
    count: int
    device: torch.device


def train(
    splats: SplatSet,
    config: TrainConfig,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    report_every: int = 100,
    save_every: int = 2000,
    sample_every: int = 0,
) -> Iterator[TrainEvent]:
    """Trains, and yields reports. Goes on where folder holds a checkpoint of the same training. Raises InputError.

    In folder: the checkpoint, the model (the averaged weights), a log of a JSON object a line, scalars for TensorBoard
    and, every sample_every steps, a grid of samples.
    """
    _check(config, splats)
    for name, value, least in (("report", report_every, 1), ("save", save_every, 1), ("sample", sample_every, 0)):
        if value < least:
            raise InputError(f"{name}_every: must be at least {least}, got {value}")
    with _workers(torch.device(device)) as workers:
        yield from _train(splats, config, folder, workers, report_every, save_every, sample_every)


def steps_done(folder: Path) -> int:
    """Of the checkpoint in a folder of train(); 0 where there is none. Raises InputError."""
    path = folder / CHECKPOINT
    return int(read_header(path, "checkpoint", VERSION)["step"]) if path.exists() else 0


def _check(config: TrainConfig, splats: SplatSet) -> None:
    network = config.network
    counts = {name: getattr(config, name) for name in ("steps", "batch", "patch")}
    sizes = {"width": network.width, "depth": network.depth, "heads": network.heads, "group": network.group}
    for name, value in (counts | sizes).items():
        if value < 1:
            raise InputError(f"{name}: must be at least 1, got {value}")
    for name in ("average", "drop"):
        if not 0 <= getattr(config, name) < 1:
            raise InputError(f"{name}: must be at least 0 and below 1, got {getattr(config, name)}")
    for name in ("rate", "render"):
        if not 0 <= getattr(config, name) < math.inf:
            raise InputError(f"{name}: must be at least 0 and finite, got {getattr(config, name)}")
    if not math.isfinite(config.middle):
        raise InputError(f"middle: must be finite, got {config.middle}")
    if not 0 <= config.seed < LARGEST_SEED:
        raise InputError(f"seed: must be 0 to {LARGEST_SEED - 1}, got {config.seed}")
    if network.width % (2 * network.heads):
        raise InputError(f"width: must be a multiple of twice the heads, {2 * network.heads}, got {network.width}")
    layout = splats.layout
    if config.tokens == "pixels" and (layout.width % config.patch or layout.height % config.patch):
        raise InputError(f"patch: {config.patch} pixels do not divide {layout.width}x{layout.height}")
    grid = token_layout(splats, config)
    if grid.rows % network.group or grid.columns % network.group:
        raise InputError(f"group: squares of {network.group} do not divide {grid.columns}x{grid.rows} tokens")
    if network.group > 1 and not network.slots:
        raise InputError("group: a set of tokens has no squares; leave it at 1")
    if config.tokens == "pixels" and config.render:
        raise InputError("render: the pixel model has no splats to render; leave it at 0")


@contextmanager
def _workers(device: torch.device) -> Iterator[_Workers]:
    """This process alone, or its place among those that one launch started."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield _Workers(0, 1, device)
        return
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    if device.type == "cuda":
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield _Workers(rank, count, device)
    finally:
        torch.distributed.destroy_process_group()


def _train(
    splats: SplatSet,
    config: TrainConfig,
    folder: Path,
    workers: _Workers,
    report_every: int,
    save_every: int,
    sample_every: int,
) -> Iterator[TrainEvent]:
    device = workers.device
    part = torch.from_numpy(splats.part(False))
    labels = torch.from_numpy(splats.pictures.labels)[part].to(device)
    layout, tokens, mean, deviation = training_tokens(splats, config)
    tokens = tokens.to(device)

    classes = max(1, len(splats.pictures.names))
    with torch.random.fork_rng(devices=[]):  # torch's own generator stays as it was
        torch.default_generator.manual_seed(config.seed)
        network = Denoiser(layout, classes, config.network).to(device)
        averaged = Denoiser(layout, classes, config.network).to(device)
    averaged.requires_grad_(False)
    averaged.load_state_dict(network.state_dict())
    known = (splats.pictures.names, config.prediction, splats.encoder if config.tokens == "splats" else None)
    model = Model(averaged, layout, mean.to(device), deviation.to(device), *known)
    identity = {"config": asdict(config), "data": splats.fingerprint()}
    generator = torch.Generator(device)
    share = -(-config.batch // workers.count)

    def batch_of(step: int) -> Batch:
        generator.manual_seed((config.seed * 1_000_003 + step) * 64 + workers.rank)
        return _batch(config, model, tokens, labels, share, generator)

    rules = Rules(config.decay, config.render)
    if device.type == "cuda" and workers.count == 1:
        update: Update = GraphedUpdate(rules, model, network, batch_of(0))
    else:
        update = Update(rules, model, network, workers.count)
    first = _resume(folder / CHECKPOINT, identity, network, averaged, update)
    weights, goals = list(network.parameters()), list(averaged.parameters())
    losses = torch.zeros(2, device=device)
    began = reported = time.perf_counter()
    told = first  # steps up to the last report
    with _writer(folder, first, workers.rank == 0) as write:
        for step in range(first, config.steps):
            rate = config.rate * _schedule(step, config)
            losses += update(batch_of(step), rate)
            keep = min(config.average, (1 + step) / (EMA_WARMUP + step))
            torch._foreach_lerp_(goals, weights, 1 - keep)

            done = step + 1
            last = done == config.steps
            saved = done % save_every == 0 or last
            if saved and workers.rank == 0:
                # The checkpoint last: a training that goes on from it has the model of that step.
                save_model(folder / MODEL, model, identity | {"step": done})
                _save(folder / CHECKPOINT, identity, done, network, averaged, update)
            if sample_every and (done % sample_every == 0 or last) and workers.rank == 0:
                _write_sheet(folder / f"samples-{done:06}.png", model)
            if done % report_every == 0 or last:
                since, told = done - told, done
                values = (losses / since).tolist()  # waits for the device
                if not math.isfinite(values[0]):
                    raise InputError(f"step {done}: the loss is {values[0]}; train in another folder at a lower rate")
                losses.zero_()
                now = time.perf_counter()
                speed = since * share * workers.count / (now - reported)
                event = TrainEvent(done, config.steps, values[0], values[1], rate, now - began, speed, saved)
                reported = now
                write(event)
                yield event


def token_layout(splats: SplatSet, config: TrainConfig) -> Layout:
    """How the pictures of a set are laid out for a training."""
    return splats.layout if config.tokens == "splats" else PatchLayout(*splats.pictures.size, config.patch)


def training_tokens(splats: SplatSet, config: TrainConfig) -> tuple[Layout, Tensor, Tensor, Tensor]:
    """Layout, whitened tokens [n, N, F] of the pictures to train on, and the mean and deviation to undo that [N, F]."""
    layout, part = token_layout(splats, config), torch.from_numpy(splats.part(False))
    if isinstance(layout, PatchLayout):
        tokens = layout.tokens(torch.from_numpy(splats.pictures.images)[part].float() / 255)
    else:
        tokens = splats.tokens[part].float()
    mean, deviation = (each.expand(tokens.shape[1:]) for each in statistics(tokens))
    if isinstance(layout, SplatLayout):
        deviation = deviation / _room(layout, tokens, deviation)
    return layout, (tokens - mean) / deviation, mean.contiguous(), deviation.contiguous()


def _room(layout: SplatLayout, tokens: Tensor, deviation: Tensor) -> Tensor:
    """How far the numbers of tokens [n, N, F] shall stand out of the noise, mean square 1. [N, F]

    Noise as large as the deviation [N, F] of each hides what shows as soon as what hardly does. With more room for what
    shows, and less for the rest, a model learns it first. The room goes with the root of how much pictures change.
    """
    generator = torch.Generator().manual_seed(0)
    some = tokens[torch.randperm(len(tokens), generator=generator)[:SURVEYED]]
    squared = torch.zeros_like(deviation)
    for _ in range(PROBES):
        x = some.clone().requires_grad_()
        shown = layout.pictures(x)
        # A Jacobian's columns are as long as its products with noise on average (Hutchinson 1989).
        noise = torch.randn(shown.shape, generator=generator)
        (gradient,) = torch.autograd.grad((shown * noise).sum(), x)
        squared += gradient.square().mean(0)
    room = (deviation * squared.sqrt()).sqrt()
    return (room / room.square().mean().sqrt()).clamp_min(LEAST_ROOM)


def _batch(
    config: TrainConfig,
    model: Model,
    tokens: Tensor,
    labels: Tensor,
    count: int,
    generator: torch.Generator,
) -> Batch:
    """Everything random about one step."""
    device = tokens.device
    chosen = torch.randint(len(tokens), (count,), generator=generator, device=device)
    x, classes = tokens[chosen], labels[chosen]
    t = (config.middle + torch.randn(count, generator=generator, device=device)).sigmoid()
    noise = torch.randn(x.shape, generator=generator, device=device)
    dropped = torch.rand(count, generator=generator, device=device) < config.drop
    if config.flip:
        turned = torch.rand(count, generator=generator, device=device) < 0.5
        mirrored = model.whitened(model.layout.flipped(model.tokens(x)))
        x = torch.where(turned[:, None, None], mirrored, x)
    classes = torch.where(dropped, model.network.classes, classes)
    return Batch(x, t, noised(x, noise, t), classes)


def _schedule(step: int, config: TrainConfig) -> float:
    """Linear to 1, then a cosine to 0."""
    warmup = min(config.warmup, config.steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.steps - warmup)))


def _save(
    path: Path,
    identity: dict[str, Any],
    step: int,
    network: nn.Module,
    averaged: nn.Module,
    update: Update,
) -> None:
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    tensors |= {f"averaged.{name}": tensor for name, tensor in averaged.state_dict().items()}
    for name, weight in network.named_parameters():
        tensors |= {f"optimizer.{key}.{name}": value for key, value in update.state(weight).items()}
    header = {"kind": "checkpoint", "version": VERSION, "step": step, **identity}
    write_safetensors(path, tensors, header)


def _resume(
    path: Path,
    identity: dict[str, Any],
    network: nn.Module,
    averaged: nn.Module,
    update: Update,
) -> int:
    """Loads a checkpoint, if there is one; the number of steps that are done. Raises InputError."""
    if not path.exists():
        return 0
    header, tensors = read_safetensors(path, "checkpoint", VERSION)
    for key, what in (("data", "set of splats"), ("config", "configuration")):
        if header.get(key) != json.loads(json.dumps(identity[key])):
            raise InputError(f"{path}: is of another {what}; give another folder, or delete it to begin anew")
    network.load_state_dict({name[8:]: tensor for name, tensor in tensors.items() if name.startswith("network.")})
    averaged.load_state_dict({name[9:]: tensor for name, tensor in tensors.items() if name.startswith("averaged.")})
    weights = dict(network.named_parameters())
    for full, value in tensors.items():
        if full.startswith("optimizer."):
            _, key, name = full.split(".", 2)
            state = update.state(weights[name])
            if key in state:
                state[key].copy_(value)  # in place: a graph of the step knows the address
            else:
                state[key] = value.to(weights[name].device)
    return int(header["step"])


def _write_sheet(path: Path, model: Model) -> None:
    """Samples of every class, drawn while the training goes on."""
    classes = model.network.classes
    labels = torch.arange(SAMPLES) % classes
    pictures = rendered(model.layout, generate(model, labels), model.device)
    save_sheet(path, pictures, columns=min(10, classes) if classes > 1 else 8)


def _lines_until(log: Path, step: int) -> list[str]:
    """The lines of a log up to this step; a line that a kill cut short is left out."""
    if not step or not log.exists():
        return []
    kept = []
    for line in log.read_text(encoding="utf-8").splitlines(keepends=True):
        with suppress(ValueError, TypeError, KeyError):
            if json.loads(line)["step"] <= step:
                kept.append(line)
    return kept


@contextmanager
def _writer(folder: Path, first: int, writes: bool) -> Iterator[Callable[[TrainEvent], None]]:
    """Takes reports into the log and to TensorBoard. What they hold of steps after the first `first` is taken again."""
    if not writes:
        yield lambda event: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError('training needs one more package, TensorBoard: pip install "splat2d[diffusion]"') from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kept = _lines_until(folder / LOG, first)
        with replacing(folder / LOG) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")
        log = (folder / LOG).open("a", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({reason(error)})") from error
    with log, SummaryWriter(str(folder), purge_step=first + 1) as board:

        def write(event: TrainEvent) -> None:
            log.write(json.dumps(asdict(event)) + "\n")
            log.flush()
            for name in ("loss", "render_loss", "rate", "pictures_per_second"):
                board.add_scalar(name, getattr(event, name), event.step)

        yield write
