"""splat2d diffusion: digits through every command, bad input, Ctrl-C, and help where torch is missing."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

import splat2d
from splat2d import diffusion_cli
from splat2d.cli import main
from splat2d.diffusion_cli import COMMANDS

TRAIN = "--width 32 --depth 1 --heads 2 --steps 20 --batch 16 --report-every 10 --save-every 10 --device cpu"


@pytest.fixture(scope="module")
def needed():
    """Everything but help needs these."""
    for name in ("torch", "safetensors", "tensorboard", "sklearn"):
        pytest.importorskip(name, reason=f"{name} is not installed")


@pytest.fixture(scope="module")
def made(needed, one_thread, digit_pictures, tmp_path_factory):
    """A folder with digits.npz, splats.safetensors and the folder model of a training."""
    folder = tmp_path_factory.mktemp("made")
    some = np.r_[0:200, 1200:1260]
    images, labels = digit_pictures.images[some], digit_pictures.labels[some]
    parts = {"x_train": images[:200], "y_train": labels[:200], "x_test": images[200:], "y_test": labels[200:]}
    names = [f"Digit {digit}" for digit in range(10)]
    np.savez(folder / "digits.npz", **parts, names=names)
    splats, model = folder / "splats.safetensors", folder / "model"
    assert (
        main(
            [
                "diffusion",
                "build",
                f"{folder}/digits.npz",
                "-o",
                str(splats),
                "--splats",
                "9",
                "--method",
                "fit",
                "--steps",
                "15",
            ]
        )
        == 0
    )
    assert main(["diffusion", "train", str(splats), "-o", str(model), *TRAIN.split()]) == 0
    return folder


def run_json(capsys, *arguments):
    capsys.readouterr()
    assert main(["diffusion", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    """The one line that a command fails with."""
    capsys.readouterr()
    assert main(["diffusion", *map(str, arguments)]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("splat2d: error: "), err
    return err.removeprefix("splat2d: error: ").rstrip("\n")


# --- through the commands


def test_build_reports_what_it_made(made, tmp_path, capsys):
    output = tmp_path / "s.safetensors"
    options = [
        "-o",
        output,
        "--splats",
        16,
        "--method",
        "fit",
        "--steps",
        50,
        "--rate",
        0.05,
        "--limit",
        40,
        "--device",
        "cpu",
    ]
    report = run_json(capsys, "build", made / "digits.npz", *options)
    assert (report["train"], report["test"], report["splats"], report["device"]) == (40, 40, 16, "cpu")
    assert (report["width"], report["height"], report["channels"]) == (8, 8, 1)
    assert report["classes"][3] == "Digit 3" and report["bytes"] == output.stat().st_size
    assert report["floor_train"] > 20 and report["floor_test"] > 20
    assert report["next"] == shlex.join(["splat2d", "diffusion", "train", str(output), "-o", "model"])
    assert main(["diffusion", "build", str(made / "digits.npz"), *map(str, options)]) == 0
    text = capsys.readouterr().out
    for part in (
        "40 to train on, 40 to test on, 8x8 pixels, 1 channels, 10 classes",
        "16 of each",
        "dB (test)",
        "next",
    ):
        assert part in text


def test_train_goes_on_where_it_was_stopped(made, tmp_path, capsys, monkeypatch):
    from splat2d.diffusion import training

    whole = training.train

    def interrupted(*arguments, **options):
        events = whole(*arguments, **options)
        yield next(events)
        raise KeyboardInterrupt

    command = ["train", made / "splats.safetensors", "-o", tmp_path / "model", *TRAIN.split()]
    monkeypatch.setattr(training, "train", interrupted)
    assert main(["diffusion", *map(str, command)]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "splat2d: interrupted; the same command goes on from step 10 of 20, the last checkpoint\n"
    monkeypatch.undo()
    assert main(["diffusion", *map(str, command), "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert err == f"splat2d: goes on from step 10 of 20, the checkpoint in {tmp_path / 'model'}\n"
    assert report["steps"] == 20 and np.isfinite(report["loss"]) and report["processes"] == 1
    assert report["model"] == str(tmp_path / "model" / "model.safetensors")
    for name in ("checkpoint.safetensors", "model.safetensors"):
        assert (tmp_path / "model" / name).read_bytes() == (made / "model" / name).read_bytes()
    again = run_json(capsys, *command)
    assert again["loss"] is None and again["bytes"] == report["bytes"]
    assert main(["diffusion", *map(str, command)]) == 0
    assert "20, all of them done before" in capsys.readouterr().out


def test_other_processes_than_the_first_are_silent(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    command = ["diffusion", "train", str(made / "splats.safetensors"), "-o", str(tmp_path), *TRAIN.split()]
    assert main(command) == 0
    assert capsys.readouterr() == ("", "")


def test_a_sheet_arrays_and_splats(made, tmp_path, capsys):
    outputs = [tmp_path / name for name in ("sheet.png", "arrays.npz", "each.s2d")]
    options = [part for path in outputs for part in ("-o", path)]
    model = made / "model" / "model.safetensors"
    few = ["--count", 4, "--classes", "digit 3", 7, "--steps", 2, "--device", "cpu"]
    report = run_json(capsys, "sample", model, *options, *few)
    assert report["samples"] == 4 and report["classes"] == ["Digit 3", "Digit 7"] * 2
    names = ["arrays.npz", *(f"each-000{number}.s2d" for number in (1, 2, 3, 4)), "sheet.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert sorted(Path(each["path"]).name for each in report["outputs"]) == names
    assert all(each["bytes"] == Path(each["path"]).stat().st_size for each in report["outputs"])

    with np.load(tmp_path / "arrays.npz") as file:
        arrays = dict(file)
    assert arrays["images"].shape == (4, 8, 8, 1) and arrays["images"].dtype == np.uint8
    assert arrays["labels"].tolist() == [3, 7, 3, 7] and arrays["names"][7] == "Digit 7"
    shapes = [arrays[name].shape for name in ("means", "log_cholesky", "colors", "background")]
    assert shapes == [(4, 9, 2), (4, 9, 3), (4, 9, 1), (1,)]
    for index in range(4):
        splats = splat2d.Splats(
            *(arrays[name][index] for name in ("means", "log_cholesky", "colors")),
            *(int(arrays[name]) for name in ("width", "height")),
            arrays["background"],
        )
        shown = np.rint(splat2d.render(splats).clip(0, 1) * 255)
        np.testing.assert_allclose(shown, arrays["images"][index], atol=1)
        coded = splat2d.load(tmp_path / f"each-000{index + 1}.s2d")
        assert splat2d.psnr(splat2d.render(coded), splat2d.render(splats)) > 25
    sheet = splat2d.load_image(tmp_path / "sheet.png")
    assert sheet.shape == (2 * 66 + 2, 2 * 66 + 2, 1)  # a column for each class, pictures eight times enlarged
    np.testing.assert_allclose(sheet[2:66:8, 68:132:8] * 255, arrays["images"][1], atol=0.1)


def test_samples_at_any_size(made, tmp_path, capsys):
    model, output = made / "model" / "model.safetensors", tmp_path / "large.npz"
    few = ["--count", 2, "--steps", 2, "-o", output]
    run_json(capsys, "sample", model, *few, "--width", 100)
    with np.load(output) as file:
        large = file["images"]
    assert large.shape == (2, 100, 100, 1)
    run_json(capsys, "sample", model, *few, "--scale", 0.5)
    with np.load(output) as file:
        assert file["images"].shape == (2, 4, 4, 1)
    run_json(capsys, "sample", model, *few)
    with np.load(output) as file:
        small = file["images"]
    blocks = large[:, 2:98].reshape(2, 8, 12, 100, 1)[:, :, :, 2:98].reshape(2, 8, 12, 8, 12, 1)
    assert np.abs(blocks.mean((2, 4)) - small).mean() < 20  # the same pictures
    one = tmp_path / "one.s2d"
    assert main(["diffusion", "sample", str(model), "--count", "1", "--steps", "2", "-o", str(one)]) == 0
    assert len(splat2d.load(one)) <= 9
    text = capsys.readouterr().out
    assert str(one) in text and "1, 1 classes, 8x8 pixels" in text
    assert main(["diffusion", "sample", str(model), "--count", "3", "--steps", "1", "-o", str(one)]) == 0
    assert f"{tmp_path}/one-0001.s2d to one-0003.s2d" in capsys.readouterr().out


def test_the_pixel_model_samples_pixels(made, tmp_path, capsys):
    folder = tmp_path / "pixels"
    options = ["--tokens", "pixels", "--patch", 2, "--sample-every", 20]
    report = run_json(capsys, "train", made / "splats.safetensors", "-o", folder, *TRAIN.split(), *options)
    assert (folder / "samples-000020.png").exists()
    output = tmp_path / "arrays.npz"
    run_json(capsys, "sample", report["model"], "--count", 3, "--steps", 2, "-o", output)
    with np.load(output) as file:
        assert set(file) == {"images", "labels", "names"} and file["images"].shape == (3, 8, 8, 1)
    message = refused(capsys, "sample", report["model"], "-o", tmp_path / "a.s2d")
    assert message == f"{tmp_path}/a.s2d: this model makes pixels, not splats; write .png or .npz"
    message = refused(capsys, "sample", report["model"], "-o", output, "--count", 1, "--steps", 1, "--scale", 2)
    assert "this model makes pixels, 8x8 of them" in message


def test_evaluate_reports(made, tmp_path, capsys, monkeypatch):
    from splat2d.diffusion.classifier import ClassifierConfig
    from splat2d.diffusion.evaluation import EvaluationConfig

    quick = replace(ClassifierConfig.compact(), widths=(8, 16), steps=5)
    config = EvaluationConfig(quick, replace(quick, architecture="plain"), quick, kernel_subsets=3, kernel_size=30)
    monkeypatch.setattr(EvaluationConfig, "compact", classmethod(lambda cls: config))
    command = ["evaluate", made / "model" / "model.safetensors", made / "splats.safetensors", "--compact"]
    options = ["--samples", 40, "--steps", 2, "--judges", tmp_path / "judges", "-o", tmp_path / "report.json"]
    report = run_json(capsys, *command, *options)
    assert {row["name"]: row["count"] for row in report["rows"]} == {
        **{"samples": 40, "train": 40, "fitted train": 40, "floor": 60, "mean picture": 40},
    }
    assert report["finite"] == 1 and report["train_count"] == 200 and report["test_count"] == 60
    assert any(note.startswith("40 samples in") and "2 steps of heun, guidance 1.5" in note for note in report["notes"])
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert len(list((tmp_path / "judges").iterdir())) == 3
    page = tmp_path / "report.md"
    assert main(["diffusion", *map(str, [*command, *options[:-1], page])]) == 0
    out = capsys.readouterr().out
    assert page.read_text() == out and "| floor" in out and "second classifier" in out
    digests = re.findall(r"features (\w{12}), second (\w{12})", out)
    assert digests == [(report["judges"]["features"], report["judges"]["second"])]


def test_progress_shows_loss_and_speed(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    command = ["diffusion", "train", str(made / "splats.safetensors"), *TRAIN.split()]
    assert main([*command, "-o", str(tmp_path / "shown")]) == 0
    assert re.search(r"step 20/20  loss \d\.\d{4}  \d+ pictures/s", capsys.readouterr().err)
    assert main([*command, "-o", str(tmp_path / "quiet"), "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_the_model_that_comes_with_it(tmp_path, capsys):
    from splat2d.diffusion.model import SHIPPED

    assert SHIPPED.stat().st_size <= 15e6
    output = tmp_path / "new.npz"
    options = ["--count", "6", "--classes", "1", "9", "--steps", "6", "--sampler", "dpm++", "--quiet"]
    assert main(["diffusion", "sample", "-o", str(output), *options]) == 0
    images = np.load(output)["images"][..., 0].astype(float)
    trousers, boots = images[0::2].mean(0), images[1::2].mean(0)
    assert trousers[2:, 10:18].mean() > 60 > 20 > trousers[:, :6].mean()  # upright, with nothing at the sides
    assert boots[22:25, 2:26].mean() > 60 > 20 > boots[:4].mean()  # a sole, and nothing at the top

    arrays = {"x_train": images[:4], "y_train": np.zeros(4), "x_test": images[4:], "y_test": np.zeros(2)}
    np.savez(tmp_path / "six.npz", **{name: array.astype(np.uint8) for name, array in arrays.items()})
    report = run_json(
        *(capsys, "build", tmp_path / "six.npz", "-o", tmp_path / "six.safetensors", "--encoder", SHIPPED)
    )
    assert report["splats"] == 100 and report["floor_train"] > 32 and report["floor_test"] > 32


# --- bad input


def test_bad_input_of_build(made, tmp_path, capsys):
    data, output = made / "digits.npz", tmp_path / "s.safetensors"
    assert refused(capsys, "build", tmp_path / "none.npz") == f"{tmp_path}/none.npz: no such file"
    assert refused(capsys, "build", tmp_path, "-o", output) == f"{tmp_path}: there are no pictures in this folder"
    assert 'suffix ".npz"' in refused(capsys, "build", data, "-o", tmp_path / "s.npz")
    assert refused(capsys, "build", data, "-o", output, "--splats", 17).endswith("take 16")
    assert "limit: must be at least 1" in refused(capsys, "build", data, "-o", output, "--limit", 0)
    assert "rate: must be above 0" in refused(capsys, "build", data, "-o", output, "--rate", -1)
    model = made / "model" / "model.safetensors"
    assert "model.safetensors: has no encoder" in refused(capsys, "build", data, "-o", output, "--encoder", model)
    assert "does not exist" in refused(capsys, "build", data, "-o", tmp_path / "no" / "s.safetensors")
    assert not any(tmp_path.iterdir())


def test_bad_input_of_train(made, tmp_path, capsys):
    splats = made / "splats.safetensors"
    options = ["-o", tmp_path / "model", *TRAIN.split()]
    assert "is not a set of splats" in refused(capsys, "train", made / "model" / "model.safetensors", *options)
    assert "width: must be a multiple of twice the heads" in refused(capsys, "train", splats, *options, "--heads", 3)
    assert "report_every: must be at least 1" in refused(capsys, "train", splats, *options, "--report-every", 0)
    assert not any(tmp_path.iterdir())
    other = ["-o", made / "model", *TRAIN.split(), "--seed", 1]
    assert "is of another configuration; give another folder" in refused(capsys, "train", splats, *other)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(splats.read_bytes()[:1000])
    assert "cannot be read as safetensors" in refused(capsys, "train", broken)


def test_bad_input_of_sample(made, tmp_path, capsys, monkeypatch):
    model, output = made / "model" / "model.safetensors", tmp_path / "a.png"
    assert 'there is no "cat"; known: Digit 0' in refused(capsys, "sample", model, "-o", output, "--classes", "cat")
    assert 'there is no "10"' in refused(capsys, "sample", model, "-o", output, "--classes", 10)
    assert "count: must be at least 1" in refused(capsys, "sample", model, "-o", output, "--count", 0)
    assert "columns: must be at least 1" in refused(capsys, "sample", model, "-o", output, "--columns", 0)
    assert "steps: must be at least 1" in refused(capsys, "sample", model, "-o", output, "--steps", 0)
    assert 'suffix ".txt"' in refused(capsys, "sample", model, "-o", tmp_path / "a.txt")
    assert "is the input" in refused(capsys, "sample", made / "model" / ".." / "digits.npz", "-o", made / "digits.npz")
    assert "is not a model of splat2d" in refused(capsys, "sample", made / "splats.safetensors", "-o", output)
    monkeypatch.setattr("splat2d.diffusion.model.SHIPPED", tmp_path / "fashion.safetensors")
    assert "name one that `splat2d diffusion train` made" in refused(capsys, "sample", "-o", output)
    assert not any(tmp_path.iterdir())


def test_bad_input_of_evaluate(made, tmp_path, capsys):
    model, splats = made / "model" / "model.safetensors", tmp_path / "s.safetensors"
    assert (
        main(
            [
                "diffusion",
                "build",
                f"{made}/digits.npz",
                "-o",
                str(splats),
                "--splats",
                "4",
                "--method",
                "fit",
                "--steps",
                "1",
            ]
        )
        == 0
    )
    message = refused(capsys, "evaluate", model, splats)
    assert message == "the model makes 9 splats a picture, the set has 4; give its own set"
    assert 'suffix ".txt"' in refused(capsys, "evaluate", model, splats, "-o", tmp_path / "r.txt")
    message = refused(capsys, "evaluate", model, splats, "--samples", 5)
    assert message == "samples: 5 are too few to judge by; draw at least 10"


def test_a_gpu_that_is_not_there(made, capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    for command in ([made / "model" / "model.safetensors"], []):
        arguments = ["sample", *command] if command else ["build", made / "digits.npz"]
        assert "torch finds no GPU that it can use" in refused(capsys, *arguments, "--device", "cuda")


# --- help, and where torch is missing


WITHOUT = """
import importlib.machinery as machinery, sys
from splat2d.cli import main

