"""What each choice of the splat models brings: python benchmarks/diffusion_ablations.py DATA.npz --seconds 60

Trains every variant for the same time or, with --steps, for as many steps, draws samples of each and judges them by the
same nets. A JSON object per variant goes to --output as it is done, a table to stdout at the end. --part 0/2 and 1/2
share the work of two GPUs. --compact is for pictures as small as scikit-learn's digits, on a CPU.
"""

import argparse
import json
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusion import SMALL_ENCODER
from machine import commit

from splat2d.diffusion import layouts
from splat2d.diffusion.encoder import Encoder, EncoderConfig, encoded, train_encoder
from splat2d.diffusion.evaluation import EvaluationConfig, train_judges
from splat2d.diffusion.grids import save_sheet
from splat2d.diffusion.layouts import GEOMETRY, SplatLayout
from splat2d.diffusion.metrics import frechet_distance, neighbourhoods
from splat2d.diffusion.model import SampleConfig, generate, load_model
from splat2d.diffusion.network import NetworkConfig
from splat2d.diffusion.pictures import Pictures, load_pictures
from splat2d.diffusion.samples import labels_like
from splat2d.diffusion.splatset import BuildConfig, SplatSet, build, fit_tokens, floor_psnr, rendered
from splat2d.diffusion.training import MODEL, TrainConfig, train
from splat2d.torch import z_order


@dataclass(frozen=True)
class Variant:
    build: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] | None = None  # splats by an encoder of this configuration instead of fits
    finer: int = 1  # divides the patch of pixels
    order: str = "slots"  # of the splats: slots, shuffled, morton (of the fits), random (fits from random starts)


VARIANTS = {
    "encoder": Variant(encoder={}),
    "encoder, shuffled": Variant(encoder={}, order="shuffled"),
    "encoder, no slot embedding": Variant(encoder={}, network={"slots": False}),
    "encoder, shuffled, no slot embedding": Variant(encoder={}, order="shuffled", network={"slots": False}),
    "encoder, Morton order": Variant(encoder={}, order="morton"),
    "encoder, predict x": Variant(encoder={}, train={"prediction": "x"}),
    "encoder, render loss 5": Variant(encoder={}, train={"render": 5.0}),
    "encoder, render loss 20": Variant(encoder={}, train={"render": 20.0}),
    "encoder, squares of 2": Variant(encoder={}, network={"group": 2}),
    "encoder, not settled": Variant(encoder={"settling": 0}),
    "encoder, settled for 100 steps": Variant(encoder={"settling": 100}),
    "encoder, settled for 400 steps": Variant(encoder={"settling": 400}),
    "encoder, noise 0.2": Variant(encoder={"noise": 0.2}),
    "encoder, noise 0.03": Variant(encoder={"noise": 0.03}),
    "encoder, one pass": Variant(encoder={"passes": 1}),
    "pixels": Variant(train={"tokens": "pixels"}),
    "pixels, predict x": Variant(train={"tokens": "pixels", "prediction": "x"}),
    "pixels, half the patch": Variant(train={"tokens": "pixels"}, finer=2),
    "fits": Variant(),
    "fits, predict x": Variant(train={"prediction": "x"}),
    "fits, anchor 0.02": Variant(build={"anchor": 0.02}),
    "fits, anchor 0": Variant(build={"anchor": 0.0}),
    "fits, render loss 20": Variant(train={"render": 20.0}),
    "fits, no slot embedding": Variant(network={"slots": False}),
    "fits, shuffled": Variant(order="shuffled"),
    "fits, shuffled, no slot embedding": Variant(order="shuffled", network={"slots": False}),
    "fits, Morton order": Variant(order="morton"),
    "fits, random starts": Variant(order="random"),
    "fits, random starts, Morton order": Variant(order="random morton"),
}


@dataclass(frozen=True)
class Base:
    """What variants change."""

    splats: int
    patch: int
    encoder: EncoderConfig
    train: TrainConfig
    judges: EvaluationConfig


