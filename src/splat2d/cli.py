"""The command line: parsing, progress and printing. What the commands do lives in the other modules.

Results go to stdout, everything else to stderr. Nothing heavier than tyro is imported before a command runs, so
that help comes at once.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg
from tyro.extras import subcommand_cli_from_dict

from splat2d import __version__
from splat2d.config import CompressConfig, FitConfig, Loss, Panel, Preset, Profile
from splat2d.diffusion_cli import Diffusion
from splat2d.diffusion_cli import run as run_diffusion
from splat2d.errors import InputError
from splat2d.terminal import (
    INTERRUPTED,
    OK,
    USER_ERROR,
    Count,
    Json,
    OnDevice,
    Outputs,
    Quiet,
    print_json,
    print_rows,
    say,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from splat2d.bench import DeviceBenchmark
    from splat2d.compression import Compressed
    from splat2d.fitting import Progress
    from splat2d.inspection import CodingInfo
    from splat2d.splats import Splats

WRITING = "interrupted at step {last.step} of {last.steps}; writing the best result so far (Ctrl-C again gives up)"
ROUNDED = "the file has the splats of that step, rounded all at once; what a run to the end writes is better"

DESCRIPTION = """Pictures to 2D Gaussian splats and back.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 an error that one line on stderr explains,
2 wrong usage, 130 interrupted by Ctrl-C. NO_COLOR is honoured. splat2d --version prints the version."""

Threads = Annotated[
    int | None,
    arg(metavar="N", help="CPU threads, every core unless given. The result is the same.", help_behavior_hint=""),
]
Box = Annotated[tuple[float, float, float, float] | None, arg(metavar="X Y W H", help_behavior_hint="")]
SplatFile = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]


@dataclass(frozen=True)
class Fit:
    """Compress a picture to a small file of splats, or fit splats to it.

    A .s2d file among the outputs has the splats trained for it. Give one budget: --bytes, --bpp, --quality, --psnr
    or --splats; without one it is a quality that suits most. Ctrl-C writes the best result so far and exits with 130; a
    second Ctrl-C gives up.
    """

    photo: Positional[Annotated[Path, arg(metavar="PHOTO", help_behavior_hint="")]]
    """The picture to fit. It is never overwritten."""
    outputs: Outputs = ()
    """Where to write; repeatable. Unless given: PHOTO with the suffix .s2d. The suffix decides what:
    .s2d: the splats, small; .npz: as they are.
    .svg, .ply: for other programs and for viewers of 3D splats; less exact.
    .html: a page that shows them.
    .png, .jpg and other pictures: what they show."""
    bytes: Count = None
    """Budget: the best .s2d file of at most this size."""
    bpp: Annotated[float | None, arg(metavar="B", help_behavior_hint="")] = None
    """Budget: the same in bits per pixel."""
    quality: Annotated[float | None, arg(metavar="Q", help_behavior_hint="")] = None
    """Budget: a .s2d file of this quality, 0 (small) to 100 (faithful)."""
    psnr: Annotated[float | None, arg(metavar="DB", help_behavior_hint="")] = None
    """Budget: as little as it takes to come this close to the picture, in dB. A .s2d file is judged as decoded."""
    splats: Count = None
    """Budget: this many splats. A .s2d file of them was not trained for: --bytes or --quality give smaller ones."""
    profile: Profile = "scalar"
    """What the .s2d file is made of. vector: records of one size, larger, which a GPU reads without decoding."""
    preset: Preset = "balanced"
    """How much time to spend."""
    steps: Count = None
    """Number of steps, instead of what the preset says; with --splats or without a .s2d file."""
    loss: Annotated[str, arg(metavar="LOSS")] = "l2"
    """What to minimise: l2, l1, ssim or a mix such as 0.8*l1+0.2*ssim."""
    seed: Annotated[int, arg(metavar="N")] = 0
    """Seed of the random start. The same seed gives the same bytes."""
    device: OnDevice = "auto"
    threads: Threads = None
    json: Json = False
    """Print one JSON object instead of text: splats, width, height, channels, psnr (dB, null where infinite) and ssim
    of what the splat file shows, bytes and bpp (bits per pixel) of that file (.s2d before .npz; null without one),
    steps, seconds, device, interrupted, outputs (path and bytes of each), next (a command to try)."""
    quiet: Quiet = False


@dataclass(frozen=True)
class Render:
    """Draw splats as a picture of any size."""

    file: Positional[Annotated[Path, arg(metavar="FILE", help_behavior_hint="")]]
    """The splats."""
    outputs: Outputs = ()
    """Where to write; repeatable. The suffix decides: .png .jpg .webp .avif .tif .npy ...; less exact .svg and .ply."""
    width: Count = None
    """Width of the result in pixels; the height follows."""
    height: Count = None
    """Height of the result in pixels; the width follows."""
    scale: Annotated[float | None, arg(metavar="S", help_behavior_hint="")] = None
    """Size of the result relative to the canvas."""
    crop: Annotated[tuple[float, float, float, float] | None, arg(metavar="X Y W H", help_behavior_hint="")] = None
    """Part of the canvas to draw, in canvas pixels. It is cut first; the size above is that of this part."""
    device: OnDevice = "auto"
    threads: Threads = None


@dataclass(frozen=True)
class Encode:
    """Write splats as a small .s2d file."""

    file: Positional[Annotated[Path, arg(metavar="FILE", help_behavior_hint="")]]
    """The splats: .npz, or .s2d for another quality. Metadata comes along."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="FILE", help_behavior_hint="")] = None
    """Where to write. Unless given: FILE with the suffix .s2d."""
    quality: Annotated[float | None, arg(metavar="Q", help_behavior_hint="")] = None
    """0 (coarse, small) to 100 (fine). Unless given, it follows from the splats: those of a .s2d file keep theirs,
    others lose some tenths of a dB."""
    profile: Profile = "scalar"
    """vector: records of one size and one precision, larger, which a GPU reads without decoding."""
    json: Json = False
    """Print one JSON object instead of text: splats, left_out (too faint to count), width, height, profile, quality
    (null in profile vector), bytes and bpp (bits per pixel), output, next (a command to try)."""


