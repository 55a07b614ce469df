"""Notebooks: the example runs, the bar of progress, the widget and what its page shows in a browser."""

from __future__ import annotations

import base64
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scenes import scattered

import splat2d
from splat2d import FitConfig, InputError, Splats, notebook, render

EXAMPLE = Path(__file__).parents[1] / "examples" / "quickstart.ipynb"


def test_the_example_runs(tmp_path: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    pytest.importorskip("anywidget")
    example = nbformat.read(EXAMPLE, as_version=4)
    assert not any(cell.get("outputs") for cell in example.cells), "outputs stay out of the repository"
    nbclient.NotebookClient(example, timeout=120, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [kind for cell in example.cells for output in cell.get("outputs", ()) for kind in output.get("data", ())]
    assert shown.count("image/png") == 4  # splats, result, figure, edited splats
    assert "application/vnd.jupyter.widget-view+json" in shown
    assert not [
        output for cell in example.cells for output in cell.get("outputs", ()) if output.get("name") == "stderr"
    ]


def test_the_example_names_what_exists() -> None:
    cells = json.loads(EXAMPLE.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), "quickstart.ipynb", "exec")


# --- progress


def test_track_passes_on_every_event_and_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    image = np.random.default_rng(0).random((24, 32, 3), np.float32)
    config = FitConfig(splats=20, steps=60, device="cpu")
    expected = [(event.step, event.psnr) for event in splat2d.fit_steps(image, config)]
    assert [(event.step, event.psnr) for event in splat2d.track(splat2d.fit_steps(image, config))] == expected
    assert [*splat2d.track([1, "two"])] == [1, "two"]
    assert capsys.readouterr() == ("", "")


def test_track_shows_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    image = np.random.default_rng(0).random((24, 32, 3), np.float32)
    for _ in splat2d.track(splat2d.fit_steps(image, FitConfig(splats=20, steps=60, device="cpu"))):
        pass
    said = capsys.readouterr()
    assert "step 60/60" in said.err and said.out == ""


# --- the widget


def test_the_widget_holds_the_page_of_the_viewer() -> None:
    pytest.importorskip("anywidget")
    widget = scattered(40).view(height=300)
    page = widget.page.decode("utf-16")
    assert widget.height == 300 and page.startswith("<!doctype html>")
    assert 'src="http' not in page and 'href="http' not in page


def test_the_widget_without_anywidget_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(InputError, match=r"splat2d\[notebook\]"):
        notebook.view(scattered(3))


def test_the_widget_draws_in_a_browser() -> None:
    """As a notebook runs it: the module of the widget, a model and an element."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    pytest.importorskip("anywidget")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    wide = Splats([[48, 32]], [[4, 0, 4]], [[0.5, -0.2, 0.3]], 96, 64, [0.25, 0.5, 0.25])
    script = (
        "async ({ esm, text }) => { const module = await import('data:text/javascript,' + encodeURIComponent(esm));"
    )
    script += " const page = new DataView(Uint8Array.from(atob(text), (byte) => byte.charCodeAt(0)).buffer);"
    script += " const get = (name) => ({ page, height: 400 })[name];"
    script += " module.default.render({ model: { get, on() {} }, el: document.body }); }"
    with playwright.sync_playwright() as start:
        software = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
        browser = start.chromium.launch(executable_path=chromium, args=software)
        page = browser.new_page(viewport={"width": 616, "height": 500})
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.set_content("<!doctype html><body style='margin: 8px'></body>")
        page.evaluate(script, {"esm": notebook.FRAME, "text": base64.b64encode(wide.view().page).decode()})
        page.frame_locator("iframe").get_by_text("96 × 64").wait_for()
        expected = render(wide)[32, 48]
        for _ in range(50):
            with Image.open(io.BytesIO(page.screenshot())) as shot:
                shown = np.asarray(shot)[208, 308, :3] / 255
            if abs(shown - expected).max() < 0.02:
                break
            page.wait_for_timeout(100)
        browser.close()
    assert abs(shown - expected).max() < 0.02 and not said
