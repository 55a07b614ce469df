"""The commands and the program that the README shows."""

import shlex
from pathlib import Path

import numpy as np
import pytest

import splat2d
from splat2d.cli import main

README = Path(__file__).parents[1] / "README.md"
# Enough to run the command, too little to wait for.
SHORTER = {"fit": ["--steps", "12"], "bench": ["photo.png", "--splats", "40", "--quiet"]}


def blocks(language: str) -> list[str]:
    parts = README.read_text(encoding="utf-8").split("```")[1::2]
    return [part[len(language) :].strip() for part in parts if part.startswith(f"{language}\n")]


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """A folder with the photo that the README speaks of."""
    monkeypatch.chdir(tmp_path)
    y, x = np.mgrid[:120, :200].astype(np.float32)
    image = np.stack([x / 200, y / 120, 0.5 + 0.5 * np.sin(x / 7) * np.cos(y / 5)], axis=2)
    splat2d.save_image("photo.jpg", image)
    splat2d.save_image("photo.png", image)
    return tmp_path


@pytest.mark.filterwarnings("default")  # the picture is small for 20,000 splats, and the command says so
def test_every_command_runs(photo, capsys):
    lines = [line.partition(" #")[0] for block in blocks("") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("splat2d ")]
    assert [command[0] for command in commands] == ["fit", "fit", "fit", "render", "render", "info", "compare", "bench"]
    for command in commands:
        assert main([*command, *SHORTER.get(command[0], [])]) == 0, command
        assert capsys.readouterr().out
    for path in ("photo.npz", "fit.png", "large.png", "detail.png"):
        assert (photo / path).stat().st_size > 0


def test_the_program_runs(photo, monkeypatch):
    from splat2d import fitting

    monkeypatch.setattr(
        fitting, "RECIPES", dict.fromkeys(fitting.RECIPES, fitting.Recipe(12, 0.5, 1, 0.4, 1, 0.02, 0.8))
    )
    monkeypatch.setattr(splat2d, "render", lambda splats, **_: np.zeros((8, 8, 3), np.float32))  # not 4096 pixels here
    (program,) = blocks("python")
    images = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    exec(compile(program.replace("10_000", "100"), str(README), "exec"), {"images": images})
    assert len(splat2d.load("photo.npz")) == 100
