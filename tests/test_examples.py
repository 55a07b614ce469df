"""The scripts of examples/ on a small picture, for a few steps, and the program of docs/torch.md."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import splat2d

pytest.importorskip("torch", reason='torch is not installed: pip install "splat2d[torch]"')

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def photo(tmp_path):
    """A slope, so that opposite borders differ, with waves on it."""
    y, x = np.mgrid[:40, :60].astype(np.float32)
    image = np.stack([x / 60, y / 40, 0.5 + 0.4 * np.sin(x / 5) * np.cos(y / 4)], axis=2)
    splat2d.save_image(tmp_path / "photo.png", image)
    return tmp_path / "photo.png"


def test_fit(photo):
    errors = example("torch_fit").main([str(photo), "--splats", "80", "--steps", "150", "--device", "cpu"])
    assert errors[-1] < 0.25 * errors[0]
    splats = splat2d.load(photo.with_suffix(".npz"))
    assert len(splats) == 80
    assert np.mean((splat2d.render(splats) - splat2d.load_image(photo)) ** 2) == pytest.approx(errors[-1], rel=0.05)


def test_custom_loss(photo):
    history = example("torch_custom_loss").main([str(photo), "--splats", "80", "--steps", "60", "--device", "cpu"])
    assert history[-1] < 0.3 * history[0]
    assert splat2d.load_image(photo.with_name("photo_tiles.png")).shape == (80, 120, 3)


def test_the_program_of_the_docs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (EXAMPLES.parent / "docs" / "torch.md").read_text(encoding="utf-8")
    names = {}
    for part in text.split("```python\n")[1:]:
        exec(compile(part.partition("```")[0], "docs/torch.md", "exec"), names)
    assert names["picture"].shape == (32, 64, 3) and names["order"].shape == (2,)
    np.testing.assert_array_equal(names["tensors"].colors, splat2d.load("two.npz").colors)
    np.testing.assert_allclose(names["tensors"].picture(), names["picture"].detach())
