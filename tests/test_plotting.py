"""splat2d.plotting and splat2d.display: figures, and pictures for notebooks."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scenes import scattered
from skimage.data import astronaut

import splat2d
from splat2d import FitResult, InputError, Splats, display, plotting, render
from splat2d.cli import main

matplotlib = pytest.importorskip("matplotlib", reason="the extra plot is not installed")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return astronaut()[20:100, 165:261].astype(np.float32) / 255


@pytest.fixture(scope="module")
def result(image: np.ndarray) -> FitResult:
    return splat2d.fit(image, splats=100, steps=40, device="cpu")


def titles(figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def test_a_figure_has_what_there_is_to_show(result: FitResult, image: np.ndarray) -> None:
    assert titles(result.splats.plot()) == ["100 splats, 96x80 pixels", "ellipses", "splats per 16x16 pixels"]
    shown = titles(result.plot(image))
    assert len(shown) == 5 and shown[3].startswith(f"error: PSNR {result.psnr:.2f} dB") and shown[4] == "history"
    assert titles(result.plot(panels=["history", "picture"])) == ["history", "100 splats, 96x80 pixels"]


def test_the_history_is_drawn_as_it_was(result: FitResult) -> None:
    figure = result.plot(panels=["history"])
    decibels, counts = (axes.lines[0] for axes in figure.axes)
    steps, splats, psnrs = zip(*result.history, strict=True)
    np.testing.assert_array_equal(decibels.get_xydata(), np.transpose([steps, psnrs]))
    np.testing.assert_array_equal(counts.get_ydata(), splats)


def test_density_counts_every_splat_on_the_canvas_once() -> None:
    splats = scattered(500, width=100, height=50)
    (axes,) = [axes for axes in splats.plot(panels=["density"]).axes if axes.get_title()]
    density = np.asarray(axes.collections[0].get_array()).reshape(4, 7)
    areas = np.outer([16, 16, 16, 2], [16, 16, 16, 16, 16, 16, 4]) / 256
    x, y = splats.means.T
    assert (density * areas).sum() == pytest.approx(((x >= 0) & (x <= 100) & (y >= 0) & (y <= 50)).sum())
    assert density[1, 2] == ((x >= 32) & (x < 48) & (y >= 16) & (y < 32)).sum()


def test_the_error_is_the_difference(result: FitResult, image: np.ndarray) -> None:
    (axes,) = [axes for axes in result.plot(image, panels=["error"]).axes if axes.get_title()]
    expected = abs(render(result.splats) - image).max(axis=2)
    np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), expected)


@pytest.mark.parametrize("suffix", plotting.SUFFIXES)
def test_figures_in_files(result: FitResult, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"figure{suffix}"
    plotting.save_plot(path, result.splats.plot(panels=["ellipses", "density"]))
    start = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml", ".jpg": b"\xff\xd8", ".webp": b"RIFF"}[suffix]
    assert path.read_bytes().startswith(start)


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_any_channels_can_be_plotted(channels: int) -> None:
    assert scattered(30, channels).plot(np.zeros((64, 96, channels), np.float32))._repr_png_().startswith(b"\x89PNG")


def test_bad_plots_are_said_in_a_line(result: FitResult, image: np.ndarray, tmp_path: Path) -> None:
    for call, message in (
        (lambda: result.splats.plot(panels=["error"]), "needs the original picture"),
        (lambda: result.splats.plot(panels=["history"]), "needs the history of a fit"),
        (lambda: result.plot(panels=["colours"]), "unknown; choose from picture"),
        (lambda: result.plot(panels=[]), "nothing to plot"),
        (lambda: result.plot(image[1:]), "sizes of the two differ"),
        (lambda: plotting.save_plot(tmp_path / "x.doc", result.plot()), "known: .png"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_plotting_without_matplotlib_names_the_extra(result: FitResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"splat2d\[plot\]"):
        result.plot()


def test_the_command(result: FitResult, image: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splat2d.save(tmp_path / "face.npz", result.splats)
    splat2d.save_image(tmp_path / "face.png", image)
    file, photo, target = (str(tmp_path / name) for name in ("face.npz", "face.png", "out.pdf"))
    assert main(["plot", file]) == 0
    with Image.open(tmp_path / "face-plot.png") as figure:
        assert figure.width > 1000
    assert main(["plot", file, "--photo", photo, "--panels", "error", "ellipses", "-o", target]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{target}: {Path(target).stat().st_size} bytes"
    assert main(["plot", file, "-o", photo.replace(".png", ".npz")]) == 1
    assert "known: .png .pdf" in capsys.readouterr().err


# --- pictures for notebooks


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_splats_show_as_a_picture(channels: int, mode: str) -> None:
    splats = scattered(60, channels)
    with Image.open(io.BytesIO(splats._repr_png_())) as shown:
        assert (shown.mode, shown.size) == (mode, (96, 64))
        if channels != 4:  # where alpha is near 0, colour is anything
            values = np.asarray(shown).reshape(64, 96, channels) / 255
            assert abs(values - render(splats).clip(0, 1)).max() <= 0.5 / 255 + 1e-6


def test_large_pictures_are_shown_smaller_and_others_as_text() -> None:
    wide = Splats([[2000, 50]], [[5, 0, 3]], [[0.5]], 4096, 100, [0])
    with Image.open(io.BytesIO(wide._repr_png_())) as shown:
        assert shown.size == (display.LARGEST, 25)
    assert scattered(3, 2)._repr_png_() is None


def test_a_result_shows_as_its_picture_and_in_a_line(result: FitResult) -> None:
    assert result._repr_png_() == result.splats._repr_png_()
    expected = rf"FitResult\(Splats\(100 splats, 96x80 pixels, 3 channels\), {result.psnr:.2f} dB, 40 steps, .* s\)"
    assert re.fullmatch(expected, repr(result))


def test_figures_need_no_screen_and_leave_pyplot_alone(tmp_path: Path) -> None:
    splat2d.save(tmp_path / "a.npz", scattered(5))
    code = (
        "import sys, splat2d; splat2d.load('a.npz').plot()._repr_png_(); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)