@dataclass(frozen=True)
class Decode:
    """Write the splats of a .s2d file, or what they show, in other formats."""

    file: Positional[Annotated[Path, arg(metavar="FILE", help_behavior_hint="")]]
    """The .s2d file."""
    outputs: Outputs = ()
    """Where to write; repeatable. The suffix decides: .npz takes the splats, .png, .jpg and other pictures take what
    they show. Unless given: FILE with the suffix .npz."""
    partial: Annotated[bool, arg(help_behavior_hint="")] = False
    """Take the beginning of a file whose end is missing, and the splats that it holds."""
    device: OnDevice = "auto"
    threads: Threads = None


@dataclass(frozen=True)
class Edit:
    """Change splats: choose, cut, move, recolour and mix them, exactly.

    What is asked for is done in the order of the options below. For another order edit twice; .npz in between loses
    nothing. What an edit uncovers shows the background, the mean colour of the picture.
    """

    file: Positional[Annotated[Path, arg(metavar="FILE", help_behavior_hint="")]]
    """The splats. Metadata of a .s2d file comes along."""
    outputs: Outputs = ()
    """Where to write; repeatable. The suffix decides, as in fit."""
    select: Box = None
    """Keep only the splats centred in this box."""
    mask: Annotated[Path | None, arg(metavar="PICTURE", help_behavior_hint="")] = None
    """Keep only the splats centred where this picture, of the size of the canvas, is brighter than middle grey."""
    outside: Annotated[bool, arg(help_behavior_hint="")] = False
    """Keep the others instead."""
    crop: Box = None
    """Cut to this box of whole width and height; it may reach beyond the canvas."""
    flip: Annotated[
        Literal["horizontal", "vertical"] | None, arg(metavar="{horizontal,vertical}", help_behavior_hint="")
    ] = None
    """Mirror left to right (horizontal) or top to bottom (vertical)."""
    rotate: Annotated[float | None, arg(metavar="DEGREES", help_behavior_hint="")] = None
    """Turn counter-clockwise; the canvas grows to hold the corners."""
    keep_canvas: Annotated[bool, arg(help_behavior_hint="")] = False
    """Turn on the canvas as it is instead."""
    width: Count = None
    """Enlarge or shrink to this width in pixels; the height follows."""
    height: Count = None
    """To this height; the width follows unless given."""
    scale: Annotated[float | None, arg(metavar="S", help_behavior_hint="")] = None
    """By this factor."""
    translate: Annotated[tuple[float, float] | None, arg(metavar="DX DY", help_behavior_hint="")] = None
    """Move right and down by so many pixels, on the same canvas."""
    canvas: Annotated[tuple[int, int] | None, arg(metavar="W H", help_behavior_hint="")] = None
    """Cut or extend the canvas to this size, the picture in its middle."""
    exposure: Annotated[float, arg(metavar="STOPS", help_behavior_hint="")] = 0.0
    """Brighten by so many stops; negative: darken."""
    contrast: Annotated[float, arg(metavar="FACTOR", help_behavior_hint="")] = 1.0
    """Stretch the distance from middle grey by this factor."""
    brightness: Annotated[float, arg(metavar="VALUE", help_behavior_hint="")] = 0.0
    """Add this value, of a range of 1."""
    saturation: Annotated[float, arg(metavar="FACTOR", help_behavior_hint="")] = 1.0
    """Stretch the distance from grey of the same luma by this factor; 0 is grey."""
    overlay: SplatFile = None
    """Add the splats of another file. Light adds up: they do not hide what lies beneath."""
    at: Annotated[tuple[float, float], arg(metavar="X Y", help_behavior_hint="")] = (0.0, 0.0)
    """Where the upper left corner of that file's canvas goes."""
    cross_fade: SplatFile = None
    """Mix with the picture of another file of the same size."""
    blend: SplatFile = None
    """Move splat by splat towards another file that was edited from the same splats (as .npz)."""
    amount: Annotated[float, arg(metavar="T", help_behavior_hint="")] = 0.5
    """How far to fade or blend: 0 is FILE, 1 the other."""
    quality: Annotated[float | None, arg(metavar="Q", help_behavior_hint="")] = None
    """Of a .s2d file written, 0 to 100; as in FILE unless given. Its splats are rounded again, which loses a little."""
    device: OnDevice = "auto"
    threads: Threads = None
    json: Json = False
    """Print one JSON object instead of text: splats, width, height, channels, outputs (path and bytes of each), next (a
    command to try)."""


@dataclass(frozen=True)
class Info:
    """Describe a file of splats or a picture."""

    file: Positional[Annotated[Path, arg(metavar="FILE", help_behavior_hint="")]]
    """Splats or a picture."""
    json: Json = False
    """Print one JSON object instead of text: kind (splats or picture), width, height, channels, bytes, bpp (bits per
    pixel); for splats also splats, background, long_axis and short_axis (standard deviations in pixels: minimum,
    quartiles, maximum), amplitude (smallest, largest), outside (splats centred off the canvas); for .s2d also coding:
    version, profile (number) and profile_name, color_space, quality, quality_index, cell (pixels) and margin (cells)
    unless profile_name is vector, tile (edge in pixels) if it is, each null otherwise, bits (of positions, refinement,
    shape, colour, metadata, overhead, or of tables instead of refinement: they sum to the file), chunks (type, bytes,
    splats of each), text; for pictures also range (smallest, largest) and mean (of each channel)."""


