"""How well a model completes pictures: python benchmarks/diffusion_edits.py MODEL DATA --figure edits.png

Test pictures lose their lower half, or are shrunk to a quarter of each side; the model makes the rest anew, without
and with the class. Prints how well the results agree with what was given (PSNR of 8-bit pictures), how near the rest
comes to the original, which no model can know, and, with --judges, the share that the second classifier assigns to the
class of the original. The figure shows the first pictures drawn: originals, what was given, what was made of it.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from machine import commit, cpu
from torch import Tensor
from torch.nn import functional

from splat2d.diffusion.devices import chosen, label
from splat2d.diffusion.editing import EditConfig, Known, complete, known_means, known_pixels
from splat2d.diffusion.evaluation import EvaluationConfig, train_judges
from splat2d.diffusion.grids import save_sheet
from splat2d.diffusion.model import SampleConfig, load_model
from splat2d.diffusion.pictures import load_pictures
from splat2d.diffusion.splatset import rendered

FACTOR = 4
WANTED = 30  # dB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, help="the pictures that it was trained on, and test pictures")
    parser.add_argument("--count", type=int, default=100, help="of test pictures")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=EditConfig().repeats)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--judges", type=Path, help="folder that keeps the nets")
    parser.add_argument("--compact", action="store_true", help="small nets, for small pictures on a CPU")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--shown", type=int, default=10, help="pictures of the figure")
    parser.add_argument("--output", type=Path, help="a JSON object per row")
    arguments = parser.parse_args()

    device = chosen(arguments.device)
    model, data = load_model(arguments.model, device), load_pictures(arguments.data)
    # Drawn, since sets may have their pictures class by class.
    part = np.random.default_rng(arguments.seed).permutation(np.flatnonzero(data.test))[: arguments.count]
    pictures, labels = data.images[part], data.labels[part]
    classes = torch.from_numpy(labels)
    images = torch.from_numpy(pictures).to(device).float() / 255
    second = None
    if arguments.judges and data.names:
        settings = EvaluationConfig.compact() if arguments.compact else EvaluationConfig()
        real = data.images[~data.test], data.labels[~data.test]
        second = train_judges(*real, settings, device=device, folder=arguments.judges).second

    def judged(shown: Tensor) -> float | None:
        return second and second.accuracy(as_bytes(shown), labels)

    sampling = SampleConfig(arguments.steps, "dpm++", arguments.guidance, seed=arguments.seed)
    config = EditConfig(sampling, arguments.repeats)
    height, width = images.shape[1:3]
    keep = torch.zeros(height, width, dtype=torch.bool)
    keep[: height // 2] = True
    small = functional.avg_pool2d(images.permute(0, 3, 1, 2), FACTOR).permute(0, 2, 3, 1)
    tasks: dict[str, tuple[Known, Tensor]] = {
        "lower half": (known_pixels(images, keep), ~keep),
        f"{FACTOR}x larger": (known_means(small, height, width), torch.ones_like(keep)),
    }
    rows, results = [{"task": "originals", "accuracy": judged(images)}], {}
    for task, (known, unknown) in tasks.items():
        for given, asked in (("any", torch.full_like(classes, model.network.classes)), ("given", classes)):
            if given == "given" and not model.names:
                continue
            began = time.perf_counter()
            tokens = complete(model, known, asked, config)
            shown = torch.from_numpy(rendered(model.layout, tokens, device)).to(device).float() / 255
            seconds = time.perf_counter() - began
            agreement = known.psnr(shown)
            rows.append(
                {
                    "task": task,
                    "class": given,
                    "given": float(agreement.mean()),
                    "least": float(agreement.min()),
                    "reached": float((agreement >= WANTED).float().mean()),
                    "rest": float(psnr(shown[:, unknown], images[:, unknown]).mean()),
                    "accuracy": judged(shown),
                    "seconds": seconds,
                }
            )
            results.setdefault(task, shown)
    cubic = functional.interpolate(small.permute(0, 3, 1, 2), (height, width), mode="bicubic").permute(0, 2, 3, 1)
    rest = float(psnr(cubic.clamp(0, 1), images).mean())
    rows.append({"task": f"{FACTOR}x larger, bicubic", "rest": rest, "accuracy": judged(cubic.clamp(0, 1))})

    where = f"{label(device)}, {cpu()}" if device.type == "cuda" else cpu()
    print(
        f"Commit {commit()}, {where}: {len(part)} test pictures, {arguments.model.name}, {arguments.steps} steps, "
        f"guidance {arguments.guidance:g}, seed {arguments.seed}\n"
    )
    print(table(rows))
    if arguments.output:
        arguments.output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if arguments.figure:
        upper = torch.where(keep[:, :, None].to(device), images, torch.full_like(images, 0.5))
        blocks = small.repeat_interleave(FACTOR, 1).repeat_interleave(FACTOR, 2)
        columns = min(arguments.shown, len(part))
        lines = [images, upper, results["lower half"], blocks, results[f"{FACTOR}x larger"]]
        save_sheet(arguments.figure, np.concatenate([as_bytes(line[:columns]) for line in lines]), columns)


def psnr(shown: Tensor, images: Tensor) -> Tensor:
    """Of each picture, in dB."""
    return -10 * (shown - images).flatten(1).square().mean(1).clamp_min(1e-10).log10()


def as_bytes(pictures: Tensor) -> np.ndarray:
    return pictures.clamp(0, 1).mul(255).round().byte().cpu().numpy()


def table(rows: list[dict[str, object]]) -> str:
    """As Markdown."""
    head = {
        "task": "task",
        "class": "class",
        "given": "given, dB",
        "least": "least, dB",
        "reached": f"at least {WANTED} dB",
        "rest": "rest, dB",
        "accuracy": "second classifier",
        "seconds": "seconds",
    }

    def cell(value: object) -> str:
        return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)

    lines = [[cell(row.get(key)) for key in head] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [[*head.values()], ["---"] * len(head), *lines])


if __name__ == "__main__":
    main()
