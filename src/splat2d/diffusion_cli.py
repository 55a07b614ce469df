"""The commands of `splat2d diffusion`: parsing, progress and printing, as in cli.py.

torch, slow to import and an extra, is imported by the commands, never by their help.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg, subcommand

from splat2d.errors import InputError
from splat2d.terminal import (
    INTERRUPTED,
    OK,
    Count,
    Json,
    OnDevice,
    Outputs,
    Quiet,
    print_json,
    print_rows,
    say,
)

COLUMNS = 10  # of a sheet, if the classes do not say

Number = Annotated[int, arg(metavar="N")]
Value = Annotated[float, arg(metavar="X")]
Sampler = Literal["euler", "heun", "dpm++"]
SampleBy = Annotated[Sampler, arg(help_behavior_hint="(default: heun)")]
EditBy = Annotated[Sampler, arg(help_behavior_hint="(default: dpm++)")]
Show = Callable[[int, int, str], None]  # done, total, words


@dataclass(frozen=True)
class Build:
    """Fit splats to every picture of a set: what a model learns from."""

    data: Positional[Annotated[Path, arg(metavar="DATA", help_behavior_hint="")]]
    """Pictures of one size: a folder with a folder for each class, perhaps inside train and test; or an .npz file with
    x and y, or x_train, y_train, x_test and y_test, and perhaps names."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FILE")] = Path("splats.safetensors")
    """Where to write the splats, with the pictures."""
    splats: Count = None
    """Splats of each picture, those of a grid over it; a quarter of its pixels, at most about 1024, unless given."""
    method: Literal["encode", "fit"] = "encode"
    """How pictures get their splats. encode: by a network, trained on them first, whose splats are far easier to learn.
    fit: each by itself, closer to the picture; needs no GPU."""
    steps: Count = None
    """Steps of the training of the encoder, 4000 unless given, or of the fits, 500."""
    rate: Annotated[float | None, arg(metavar="X", help_behavior_hint="")] = None
    """Learning rate: 0.001 for the encoder, 0.03 for fits, unless given."""
    passes: Number = 1
    """Of the encoder over each picture; for far fewer splats than the usual, 4 come closer."""
    settling: Number = 80
    """Steps in which splats settle where the encoder put them; for far fewer splats than the usual, 220 come closer."""
    encoder: Annotated[Path | None, arg(metavar="MODEL", help_behavior_hint="")] = None
    """Encode as the pictures of this model.safetensors were encoded, instead of training an encoder; --splats, --steps,
    --rate, --passes, --settling and --anchor then mean nothing."""
    anchor: Value = 0.002
    """How much to keep splats near their place in the grid; more makes pictures alike, hence easier to learn."""
    limit: Count = None
    """Take so many pictures to train on and so many to test on, at most."""
    device: OnDevice = "auto"
    json: Json = False
    """Print one JSON object instead of text: train and test (pictures), classes, width, height, channels, splats,
    floor_train and floor_test (mean PSNR of the splats in dB), seconds, device, output, bytes, next (a command to
    try)."""
    quiet: Quiet = False