@dataclass(frozen=True)
class Compare:
    """Measure how close splats, or another picture, come to a photo."""

    photo: Positional[Annotated[Path, arg(metavar="PHOTO", help_behavior_hint="")]]
    """The original."""
    file: Positional[Annotated[Path, arg(metavar="FILE", help_behavior_hint="")]]
    """Splats, drawn at the size of their canvas, or a picture."""
    device: OnDevice = "auto"
    threads: Threads = None
    json: Json = False
    """Print one JSON object instead of text: bytes and bpp (bits per pixel) of FILE, width, height, psnr (dB, null
    where infinite), ssim, max_error (largest difference of a value), worst (the tile of the lowest psnr: x, y, width,
    height, psnr)."""


@dataclass(frozen=True)
class View:
    """Look at splats in a browser: zoom, count of splats, ellipses, the original beside them.

    A file, the splats of a photo, or the address of a .s2d file, shown by a server for this machine only, until Ctrl-C;
    the address goes to stdout. With -o, a page that needs no server is written instead.
    """

    source: Positional[Annotated[str, arg(metavar="FILE|PHOTO|URL", help_behavior_hint="")]]
    """Splats, a picture to fit, or an http address of a .s2d file."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="PAGE.html", help_behavior_hint="")] = None
    """Write one file with everything inside, which any browser opens from disk."""
    live: Annotated[bool, arg(help_behavior_hint="")] = False
    """Show the fit of a photo while it runs. Its splats are not kept; for that use fit."""
    original: Annotated[Path | None, arg(metavar="PHOTO", help_behavior_hint="")] = None
    """A picture to compare the splats with. Of a photo that is fitted it is the photo."""
    splats: Count = None
    """Number of splats of a fit with --live."""
    preset: Preset = "fast"
    """How much time to spend on a photo."""
    no_browser: Annotated[bool, arg(help_behavior_hint="")] = False
    """Only print the address."""
    port: Annotated[int, arg(metavar="N")] = 0
    """Of the server; 0 takes one that is free."""
    device: OnDevice = "auto"
    threads: Threads = None
    quiet: Quiet = False


@dataclass(frozen=True)
class Plot:
    """Draw a figure of splats: ellipses, where they lie, what they miss.

    Needs matplotlib: pip install "splat2d[plot]".
    """

    file: Positional[Annotated[Path, arg(metavar="FILE", help_behavior_hint="")]]
    """The splats."""
    outputs: Outputs = ()
    """Where to write; repeatable: .png .pdf .svg .jpg .webp. Unless given: FILE-plot.png beside FILE."""
    photo: Annotated[Path | None, arg(metavar="PHOTO", help_behavior_hint="")] = None
    """The original, of which the panel error shows the difference."""
    panels: Annotated[
        tuple[Panel, ...] | None,
        arg(metavar="[{picture,ellipses,density,error} ...]", help_behavior_hint=""),
    ] = None
    """What to show; everything unless given."""


@dataclass(frozen=True)
class Bench:
    """Measure the speed of the CPU engine against numpy.exp, or of a GPU by the clock.

    Fits splats, then times one whole step (render, L2 gradient, update), the render alone, and numpy.exp over as many
    float32 as there are pairs of a splat and a pixel within its cut-off. All take turns, on one thread; a step on more
    threads takes its turn too. With --device cuda, after a fit to warm up: fits, whole steps and renders of the fitted
    splats and a batch of small pictures, by the clock on the wall and by the GPU's.
    """

    photo: Positional[Annotated[Path | None, arg(metavar="[PHOTO]", help_behavior_hint="")]] = None
    """The picture to fit; the picture of the demo unless given."""
    splats: Annotated[int, arg(metavar="N")] = 10000
    """Number of splats."""
    threads: Annotated[int, arg(metavar="N")] = 2
    """Threads of the speed-up; all else is measured on one."""
    device: OnDevice = "cpu"
    json: Json = False
    """Print one JSON object instead of text: width, height, splats, pairs, instruction_set; step, render and numpy_exp
    (ns per pair), step_ratio and render_ratio (to numpy_exp), threads, speedup (of a step on that many threads), each
    as lower quartile, median and upper quartile. With --device cuda: width, height, splats, device, fit_seconds, psnr,
    near_seconds until near_psnr (0.5 dB less), pictures_per_second of a batch, memory (bytes); steps_per_second and
    render (ms) by the clock on the wall, device_steps_per_second and device_render by the GPU's, as quartiles."""
    quiet: Quiet = False


@dataclass(frozen=True)
class Demo:
    """Compress a picture drawn in code, and show what comes out.

    Writes original.png, demo.s2d, fit.png (drawn from it), demo.jpg (as close to the original), zoom.png (four times
    enlarged, beside bicubic) and splats.png (the splats as ellipses).
    """

    output: Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")] = Path("demo")
    """Where to write."""
    preset: Preset = "balanced"
    """How much time to spend."""
    device: OnDevice = "auto"
    threads: Threads = None
    quiet: Quiet = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code. Wrong usage and --help raise SystemExit, as argparse does."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        print(f"splat2d {__version__}")
        return OK
    if arguments in ([], ["diffusion"]):
        arguments = [*arguments, "--help"]
    command = subcommand_cli_from_dict(
        {name: kind for name, (kind, _) in COMMANDS.items()},
        prog="splat2d",
        description=DESCRIPTION,
        args=arguments,
        config=(FlagCreatePairsOff, OmitSubcommandPrefixes, OmitArgPrefixes),
    )
    run = next(run for kind, run in COMMANDS.values() if kind is type(command))
    try:
        return run(command)
    except InputError as error:
        problem = str(error)
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    except MemoryError:
        problem = "not enough memory; use a smaller picture or fewer splats"
    except KeyboardInterrupt:
        say("interrupted; nothing more was written")
        return INTERRUPTED
    say(f"error: {problem}")
    return USER_ERROR


