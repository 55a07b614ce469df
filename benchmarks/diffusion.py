"""Splats against pixels, one transformer, equal time: python benchmarks/diffusion.py DATA.npz -o FOLDER --seconds 1200

Builds the set of splats (kept in FOLDER), trains the models for so many seconds each, draws 10,000 samples of each and
judges them by the same nets. --tokens splats and --tokens pixels in two processes share the work of two GPUs once the
set is there (--tokens none builds it). Of the numbers of steps and weights of guidance, those of the least FD are
judged in full. Everything lands in FOLDER: models, reports, sheets of the first 100 samples.
"""

import argparse
import json
import time
from dataclasses import asdict, replace
from itertools import product
from operator import itemgetter
from pathlib import Path

import numpy as np
from machine import commit

from splat2d.diffusion.encoder import EncoderConfig
from splat2d.diffusion.evaluation import EvaluationConfig, evaluate, some_of, train_judges
from splat2d.diffusion.grids import save_sheet
from splat2d.diffusion.metrics import frechet_distance
from splat2d.diffusion.model import SampleConfig, generate, load_model
from splat2d.diffusion.network import NetworkConfig
from splat2d.diffusion.pictures import load_pictures
from splat2d.diffusion.samples import labels_like
from splat2d.diffusion.splatset import (
    BuildConfig,
    SplatSet,
    build,
    build_by,
    floor_psnr,
    load_splats,
    rendered,
    save_splats,
)
from splat2d.diffusion.training import MODEL, TrainConfig, train

# Small enough to train on a CPU.
SMALL_ENCODER = EncoderConfig(
    width=48, depth=1, heads=3, passes=3, features=32, steps=1000, batch=128, rate=2e-3, settling=220
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("diffusion"))
    parser.add_argument("--tokens", nargs="*", default=["splats", "pixels"], choices=["splats", "pixels", "none"])
    parser.add_argument("--seconds", type=float, default=1200, help="of training, each")
    parser.add_argument("--splats", type=int, help="of a picture; a quarter of its pixels")
    parser.add_argument("--encoder-steps", type=int, help="4000, with --compact 1000")
    parser.add_argument("--passes", type=int, help="of the encoder's network; 1, with --compact 3")
    parser.add_argument("--encoder", type=Path, help="a model whose encoder to take, instead of training one")
    parser.add_argument("--settling", type=int, help="steps of what an encoder gives; 80, with --compact 220")
    parser.add_argument("--fit", action="store_true", help="fit each picture instead of encoding it")
    parser.add_argument("--width", type=int, default=NetworkConfig().width)
    parser.add_argument("--depth", type=int, default=NetworkConfig().depth)
    parser.add_argument("--heads", type=int, default=NetworkConfig().heads)
    parser.add_argument("--group", type=int, default=NetworkConfig().group, help="of slots; patches stay alone")
    parser.add_argument("--batch", type=int, default=TrainConfig().batch)
    parser.add_argument("--rate", type=float, default=TrainConfig().rate)
    parser.add_argument("--middle", type=float, default=TrainConfig().middle)
    parser.add_argument("--render", type=float, default=TrainConfig().render, help="of splats")
    parser.add_argument("--prediction", default=TrainConfig().prediction, choices=["v", "x"])
    parser.add_argument("--flip", action="store_true")
    parser.add_argument("--patch", type=int, default=4)
    parser.add_argument("--steps", type=int, nargs="*", default=[3, 4, 5, 7, 10, 25], help="of heun")
    parser.add_argument("--guidance", type=float, nargs="*", default=[1.0, 1.25, 1.5, 2.0])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compact", action="store_true", help="a small encoder, and small nets to judge by: for a CPU")
    parser.add_argument("--judge-steps", type=int, help="of training of each net that judges; 150 to 2000 by its kind")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)

    splats = the_set(options)
    for tokens in options.tokens:
        if tokens != "none":
            trained_and_judged(splats, tokens, options)


def the_set(options: argparse.Namespace) -> SplatSet:
    path = options.output / "splats.safetensors"
    if path.exists():
        return load_splats(path)
    began = time.perf_counter()
    pictures = load_pictures(options.data)
    if options.encoder:
        encoder = load_model(options.encoder).encoder
        assert encoder, "the model has none"
        if options.settling is not None:
            encoder.config = replace(encoder.config, settling=options.settling)
        splats = build_by(encoder, pictures, device=options.device)
    else:
        usual = SMALL_ENCODER if options.compact else EncoderConfig()
        asked = {"steps": options.encoder_steps, "passes": options.passes, "settling": options.settling}
        config = replace(usual, **{name: value for name, value in asked.items() if value is not None})
        settings = BuildConfig(options.splats, encoder=None if options.fit else config)
        splats = build(pictures, settings, device=options.device)
    seconds = time.perf_counter() - began
    save_splats(path, splats)
    floors = {"train": floor_psnr(splats, False, options.device), "test": floor_psnr(splats, True, options.device)}
    said = {"set": str(path), "commit": commit(), "build_seconds": seconds, "floor_psnr": floors}
    said |= asdict(splats.config)
    (options.output / "set.json").write_text(json.dumps(said, indent=2) + "\n")
    print(json.dumps(said), flush=True)
    return splats


