"""Makes a picture tile without seams, by a loss of its own: python examples/torch_custom_loss.py photo.jpg

Fits the photo as usual, then moves the splats until opposite borders meet, as near to the photo as that allows. Any
other loss that torch can write works the same way.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

import splat2d
from splat2d.torch import Splats


def seams(picture: Tensor) -> Tensor:
    """Mean squared difference of opposite borders of a picture [height, width, C]."""
    return ((picture[:, 0] - picture[:, -1]) ** 2).mean() + ((picture[0] - picture[-1]) ** 2).mean()


def make_seamless(splats: splat2d.Splats, steps: int, weight: float, device: str) -> tuple[splat2d.Splats, list[float]]:
    """Splats that tile, and the seam before every step."""
    moving = Splats.of(splats, device=device)
    photo = moving.picture()
    rates = {0.1: moving.means, 0.01: moving.log_cholesky, 0.005: moving.colors}  # pixels, logarithms, values
    optimizer = torch.optim.Adam([{"params": [tensor.requires_grad_()], "lr": rate} for rate, tensor in rates.items()])
    history = []
    for _ in range(steps):
        picture = moving.picture()
        seam = seams(picture)
        loss = ((picture - photo) ** 2).mean() + weight * seam
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(seam.item())
    return moving.splats(), history


def main(arguments: list[str] | None = None) -> list[float]:
    parser = argparse.ArgumentParser(description="Makes a picture tile without seams.")
    parser.add_argument("photo", type=Path)
    parser.add_argument("-o", "--output", type=Path, help="2 x 2 tiles (default: *_tiles.png beside the photo)")
    parser.add_argument("--splats", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--weight", type=float, default=0.1, help="of the seam against the rest of the picture")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    fitted = splat2d.fit(splat2d.load_image(options.photo), splats=options.splats, preset="fast")
    seamless, history = make_seamless(fitted.splats, options.steps, options.weight, options.device)
    print(f"mean squared difference at the seams: {history[0]:.5f} -> {history[-1]:.5f}")
    tile = torch.tensor(splat2d.render(seamless))
    output = options.output or options.photo.with_name(f"{options.photo.stem}_tiles.png")
    splat2d.save_image(output, tile.tile(2, 2, 1).numpy())
    return history


if __name__ == "__main__":
    main()