def _fit(command: Fit) -> int:
    from splat2d import codec
    from splat2d.compression import compress_steps
    from splat2d.engine import engine
    from splat2d.files import (
        CODED,
        check_encoders,
        check_outputs,
        default_output,
        holds_splats,
        is_coded,
        is_page,
        write,
    )
    from splat2d.fitting import fit_steps
    from splat2d.images import load_image
    from splat2d.metrics import psnr, ssim
    from splat2d.rendering import render

    outputs = command.outputs or (default_output(command.photo, CODED),)
    coded = any(is_coded(path) or is_page(path) for path in outputs)
    config = _fit_config(command, coded)
    check_outputs(outputs, command.photo, splats=True)
    image = load_image(command.photo)
    check_encoders(outputs, image, command.splats or 0)
    height, width, channels = image.shape
    pixels = width * height
    if command.splats is not None and command.splats > pixels:
        say(f"warning: {command.splats} splats for {pixels} pixels are more than one per pixel")
    if isinstance(config, CompressConfig):
        if command.bpp is not None:
            config = replace(config, bytes=max(1, int(command.bpp * pixels / 8)))
        result = _follow(compress_steps(image, config), command.quiet)
    else:
        result = _follow(fit_steps(image, config), command.quiet)
    if result.interrupted:
        say(WRITING.format(last=result.last))

    splats, data = result.kept.splats, None
    if coded:
        data = _file_of(result, config, command.profile)
    shown = splats if data is None else codec.decode(data)  # judged is what the file shows
    if isinstance(config, CompressConfig):
        splats = shown
    picture = render(shown, device=command.device, threads=command.threads)
    # Should the disk be full, splats matter most.
    sizes = {path: write(path, splats, picture, data) for path in sorted(outputs, key=holds_splats, reverse=True)}
    file = next(filter(is_coded, outputs), next(filter(holds_splats, outputs), None))
    report = {
        "splats": len(shown),
        "width": width,
        "height": height,
        "channels": channels,
        "psnr": psnr(picture, image),
        "ssim": ssim(picture, image),
        "bytes": sizes[file] if file else None,
        "bpp": 8 * sizes[file] / pixels if file else None,
        "steps": result.steps,
        "seconds": result.seconds,
        "device": engine(command.device).label,
        "interrupted": result.interrupted,
        "outputs": [{"path": str(path), "bytes": size} for path, size in sizes.items()],
        "next": _next_command(command.photo, outputs, file),
    }
    if command.json:
        print_json(report)
    else:
        print_rows(
            {
                "splats": f"{len(shown)} for {width}x{height} pixels, {channels} channels",
                "PSNR": f"{report['psnr']:.2f} dB",
                "SSIM": f"{report['ssim']:.4f}",
                "time": f"{result.seconds:.1f} s, {result.steps} steps, {report['device']}",
                **{str(path): _size(size, pixels) for path, size in sizes.items()},
                "next": report["next"],
            }
        )
    return INTERRUPTED if result.interrupted else OK


def _fit_config(command: Fit, coded: bool) -> FitConfig | CompressConfig:
    """What to do for these options; bits per pixel are bytes that only the picture tells. Raises InputError.

    coded: whether a .s2d file is among the outputs.
    """
    given = [name for name in ("bytes", "bpp", "quality", "psnr", "splats") if getattr(command, name) is not None]
    if len(given) > 1:
        raise InputError(f"two budgets given, --{given[0]} and --{given[1]}; give one")
    if command.bpp is not None and not 0 < command.bpp < float("inf"):
        raise InputError(f"bpp: must be a finite number above 0, got {command.bpp}")
    if command.profile != "scalar" and not coded:
        raise InputError(f"--profile {command.profile} is one of .s2d files; write one with -o")
    shared: dict[str, Any] = {
        "psnr": command.psnr,
        "preset": command.preset,
        "loss": Loss.parse(command.loss),
        "seed": command.seed,
        "device": command.device,
        "threads": command.threads,
    }
    if not coded or command.splats is not None:
        for name in given:
            if name in ("bytes", "bpp", "quality"):
                raise InputError(f"--{name} is a budget of .s2d files; write one with -o, or give --psnr or --splats")
        return FitConfig(splats=command.splats, steps=command.steps, **shared)
    if command.steps is not None:
        raise InputError("--steps goes with --splats or without a .s2d file; give --preset instead")
    return CompressConfig(bytes=command.bytes, quality=command.quality, profile=command.profile, **shared)


def _file_of(result: _Followed, config: FitConfig | CompressConfig, profile: Profile) -> bytes:
    """The .s2d file of a fit; if it has come to none, its splats rounded all at once."""
    from splat2d import codec
    from splat2d.compression import QUALITY
    from splat2d.files import encode_within

    if result.file:
        return result.file.data
    splats = result.kept.splats
    if isinstance(config, CompressConfig):
        say(ROUNDED)
    if isinstance(config, FitConfig) or config.psnr is not None:
        return codec.encode(splats, profile=profile)
    if config.bytes is not None:
        return encode_within(splats, config.bytes, profile)
    if profile == "vector":
        return codec.encode(splats, profile=profile)  # where quality decides nothing but the number of splats
    return codec.encode(splats, quality=QUALITY if config.quality is None else config.quality)