def trained_and_judged(splats: SplatSet, tokens: str, options: argparse.Namespace) -> None:
    device, folder = options.device, options.output / tokens
    group = options.group if tokens == "splats" else 1
    network = NetworkConfig(options.width, options.depth, options.heads, group=group)
    config = TrainConfig(
        tokens=tokens,
        patch=options.patch,
        network=network,
        prediction=options.prediction,
        batch=options.batch,
        rate=options.rate,
        middle=options.middle,
        render=options.render if tokens == "splats" else 0.0,
        flip=options.flip,
        seed=options.seed,
    )
    steps_file = options.output / f"{tokens}-steps.json"
    if not steps_file.exists():
        trial = [*train(splats, replace(config, steps=300), folder / "trial", device=device, report_every=100)]
        steps = max(300, round(options.seconds * trial[1].pictures_per_second / config.batch))
        steps_file.write_text(json.dumps(steps))
    config = replace(config, steps=json.loads(steps_file.read_text()))
    began = time.perf_counter()
    events = [*train(splats, config, folder, device=device, report_every=500, save_every=5000)]
    said = {"tokens": tokens, "steps": config.steps, "train_seconds": time.perf_counter() - began}
    print(json.dumps(said | {"last": asdict(events[-1]) if events else None}), flush=True)

    model = load_model(folder / MODEL, device)
    data, known, held_out = splats.pictures, splats.part(False), splats.part(True)
    labelled = bool(data.names)
    real = (
        *(data.images[known], data.labels[known] if labelled else None),
        *(data.images[held_out], data.labels[held_out] if labelled else None),
    )
    settings = judging(options)
    judges = train_judges(*real[:2], settings, device=device, folder=options.output / "judges")
    test = judges.features.features(real[2])
    labels = labels_like(options.samples, data.labels[known])
    tries = []
    for steps, guidance in product(options.steps, options.guidance):
        began = time.perf_counter()
        drawn = generate(model, labels, SampleConfig(steps, "heun", guidance, seed=options.seed))
        pictures = rendered(model.layout, drawn, device)
        seconds = time.perf_counter() - began
        finite = float(drawn.isfinite().flatten(1).all(1).float().mean())
        distance = frechet_distance(judges.features.features(pictures), test)
        tries.append((distance, steps, guidance, pictures, finite, seconds))
        print(json.dumps({"tokens": tokens, "steps": steps, "guidance": guidance, "frechet": distance}), flush=True)
    _, best, guidance, images, finite, seconds = min(tries, key=itemgetter(0))
    save_sheet(options.output / f"{tokens}.png", np.ascontiguousarray(images[:100]), 10)

    report = evaluate(
        images,
        labels.numpy() if labelled else None,
        *real,
        floor=rendered(splats.layout, splats.tokens[held_out], device),
        fitted=rendered(splats.layout, splats.tokens[some_of(known, options.samples, options.seed)], device),
        finite=finite,
        config=settings,
        judges=judges,
        device=device,
    )
    tried = ", ".join(f"{distance:.3f} at {steps} and {weight:g}" for distance, steps, weight, *_ in tries)
    notes = (
        f"{tokens}, {best} steps of heun, guidance {guidance:g}: {options.samples} samples in {seconds:.1f} s",
        f"FD of other steps and guidance: {tried}",
        f"{config.steps} steps of training in {said['train_seconds']:.0f} s, commit {commit()}",
    )
    report = replace(report, notes=(*report.notes, *notes))
    (options.output / f"{tokens}.md").write_text(report.to_markdown())
    (options.output / f"{tokens}.json").write_text(report.to_json() + "\n")
    print(report.to_markdown(), flush=True)


def judging(options: argparse.Namespace) -> EvaluationConfig:
    usual = EvaluationConfig.compact() if options.compact else EvaluationConfig()
    if not options.judge_steps:
        return usual
    nets = {name: getattr(usual, name) for name in ("features", "second", "learner")}
    return replace(usual, **{name: replace(net, steps=options.judge_steps) for name, net in nets.items()})


if __name__ == "__main__":
    main()