def without(*packages):
    found = machinery.PathFinder.find_spec
    def find(name, *rest):
        return None if name.split(".")[0] in packages else found(name, *rest)
    machinery.PathFinder.find_spec = find

"""


def python(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_help_needs_no_torch_and_loads_nothing_heavy():
    program = (
        f"{WITHOUT}without('torch', 'safetensors')\n"
        f"for each in {[[], ['diffusion'], *(['diffusion', name, '--help'] for name in COMMANDS)]}:\n"
        "    try:\n        main(each)\n    except SystemExit as done:\n        assert done.code == 0\n"
        "heavy = {'numpy', 'PIL', 'rich', 'splat2d._cpu', 'splat2d.diffusion'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = python(program)
    assert done.returncode == 0, done.stderr
    for part in (*COMMANDS, "--prediction {x,v}", "--sampler {euler,heun,dpm++}", "--judges", 'pip install "splat2d'):
        assert part in done.stdout, part


@pytest.mark.parametrize("missing", ["torch", "safetensors"])
def test_without_the_extra_one_line_names_it(missing):
    program = (
        f"{WITHOUT}without({missing!r})\n"
        "codes = {main(['diffusion', *each]) for each in (['build', 'x.npz'], ['train', 'x'], ['sample'])}\n"
        "assert codes == {1}\n"
        "try:\n    import splat2d.diffusion.model\nexcept ImportError as error:\n    print(error)\n"
    )
    done = python(program)
    assert done.returncode == 0, done.stderr
    line = 'splat2d.diffusion needs torch and safetensors; install them by: pip install "splat2d[diffusion]"\n'
    assert done.stderr == f"splat2d: error: {line}" * 3 and done.stdout == line


def test_the_public_names(needed):
    import splat2d.diffusion as package

    assert set(package.__all__) == set(package._HOME) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name


def test_defaults_are_those_of_the_configurations(needed):
    from splat2d.diffusion import BuildConfig, NetworkConfig, SampleConfig, TrainConfig
    from splat2d.diffusion.encoder import EncoderConfig

    pairs = (
        (diffusion_cli.Build, (BuildConfig(),), {"steps", "rate", "encoder"}),
        (diffusion_cli.Train, (TrainConfig(), NetworkConfig()), {"network", "warmup", "decay", "slots"}),
        (diffusion_cli.Sample, (SampleConfig(),), set()),
        (diffusion_cli.Evaluate, (SampleConfig(),), set()),
    )
    for command, configs, without in pairs:
        options = {each.name: each.default for each in fields(command)}
        for config in configs:
            for each in fields(config):
                if each.name not in without:
                    assert options[each.name] == getattr(config, each.name), (command, each.name)
    build = {each.name: each.default for each in fields(diffusion_cli.Build)}
    assert build["passes"] == EncoderConfig().passes and build["settling"] == EncoderConfig().settling