def _next_command(photo: Path, outputs: Sequence[Path], file: Path | None) -> str:
    """A command to try after a fit."""
    from splat2d.files import is_page

    if file is None and is_page(outputs[0]):
        return shlex.join(["python", "-m", "webbrowser", outputs[0].resolve().as_uri()])
    if file is None:
        return shlex.join(["splat2d", "compare", str(photo), str(outputs[0])])
    enlarged = file.with_name(f"{file.stem}-4x.png")
    return shlex.join(["splat2d", "render", str(file), "--scale", "4", "-o", str(enlarged)])


def _render(command: Render) -> int:
    from splat2d import editing, storage
    from splat2d.files import check_outputs, is_export, write
    from splat2d.rendering import render

    if not command.outputs:
        raise InputError("render: nowhere to write; name a picture with -o")
    check_outputs(command.outputs, command.file, splats=False)
    splats = storage.load(command.file)
    size: dict[str, Any] = {"width": command.width, "height": command.height, "scale": command.scale}
    picture = render(splats, **size, crop=command.crop, device=command.device, threads=command.threads)
    if any(map(is_export, command.outputs)):
        splats = editing.resize(editing.crop(splats, command.crop) if command.crop else splats, **size)
    height, width, _ = picture.shape
    for path in command.outputs:
        write(path, splats, picture)
        print(f"{path}: {width}x{height} pixels, {_size(path.stat().st_size, width * height)}")
    return OK


def _encode(command: Encode) -> int:
    from splat2d import codec, storage
    from splat2d.atomic import write_bytes
    from splat2d.files import CODED, check_outputs, default_output

    if command.profile == "vector" and command.quality is not None:
        raise InputError("--quality does not go with --profile vector, whose splats are of one precision; leave it out")
    output = command.output or default_output(command.file, CODED)
    if output.suffix.lower() != CODED:
        raise InputError(f"{output}: encode writes {CODED}; to write something else use decode or render")
    check_outputs([output], command.file, splats=True)
    if command.file.suffix.lower() == CODED:
        contents = storage.load_s2d(command.file)
        splats, metadata = contents.splats, contents.container.metadata
    else:
        splats, metadata = storage.load(command.file), None
    data = codec.encode(splats, quality=command.quality, metadata=metadata, profile=command.profile)
    write_bytes(output, data)
    header = codec.container.unpack(data).header
    pixels = splats.width * splats.height
    quality = codec.quality_of(header.quality_index) if command.profile == "scalar" else None
    report = {
        "splats": header.count,
        "left_out": len(splats) - header.count,
        "width": splats.width,
        "height": splats.height,
        "profile": command.profile,
        "quality": quality,
        "bytes": len(data),
        "bpp": 8 * len(data) / pixels,
        "output": str(output),
        "next": shlex.join(["splat2d", "info", str(output)]),
    }
    if command.json:
        print_json(report)
    else:
        print_rows(
            {
                "splats": f"{header.count}, {report['left_out']} more are too faint to count",
                **({"profile": command.profile} if quality is None else {"quality": f"{quality:g}"}),
                str(output): _size(len(data), pixels),
                "next": str(report["next"]),
            }
        )
    return OK


def _decode(command: Decode) -> int:
    from splat2d.files import CODED, check_outputs, default_output, write
    from splat2d.rendering import render
    from splat2d.storage import load_s2d

    if command.file.suffix.lower() != CODED:
        raise InputError(f"{command.file}: decode reads {CODED}; to draw other splats use render")
    outputs = command.outputs or (default_output(command.file),)
    check_outputs(outputs, command.file, splats=True)
    contents = load_s2d(command.file, partial=command.partial)
    splats, count = contents.splats, contents.container.header.count
    if len(splats) < count:
        say(f"warning: {command.file} ends early; it holds {len(splats)} of {count} splats")
    picture = render(splats, device=command.device, threads=command.threads)
    for path in outputs:
        print(f"{path}: {_size(write(path, splats, picture), splats.width * splats.height)}")
    return OK


def _edit(command: Edit) -> int:
    from splat2d import codec, storage
    from splat2d.codec.container import VECTOR
    from splat2d.files import CODED, check_outputs, holds_splats, is_coded, is_page, write
    from splat2d.rendering import render

    if not command.outputs:
        raise InputError("edit: nowhere to write; name a file with -o")
    check_outputs(command.outputs, command.file, splats=True)
    quality, profile, metadata = command.quality, "scalar", None
    if command.file.suffix.lower() == CODED:
        contents = storage.load_s2d(command.file)
        header, metadata, splats = contents.container.header, contents.container.metadata, contents.splats
        if header.profile == VECTOR:
            profile = "vector"
        elif quality is None:
            quality = codec.quality_of(header.quality_index)
    else:
        splats = storage.load(command.file)
    splats = _edited(splats, command)
    data = None
    if any(is_coded(path) or is_page(path) for path in command.outputs):
        data = codec.encode(splats, quality=quality, metadata=metadata, profile=cast(Profile, profile))
    picture = render(splats, device=command.device, threads=command.threads)
    sizes = {path: write(path, splats, picture, data) for path in command.outputs}
    file = next(filter(holds_splats, command.outputs), None)
    report: dict[str, Any] = {
        "splats": len(splats),
        "width": splats.width,
        "height": splats.height,
        "channels": splats.channels,
        "outputs": [{"path": str(path), "bytes": size} for path, size in sizes.items()],
        "next": shlex.join(["splat2d", "info", str(file or command.file)]),
    }
    if command.json:
        print_json(report)
    else:
        pixels = splats.width * splats.height
        print_rows(
            {
                "splats": f"{len(splats)} for {splats.width}x{splats.height} pixels, {splats.channels} channels",
                **{str(path): _size(size, pixels) for path, size in sizes.items()},
                "next": report["next"],
            }
        )
    return OK