USUAL = Base(100, 4, EncoderConfig(passes=4, settling=220), TrainConfig(), EvaluationConfig())
COMPACT = Base(
    16,
    2,
    SMALL_ENCODER,
    TrainConfig(network=NetworkConfig(64, 3, 2), batch=64, rate=3e-3, average=0.998),
    EvaluationConfig.compact(),
)
DRAWN = [(25, 1.0), (25, 1.5), (25, 2.0), (4, 1.5), (4, 2.0)]  # steps of heun, guidance


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=60, help="of training per variant")
    parser.add_argument("--steps", type=int, default=0, help="of training, instead of --seconds: for shared GPUs")
    parser.add_argument("--encoder-seconds", type=float, default=0, help="of training an encoder; by its steps if 0")
    parser.add_argument("--encoder", type=Path, help="a model whose encoder to take where it is trained as usual")
    parser.add_argument("--splats", type=int, help="of a picture: 100, or 16 with --compact")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--compact", action="store_true", help="small nets")
    parser.add_argument("--only", nargs="*", default=[*VARIANTS], choices=[*VARIANTS])
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judges", type=Path, help="folder that keeps the nets")
    parser.add_argument("--sheets", type=Path, help="folder for the first 100 samples of each variant")
    parser.add_argument("--models", type=Path, help="folder for the models")
    parser.add_argument("--output", type=Path, default=Path("ablations.jsonl"))
    options = parser.parse_args()
    part, parts = map(int, options.part.split("/"))
    base = COMPACT if options.compact else USUAL
    base = replace(base, splats=options.splats or base.splats)
    layouts.LARGEST = 8.0  # splats in another order are far from their slots
    pictures = load_pictures(options.data)
    began = time.perf_counter()
    real = [pictures.images[pictures.test == test] for test in (False, True)]
    labels = [pictures.labels[pictures.test == test] for test in (False, True)]
    judges = train_judges(real[0], labels[0], base.judges, device=options.device, folder=options.judges)
    assert judges.second is not None
    compared = np.full(len(pictures), True) if options.compact else pictures.test  # digits to test are too few
    about = {"accuracies": [net.accuracy(real[1], labels[1]) for net in (judges.features, judges.second)]}
    print(json.dumps({"judges": judges.digests, **about, "seconds": time.perf_counter() - began}), flush=True)
    features = judges.features.features(pictures.images[compared])
    encoders: dict[str, Encoder] = {}  # by what their training changes
    if options.encoder:
        usual = load_model(options.encoder).encoder
        assert usual is not None and usual.layout.count == base.splats, "an encoder of other splats"
        encoders[repr({})] = usual
    sets: dict[str, SplatSet] = {}
    rows = []
    for name in options.only[part::parts]:
        variant = VARIANTS[name]
        torch._dynamo.reset()  # it keeps only so many versions of a function
        began = time.perf_counter()
        key = repr((variant.build, variant.encoder, variant.order))
        if key not in sets:
            sets[key] = splats_of(pictures, base, variant, encoders, options.device, options.encoder_seconds)
        splats = sets[key]
        row = {"name": name, "commit": commit(), "seed": options.seed, "setup": round(time.perf_counter() - began)}
        row |= trained_and_judged(splats, base, name, options, judges, features, compared)
        rows.append(row)
        with options.output.open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
    columns = [name for name in rows[0] if name != "config"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for row in rows:
        cells = (f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in columns)
        print(f"| {' | '.join(cells)} |")


def splats_of(
    pictures: Pictures, base: Base, variant: Variant, encoders: dict[str, Encoder], device: str, seconds: float
) -> SplatSet:
    config = BuildConfig(base.splats, **variant.build)
    other = "random" in variant.order or variant.encoder is not None
    splats = build(pictures, replace(config, steps=1) if other else config, device=device)
    tokens = splats.tokens.float()
    layout = splats.layout
    if variant.encoder is not None:
        images = torch.from_numpy(pictures.images).to(device)
        changed = {name: value for name, value in variant.encoder.items() if name != "settling"}
        if repr(changed) not in encoders:
            known = images[torch.from_numpy(splats.part(False)).to(device)]
            settings = replace(base.encoder, **changed)
            if seconds:
                settings = replace(settings, steps=steps_within(seconds, known, layout, settings))
            encoders[repr(changed)] = train_encoder(known, layout, settings, anchor=config.anchor)
            print(f"encoder: {settings.steps} steps", flush=True)
        encoder = encoders[repr(changed)].to(device)
        encoder.config = replace(encoder.config, settling=variant.encoder.get("settling", base.encoder.settling))
        tokens = encoded(encoder, images).cpu()
    generator = torch.Generator().manual_seed(0)
    if "random" in variant.order:
        # Splats anywhere, of the sizes of the slots: as fits start that know nothing of slots.
        start = torch.zeros_like(tokens)
        anywhere = torch.rand(*tokens.shape[:2], 2, generator=generator)
        start[..., :2] = (anywhere - layout.positions()) * torch.tensor([layout.width, layout.height]) / layout.sigma
        start[..., GEOMETRY:] = 0.2 * torch.rand(*tokens.shape[:2], layout.channels, generator=generator)
        parts = []
        for first in range(0, len(tokens), 20_000):
            some = slice(first, first + 20_000)
            images = torch.from_numpy(pictures.images[some]).to(device).float() / 255
            loose = replace(config, anchor=0.0)
            parts.append(fit_tokens(images, layout, loose, start=start[some].to(device)).cpu())
        tokens = torch.cat(parts)
    fitted = layout.splats(tokens)
    order = None
    if variant.order == "shuffled":
        order = torch.rand(tokens.shape[:2], generator=generator).argsort(1)
    elif "morton" in variant.order:
        order = z_order(fitted.means, fitted.log_cholesky, height=layout.height, width=layout.width)
    if order is not None:
        moved = [
            t.gather(1, order[..., None].expand(t.shape)) for t in (fitted.means, fitted.log_cholesky, fitted.colors)
        ]
        fitted = type(fitted)(*moved, layout.width, layout.height, fitted.background)
        tokens = layout.tokens(fitted)
    return replace(splats, tokens=tokens.half(), config=config)


def steps_within(seconds: float, images: torch.Tensor, layout: SplatLayout, config: EncoderConfig) -> int:
    """How many steps of an encoder's training take so long, found by a short one."""
    clock = []

    def told(step: int) -> None:
        if step in (50, 150):
            torch.cuda.synchronize() if images.is_cuda else None
            clock.append(time.perf_counter())

    train_encoder(images, layout, replace(config, steps=150), progress=told)
    return max(500, round(100 * seconds / (clock[1] - clock[0])))


def trained_and_judged(
    splats: SplatSet,
    base: Base,
    name: str,
    options: argparse.Namespace,
    judges: Any,
    features: np.ndarray,
    compared: np.ndarray,
) -> dict[str, Any]:
    device, variant = options.device, VARIANTS[name]
    network = replace(base.train.network, **variant.network)
    config = replace(base.train, network=network, patch=base.patch // variant.finer, seed=options.seed, **variant.train)
    with tempfile.TemporaryDirectory() as folder:
        steps = options.steps
        if not steps:
            trial = replace(config, steps=300)
            events = [*train(splats, trial, Path(folder) / "trial", device=device, report_every=100)]
            steps = max(1000, round(options.seconds * events[1].pictures_per_second / config.batch))
        config = replace(config, steps=steps)
        events = [*train(splats, config, Path(folder) / "run", device=device, save_every=10**9)]
        model = load_model(Path(folder) / "run" / MODEL, device)
        if options.models:
            shutil.copy(Path(folder) / "run" / MODEL, options.models / f"{name}.safetensors")
    result: dict[str, Any] = {"steps": steps, "seconds": round(events[-1].seconds, 1), "loss": events[-1].loss}
    shown = rendered(splats.layout, splats.tokens[torch.from_numpy(compared)], device)
    result["floor_psnr"] = floor_psnr(splats, True, device)
    result["floor_fd"] = frechet_distance(judges.features.features(shown), features)
    classes = labels_like(options.samples, splats.pictures.labels[splats.part(False)])
    for count, guidance in DRAWN:
        began = time.perf_counter()
        tokens = generate(model, classes, SampleConfig(count, "heun", guidance))
        images = rendered(model.layout, tokens, device)
        seconds = time.perf_counter() - began
        found = judges.features.features(images)
        overlap = neighbourhoods(torch.from_numpy(found).to(device), torch.from_numpy(features).to(device))
        drawn = f"{count}_{guidance}"
        result |= {f"fd_{drawn}": frechet_distance(found, features), f"sample_seconds_{drawn}": round(seconds, 1)}
        result |= {f"accuracy_{drawn}": judges.second.accuracy(images, classes.numpy())}
        result |= {f"precision_{drawn}": overlap.precision, f"recall_{drawn}": overlap.recall}
    if options.sheets:
        save_sheet(options.sheets / f"{name}.png", images[:100], 10)
    result["config"] = asdict(config)
    return result


if __name__ == "__main__":
    main()
