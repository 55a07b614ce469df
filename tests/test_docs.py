"""The site builds without a warning, and what its pages show runs."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import splat2d
from splat2d import compression, fitting
from splat2d.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ("index.md", "concepts.md", "faq.md")


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for module in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed; the extra docs brings it")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=quiet)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = (tmp_path / "cli" / "index.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in shown for name in COMMANDS) and "--keep-canvas" in shown
    assert 'id="diffusion-train"' in shown and "--sample-every" in shown
    assert "cross_fade" in (tmp_path / "python" / "index.html").read_text(encoding="utf-8")


def test_the_commands_of_the_pages_exist(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join((DOCS / page).read_text(encoding="utf-8") for page in PAGES)
    lines = [line for line in re.findall(r"^splat2d .*", text, re.MULTILINE)]
    assert len(lines) >= 8
    for line in lines:
        command, *options = shlex.split(line.partition(" #")[0])[1:]
        with pytest.raises(SystemExit):
            main([command, "--help"])
        helped = capsys.readouterr().out
        for option in options:
            assert not option.startswith("-") or re.search(rf"(^|[\s,]){option}\b", helped), (line, option)


def test_the_program_of_the_quick_start_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    schedule = compression.Schedule(fit=40, train=60, stages=3, stage_steps=10)
    monkeypatch.setattr(compression, "SCHEDULES", dict.fromkeys(compression.SCHEDULES, schedule))
    recipe = fitting.Recipe(12, 0.5, 1, 0.4, 1, 0.02, 0.8)
    monkeypatch.setattr(fitting, "RECIPES", dict.fromkeys(fitting.RECIPES, recipe))
    splat2d.save_image("photo.jpg", np.random.default_rng(0).random((80, 120, 3), np.float32))
    (program,) = (DOCS / "index.md").read_text(encoding="utf-8").split("```python\n")[1:]
    program = program.partition("```")[0].replace("10_000", "100").replace("15_000", "1_500").replace("2048", "240")
    names: dict[str, object] = {}
    exec(compile(program, "docs/index.md", "exec"), names)
    assert splat2d.load_image("large.png").shape == (160, 240, 3)
    assert splat2d.load("turned.s2d").width > 120


def test_the_pictures_of_the_concepts_can_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="the extra plot is not installed")
    recipe = fitting.Recipe(12, 0.5, 1, 0.4, 1, 0.02, 0.8)
    monkeypatch.setattr(fitting, "RECIPES", dict.fromkeys(fitting.RECIPES, recipe))
    schedule = compression.Schedule(fit=20, train=20, stages=2, stage_steps=5)
    monkeypatch.setattr(compression, "SCHEDULES", dict.fromkeys(compression.SCHEDULES, schedule))
    spec = importlib.util.spec_from_file_location("pictures", DOCS / "pictures.py")
    assert spec and spec.loader
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    pictures.main(tmp_path, (20, 40), 3000)
    drawn = {path.name for path in tmp_path.iterdir()}
    linked = set(re.findall(r"images/([\w.-]+)", (DOCS / "concepts.md").read_text(encoding="utf-8")))
    assert drawn == linked - {"zoom.jpg"}, "zoom.jpg is drawn by splat2d demo"
    assert all((DOCS / "images" / name).exists() for name in linked)