def _edited(splats: Splats, command: Edit) -> Splats:
    """The steps of the command, in the order of its help. Raises InputError."""
    from splat2d import editing, storage
    from splat2d.images import load_image

    if command.select is not None:
        splats = editing.select(splats, command.select, outside=command.outside)
    if command.mask is not None:
        bright = load_image(command.mask).mean(axis=2) > 0.5
        splats = editing.select(splats, bright, outside=command.outside)
    if command.crop is not None:
        splats = editing.crop(splats, command.crop)
    if command.flip is not None:
        splats = editing.flip(splats, command.flip)
    if command.rotate is not None:
        splats = editing.rotate(splats, command.rotate, expand=not command.keep_canvas)
    if (command.width, command.height, command.scale) != (None, None, None):
        splats = editing.resize(splats, width=command.width, height=command.height, scale=command.scale)
    if command.translate is not None:
        splats = editing.translate(splats, *command.translate)
    if command.canvas is not None:
        splats = editing.resize_canvas(splats, *command.canvas)
    colors = {name: getattr(command, name) for name in ("exposure", "contrast", "brightness", "saturation")}
    if colors != {"exposure": 0, "contrast": 1, "brightness": 0, "saturation": 1}:
        splats = editing.recolor(splats, **colors)
    if command.overlay is not None:
        splats = editing.overlay(splats, storage.load(command.overlay), x=command.at[0], y=command.at[1])
    if command.cross_fade is not None:
        splats = editing.cross_fade(splats, storage.load(command.cross_fade), command.amount)
    if command.blend is not None:
        splats = editing.blend(splats, storage.load(command.blend), command.amount)
    return splats


def _info(command: Info) -> int:
    from splat2d.files import CODED, read
    from splat2d.inspection import SplatsInfo, describe, describe_coding
    from splat2d.storage import load_s2d

    coding = None
    if command.file.suffix.lower() == CODED:
        contents = load_s2d(command.file)
        size = command.file.stat().st_size
        info, coding = describe(contents.splats), describe_coding(contents, size)
    else:
        info = describe(read(command.file))
        size = command.file.stat().st_size
    pixels = info.width * info.height
    kind = "splats" if isinstance(info, SplatsInfo) else "picture"
    if command.json:
        report = {"kind": kind, "bytes": size, "bpp": 8 * size / pixels, **asdict(info)}
        print_json(report | ({"coding": asdict(coding)} if coding else {}))
        return OK
    rows = {
        "kind": kind,
        "size": f"{info.width}x{info.height} pixels, {info.channels} channels",
        "bytes": _size(size, pixels),
    }
    if isinstance(info, SplatsInfo):
        rows |= {
            "splats": f"{info.splats}, {info.outside} of them centred off the canvas",
            "long axis": f"{_numbers(info.long_axis)} pixels (standard deviation: minimum, quartiles, maximum)",
            "short axis": f"{_numbers(info.short_axis)} pixels",
            "amplitude": f"{_numbers(info.amplitude)} (smallest, largest)",
            "background": _numbers(info.background),
        }
    else:
        rows |= {"values": f"{_numbers(info.range)} (smallest, largest)", "mean": _numbers(info.mean)}
    if coding:
        rows |= _coding_rows(coding, size)
    print_rows(rows)
    return OK


def _coding_rows(coding: CodingInfo, size: int) -> dict[str, str]:
    """What stands in a .s2d file of so many bytes."""
    packets = [chunk for chunk in coding.chunks if chunk.type == "P"]
    splats = max(1, sum(chunk.splats for chunk in packets))
    rows = {
        "format": f".s2d version {coding.version}, profile {coding.profile} ({coding.profile_name}), "
        f"{coding.color_space} values",
    }
    if coding.tile is None:
        rows["quality"] = f"{coding.quality:g} (index {coding.quality_index}), cells of {coding.cell:g} pixels"
    else:
        rows["tiles"] = f"{coding.tile}x{coding.tile} pixels"
    rows["packets"] = ", ".join(f"{chunk.splats} splats in {chunk.bytes} bytes" for chunk in packets)
    for name, bits in coding.bits.items():
        rows[name] = f"{bits} bits, {bits / splats:.2f} per splat, {bits / size / 8:.1%} of the file"
    for chunk in coding.chunks:
        if chunk.type not in "Pt":
            rows[f"chunk {chunk.type}"] = f"{chunk.bytes} bytes"
    # repr, because a text may hold what a terminal would obey
    return rows | {f"text {key!r}": repr(value) for key, value in coding.text.items()}


def _compare(command: Compare) -> int:
    from splat2d.files import read
    from splat2d.images import load_image
    from splat2d.inspection import compare
    from splat2d.rendering import render
    from splat2d.splats import Splats

    reference = load_image(command.photo)
    other = read(command.file)
    picture = render(other, device=command.device, threads=command.threads) if isinstance(other, Splats) else other
    result = compare(picture, reference)
    size, pixels = command.file.stat().st_size, result.width * result.height
    if command.json:
        print_json({"bytes": size, "bpp": 8 * size / pixels, **asdict(result)})
        return OK
    worst = result.worst
    print_rows(
        {
            "bytes": _size(size, pixels),
            "PSNR": f"{result.psnr:.2f} dB",
            "SSIM": f"{result.ssim:.4f}",
            "largest error": f"{result.max_error:.4f}",
            "worst place": f"{worst.psnr:.2f} dB in {worst.width}x{worst.height} pixels at x {worst.x}, y {worst.y}",
        }
    )
    return OK


