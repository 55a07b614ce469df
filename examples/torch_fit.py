"""Fits splats to a picture by plain torch: python examples/torch_fit.py photo.jpg

The place to start from where the loop itself is the research: optimiser, schedule, initial splats. splat2d.fit() has
its own loop with growth and relocation; it is faster and comes out better.
"""

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

import splat2d
from splat2d.torch import Splats, rasterize, z_order


def first_splats(image: Tensor, count: int) -> list[Tensor]:
    """Round splats at random places, in a part of the colour found there; sorted, so that the kernels find them."""
    height, width, _ = image.shape
    means = torch.rand(count, 2, device=image.device) * torch.tensor([width, height], device=image.device)
    radius = 0.7 * math.sqrt(height * width / count)
    log_cholesky = torch.zeros(count, 3, device=image.device)
    log_cholesky[:, [0, 2]] = math.log(radius)
    x, y = means.long().unbind(1)
    colors = 0.3 * (image[y, x] - image.mean((0, 1)))
    order = z_order(means, log_cholesky, height=height, width=width)
    return [tensor[order].requires_grad_() for tensor in (means, log_cholesky, colors)]


def fit(image: Tensor, count: int, steps: int) -> tuple[Splats, list[float]]:
    """Splats for image [height, width, C], and the mean squared error now and then."""
    height, width, _ = image.shape
    means, log_cholesky, colors = first_splats(image, count)
    background = image.mean((0, 1))
    rates = {0.3: means, 0.03: log_cholesky, 0.01: colors}  # pixels, logarithms, values
    optimizer = torch.optim.Adam([{"params": [tensor], "lr": rate} for rate, tensor in rates.items()])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    errors = []
    for step in range(steps):
        picture = rasterize(means, log_cholesky, colors, height=height, width=width, background=background)
        loss = ((picture - image) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            errors.append(loss.item())
            print(f"step {step}: PSNR {-10 * math.log10(errors[-1]):.2f} dB")
    return Splats(means, log_cholesky, colors, width, height, background), errors


def main(arguments: list[str] | None = None) -> list[float]:
    parser = argparse.ArgumentParser(description="Fits splats to a picture by plain torch.")
    parser.add_argument("photo", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="by its suffix: .npz, .s2d (default: .npz beside the photo)")
    parser.add_argument("--splats", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    image = torch.tensor(splat2d.load_image(options.photo), device=options.device)
    fitted, errors = fit(image, options.splats, options.steps)
    splat2d.save(options.output or options.photo.with_suffix(".npz"), fitted.splats())
    return errors


if __name__ == "__main__":
    main()
