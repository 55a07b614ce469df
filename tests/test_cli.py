"""The command line: a real photo through every command, every kind of bad input, Ctrl-C, and what help may load."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.data import astronaut

import splat2d
from splat2d import codec, compression, files, fitting, rendering
from splat2d.cli import main
from splat2d.compression import Schedule

FAST = ["--splats", "60", "--steps", "60", "--device", "cpu"]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A face of 80x96 pixels, the only file of its folder."""
    path = tmp_path / "photo.png"
    splat2d.save_image(path, astronaut()[20:116, 180:260])
    return path


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Schedule:
    """Compression that takes little time, and makes little of it."""
    schedule = Schedule(fit=40, train=100, stages=4, stage_steps=10)
    monkeypatch.setattr(compression, "SCHEDULES", dict.fromkeys(compression.SCHEDULES, schedule))
    return schedule


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main([*map(str, arguments), "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


# --- a photo through all commands


def test_photo_through_fit_info_render_compare(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    original = photo.read_bytes()
    splats, shown = photo.with_suffix(".npz"), photo.with_name("shown.PNG")

    fit = run_json(capsys, "fit", photo, "-o", splats, "-o", shown, *FAST)
    assert (fit["splats"], fit["width"], fit["height"], fit["channels"], fit["steps"]) == (60, 80, 96, 3, 60)
    assert fit["psnr"] > 20 and 0 < fit["ssim"] < 1 and fit["seconds"] > 0 and fit["interrupted"] is False
    assert fit["bytes"] == splats.stat().st_size
    assert fit["bpp"] == pytest.approx(8 * fit["bytes"] / (80 * 96))
    assert fit["outputs"] == [
        {"path": str(splats), "bytes": splats.stat().st_size},
        {"path": str(shown), "bytes": shown.stat().st_size},
    ]

    info = run_json(capsys, "info", splats)
    assert (info["kind"], info["splats"], info["width"], info["height"]) == ("splats", 60, 80, 96)
    assert info["bytes"] == fit["bytes"]
    assert run_json(capsys, "info", photo)["kind"] == "picture"

    compared = run_json(capsys, "compare", photo, splats)
    assert compared["psnr"] == pytest.approx(fit["psnr"], abs=1e-6)
    assert compared["ssim"] == pytest.approx(fit["ssim"], abs=1e-6)
    assert compared["worst"]["psnr"] <= compared["psnr"]
    assert run_json(capsys, "compare", photo, shown)["psnr"] == pytest.approx(fit["psnr"], abs=0.1)
    same = run_json(capsys, "compare", photo, photo)
    assert same["psnr"] is None and same["max_error"] == 0

    assert main(["render", str(splats), "-o", str(photo.with_name("again.png"))]) == 0
    np.testing.assert_array_equal(splat2d.load_image(photo.with_name("again.png")), splat2d.load_image(shown))
    part = photo.with_name("part.png")
    assert main(["render", str(splats), "--crop", "-8", "10", "40", "20", "--scale", "2", "-o", str(part)]) == 0
    np.testing.assert_allclose(
        splat2d.load_image(part),
        splat2d.render(splat2d.load(splats), crop=(-8, 10, 40, 20), scale=2).clip(0, 1),
        atol=0.51 / 255,
    )
    assert photo.read_bytes() == original


def test_photo_through_encode_decode_info_compare(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splats, small = photo.with_suffix(".npz"), photo.with_suffix(".s2d")
    fit = run_json(capsys, "fit", photo, "-o", splats, *FAST)
    encoded = run_json(capsys, "encode", splats)
    assert encoded["output"] == str(small) and encoded["bytes"] == small.stat().st_size < splats.stat().st_size / 4
    assert encoded["splats"] + encoded["left_out"] == 60
    assert encoded["bpp"] == pytest.approx(8 * encoded["bytes"] / (80 * 96))

    info = run_json(capsys, "info", small)
    assert (info["kind"], info["splats"], info["bytes"]) == ("splats", encoded["splats"], encoded["bytes"])
    assert sum(info["coding"]["bits"].values()) == 8 * info["bytes"]
    assert info["coding"]["quality"] == encoded["quality"]
    assert sum(chunk["splats"] for chunk in info["coding"]["chunks"]) == encoded["splats"]
    assert main(encoded["next"].split()[1:]) == 0
    text = capsys.readouterr().out
    for part in ("positions", "refinement", "shape", "colour", "overhead", "per splat", "of the file", "packets"):
        assert part in text

    compared = run_json(capsys, "compare", photo, small)
    assert fit["psnr"] - 1.5 < compared["psnr"] < fit["psnr"] + 0.1
    assert (compared["bytes"], compared["bpp"]) == (encoded["bytes"], encoded["bpp"])

    again, shown = photo.with_name("again.npz"), photo.with_name("shown.png")
    assert main(["decode", str(small), "-o", str(again), "-o", str(shown)]) == 0
    assert f"{again}: {again.stat().st_size} bytes" in capsys.readouterr().out
    assert run_json(capsys, "compare", photo, again)["psnr"] == pytest.approx(compared["psnr"], abs=1e-6)
    assert main(["render", str(small), "-o", str(photo.with_name("drawn.png"))]) == 0
    assert photo.with_name("drawn.png").read_bytes() == shown.read_bytes()

    capsys.readouterr()
    finer = run_json(capsys, "encode", splats, "--quality", 95, "-o", photo.with_name("finer.s2d"))
    assert finer["quality"] == pytest.approx(95, abs=0.5) and finer["bytes"] > encoded["bytes"]
    coarser = run_json(capsys, "encode", photo.with_name("finer.s2d"), "--quality", 5, "-o", photo.with_name("c.s2d"))
    assert coarser["bytes"] < encoded["bytes"]


def test_fit_to_s2d_is_judged_by_the_file(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, shown = photo.with_name("a.s2d"), photo.with_name("shown.png")
    fit = run_json(capsys, "fit", photo, "-o", small, "-o", shown, *FAST)
    assert fit["bytes"] == small.stat().st_size
    assert run_json(capsys, "compare", photo, small)["psnr"] == pytest.approx(fit["psnr"], abs=1e-6)
    assert run_json(capsys, "compare", photo, shown)["psnr"] == pytest.approx(fit["psnr"], abs=0.1)
    assert fit["splats"] == run_json(capsys, "info", small)["splats"]


def test_budgets_of_a_file(photo: Path, capsys: pytest.CaptureFixture[str], short: Schedule) -> None:
    def compressed(name: str, *budget: object) -> dict[str, Any]:
        path = photo.with_name(name)
        fit = run_json(capsys, "fit", photo, "-o", path, *budget)
        assert fit["bytes"] == path.stat().st_size and fit["splats"] == len(splat2d.load(path))
        compared = run_json(capsys, "compare", photo, path)
        assert fit["psnr"] == pytest.approx(compared["psnr"], abs=1e-6)
        assert fit["ssim"] == pytest.approx(compared["ssim"], abs=1e-6)
        assert fit["bpp"] == pytest.approx(8 * fit["bytes"] / (80 * 96))
        return fit

    assert 750 < compressed("bytes.s2d", "--bytes", 900)["bytes"] <= 900
    compressed("bpp.s2d", "--bpp", 8 * 900.5 / (80 * 96))
    assert photo.with_name("bytes.s2d").read_bytes() == photo.with_name("bpp.s2d").read_bytes()
    assert 25 <= compressed("psnr.s2d", "--psnr", 25)["psnr"] < 26
    coarse, usual = compressed("coarse.s2d", "--quality", 20), compressed("usual.s2d")
    assert coarse["bytes"] < usual["bytes"] and coarse["psnr"] < usual["psnr"]
    compressed("fifty.s2d", "--quality", compression.QUALITY)
    assert photo.with_name("usual.s2d").read_bytes() == photo.with_name("fifty.s2d").read_bytes()
    compressed("other.s2d", "--loss", "l1")
    assert photo.with_name("usual.s2d").read_bytes() != photo.with_name("other.s2d").read_bytes()


def test_vector_profile(photo: Path, capsys: pytest.CaptureFixture[str], short: Schedule) -> None:
    small, exact = photo.with_suffix(".s2d"), photo.with_suffix(".npz")
    fit = run_json(capsys, "fit", photo, "--profile", "vector", "--bytes", 700, "-o", small, "-o", exact)
    assert 650 < fit["bytes"] == small.stat().st_size <= 700
    assert run_json(capsys, "compare", photo, small)["psnr"] == pytest.approx(fit["psnr"], abs=1e-6)

    coding = run_json(capsys, "info", small)["coding"]
    assert (coding["profile"], coding["profile_name"], coding["quality"], coding["cell"]) == (2, "vector", None, None)
    assert coding["tile"] == codec.container.unpack(small.read_bytes()).header.margin
    assert sum(coding["bits"].values()) == 8 * fit["bytes"]
    assert main(["info", str(small)]) == 0
    text = capsys.readouterr().out
    assert f"profile 2 (vector), sRGB values\ntiles       {coding['tile']}x{coding['tile']} pixels\n" in text
    assert "quality" not in text and "refinement" not in text

    again, finer = photo.with_name("again.s2d"), photo.with_name("finer.s2d")
    encoded = run_json(capsys, "encode", exact, "--profile", "vector", "-o", again)
    assert (encoded["profile"], encoded["quality"], encoded["left_out"]) == ("vector", None, 0)
    assert again.read_bytes() == small.read_bytes()
    assert main(["encode", str(exact), "--profile", "vector", "-o", str(again)]) == 0
    assert "quality" not in (text := capsys.readouterr().out) and "vector" in text
    scalar = run_json(capsys, "encode", small, "--quality", 70, "-o", finer)
    assert (scalar["profile"], scalar["quality"]) == ("scalar", pytest.approx(70, abs=0.5))


def test_number_of_splats_in_the_vector_profile(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = run_json(capsys, "fit", photo, *FAST, "--profile", "vector")
    assert 50 < fit["splats"] <= 60
    assert run_json(capsys, "info", photo.with_suffix(".s2d"))["coding"]["profile_name"] == "vector"


def test_all_outputs_of_a_compression_show_the_same(
    photo: Path, capsys: pytest.CaptureFixture[str], short: Schedule
) -> None:
    small, again, exact, shown = (photo.with_name(name) for name in ("a.s2d", "b.s2d", "a.npz", "a.png"))
    outputs = [part for path in (exact, small, again, shown) for part in ("-o", path)]
    fit = run_json(capsys, "fit", photo, "--bytes", 600, *outputs)
    assert fit["bytes"] == small.stat().st_size <= 600
    assert [output["bytes"] for output in fit["outputs"]] == [
        path.stat().st_size for path in (exact, small, again, shown)
    ]
    assert small.read_bytes() == again.read_bytes()
    np.testing.assert_array_equal(splat2d.load(exact).means, splat2d.load(small).means)
    np.testing.assert_array_equal(splat2d.load(exact).colors, splat2d.load(small).colors)
    drawn = splat2d.render(splat2d.load(small)).clip(0, 1)
    np.testing.assert_allclose(splat2d.load_image(shown), drawn, atol=0.51 / 255)


def test_decode_of_a_file_whose_end_is_missing(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(photo), "-o", str(photo.with_name("a.s2d")), "--splats", "1200", "--steps", "40"]) == 0
    cut = photo.with_name("cut.s2d")
    cut.write_bytes(photo.with_name("a.s2d").read_bytes()[:-100])
    capsys.readouterr()
    assert main(["decode", str(cut), "--partial"]) == 0
    out, err = capsys.readouterr()
    assert "cut.npz" in out
    assert re.search(r"warning: .*cut\.s2d ends early; it holds \d+ of \d+ splats", err)
    assert 0 < len(splat2d.load(photo.with_name("cut.npz"))) < 1200


def test_metadata_of_a_file(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splats = splat2d.Splats([[4, 3]], [[1, 0, 1]], [[1]], 8, 6, [0])
    metadata = splat2d.Metadata({"a": "x\x1b[31m"}, exif=b"MM\0*")
    photo.with_name("a.s2d").write_bytes(splat2d.encode(splats, metadata=metadata))
    assert main(["encode", str(photo.with_name("a.s2d")), "-o", str(photo.with_name("b.s2d"))]) == 0
    assert splat2d.read_metadata(photo.with_name("b.s2d").read_bytes()) == metadata
    capsys.readouterr()
    assert main(["info", str(photo.with_name("b.s2d"))]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and r"'x\x1b[31m'" in out and "chunk e" in out
    assert run_json(capsys, "info", photo.with_name("b.s2d"))["coding"]["text"] == metadata.text


@pytest.mark.parametrize("size, shape", [(["--width", "40"], (48, 40)), (["--height", "192"], (192, 160))])
def test_render_keeps_the_aspect(size: list[str], shape: tuple[int, int], photo: Path) -> None:
    splats, out = photo.with_suffix(".s2d"), photo.with_name("out.png")
    assert main(["fit", str(photo), *FAST]) == 0
    assert main(["render", str(splats), *size, "-o", str(out)]) == 0
    assert splat2d.load_image(out).shape[:2] == shape


def test_fit_prints_its_result_and_a_next_command_that_works(
    photo: Path, capsys: pytest.CaptureFixture[str], short: Schedule
) -> None:
    assert main(["fit", str(photo)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    small = photo.with_suffix(".s2d")
    assert sorted(path.name for path in photo.parent.iterdir()) == ["photo.png", "photo.s2d"]
    count = len(splat2d.load(small))
    for part in (f"{count} for 80x96 pixels", "dB", "SSIM", f"{small.stat().st_size} bytes", "bits per pixel"):
        assert part in out
    assert re.search(r"time +\d+\.\d s, \d+ steps, ", out)
    following = out.splitlines()[-1].split()
    assert following[:2] == ["next", "splat2d"]
    assert main(following[2:]) == 0
    assert splat2d.load_image(photo.with_name("photo-4x.png")).shape == (384, 320, 3)


def test_fit_to_a_picture_alone(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = run_json(capsys, "fit", photo, "-o", photo.with_name("shown.webp"), *FAST)
    assert fit["bytes"] is None and fit["bpp"] is None
    assert sorted(path.name for path in photo.parent.iterdir()) == ["photo.png", "shown.webp"]
    assert main(fit["next"].split()[1:]) == 0


def test_same_seed_gives_the_same_bytes(photo: Path) -> None:
    for name, options in (("a", ["--threads", "1"]), ("b", ["--threads", "2"]), ("c", ["--seed", "1"])):
        assert main(["fit", str(photo), *FAST, *options, "-o", str(photo.with_name(f"{name}.npz"))]) == 0
    a, b, c = (photo.with_name(f"{name}.npz").read_bytes() for name in "abc")
    assert a == b != c


def test_text_output_of_info_and_compare(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["fit", str(photo), *FAST, "-o", str(photo.with_suffix(".npz"))])
    capsys.readouterr()
    assert main(["info", str(photo.with_suffix(".npz"))]) == 0
    assert "60, " in (text := capsys.readouterr().out) and "long axis" in text and "background" in text
    assert main(["info", str(photo)]) == 0
    assert "80x96 pixels, 3 channels" in capsys.readouterr().out
    assert main(["compare", str(photo), str(photo)]) == 0
    assert "inf dB" in capsys.readouterr().out


def test_bench_reports_ratios(photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splat2d.bench.ROUNDS", 2)
    monkeypatch.setattr("splat2d.bench.BLOCK", 0.0)
    found = run_json(capsys, "bench", photo, "--splats", "40")
    assert found["splats"] == 40 and found["pairs"] > 0 and found["threads"] == 2
    assert found["instruction_set"]
    for name in ("step", "render", "numpy_exp", "step_ratio", "render_ratio", "speedup"):
        low, median, high = found[name]
        assert 0 < low <= median <= high
    assert main(["bench", str(photo), "--splats", "40"]) == 0
    assert "step / exp" in capsys.readouterr().out


# --- bad input: one line, exit code 1, nothing written, the input untouched

Make = Callable[[Path], list[str]]


def _bytes(name: str, data: bytes) -> Make:
    def make(folder: Path) -> list[str]:
        (folder / name).write_bytes(data)
        return ["fit", str(folder / name), *FAST]

    return make


def _options(*options: str) -> Make:
    return lambda folder: ["fit", str(folder / "photo.png"), *(option.format(folder=folder) for option in options)]


def _output(*names: str, prepare: Callable[[Path], object] = lambda folder: None) -> Make:
    def make(folder: Path) -> list[str]:
        prepare(folder)
        outputs = [part for name in names for part in ("-o", str(folder / name))]
        return ["fit", str(folder / "photo.png"), *FAST, *outputs]

    return make


def _truncated(folder: Path) -> list[str]:
    data = (folder / "photo.png").read_bytes()
    return _bytes("cut.png", data[: len(data) // 2])(folder)


def _not_a_number(folder: Path) -> list[str]:
    image = np.zeros((4, 5, 3), np.float32)
    image[2, 3, 1] = np.nan
    np.save(folder / "nan.npy", image)
    return ["fit", str(folder / "nan.npy"), *FAST]


def _read_only(folder: Path) -> None:
    (folder / "kept.npz").write_bytes(b"precious")
    (folder / "kept.npz").chmod(0o444)


def _other_size(folder: Path) -> list[str]:
    splat2d.save_image(folder / "small.png", np.zeros((4, 5, 3), np.float32))
    return ["compare", str(folder / "photo.png"), str(folder / "small.png")]


def _five_channels(folder: Path) -> list[str]:
    np.save(folder / "five.npy", np.zeros((4, 5, 5), np.float32))
    return ["fit", str(folder / "five.npy"), *FAST, "-o", str(folder / "five.png")]


def _too_wide(folder: Path) -> list[str]:
    np.save(folder / "wide.npy", np.zeros((1, 65536, 1), np.float32))
    return ["fit", str(folder / "wide.npy"), *FAST, "-o", str(folder / "wide.s2d")]


def _array_as_photo(folder: Path) -> list[str]:
    np.savez(folder / "array.npz", np.zeros((4, 5, 3), np.float32))
    return ["fit", str(folder / "array.npz"), *FAST, "-o", str(folder / "array.npz")]


def _something_beside(folder: Path) -> list[str]:
    (folder / "photo.s2d").write_bytes(b"precious")
    return ["fit", str(folder / "photo.png"), *FAST]


def _s2d(command: str, *options: str, cut: int | None = None) -> Make:
    def make(folder: Path) -> list[str]:
        data = splat2d.encode(splat2d.Splats([[4, 3]], [[1, 0, 1]], [[1]], 8, 6, [0]))
        (folder / "a.s2d").write_bytes(data[:cut])
        return [command, str(folder / "a.s2d"), *(option.format(folder=folder) for option in options)]

    return make


def _render(*options: str, command: str = "render") -> Make:
    def make(folder: Path) -> list[str]:
        assert main(["fit", str(folder / "photo.png"), *FAST, "--quiet", "-o", str(folder / "photo.npz")]) == 0
        return [command, str(folder / "photo.npz"), *(option.format(folder=folder) for option in options)]

    return make


BAD: dict[str, tuple[Make, str]] = {
    "missing": (lambda folder: ["fit", str(folder / "none.png")], "no such file"),
    "a folder for a picture": (lambda folder: ["fit", str(folder)], "folder"),
    "empty file": (_bytes("empty.png", b""), "no picture"),
    "no picture": (_bytes("text.jpg", b"just words, no picture"), "no picture"),
    "truncated": (_truncated, "cannot be read as a picture"),
    "no pixels": (_bytes("zero.ppm", b"P6 0 4 255\n"), "picture"),
    "NaN pixels": (_not_a_number, "NaN"),
    "two budgets": (_options("--splats", "50", "--psnr", "30"), "two budgets given, --psnr and --splats; give one"),
    "bytes and bpp": (_options("--bytes", "500", "--bpp", "0.3"), "two budgets given, --bytes and --bpp; give one"),
    "bytes without .s2d": (_options("--bytes", "500", "-o", "{folder}/a.npz"), "--bytes is a budget of .s2d files"),
    "bpp without .s2d": (_options("--bpp", "0.3", "-o", "{folder}/a.png"), "--bpp is a budget of .s2d files"),
    "quality without .s2d": (_options("--quality", "9", "-o", "{folder}/a.png"), "--quality is a budget of .s2d files"),
    "profile without .s2d": (_options("--profile", "vector", "-o", "{folder}/a.npz"), "--profile vector is one"),
    "too few bytes": (_options("--bytes", "12"), "takes at least"),
    "too few bytes for records": (_options("--bytes", "12", "--profile", "vector"), "takes at least"),
    "too few bits": (_options("--bpp", "0.0001"), "takes at least"),
    "no bits": (_options("--bpp", "0"), "bpp: must be a finite number above 0"),
    "bits without end": (_options("--bpp", "inf"), "bpp: must be a finite number above 0"),
    "no bytes": (_options("--bytes", "0"), "bytes: must be"),
    "quality beyond 100": (_options("--quality", "101"), "quality: must be 0 to 100"),
    "steps of a compression": (_options("--steps", "50"), "--steps goes with --splats"),
    "more splats than .s2d takes": (_options("--splats", "40000"), "photo.s2d: 40000 splats are too many"),
    "no splats": (_options("--splats", "0"), "splats: must be at least 1"),
    "negative splats": (_options("--splats", "-5"), "splats: must be at least 1"),
    "no steps": (_options("--splats", "5", "--steps", "0"), "steps: must be at least 1"),
    "negative psnr": (_options("--psnr", "-3"), "psnr"),
    "psnr nan": (_options("--psnr", "nan"), "psnr"),
    "no threads": (_options("--threads", "0"), "threads: must be at least 1"),
    "negative seed": (_options("--seed", "-1"), "seed"),
    "unknown loss": (_options("--loss", "l3"), "loss"),
    "unknown suffix": (_output("out.xyz"), ".xyz"),
    "no suffix": (_output("out"), "suffix"),
    "a folder for an output": (_output("out.npz", prepare=lambda f: (f / "out.npz").mkdir()), "is a folder"),
    "output in no folder": (_output("none/out.npz"), "does not exist"),
    "output in a file": (_output("photo.png/out.npz"), "photo.png"),
    "read-only target": (_output("kept.npz", prepare=_read_only), "read-only"),
    "second output bad": (_output("fine.npz", "none/out.png"), "does not exist"),
    "default output holds something else": (_something_beside, "holds no splats"),
    "default output is the input": (_s2d("fit"), "never overwritten"),
    "output is the input, an array": (_array_as_photo, "never overwritten"),
    "output is the input": (_output("photo.png"), "never overwritten"),
    "output is the input in disguise": (_output("../{name}/photo.png"), "never overwritten"),
    "output is a link to the input": (
        _output("link.png", prepare=lambda f: (f / "link.png").symlink_to(f / "photo.png")),
        "never overwritten",
    ),
    "output is another name of the input": (
        _output("hard.png", prepare=lambda f: (f / "hard.png").hardlink_to(f / "photo.png")),
        "never overwritten",
    ),
    "output named twice": (_output("a.npz", "./a.npz"), "named twice"),
    "output cannot take 5 channels": (_five_channels, "channels"),
    "output cannot take the size": (_too_wide, "65535 pixels"),
    "info on nothing": (lambda folder: ["info", str(folder / "none.npz")], "no such file"),
    "info on broken splats": (lambda folder: ["info", _bytes("bad.npz", b"PK\x03\x04")(folder)[1]], "splats"),
    "compare two sizes": (_other_size, "sizes of the two differ (80x96 and 5x4)"),
    "render a picture": (lambda f: ["render", str(f / "photo.png"), "-o", str(f / "a.png")], "splats"),
    "render to nowhere": (_render(), "-o"),
    "render to splats": (_render("-o", "{folder}/out.npz"), "suffix"),
    "render over its input": (_render("-o", "{folder}/photo.npz"), "photo.npz"),
    "render of two sizes": (_render("-o", "{folder}/a.png", "--scale", "2", "--width", "9"), "scale"),
    "render of no size": (_render("-o", "{folder}/a.png", "--width", "0"), "width"),
    "render beyond memory": (_render("-o", "{folder}/a.png", "--scale", "1e6"), "smaller"),
    "render off the canvas": (_render("-o", "{folder}/a.png", "--crop", "900", "0", "9", "9"), "outside"),
    "info on a cut .s2d": (_s2d("info", cut=-1), "a.s2d: ends after"),
    "render a cut .s2d": (_s2d("render", "-o", "{folder}/out.png", cut=-1), "a.s2d: ends after"),
    "decode a cut .s2d": (_s2d("decode", cut=-1), "a.s2d: ends after"),
    "decode half a header": (_s2d("decode", "--partial", cut=12), "a.s2d: ends after"),
    "decode what is no .s2d": (_render("-o", "{folder}/out.npz", command="decode"), "decode reads .s2d"),
    "decode over its input": (_s2d("decode", "-o", "{folder}/a.s2d"), "never overwritten"),
    "decode to another suffix": (_s2d("decode", "-o", "{folder}/a.xyz"), ".xyz"),
    "encode to another suffix": (_s2d("encode", "-o", "{folder}/a.npz"), "encode writes .s2d"),
    "encode over its input": (_s2d("encode"), "never overwritten"),
    "encode without quality": (_s2d("encode", "-o", "{folder}/b.s2d", "--quality", "101"), "quality must be 0 to 100"),
    "quality of one precision": (
        _s2d("encode", "-o", "{folder}/b.s2d", "--quality", "50", "--profile", "vector"),
        "--quality does not go with --profile vector",
    ),
    "encode a picture": (lambda f: ["encode", str(f / "photo.png"), "-o", str(f / "a.s2d")], "splats have no format"),
    "demo in a file": (lambda folder: ["demo", "-o", str(folder / "photo.png")], "photo.png"),
    "bench without splats": (lambda folder: ["bench", str(folder / "photo.png"), "--splats", "0"], "splats"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, what = BAD[case]
    arguments = [argument.replace("{name}", photo.parent.name) for argument in make(photo.parent)]
    before = contents(photo.parent)
    capsys.readouterr()

    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("splat2d: error: ") and err.count("\n") == 1
    assert what in err
    assert contents(photo.parent) == before


def contents(folder: Path) -> dict[str, bytes | None]:
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def test_broken_pictures(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = sorted((data / "robust").glob("corrupt_*"))
    assert broken
    for path in broken:
        copy = tmp_path / path.name
        shutil.copyfile(path, copy)
        code = main(["fit", str(copy), "--splats", "5", "--steps", "5"])
        err = capsys.readouterr().err
        if code == 0:  # a text of unsafe length in a PNG leaves its pixels intact
            assert path.name == "corrupt_png_decompression_dos.png"
            (tmp_path / path.with_suffix(".s2d").name).unlink()
        else:
            assert code == 1 and err.count("\n") == 1
        copy.unlink()
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("/proc") if os.geteuid() == 0 else photo.parent / "locked"
    if not folder.exists():
        folder.mkdir(mode=0o555)
    assert main(["fit", str(photo), *FAST, "-o", str(folder / "out.npz")]) == 1
    err = capsys.readouterr().err
    assert "cannot be written" in err and err.count("\n") == 1


def test_outputs_are_checked_before_the_fit(
    photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> Iterator[fitting.Progress]:
        raise AssertionError("the fit began")

    monkeypatch.setattr(fitting, "fit_steps", never)
    monkeypatch.setattr(compression, "compress_steps", never)
    for name in ("none/out.npz", "none/out.s2d", "out.xyz", "photo.png"):
        assert main(["fit", str(photo), "-o", str(photo.parent / name)]) == 1


def test_more_than_one_splat_per_pixel_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tiny.png"
    splat2d.save_image(path, astronaut()[100:104, 200:205])
    options = ["--steps", "5", "-o", str(path.with_suffix(".npz"))]
    assert main(["fit", str(path), "--splats", "20", *options]) == 0
    assert capsys.readouterr().err == ""
    assert main(["fit", str(path), "--splats", "21", *options]) == 0
    assert capsys.readouterr().err == "splat2d: warning: 21 splats for 20 pixels are more than one per pixel\n"
    assert len(splat2d.load(path.with_suffix(".npz"))) == 21


def test_a_full_disk_is_an_error_of_one_line(
    photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device", "photo.npz")

    monkeypatch.setattr(files, "write", full)
    assert main(["fit", str(photo), *FAST]) == 1
    assert capsys.readouterr().err == "splat2d: error: photo.npz: No space left on device\n"


# --- Ctrl-C


def interrupting(events: int) -> Callable[..., Iterator[fitting.Progress]]:
    """fit_steps that meets Ctrl-C after some events."""
    complete = fitting.fit_steps

    def stopped(*arguments: Any) -> Iterator[fitting.Progress]:
        for _, event in zip(range(events), complete(*arguments), strict=False):
            yield event
        raise KeyboardInterrupt

    return stopped


def test_interrupt_before_the_first_state_writes_nothing(
    photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "fit_steps", interrupting(0))
    assert main(["fit", str(photo), *FAST]) == 130
    assert capsys.readouterr() == ("", "splat2d: interrupted; nothing more was written\n")
    assert [path.name for path in photo.parent.iterdir()] == ["photo.png"]


def test_second_interrupt_gives_up(
    photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "fit_steps", interrupting(2))
    monkeypatch.setattr(rendering, "render", again)
    assert main(["fit", str(photo), *FAST]) == 130
    assert "nothing more was written" in capsys.readouterr().err
    assert [path.name for path in photo.parent.iterdir()] == ["photo.png"]


def test_interrupt_keeps_the_best_state(
    photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = splat2d.load_image(photo)
    splats = splat2d.fit(image, splats=30, steps=50).splats
    events = [
        fitting.Progress(step=step, steps=9, count=count, psnr=psnr, seconds=0.1, splats=splats, best=best)
        for step, count, psnr, best in [(1, 5, 40.0, False), (2, 30, 30.0, True), (3, 30, 20.0, False)]
    ]

    def stopped(*_: object) -> Iterator[fitting.Progress]:
        yield from events
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "fit_steps", stopped)
    assert main(["fit", str(photo), "--splats", "30", "--json", "-o", str(photo.with_suffix(".npz"))]) == 130
    out, err = capsys.readouterr()
    assert "interrupted at step 3 of 9" in err
    report = json.loads(out)
    assert report["steps"] == 2 and report["interrupted"] is True
    assert len(splat2d.load(photo.with_suffix(".npz"))) == 30


def on_terminal(arguments: list[str], until: bytes | None, environment: dict[str, str]) -> tuple[int, str, str]:
    """Runs splat2d with stderr on a terminal, with a Ctrl-C once that shows `until`: exit code, stdout, stderr."""
    ours, theirs = pty.openpty()
    # A shell may have told background jobs to ignore Ctrl-C, and a child inherits that.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from splat2d.cli import main; sys.exit(main())"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", **environment},
    )
    os.close(theirs)
    shown = b""
    try:
        while select.select([ours], [], [], 60)[0]:
            try:
                part = os.read(ours, 4096)
            except OSError:  # Linux: the other end is closed
                part = b""
            if not part:
                break
            shown += part
            if until is not None and until in shown:
                child.send_signal(signal.SIGINT)
                until = None
        out, _ = child.communicate(timeout=60)
    finally:
        child.kill()
        os.close(ours)
    return child.returncode, out, shown.decode()


@pytest.mark.parametrize("budget", [["--bytes", "700"], ["--bpp", "0.25"], ["--quality", "30"], ["--psnr", "22"], []])
@pytest.mark.parametrize("phase", ["fitting", "training", "rounding"])
@pytest.mark.parametrize("profile", ["scalar", "vector"])
def test_interrupt_of_a_compression_writes_a_file_within_the_budget(
    budget: list[str],
    phase: str,
    profile: str,
    photo: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    short: Schedule,
) -> None:
    complete = compression.compress_steps

    def stopped(image: Any, config: splat2d.CompressConfig) -> Iterator[Any]:
        for event in complete(image, config):
            assert isinstance(event, fitting.Progress)
            yield event
            if event.step >= short.fit and event.phase == phase:
                raise KeyboardInterrupt

    monkeypatch.setattr(compression, "compress_steps", stopped)
    small, shown = photo.with_suffix(".s2d"), photo.with_name("shown.png")
    options = [*budget, "--profile", profile]
    assert main(["fit", str(photo), *options, "-o", str(small), "-o", str(shown), "--json"]) == 130
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["interrupted"] is True and report["bytes"] == small.stat().st_size
    assert re.match(
        r"splat2d: interrupted at step \d+ of \d+; writing the best .*\nsplat2d: .*rounded all at once", err
    )
    limit = {"--bytes": 700, "--bpp": 240}.get(budget[0]) if budget else None
    assert limit is None or 0.8 * limit < report["bytes"] <= limit
    assert len(splat2d.load(small)) == report["splats"] > 0
    assert codec.container.unpack(small.read_bytes()).header.profile == {"scalar": 1, "vector": 2}[profile]
    assert run_json(capsys, "compare", photo, small)["psnr"] == pytest.approx(report["psnr"], abs=1e-6)
    image = splat2d.load_image(photo)
    assert report["psnr"] > splat2d.psnr(np.broadcast_to(image.mean((0, 1)), image.shape), image) + 1


def test_interrupt_of_a_search_keeps_its_best_file(
    photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, short: Schedule
) -> None:
    complete = compression.compress_steps
    found: list[compression.Compressed] = []

    def stopped(image: Any, config: splat2d.CompressConfig) -> Iterator[Any]:
        for event in complete(image, config):
            if isinstance(event, compression.Compressed):
                found.append(event)
            yield event
            if found and isinstance(event, fitting.Progress):
                raise KeyboardInterrupt

    monkeypatch.setattr(compression, "compress_steps", stopped)
    small = photo.with_suffix(".s2d")
    assert main(["fit", str(photo), "--psnr", "15", "-o", str(small), "--json"]) == 130
    out, err = capsys.readouterr()
    assert small.read_bytes() == found[0].data and len(found) == 1
    assert json.loads(out)["psnr"] == pytest.approx(found[0].psnr) and found[0].psnr > 15
    assert "writing the best result so far" in err and "rounded" not in err


def test_ctrl_c_during_a_compression_leaves_a_file_and_shows_its_phases(photo: Path) -> None:
    code, _, err = on_terminal(
        ["fit", str(photo), "--bytes", "900", "--preset", "best"], b"rounding", {"NO_COLOR": "1"}
    )
    assert code == 130
    assert 700 < photo.with_suffix(".s2d").stat().st_size <= 900
    assert err.index("fitting") < err.index("training") < err.index("rounding") < err.index("rounded all at once")


def test_ctrl_c_during_a_long_fit_leaves_a_result(photo: Path) -> None:
    arguments = ["fit", str(photo), "--splats", "60", "--steps", "1000000"]
    code, out, err = on_terminal(arguments, until=b" dB ", environment={"NO_COLOR": "1"})
    assert code == 130
    assert re.search(r"splat2d: interrupted at step \d+ of 1000000; writing the best result so far", err)
    assert "photo.s2d" in out
    splats = splat2d.load(photo.with_suffix(".s2d"))
    assert 0 < len(splats) <= 60 and (splats.width, splats.height) == (80, 96)
    assert sorted(path.name for path in photo.parent.iterdir()) == ["photo.png", "photo.s2d"]
    assert "fitting" in err and " splats" in err
    assert not re.search(r"\x1b\[[\d;]*3\d", err), "NO_COLOR asks for no colours"


def test_quiet_shows_nothing_on_a_terminal(photo: Path) -> None:
    assert on_terminal(["fit", str(photo), *FAST, "--quiet"], until=None, environment={})[::2] == (0, "")


# --- the program


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom splat2d.cli import main\n"
        "try:\n    main(['fit', '--help'])\nexcept SystemExit as done:\n    assert done.code == 0\n"
        "heavy = {'numpy', 'PIL', 'rich', 'splat2d._cpu'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = python("-c", program)
    assert done.returncode == 0, done.stderr
    for option in ("--bytes", "--bpp", "--quality", "--psnr", "--splats", "--preset", "--loss", "-o", "--json"):
        assert option in done.stdout


def test_version_help_and_usage() -> None:
    version = python("-m", "splat2d", "--version")
    assert (version.returncode, version.stdout) == (0, f"splat2d {splat2d.__version__}\n")
    bare = python("-m", "splat2d")
    assert bare.returncode == 0 and "compare" in bare.stdout
    wrong = python("-m", "splat2d", "fit", "a.png", "--preset", "slow")
    assert wrong.returncode == 2 and wrong.stdout == "" and "--preset" in wrong.stderr


def test_error_in_a_process_of_its_own(tmp_path: Path) -> None:
    missing = tmp_path / "none.png"
    done = python("-m", "splat2d", "fit", str(missing))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"splat2d: error: {missing}: no such file\n"