def _view(command: View) -> int:
    from splat2d import viewing
    from splat2d.atomic import write_bytes
    from splat2d.files import check_outputs, holds_splats, is_page
    from splat2d.images import load_image

    is_address = viewing.is_address(command.source)
    source = Path(command.source.partition("?")[0] if is_address else command.source)
    is_photo = not is_address and not holds_splats(source)
    if command.live and (not is_photo or command.output):
        raise InputError("--live shows the fit of a photo in a browser; give a photo, and no -o")
    if command.splats is not None and not command.live:
        raise InputError("--splats goes with --live")
    if command.output:
        if not is_page(command.output):
            raise InputError(f"{command.output}: view writes a page; choose a name that ends in .html")
        if command.original:
            raise InputError("a page in one file holds no original; leave out --original")
        check_outputs([command.output], source, splats=True)
    image = load_image(source) if is_photo else None
    original = load_image(command.original) if command.original else image
    name = source.name or command.source
    if command.live and image is not None:
        return _view_live(command, name, image, original)
    data = _coded_bytes(command.source) if image is None else _coded_photo(command, image)
    if command.output:
        write_bytes(command.output, viewing.page(data, name))
        print(f"{command.output}: {command.output.stat().st_size} bytes, for {len(data)} bytes of splats")
        return OK
    with viewing.serving(name, data=data, original=original, port=command.port) as address:
        _announce(address, command)
        _wait()
    return OK


def _coded_bytes(source: str) -> bytes:
    """A .s2d file to view, or else the splats of a file as finely as one holds them. Raises InputError."""
    from splat2d import codec, storage, viewing
    from splat2d.files import is_coded

    path = Path(source)
    if viewing.is_address(source):
        data = viewing.download(source)
        contents = codec.read(data, partial=True)
    elif is_coded(path):
        contents = storage.load_s2d(path, partial=True)
        data = path.read_bytes()
    else:
        return codec.encode(storage.load(path), quality=100)
    count = contents.container.header.count
    if len(contents.splats) < count:
        say(f"warning: {source} ends early; it holds {len(contents.splats)} of {count} splats")
    return data


def _coded_photo(command: View, image: NDArray[np.float32]) -> bytes:
    """The .s2d file of a photo [H, W, C]."""
    from splat2d.compression import compress_steps

    config = CompressConfig(preset=command.preset, device=command.device, threads=command.threads)
    result = _follow(compress_steps(image, config), command.quiet)
    return _file_of(result, config, config.profile)


def _view_live(command: View, name: str, image: NDArray[np.float32], original: NDArray[np.float32] | None) -> int:
    """Fits an image [H, W, C] while a page shows it."""
    from splat2d import viewing
    from splat2d.fitting import fit_steps

    config = FitConfig(splats=command.splats, preset=command.preset, device=command.device, threads=command.threads)
    live = viewing.LiveFit()
    with viewing.serving(name, live=live, original=original, port=command.port) as address:
        _announce(address, command)
        result = _follow(live.following(fit_steps(image, config)), command.quiet)
        if not result.interrupted:
            say(f"{result.kept.count} splats, {result.kept.psnr:.2f} dB")
            _wait()
    return OK


def _announce(address: str, command: View) -> None:
    """Prints where the page is, and shows it."""
    import webbrowser

    print(address, flush=True)
    if not command.no_browser and not webbrowser.open(address):
        say("no browser could be started; open the address above")


def _wait() -> None:
    """Until Ctrl-C, which is how a view ends."""
    from threading import Event

    with suppress(KeyboardInterrupt):
        say("Ctrl-C ends the view")
        Event().wait()


def _plot(command: Plot) -> int:
    from splat2d import storage
    from splat2d.files import check_places
    from splat2d.images import load_image
    from splat2d.plotting import SUFFIXES, plot, save_plot

    outputs = command.outputs or (command.file.with_name(f"{command.file.stem}-plot.png"),)
    check_places(outputs, command.file, SUFFIXES)
    image = None if command.photo is None else load_image(command.photo)
    figure = plot(storage.load(command.file), image=image, panels=command.panels)
    for path in outputs:
        save_plot(path, figure)
        print(f"{path}: {path.stat().st_size} bytes")
    return OK


def _device_rows(found: DeviceBenchmark) -> dict[str, str]:
    """Of `splat2d bench --device`."""
    from splat2d.bench import FITS, PICTURES, SMALL_SPLATS, SMALL_STEPS

    rows = {
        "picture": f"{found.width}x{found.height} pixels, {found.splats} fitted splats",
        "device": f"{found.device}, warmed up by a fit",
        "fit": f"{found.psnr:.2f} dB in {found.fit_seconds:.3f} s, {found.near_psnr:.2f} dB in "
        f"{found.near_seconds:.3f} s (medians of {FITS}, wall)",
        "steps": f"{_numbers(found.steps_per_second)} per second (lower quartile, median, upper quartile; wall)",
        "render": f"{_numbers(found.render)} ms, from the host and back (wall)",
        "batch": f"{found.pictures_per_second:.0f} pictures of 28x28 per second, {PICTURES} with {SMALL_SPLATS} splats "
        f"each, {SMALL_STEPS} steps (wall)",
    }
    if found.device_steps_per_second is not None:
        rows["device steps"] = f"{_numbers(found.device_steps_per_second)} per second (events)"
    if found.device_render is not None:
        rows["device render"] = f"{_numbers(found.device_render)} ms, on the device alone (events)"
    if found.memory is not None:
        rows["memory"] = f"{found.memory / 2**20:.0f} MiB on the device"
    return rows


