"""The commands and the program that the README shows."""

import shlex
from pathlib import Path

import numpy as np
import pytest

import splat2d
from splat2d import compression
from splat2d.cli import main

README = Path(__file__).parents[1] / "README.md"
# Enough to run the command, too little to wait for.
SHORTER = {"--splats": ["--steps", "12"], "bench": ["photo.png", "--splats", "40", "--quiet"]}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    schedule = compression.Schedule(fit=40, train=60, stages=3, stage_steps=10)
    monkeypatch.setattr(compression, "SCHEDULES", dict.fromkeys(compression.SCHEDULES, schedule))


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
def test_every_command_runs(photo, capsys, monkeypatch):
    monkeypatch.setattr("webbrowser.open", lambda address: True)
    monkeypatch.setattr("splat2d.cli._wait", lambda: None)  # for Ctrl-C
    lines = [line.partition(" #")[0] for block in blocks("") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("splat2d ")]
    shown = {"fit", "decode", "render", "edit", "info", "compare", "plot", "view", "encode", "bench"}
    assert {command[0] for command in commands} == shown
    for command in commands:
        shorter = [part for word, parts in SHORTER.items() if word in command for part in parts]
        assert main([*command, *shorter]) == 0, command
        assert capsys.readouterr().out
    splats, pictures = (
        ("photo.s2d", "photo.npz", "edited.s2d", "later.s2d"),
        ("fit", "photo", "large", "detail", "figure"),
    )
    for path in (*splats, *(f"{name}.png" for name in pictures), "photo.svg", "photo.html"):
        assert (photo / path).stat().st_size > 0


def test_the_programs_run(photo, monkeypatch):
    from splat2d import fitting

    monkeypatch.setattr(
        fitting, "RECIPES", dict.fromkeys(fitting.RECIPES, fitting.Recipe(12, 0.5, 1, 0.4, 1, 0.02, 0.8))
    )
    monkeypatch.setattr(splat2d, "render", lambda splats, **_: np.zeros((8, 8, 3), np.float32))  # not 4096 pixels here
    images = np.random.default_rng(0).random((2, 8, 8, 1), np.float32)
    programs = [program.replace("10_000", "100").replace("15_000", "1_500") for program in blocks("python")]
    names = {"images": images}
    for program in programs:
        exec(compile(program, str(README), "exec"), names)
    assert len(splat2d.load("photo.npz")) == 100
    assert len(names["small"].data) <= 1500 and (photo / "photo.s2d").stat().st_size <= 1500
    assert splat2d.load_image("thumbnail.png").shape == (60, 100, 3)
