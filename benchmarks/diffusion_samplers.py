"""What samplers, steps, guidance and schedule do to the samples of one model:
python benchmarks/diffusion_samplers.py MODEL DATA --judges FOLDER

Every row draws the same number of samples from the same noise and judges them by the same nets.
"""

import argparse
import time
from pathlib import Path

import torch
from machine import commit

from splat2d.diffusion.evaluation import EvaluationConfig, train_judges
from splat2d.diffusion.metrics import frechet_distance, neighbourhoods
from splat2d.diffusion.model import SampleConfig, generate, load_model
from splat2d.diffusion.pictures import load_pictures
from splat2d.diffusion.samples import labels_like
from splat2d.diffusion.splatset import rendered

ROWS = [
    *(SampleConfig(steps, sampler) for sampler in ("euler", "dpm++") for steps in (10, 25, 50)),
    *(SampleConfig(steps, "heun") for steps in (5, 13, 25)),
    *(SampleConfig(guidance=guidance) for guidance in (1.0, 1.25, 1.75, 2.0, 3.0)),
    *(SampleConfig(shift=shift) for shift in (0.5, 0.7, 1.5, 2.0)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="the pictures that it was trained on, and test pictures")
    parser.add_argument("--judges", type=Path)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--compact", action="store_true", help="small nets to judge by")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    device = options.device
    model, pictures = load_model(options.model, device), load_pictures(options.data)
    settings = EvaluationConfig.compact() if options.compact else EvaluationConfig()
    train = ~pictures.test
    judges = train_judges(
        pictures.images[train], pictures.labels[train], settings, device=device, folder=options.judges
    )
    assert judges.second is not None
    real = judges.features.features(pictures.images[pictures.test])
    labels = labels_like(options.samples, pictures.labels[train])
    print(f"Commit {commit()}, {options.samples} samples, judges {judges.digests}\n")
    print("| sampler | steps | guidance | shift | FD | precision | recall | second accuracy | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in ROWS:
        began = time.perf_counter()
        images = rendered(model.layout, generate(model, labels, row), device)
        seconds = time.perf_counter() - began
        found = judges.features.features(images)
        overlap = neighbourhoods(torch.from_numpy(found).to(device), torch.from_numpy(real).to(device))
        accuracy = judges.second.accuracy(images, labels.numpy())
        print(
            f"| {row.sampler} | {row.steps} | {row.guidance:g} | {row.shift:g} | {frechet_distance(found, real):.3f} | "
            f"{overlap.precision:.3f} | {overlap.recall:.3f} | {accuracy:.4f} | {seconds:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