def _bench(command: Bench) -> int:
    from splat2d.bench import measure, measure_device
    from splat2d.engine import engine
    from splat2d.fitting import fit_steps
    from splat2d.images import load_image
    from splat2d.scene import draw

    chosen = engine(command.device)
    config = FitConfig(splats=command.splats, threads=command.threads, device=command.device)
    image = draw() if command.photo is None else load_image(command.photo)
    result = _follow(fit_steps(image, config), command.quiet)
    if result.interrupted:
        raise KeyboardInterrupt
    if chosen.name != "cpu":
        on_device = measure_device(chosen, image, config)
        if command.json:
            print_json(asdict(on_device))
            return OK
        print_rows(_device_rows(on_device))
        return OK
    found = measure(image, result.kept.splats, command.threads)
    if command.json:
        print_json(asdict(found))
        return OK
    print_rows(
        {
            "picture": f"{found.width}x{found.height} pixels, {found.splats} fitted splats, {found.pairs} pairs",
            "instructions": found.instruction_set,
            "one step": f"{_numbers(found.step)} ns per pair, one thread (lower quartile, median, upper quartile)",
            "render": f"{_numbers(found.render)} ns per pair, one thread",
            "numpy.exp": f"{_numbers(found.numpy_exp)} ns per value",
            "step / exp": _numbers(found.step_ratio),
            "render / exp": _numbers(found.render_ratio),
            "speed-up": f"{_numbers(found.speedup)} of a step on {found.threads} threads",
        }
    )
    return OK


def _demo(command: Demo) -> int:
    from splat2d import codec, demo, scene
    from splat2d.atomic import write_bytes
    from splat2d.compression import compress_steps
    from splat2d.images import save_image
    from splat2d.metrics import psnr
    from splat2d.rendering import render

    config = CompressConfig(preset=command.preset, device=command.device, threads=command.threads)
    folder = command.output
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder with -o")
    folder.mkdir(parents=True, exist_ok=True)
    image = scene.draw()
    save_image(folder / "original.png", image)
    result = _follow(compress_steps(image, config), command.quiet)
    if result.interrupted:
        say(WRITING.format(last=result.last))
    data = _file_of(result, config, config.profile)
    splats = codec.decode(data)
    picture = render(splats, device=command.device, threads=command.threads)
    decibels = psnr(picture, image)
    jpeg, of_jpeg = demo.jpeg(image, decibels)
    write_bytes(folder / "demo.s2d", data)
    save_image(folder / "fit.png", picture)
    write_bytes(folder / "demo.jpg", jpeg)
    save_image(folder / "zoom.png", demo.zoom(splats, image))
    save_image(folder / "splats.png", demo.ellipses(splats, picture))
    original, pixels = (folder / "original.png").stat().st_size, splats.width * splats.height
    print_rows(
        {
            str(folder / "original.png"): f"{_size(original, pixels)}: the picture, drawn in code",
            str(folder / "demo.s2d"): f"{_size(len(data), pixels)}, {decibels:.2f} dB: {len(splats)} splats, "
            f"{result.seconds:.1f} s",
            str(folder / "demo.jpg"): f"{_size(len(jpeg), pixels)}, {of_jpeg:.2f} dB: JPEG as close to the original",
            str(folder / "fit.png"): "drawn from demo.s2d",
            str(folder / "zoom.png"): f"{demo.ZOOM}x larger: the splats beside bicubic",
            str(folder / "splats.png"): "the splats as ellipses",
            "next": shlex.join(["splat2d", "info", str(folder / "demo.s2d")]),
        }
    )
    return INTERRUPTED if result.interrupted else OK


@dataclass(frozen=True)
class _Followed:
    """What came of a fit: the state to keep, the last one, the last file, if any, and whether Ctrl-C ended it."""

    kept: Progress
    last: Progress
    file: Compressed | None
    interrupted: bool

    @property
    def steps(self) -> int:
        return self.file.steps if self.file else self.kept.step

    @property
    def seconds(self) -> float:
        return self.file.seconds if self.file else self.kept.seconds


def _follow(events: Iterator[Progress | Compressed], quiet: bool) -> _Followed:
    """Runs a fit to its end, or to Ctrl-C: then its best state so far counts, or the last if none has all its splats.

    A Ctrl-C before the first state, or after the end, is passed on as KeyboardInterrupt.
    """
    from splat2d.fitting import Progress

    kept = last = file = None
    interrupted = False
    try:
        with _progress_bar(quiet) as show:
            for event in events:
                if not isinstance(event, Progress):
                    file = event
                    continue
                last = event
                if kept is None or event.best or not kept.best:
                    kept = event
                show(event)
    except KeyboardInterrupt:
        if kept is None or last is None:
            raise
        interrupted = True
    assert kept is not None and last is not None  # a fit has at least one step
    return _Followed(kept, last, file, interrupted)


@contextmanager
def _progress_bar(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Yields what shows an event on stderr; nothing is shown where stderr is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda event: None
        return
    from rich.console import Console

    from splat2d.progress import bar

    with bar(Console(stderr=True)) as show:
        yield show


def _size(size: int, pixels: int) -> str:
    return f"{size} bytes, {8 * size / pixels:.3f} bits per pixel"


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.0f}" if value >= 1000 else f"{value:.3g}" for value in values)


COMMANDS: dict[str, tuple[type, Callable[[Any], int]]] = {
    "fit": (Fit, _fit),
    "render": (Render, _render),
    "encode": (Encode, _encode),
    "decode": (Decode, _decode),
    "edit": (Edit, _edit),
    "info": (Info, _info),
    "compare": (Compare, _compare),
    "plot": (Plot, _plot),
    "view": (View, _view),
    "diffusion": (Diffusion, run_diffusion),
    "bench": (Bench, _bench),
    "demo": (Demo, _demo),
}
