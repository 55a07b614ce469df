"""What each choice of the splat models brings: python benchmarks/diffusion_ablations.py DATA.npz --seconds 60

Trains every variant for the same time, draws 10,000 samples of each and judges them by the same nets. A JSON object per
variant goes to --output as it is done, a table to stdout at the end. --part 0/2 and 1/2 share the work of two GPUs.
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
from machine import commit

from splat2d.diffusion import layouts
from splat2d.diffusion.encoder import Encoder, EncoderConfig, encoded, train_encoder
from splat2d.diffusion.evaluation import train_judges
from splat2d.diffusion.grids import save_sheet
from splat2d.diffusion.layouts import GEOMETRY, SplatLayout
from splat2d.diffusion.metrics import frechet_distance, neighbourhoods
from splat2d.diffusion.model import SampleConfig, generate, load_model
from splat2d.diffusion.network import NetworkConfig
from splat2d.diffusion.pictures import Pictures, load_pictures
from splat2d.diffusion.splatset import BuildConfig, SplatSet, build, fit_tokens, floor_psnr, rendered
from splat2d.diffusion.training import MODEL, TrainConfig, train
from splat2d.torch import z_order


@dataclass(frozen=True)
class Variant:
    build: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] | None = None  # splats by an encoder of this configuration instead of fits
    order: str = "slots"  # of the splats: slots, shuffled, morton (of the fits), random (fits from random starts)


VARIANTS = {
    "64 splats": Variant(build={"splats": 64}),
    "pixels, patch 4": Variant(train={"tokens": "pixels"}),
    "encoder, 100 splats": Variant(build={"splats": 100}, encoder={}),
    "encoder, 100 splats, noise 0.2": Variant(build={"splats": 100}, encoder={"noise": 0.2}),
    "encoder, 100 splats, noise 0.03": Variant(build={"splats": 100}, encoder={"noise": 0.03}),
    "encoder, 100 splats, one pass": Variant(build={"splats": 100}, encoder={"passes": 1}),
    "encoder, 100 splats, not settled": Variant(build={"splats": 100}, encoder={"settling": 0}),
    "encoder, 100 splats, settled for 100 steps": Variant(build={"splats": 100}, encoder={"settling": 100}),
    "encoder, 100 splats, settled for 400 steps": Variant(build={"splats": 100}, encoder={"settling": 400}),
    "encoder, 100 splats, render loss 20": Variant(build={"splats": 100}, encoder={}, train={"render": 20.0}),
    "encoder, 100 splats, predict x": Variant(build={"splats": 100}, encoder={}, train={"prediction": "x"}),
    "encoder, 100 splats, squares of 2": Variant(
        build={"splats": 100}, encoder={}, train={"network": NetworkConfig(group=2)}
    ),
    "encoder, 100 splats, no slot embedding": Variant(
        build={"splats": 100}, encoder={}, train={"network": NetworkConfig(slots=False)}
    ),
    "encoder, 100 splats, shuffled": Variant(build={"splats": 100}, encoder={}, order="shuffled"),
    "encoder, 100 splats, shuffled, no slot embedding": Variant(
        build={"splats": 100}, encoder={}, order="shuffled", train={"network": NetworkConfig(slots=False)}
    ),
    "encoder, 100 splats, Morton order": Variant(build={"splats": 100}, encoder={}, order="morton"),
    "encoder, 64 splats": Variant(build={"splats": 64}, encoder={}),
    "100 splats, anchor 0.02": Variant(build={"splats": 100, "anchor": 0.02}),
    "predict x": Variant(train={"prediction": "x"}),
    "pixels, patch 2": Variant(train={"tokens": "pixels", "patch": 2}),
    "100 splats": Variant(build={"splats": 100}),
    "anchor 0.02": Variant(build={"anchor": 0.02}),
    "render loss 20": Variant(train={"render": 20.0}),
    "anchor 0": Variant(build={"anchor": 0.0}),
    "pixels, patch 4, predict x": Variant(train={"tokens": "pixels", "prediction": "x"}),
    "49 splats": Variant(build={"splats": 49}),
    "no slot embedding": Variant(train={"network": NetworkConfig(slots=False)}),
    "shuffled, no slot embedding": Variant(order="shuffled", train={"network": NetworkConfig(slots=False)}),
    "shuffled": Variant(order="shuffled"),
    "Morton order": Variant(order="morton"),
    "random starts": Variant(order="random"),
    "random starts, Morton order": Variant(order="random morton"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seconds", type=float, default=60, help="of training per variant")
    parser.add_argument("--steps", type=int, default=0, help="of training, instead of --seconds: for shared GPUs")
    parser.add_argument("--encoder-seconds", type=float, default=0, help="of training an encoder; by its steps if 0")
    parser.add_argument("--encoder", type=Path, help="a model whose encoder to take where it is trained as usual")
    parser.add_argument("--samples", type=int, default=10_000)
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
    layouts.LARGEST = 8.0  # splats in another order are far from their slots
    pictures = load_pictures(options.data)
    began = time.perf_counter()
    real = [pictures.images[pictures.test == test] for test in (False, True)]
    labels = [pictures.labels[pictures.test == test] for test in (False, True)]
    judges = train_judges(real[0], labels[0], device=options.device, folder=options.judges)
    assert judges.second is not None
    about = {"accuracies": [net.accuracy(real[1], labels[1]) for net in (judges.features, judges.second)]}
    print(json.dumps({"judges": judges.digests, **about, "seconds": time.perf_counter() - began}), flush=True)
    features = judges.features.features(real[1])
    usual = load_model(options.encoder).encoder if options.encoder else None
    sets: dict[str, SplatSet] = {}
    rows = []
    for name in options.only[part::parts]:
        variant = VARIANTS[name]
        torch._dynamo.reset()  # it keeps only so many versions of a function
        began = time.perf_counter()
        key = repr((variant.build, variant.encoder, variant.order))
        if key not in sets:
            sets[key] = splats_of(pictures, variant, usual, options.device, options.encoder_seconds)
        splats = sets[key]
        row = {"name": name, "commit": commit(), "seed": options.seed, "setup": round(time.perf_counter() - began)}
        row |= trained_and_judged(splats, name, options, judges, features, real, labels)
        rows.append(row)
        with options.output.open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
    columns = [name for name in rows[0] if name != "config"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for row in rows:
        cells = (f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in columns)
        print(f"| {' | '.join(cells)} |")


def splats_of(pictures: Pictures, variant: Variant, usual: Encoder | None, device: str, seconds: float) -> SplatSet:
    config = BuildConfig(**variant.build)
    other = "random" in variant.order or variant.encoder is not None
    splats = build(pictures, replace(config, steps=1) if other else config, device=device)
    tokens = splats.tokens.float()
    layout = splats.layout
    if variant.encoder is not None:
        images = torch.from_numpy(pictures.images).to(device)
        if usual is not None and variant.encoder.keys() <= {"settling"} and usual.layout == layout:
            encoder = usual.to(device)
            encoder.config = replace(encoder.config, **{"settling": EncoderConfig().settling, **variant.encoder})
        else:
            known = images[torch.from_numpy(splats.part(False)).to(device)]
            settings = EncoderConfig(**variant.encoder)
            if seconds:
                settings = replace(settings, steps=steps_within(seconds, known, layout, settings))
            encoder = train_encoder(known, layout, settings, anchor=config.anchor)
            print(f"encoder: {settings.steps} steps", flush=True)
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
    name: str,
    options: argparse.Namespace,
    judges: Any,
    features: np.ndarray,
    real: list[np.ndarray],
    labels: list[np.ndarray],
) -> dict[str, Any]:
    device = options.device
    config = TrainConfig(seed=options.seed, **VARIANTS[name].train)
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
    shown = rendered(splats.layout, splats.tokens[torch.from_numpy(splats.part(True))], device)
    result["floor_psnr"] = floor_psnr(splats, True, device)
    result["floor_fd"] = frechet_distance(judges.features.features(shown), features)
    classes = torch.arange(options.samples) % model.network.classes
    for guidance in (1.0, 1.5):
        began = time.perf_counter()
        tokens = generate(model, classes, SampleConfig(25, "heun", guidance))
        images = rendered(model.layout, tokens, device)
        seconds = time.perf_counter() - began
        found = judges.features.features(images)
        overlap = neighbourhoods(torch.from_numpy(found).to(device), torch.from_numpy(features).to(device))
        accuracy = judges.second.accuracy(images, classes.numpy())
        result |= {f"fd_{guidance}": frechet_distance(found, features), f"accuracy_{guidance}": accuracy}
        result |= {f"precision_{guidance}": overlap.precision, f"recall_{guidance}": overlap.recall}
    if options.sheets:
        save_sheet(options.sheets / f"{name}.png", images[:100], 10)
    result["sample_seconds"] = round(seconds, 1)
    result["config"] = asdict(config)
    return result


if __name__ == "__main__":
    main()