@dataclass(frozen=True)
class Train:
    """Train a model on a set that build made.

    The folder gets checkpoint.safetensors, model.safetensors (for sample), log.jsonl, scalars for TensorBoard and
    sheets of samples. After Ctrl-C or a kill, the same command goes on from the checkpoint and ends as if nothing had
    happened. On several GPUs: accelerate launch --multi_gpu -m splat2d diffusion train ...
    """

    splats: Positional[Annotated[Path, arg(metavar="SPLATS", help_behavior_hint="")]]
    """The set."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")] = Path("model")
    """Where to write, and to go on where it holds a checkpoint of the same training."""
    tokens: Literal["splats", "pixels"] = "splats"
    """What to generate. pixels: patches of pixels, for comparison."""
    patch: Number = 4
    """Pixels a side of a patch."""
    width: Number = 256
    """Of the transformer."""
    depth: Number = 8
    """Its blocks."""
    heads: Number = 4
    """Its attention heads."""
    group: Number = 1
    """Slots a side of the square that it sees as one token: with 2 it has a quarter as many to work on."""
    prediction: Literal["x", "v"] = "v"
    """What it puts out: clean tokens, or the velocity."""
    steps: Number = 20_000
    """How long to train."""
    batch: Number = 512
    """Pictures of a step, on all devices together."""
    rate: Value = 1e-3
    """Learning rate."""
    average: Value = 0.9995
    """Of the weights over steps (EMA), which are what samples are drawn with."""
    drop: Value = 0.1
    """Share of pictures whose class is hidden, for guidance."""
    flip: Annotated[bool, arg(help_behavior_hint="")] = False
    """Mirror half of the pictures left to right."""
    middle: Value = 0.0
    """Mean of the logit of the time t, from noise at 0 to data at 1: above 0, more steps see little noise."""
    render: Value = 0.0
    """Weight of the error as pictures show it, where little noise is left."""
    seed: Number = 0
    """The same seed gives the same model on the same device."""
    report_every: Number = 100
    """Steps from one line of the log to the next."""
    save_every: Number = 2000
    """Steps from checkpoint to checkpoint."""
    sample_every: Number = 0
    """Steps from one sheet of samples to the next; 0: none."""
    device: OnDevice = "auto"
    json: Json = False
    """Print one JSON object instead of text: steps, loss and render_loss (means since the report before; null where
    nothing was left to do), seconds (of this run), pictures_per_second, device, processes, output, model, bytes (of the
    model), next (a command to try)."""
    quiet: Quiet = False


@dataclass(frozen=True)
class Sample:
    """Draw new pictures from a model."""

    model: Positional[Annotated[Path | None, arg(metavar="[MODEL]", help_behavior_hint="")]] = None
    """A model.safetensors of train; the one that comes with splat2d unless given."""
    outputs: Outputs = ()
    """Where to write; repeatable. The suffix decides: .png and other pictures take a sheet, .npz arrays (images,
    labels, names, and means, log_cholesky, colors and background of the splats), .s2d the splats of each sample, in
    numbered files if there are several. Unless given: samples.png."""
    count: Number = 40
    """How many."""
    classes: Annotated[tuple[str, ...], arg(metavar="[CLASS ...]", help_behavior_hint="")] = ()
    """Names or numbers of classes, which take turns; all of them unless given."""
    guidance: Value = 1.5
    """How much to follow the class: 1 as the model learned it, more for clearer and less varied pictures."""
    sampler: SampleBy = "heun"
    """euler and dpm++ ask the model once a step, heun twice."""
    steps: Number = 4
    """Steps of the sampler: few for splats, which end smoother then, 25 for pixels."""
    shift: Value = 1.0
    """Below 1: more of the steps near the picture; above 1: near the noise."""
    seed: Number = 0
    """Sample n of a seed is the same whatever the count."""
    columns: Count = None
    """Of a sheet."""
    scale: Annotated[float | None, arg(metavar="S", help_behavior_hint="")] = None
    """Size of the pictures relative to those it learned from; splats have any."""
    width: Count = None
    """Width of each picture in pixels; the height follows."""
    device: OnDevice = "auto"
    json: Json = False
    """Print one JSON object instead of text: samples, classes (of each), seconds (to draw), device, outputs (path and
    bytes of each)."""
    quiet: Quiet = False


@dataclass(frozen=True)
class Edit:
    """Change a picture, or complete it, by what a model knows of pictures.

    inpaint makes the parts anew that a mask shows, outpaint what lies around the picture, upscale its details, colorize
    its colours; all keep what is given. vary makes pictures like it, blend the way from one to another.
    """

    task: Positional[
        Annotated[
            Literal["inpaint", "outpaint", "upscale", "colorize", "vary", "blend"],
            arg(metavar="{inpaint,outpaint,upscale,colorize,vary,blend}", help_behavior_hint=""),
        ]
    ]
    """What to do."""
    photos: Positional[Annotated[tuple[Path, ...], arg(metavar="[PHOTO ...]", help_behavior_hint="")]] = ()
    """The picture; two of them for blend, none for blend with --seeds."""
    model: Annotated[Path | None, arg(metavar="MODEL", help_behavior_hint="")] = None
    """A model.safetensors of train; the one that comes with splat2d unless given."""
    outputs: Outputs = ()
    """Where to write; repeatable. As in sample: .png takes a sheet, .npz arrays, .s2d the splats of each. Unless given:
    edits.png."""
    mask: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """inpaint: a picture as large as the photo; what is white in it is made anew."""
    scale: Value = 0.5
    """outpaint: side of the photo within the new picture, relative to it."""
    strength: Value = 0.5
    """vary: 0 leaves the picture as it is, 1 leaves nothing of it."""
    seeds: Annotated[tuple[int, int] | None, arg(metavar="N N", help_behavior_hint="")] = None
    """blend: between samples of these seeds instead of photos."""
    label: Annotated[str | None, arg(name="class", metavar="CLASS", help_behavior_hint="")] = None
    """Name or number of the class of what is made; any of them unless given."""
    count: Number = 8
    """How many pictures, each with other chance; of blend, how many on the way."""
    guidance: Value = 1.5
    """As in sample."""
    sampler: EditBy = "dpm++"
    """As in sample."""
    steps: Number = 25
    """As in sample."""
    seed: Number = 0
    """The same seed gives the same pictures."""
    columns: Count = None
    """Of a sheet."""
    device: OnDevice = "auto"
    json: Json = False
    """Print one JSON object instead of text: task, samples, class, agreement (mean and least PSNR of what was given, in
    dB; null for vary and blend), seconds (to draw), device, outputs (path and bytes of each)."""
    quiet: Quiet = False


@dataclass(frozen=True)
class Evaluate:
    """Judge a model by its samples against test pictures, beside rows that say what the numbers mean.

    Distances are taken in the features of a classifier that is trained on the same training pictures; they compare
    models judged by the same net and are no FID.
    """

    model: Positional[Annotated[Path, arg(metavar="MODEL", help_behavior_hint="")]]
    """A model.safetensors of train."""
    splats: Positional[Annotated[Path, arg(metavar="SPLATS", help_behavior_hint="")]]
    """The set that it was trained on."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="FILE", help_behavior_hint="")] = None
    """Write the report here as well: .md or .json."""
    samples: Number = 10_000
    """How many to draw, of each class in the proportion that the set has of it."""
    guidance: Value = 1.5
    """As in sample."""
    sampler: SampleBy = "heun"
    """As in sample."""
    steps: Number = 4
    """As in sample."""
    shift: Value = 1.0
    """As in sample."""
    seed: Number = 0
    """Of the samples. The judges are always the same."""
    judges: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Keep the nets that judge here, and take them from here the next time."""
    compact: Annotated[bool, arg(help_behavior_hint="")] = False
    """Judge by small nets, for small pictures on a CPU."""
    device: OnDevice = "auto"
    json: Json = False
    """Print the report as one JSON object."""
    quiet: Quiet = False


@dataclass(frozen=True)
class Diffusion:
    """Train models whose samples are splats, draw from them and judge them.

    Needs torch: pip install "splat2d[diffusion]".
    """

    command: (
        Annotated[Build, subcommand("build")]
        | Annotated[Train, subcommand("train")]
        | Annotated[Sample, subcommand("sample")]
        | Annotated[Edit, subcommand("edit")]
        | Annotated[Evaluate, subcommand("evaluate")]
    )


def run(group: Diffusion) -> int:
    """Runs one of the commands; returns the exit code. Raises InputError, for a missing extra too."""
    try:
        import splat2d.diffusion  # noqa: F401  # says which extra is missing
    except ImportError as error:
        raise InputError(str(error)) from error
    command = next(command for kind, command in COMMANDS.values() if kind is type(group.command))
    return command(group.command)


def _build(command: Build) -> int:
    from splat2d.diffusion.devices import chosen, label
    from splat2d.diffusion.encoder import EncoderConfig
    from splat2d.diffusion.model import load_model
    from splat2d.diffusion.pictures import load_pictures
    from splat2d.diffusion.splatset import BuildConfig, build, build_by, floor_psnr, save_splats
    from splat2d.files import check_places

    check_places([command.output], command.data, [".safetensors"])
    device = chosen(command.device)
    settings = EncoderConfig() if command.method == "encode" else BuildConfig()
    steps = settings.steps if command.steps is None else command.steps
    rate = settings.rate if command.rate is None else command.rate
    if command.method == "encode":
        training = EncoderConfig(steps=steps, rate=rate, passes=command.passes, settling=command.settling)
        config = BuildConfig(command.splats, anchor=command.anchor, encoder=training)
    else:
        config = BuildConfig(command.splats, steps, rate, command.anchor)
    encoder = load_model(command.encoder).encoder if command.encoder else None
    if command.encoder and not encoder:
        raise InputError(f"{command.encoder}: has no encoder; its splats, if any, were fitted: take --method fit")
    pictures = load_pictures(command.data, limit=command.limit)
    began = time.perf_counter()
    with _counting(command.quiet) as show:

        def told(done: int, total: int) -> None:
            show(done, total, f"{command.method}  {'picture' if encoder else 'step'} {done}/{total}")

        if encoder:
            splats = build_by(encoder, pictures, device=device, progress=told)
        else:
            splats = build(pictures, config, device=device, progress=told)
    seconds = time.perf_counter() - began
    save_splats(command.output, splats)
    height, width, channels = pictures.size
    report = {
        "train": len(splats.part(False)),
        "test": len(splats.part(True)),
        "classes": list(pictures.names),
        "width": width,
        "height": height,
        "channels": channels,
        "splats": splats.layout.count,
        "floor_train": floor_psnr(splats, False, device),
        "floor_test": floor_psnr(splats, True, device),
        "seconds": seconds,
        "device": label(device),
        "output": str(command.output),
        "bytes": command.output.stat().st_size,
        "next": shlex.join(["splat2d", "diffusion", "train", str(command.output), "-o", "model"]),
    }
    if command.json:
        print_json(report)
        return OK
    print_rows(
        {
            "pictures": f"{report['train']} to train on, {report['test']} to test on, {width}x{height} pixels, "
            f"{channels} channels, {len(pictures.names) or 'no'} classes",
            "splats": f"{splats.config.splats} of each picture",
            "floor": f"{report['floor_train']:.2f} dB (train), {report['floor_test']:.2f} dB (test): "
            "mean PSNR of the splats",
            "time": f"{seconds:.1f} s, {'encoder given' if encoder else f'{steps} steps'}, {report['device']}",
            str(command.output): f"{report['bytes']} bytes",
            "next": str(report["next"]),
        }
    )
    return OK


def _train(command: Train) -> int:
    from splat2d.diffusion.devices import chosen, label
    from splat2d.diffusion.network import NetworkConfig
    from splat2d.diffusion.splatset import load_splats
    from splat2d.diffusion.training import MODEL, TrainConfig, steps_done, train

    # Started by accelerate or torchrun, there are several of this process, of which one speaks.
    processes, speaks = int(os.environ.get("WORLD_SIZE", "1")), os.environ.get("RANK", "0") == "0"
    device = chosen(command.device)
    same = ["tokens", "patch", "prediction", "steps", "batch", "rate"]
    same += ["average", "drop", "flip", "middle", "render", "seed"]
    config = TrainConfig(
        network=NetworkConfig(command.width, command.depth, command.heads, group=command.group),
        **{name: getattr(command, name) for name in same},
    )
    every = {name: getattr(command, name) for name in ("report_every", "save_every", "sample_every")}
    splats = load_splats(command.splats)
    done, event = steps_done(command.output), None
    if speaks and not command.quiet and 0 < done < config.steps:
        say(f"goes on from step {done} of {config.steps}, the checkpoint in {command.output}")
    try:
        with _counting(command.quiet or not speaks) as show:
            for event in train(splats, config, command.output, device=device, **every):
                speed = f"{event.pictures_per_second:.0f} pictures/s"
                show(event.step, event.steps, f"step {event.step}/{event.steps}  loss {event.loss:.4f}  {speed}")
    except KeyboardInterrupt:
        if speaks:
            done = steps_done(command.output)
            say(f"interrupted; the same command goes on from step {done} of {config.steps}, the last checkpoint")
        return INTERRUPTED
    if not speaks:
        return OK
    model = command.output / MODEL
    sheet = str(command.output / "samples.png")
    report: dict[str, Any] = {
        "steps": config.steps,
        "loss": event and event.loss,
        "render_loss": event and event.render_loss,
        "seconds": event.seconds if event else 0.0,
        "pictures_per_second": event and event.pictures_per_second,
        "device": label(device),
        "processes": processes,
        "output": str(command.output),
        "model": str(model),
        "bytes": model.stat().st_size,
        "next": shlex.join(["splat2d", "diffusion", "sample", str(model), "-o", sheet]),
    }
    if command.json:
        print_json(report)
        return OK
    rows = {"steps": f"{config.steps}, all of them done before"}
    if event:
        rows = {
            "steps": f"{config.steps}, {event.seconds:.1f} s of this run, {report['device']}, {processes} processes",
            "loss": f"{event.loss:.4f}" + (f", rendered {event.render_loss:.4f}" if config.render else ""),
            "speed": f"{event.pictures_per_second:.0f} pictures per second",
        }
    print_rows(rows | {str(model): f"{report['bytes']} bytes", "next": report["next"]})
    return OK


def _sample(command: Sample) -> int:
    from splat2d.diffusion.devices import chosen, label
    from splat2d.diffusion.model import SampleConfig, generate, load_model
    from splat2d.diffusion.samples import SUFFIXES, Samples, check_kinds, drawn, labels_for, write_samples
    from splat2d.files import check_places

    path = _model_of(command)
    outputs = command.outputs or (Path("samples.png"),)
    check_places(outputs, path, SUFFIXES)
    model = load_model(path, chosen(command.device))
    check_kinds(outputs, model.layout)
    labels = labels_for(command.count, command.classes, model.names)
    config = SampleConfig(command.steps, command.sampler, command.guidance, command.shift, command.seed)
    began = time.perf_counter()
    with _counting(command.quiet) as show:
        tokens = generate(model, labels, config, lambda done, total: show(done, total, f"pass {done}/{total}")).cpu()
    seconds = time.perf_counter() - began

    samples = Samples(model.layout, tokens, labels, model.names)
    pictures = drawn(samples, scale=command.scale, width=command.width)
    classes = len(set(labels.tolist()))
    columns = command.columns or (classes if 1 < classes <= COLUMNS else COLUMNS)
    names = [model.names[label] if model.names else "" for label in labels.tolist()]
    report = {"samples": len(samples), "classes": names, "seconds": seconds, "device": label(model.device)}
    height, width = pictures.shape[1:3]
    rows = {
        "samples": f"{len(samples)}, {classes if model.names else 'no'} classes, {width}x{height} pixels",
        "time": f"{seconds:.1f} s, {config.steps} steps of {config.sampler}, {label(model.device)}",
    }
    columns = min(columns, len(samples))
    writing = partial(write_samples, samples=samples, pictures=pictures, columns=columns)
    _write(outputs, writing, report if command.json else None, rows)
    return OK


def _edit(command: Edit) -> int:
    from splat2d.diffusion.devices import chosen, label
    from splat2d.diffusion.editing import EditConfig, blend, blend_seeds, complete, tokens_of, vary
    from splat2d.diffusion.model import SampleConfig, load_model
    from splat2d.diffusion.photos import Photo, known_of, load_photos
    from splat2d.diffusion.samples import SUFFIXES, Samples, check_kinds, drawn, label_for, write_samples
    from splat2d.files import check_places

    path = _model_of(command)
    _check_edit(command)
    outputs = command.outputs or (Path("edits.png"),)
    for source in (path, *command.photos, *filter(None, [command.mask])):
        check_places(outputs, source, SUFFIXES)
    model = load_model(path, chosen(command.device))
    check_kinds(outputs, model.layout)
    any_class = model.network.classes
    labels = label_for(command.count, command.label, model.names, any_class)
    config = SampleConfig(command.steps, command.sampler, command.guidance, seed=command.seed)
    known = None
    began = time.perf_counter()
    with _counting(command.quiet) as show:

        def told(done: int, total: int) -> None:
            show(done, total, f"pass {done}/{total}")

        if command.task == "blend" and command.seeds:
            tokens = blend_seeds(model, int(labels[0]), command.seeds, command.count, config, told)
        elif command.task == "blend":
            ends = tokens_of(model, load_photos(command.photos, model.layout, say))
            tokens = blend(ends[0], ends[1], command.count)
        elif command.task == "vary":
            of_photo = tokens_of(model, load_photos(command.photos, model.layout, say)).expand(command.count, -1, -1)
            tokens = vary(model, of_photo, labels, command.strength, config, told)
        else:
            photo = Photo(command.photos[0], command.mask, command.scale)
            known = known_of(command.task, photo, model.layout, command.count, say).to(model.device)
            tokens = complete(model, known, labels, EditConfig(config), told)
    seconds = time.perf_counter() - began

    samples = Samples(model.layout, tokens.cpu(), labels, model.names)
    pictures = drawn(samples)
    agreement = known and known.psnr(model.layout.pictures(tokens)).tolist()
    mean_and_least = agreement and [sum(agreement) / len(agreement), min(agreement)]
    name = "any" if int(labels[0]) == any_class else model.names[int(labels[0])]
    report = {
        "task": command.task,
        "samples": len(samples),
        "class": name,
        "agreement": mean_and_least,
        "seconds": seconds,
        "device": label(model.device),
    }
    rows: dict[str, str] = {
        command.task: f"{len(samples)} of class {name}, {model.layout.width}x{model.layout.height} pixels"
    }
    if mean_and_least:
        rows["given"] = f"{mean_and_least[0]:.2f} dB (mean), {mean_and_least[1]:.2f} dB (least): PSNR of what was given"
    rows["time"] = f"{seconds:.1f} s, {config.steps} steps of {config.sampler}, {label(model.device)}"
    columns = min(command.columns or COLUMNS, len(samples))
    writing = partial(write_samples, samples=samples, pictures=pictures, columns=columns)
    _write(outputs, writing, report if command.json else None, rows)
    return OK


def _check_edit(command: Edit) -> None:
    """Raises InputError for options of another task, and for those that are missing."""
    task, photos = command.task, len(command.photos)
    wanted = 0 if command.seeds else 2 if task == "blend" else 1
    for name, given, of in (("mask", command.mask, "inpaint"), ("seeds", command.seeds, "blend")):
        if given and task != of:
            raise InputError(f"--{name}: is for {of}; leave it out for {task}")
    if photos != wanted:
        other = ", or --seeds N N and none" if task == "blend" and not command.seeds else ""
        raise InputError(f"{task}: takes {wanted} photo{'s' * (wanted != 1)}{other}, got {photos}")


def _model_of(command: Sample | Edit) -> Path:
    """The file of the model of a command that also takes columns. Raises InputError."""
    from splat2d.diffusion.model import SHIPPED

    if command.columns is not None and command.columns < 1:
        raise InputError(f"columns: must be at least 1, got {command.columns}")
    if not command.model and not SHIPPED.exists():
        raise InputError("no model comes with this splat2d; name one that `splat2d diffusion train` made")
    return command.model or SHIPPED


def _write(
    outputs: tuple[Path, ...],
    write: Callable[[Path], list[Path]],
    report: dict[str, Any] | None,
    rows: dict[str, str],
) -> None:
    """Writes the outputs and prints the report as JSON, or else rows; write returns the files of an output."""
    written = [write(path) for path in outputs]
    if report is not None:
        places = [{"path": str(file), "bytes": file.stat().st_size} for files in written for file in files]
        print_json(report | {"outputs": places})
        return
    for files in written:
        through = f" to {files[-1].name}" if len(files) > 1 else ""
        rows = rows | {f"{files[0]}{through}": f"{sum(file.stat().st_size for file in files)} bytes"}
    print_rows(rows)


def _evaluate(command: Evaluate) -> int:
    from splat2d.atomic import write_bytes
    from splat2d.diffusion.devices import chosen
    from splat2d.diffusion.evaluation import LEAST, EvaluationConfig, evaluate, some_of, train_judges
    from splat2d.diffusion.model import SampleConfig, check_same, generate, load_model
    from splat2d.diffusion.samples import labels_like
    from splat2d.diffusion.splatset import load_splats, rendered
    from splat2d.files import check_places

    if command.samples < LEAST:
        raise InputError(f"samples: {command.samples} are too few to judge by; draw at least {LEAST}")
    if command.output:
        check_places([command.output], command.model, [".md", ".json"])
    device = chosen(command.device)
    model, splats = load_model(command.model, device), load_splats(command.splats)
    check_same(model, splats)
    pictures, train, test = splats.pictures, splats.part(False), splats.part(True)
    labels = labels_like(command.samples, pictures.labels[train])
    config = SampleConfig(command.steps, command.sampler, command.guidance, command.shift, command.seed)
    began = time.perf_counter()
    with _counting(command.quiet) as show:
        tokens = generate(model, labels, config, lambda done, total: show(done, total, f"samples  pass {done}/{total}"))
        images = rendered(model.layout, tokens, device)
        seconds = time.perf_counter() - began
        show(0, 1, "judging")
        known = bool(pictures.names)
        real = (
            pictures.images[train],
            pictures.labels[train] if known else None,
            pictures.images[test],
            pictures.labels[test] if known else None,
        )
        settings = EvaluationConfig.compact() if command.compact else EvaluationConfig()
        began_judging = time.perf_counter()
        judges = train_judges(*real[:2], settings, device=device, folder=command.judges)
        judged = time.perf_counter() - began_judging
        report = evaluate(
            images,
            labels.numpy() if known else None,
            *real,
            floor=rendered(splats.layout, splats.tokens[test], device),
            fitted=rendered(splats.layout, splats.tokens[some_of(train, len(labels), command.seed)], device),
            finite=float(tokens.isfinite().flatten(1).all(1).float().mean()),
            config=settings,
            judges=judges,
            device=device,
        )
    drawn = f"{config.steps} steps of {config.sampler}, guidance {config.guidance:g}, shift {config.shift:g}"
    note = f"{len(labels):,} samples in {seconds:.1f} s: {drawn}, seed {config.seed}"
    report = replace(report, notes=(*report.notes, note), seconds_judges=judged, seconds=report.seconds + judged)
    if command.output:
        as_json = command.output.suffix.lower() == ".json"
        write_bytes(command.output, (report.to_json() + "\n" if as_json else report.to_markdown()).encode())
    if command.json:
        print_json(json.loads(report.to_json()))
    else:
        print(report.to_markdown(), end="")
    return OK


@contextmanager
def _counting(quiet: bool) -> Iterator[Show]:
    """Yields what shows how far the work is, on stderr; nothing is shown where stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total, words: None
        return
    from rich.console import Console

    from splat2d.progress import counter

    with counter(Console(stderr=True)) as show:
        yield show


COMMANDS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "build": (Build, _build),
    "train": (Train, _train),
    "sample": (Sample, _sample),
    "edit": (Edit, _edit),
    "evaluate": (Evaluate, _evaluate),
}
