"""Pictures completed, varied and blended by models: against closed forms, on scikit-learn's digits, and as commands."""

import json
import math

import numpy as np
import pytest

pytest.importorskip("torch", reason='torch is not installed: pip install "splat2d[diffusion]"')
pytest.importorskip("safetensors", reason='safetensors is not installed: pip install "splat2d[diffusion]"')
pytest.importorskip("tensorboard", reason='TensorBoard is not installed: pip install "splat2d[diffusion]"')
import torch

import splat2d
from splat2d import InputError, load_image
from splat2d.cli import main
from splat2d.diffusion.editing import (
    EditConfig,
    agreeing,
    blend,
    blend_seeds,
    complete,
    known_grey,
    known_means,
    known_pixels,
    tokens_of,
    vary,
)
from splat2d.diffusion.encoder import Encoder, EncoderConfig
from splat2d.diffusion.layouts import PatchLayout, SplatLayout
from splat2d.diffusion.model import Model, SampleConfig, generate, load_model
from splat2d.diffusion.network import Denoiser, NetworkConfig
from splat2d.diffusion.photos import Photo, centred, known_of, load_photos, resized_mask
from splat2d.diffusion.training import TrainConfig, train
from splat2d.images import save_image

pytestmark = pytest.mark.usefixtures("one_thread")

UPPER = torch.arange(8)[:, None].expand(8, 8) < 4
QUICK = EditConfig(SampleConfig(steps=8, sampler="dpm++"), repeats=1)
RGB = SplatLayout(8, 8, 3, 4, 4, (0.2, 0.2, 0.2))


@pytest.fixture(scope="module")
def folders(digit_splats, tmp_path_factory):
    """Trainings of a model of splats and of one of pixels."""
    network = NetworkConfig(width=32, depth=2, heads=2)
    found = {}
    for tokens in ("splats", "pixels"):
        found[tokens] = tmp_path_factory.mktemp(tokens)
        config = TrainConfig(tokens, 2, network, steps=200, batch=64, rate=3e-3, average=0.98)
        for _ in train(digit_splats, config, found[tokens], report_every=200):
            pass
    return found


@pytest.fixture(scope="module", params=["splats", "pixels"])
def model(request, folders):
    return load_model(folders[request.param] / "model.safetensors")


@pytest.fixture(scope="module")
def of_splats(folders):
    return load_model(folders["splats"] / "model.safetensors")


@pytest.fixture(scope="module")
def digits(digit_pictures):
    """Eight that no model has seen, [8, 8, 8, 1], and their labels."""
    chosen = np.flatnonzero(digit_pictures.test)[:8]
    return torch.from_numpy(digit_pictures.images[chosen]).float() / 255, torch.from_numpy(
        digit_pictures.labels[chosen]
    )


class Normal(torch.nn.Module):
    """What a perfect network predicts where all whitened tokens are independent and standard normal."""

    classes = 0

    def forward(self, x, t, labels):
        t = t[:, None, None]
        return t * x / (t**2 + (1 - t) ** 2)


def normal_model(layout, deviation):
    return Model(Normal(), layout, torch.full((layout.fields,), 0.5), deviation, (), "x")


def untrained(layout):
    """A model that predicts the mean: every picture is to it the same grey."""
    deviation = torch.tensor([0.3] * 5 + [0.2] * layout.channels)
    network = Denoiser(layout, 1, NetworkConfig(8, 1, 2)).requires_grad_(False)
    return Model(network, layout, torch.zeros(layout.fields), deviation, (), "x")


# --- what is known


@pytest.mark.parametrize("task", ["pixels", "means", "grey", "grey and alpha"])
def test_measures_are_linear_and_have_their_adjoint(task):
    channels = 4 if task == "grey and alpha" else 3
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 1, 4, 6, channels, generator=generator, dtype=torch.float64)
    keep = torch.rand(4, 6, generator=generator) < 0.5
    made = {"pixels": lambda: known_pixels(x, keep), "means": lambda: known_means(x[:, :2, :3], 4, 6)}
    measure = made.get(task, lambda: known_grey(x))().measure
    torch.testing.assert_close(measure(2 * x - 3 * y), 2 * measure(x) - 3 * measure(y))

    # As a matrix, column by column; the adjoint is its transpose.
    size = x.numel()
    matrix = measure(torch.eye(size, dtype=x.dtype).reshape(size, *x.shape[1:])).flatten(1).T
    row_sums = {"pixels": 1, "means": 1, "grey": 1, "grey and alpha": 1}[task]
    torch.testing.assert_close(matrix.sum(1), torch.full((len(matrix),), row_sums, dtype=x.dtype))
    x.requires_grad_()
    shown = measure(x)
    back = torch.rand(shown.shape, generator=generator, dtype=x.dtype)
    (adjoint,) = torch.autograd.grad(shown, x, back)
    torch.testing.assert_close(adjoint.flatten(), matrix.T @ back.flatten())


def test_what_measures_see():
    x = torch.rand(2, 4, 4, 3)
    keep = torch.zeros(4, 4, dtype=torch.bool)
    keep[1, 2] = True
    assert torch.equal(known_pixels(x, keep).values[:, 0], x[:, 1, 2])
    small = x.unflatten(1, (2, 2)).unflatten(3, (2, 2)).mean((2, 4))
    known = known_means(small, 4, 4)
    torch.testing.assert_close(known.measure(x), small)
    assert (known.psnr(x) > 90).all() and ((known.psnr(x + 0.1) < 21) | (x > 0.9).flatten(1).any(1)).all()
    torch.testing.assert_close(known_grey(x).values[..., 0], x.mean(-1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: known_pixels(x, torch.ones(4, 6, dtype=torch.bool)), "mask: is of 6x4 pixels, the pictures of 4x4"),
        (lambda x: known_pixels(x, torch.ones(4, 4, dtype=torch.bool)), "mask: all of the picture is kept"),
        (lambda x: known_pixels(x, torch.zeros(4, 4, dtype=torch.bool)), "mask: none of the picture is kept"),
        (lambda x: known_means(x, 4, 4), "4x4 pixels cannot become 4x4: .* make it 2x2 or 1x1"),
        (lambda x: known_means(x, 8, 12), "4x4 pixels cannot become 12x8: .* make it 6x4 or 3x2"),
        (lambda x: known_grey(x[..., :1]), "colorize: this model has no colours"),
    ],
)
def test_what_cannot_be_known(make, message):
    with pytest.raises(InputError, match=message):
        make(torch.rand(1, 4, 4, 3))


# --- closed forms


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm++"])
def test_a_normal_model_gives_the_posterior(sampler):
    """Pixels of mean 0.5 and known deviations d; given the means y of 2x2 of them, those of a square have the posterior
    mean 0.5 + 4 d^2 / sum d^2 (y - 0.5) and covariance diag(d^2) - d^2 d^2' / sum d^2.
    """
    layout = PatchLayout(4, 4, 1, 2)
    deviation = torch.tensor([0.05, 0.1, 0.15, 0.2])
    model = normal_model(layout, deviation)
    count = 400
    small = torch.tensor([[0.45, 0.52], [0.5, 0.56]])[None, :, :, None].expand(count, -1, -1, -1)
    config = EditConfig(SampleConfig(steps=20, sampler=sampler), repeats=0)
    tokens = complete(model, known_means(small, 4, 4), torch.zeros(count, dtype=torch.long), config)
    squares = deviation**2
    expected = 0.5 + 4 * squares / squares.sum() * (small[0].flatten()[:, None] - 0.5)
    torch.testing.assert_close(tokens.mean(0), expected, atol=0.015, rtol=0)
    covariance = squares.diag() - squares[:, None] * squares / squares.sum()
    found = torch.stack([torch.cov(tokens[:, index].T) for index in range(4)]).mean(0)
    torch.testing.assert_close(found, covariance, atol=2.5e-3, rtol=0)
    assert found[3, 3] > 0.015


def test_a_normal_model_leaves_unknown_pixels_alone():
    layout = PatchLayout(4, 4, 1, 2)
    model = normal_model(layout, torch.full((4,), 0.1))
    count = 400
    pictures = torch.linspace(0.3, 0.7, 16).reshape(1, 4, 4, 1).expand(count, -1, -1, -1)
    keep = torch.arange(4)[:, None].expand(4, 4) < 2
    known = known_pixels(pictures, keep)
    tokens = complete(model, known, torch.zeros(count, dtype=torch.long), EditConfig(SampleConfig(steps=10), repeats=1))
    shown = layout.pictures(tokens)
    assert (shown[:, keep] - pictures[:, keep]).abs().max() < 0.02
    free = shown[:, ~keep]
    torch.testing.assert_close(free.mean(0), torch.full((8, 1), 0.5), atol=0.02, rtol=0)
    torch.testing.assert_close(free.std(0), torch.full((8, 1), 0.1), atol=0.015, rtol=0)


def test_what_is_known_reaches_what_depends_on_it():
    """A denoiser of pictures whose halves are alike: what is known of the one is told to the other, and no further than
    its deviation allows.
    """
    layout = PatchLayout(4, 4, 1, 2)
    model = normal_model(layout, torch.full((4,), 0.1))
    keep = torch.arange(4)[:, None].expand(4, 4) < 2
    known = known_pixels(torch.full((1, 4, 4, 1), 0.9), keep)  # four deviations away

    def alike(x, t):
        both = 0.5 * (x + x.roll(2, 1))
        return t[:, None, None] * both / (t**2 + (1 - t) ** 2)[:, None, None]

    for t in (0.5, 0.9):
        apart, joined = (
            agreeing(model, known, denoise, torch.zeros(1, 4, 4), torch.tensor([t]))
            for denoise in (lambda x, t: model.clean(x, t, t), alike)
        )
        deviation = (1 - t) / math.hypot(t, 1 - t)
        assert 0.3 * deviation < apart[:, :2].min() and apart.max() < 3 * deviation
        assert apart[:, 2:].abs().max() < 1e-6
        torch.testing.assert_close(joined[:, 2:], joined[:, :2])
        torch.testing.assert_close(joined[:, :2], 0.5 * apart[:, :2])


# --- digits


@pytest.mark.parametrize("task", ["inpaint", "upscale"])
def test_digits_keep_what_is_known(model, digits, task):
    images, labels = digits
    small = images.unflatten(1, (4, 2)).unflatten(3, (4, 2)).mean((2, 4))
    known = known_pixels(images, UPPER) if task == "inpaint" else known_means(small, 8, 8)
    counted = []
    tokens = complete(model, known, labels, QUICK, lambda *progress: counted.append(progress))
    assert counted == [(index + 1, 12) for index in range(12)]
    shown = model.layout.pictures(tokens)
    assert tokens.isfinite().all() and known.psnr(shown).min() >= 30
    assert torch.equal(tokens, complete(model, known, labels, QUICK))
    other = complete(model, known, labels, EditConfig(SampleConfig(steps=8, sampler="dpm++", seed=1), repeats=1))
    difference = (model.layout.pictures(other).clamp(0, 1) - shown.clamp(0, 1)).abs()
    if task == "inpaint":
        assert difference[:, UPPER].mean() < 0.02 and difference[:, ~UPPER].mean() > 0.05
    else:
        assert difference.mean() > 0.01


def test_any_class_and_every_sampler_go(of_splats, digits):
    images, _ = digits
    known = known_pixels(images[:2], UPPER)
    for sampler in ("euler", "heun"):
        config = EditConfig(SampleConfig(steps=4, sampler=sampler), repeats=2, back_to=0.3)
        tokens = complete(of_splats, known, torch.tensor([10, 10]), config)
        assert known.psnr(of_splats.layout.pictures(tokens)).min() >= 30


def test_one_picture_does_not_change_the_next(of_splats, digits):
    images, labels = digits
    both = complete(of_splats, known_pixels(images[:2], UPPER), labels[:2], QUICK)
    changed = images[:2].clone()
    changed[1] = images[5]
    other = complete(of_splats, known_pixels(changed, UPPER), labels[:2], QUICK)
    torch.testing.assert_close(both[0], other[0], atol=1e-4, rtol=1e-4)
    assert (both[1] - other[1]).abs().max() > 0.1


def test_colours_are_found_for_a_grey_picture():
    generator = torch.Generator().manual_seed(0)
    model = untrained(RGB)
    tints = torch.rand(3, 8, 8, 3, generator=generator) * 0.1 + torch.linspace(0.2, 0.5, 8)[:, None, None]
    known = known_grey(tints)
    tokens = complete(model, known, torch.zeros(3, dtype=torch.long), QUICK)
    assert known.psnr(model.layout.pictures(tokens)).min() >= 30


def test_bad_completions(of_splats, digits):
    known = known_pixels(digits[0], UPPER)
    for labels, config, message in (
        (digits[1][:3], QUICK, "labels: 3 for 8 pictures"),
        (digits[1] + 8, QUICK, "class: there are 10"),
        (digits[1], EditConfig(repeats=-1), "repeats: must be at least 0"),
        (digits[1], EditConfig(back_to=1.0), "repeats: .* from a time between 0 and 1"),
        (digits[1], EditConfig(SampleConfig(steps=0)), "steps: must be at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            complete(of_splats, known, labels, config)


# --- variations and ways between two


def test_variations_leave_more_the_weaker_they_are(model, digits):
    images, labels = digits
    tokens = tokens_of(model, images)
    start = model.layout.pictures(tokens)
    assert (start - images).square().mean() < 10 ** (-2.5)
    assert torch.equal(vary(model, tokens, labels, 0.0), tokens)
    errors = [
        float((model.layout.pictures(vary(model, tokens, labels, strength)) - images).square().mean())
        for strength in (0.1, 0.5, 1.0)
    ]
    assert errors[0] < errors[1] < errors[2] and errors[0] < 0.02
    again, other = (vary(model, tokens, labels, 0.5, SampleConfig(seed=seed)) for seed in (0, 1))
    assert torch.equal(again, vary(model, tokens, labels, 0.5)) and (again - other).abs().max() > 0.1
    for strength in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="strength: must be 0 to 1"):
            vary(model, tokens, labels, strength)


def test_the_way_between_two_pictures(of_splats, digits):
    first, second = tokens_of(of_splats, digits[0][:2])
    way = blend(first, second, 5)
    torch.testing.assert_close(way[0], first)
    torch.testing.assert_close(way[4], second)
    torch.testing.assert_close(way[1], 0.75 * first + 0.25 * second)
    with pytest.raises(InputError, match="at least 2 pictures, got 1"):
        blend(first, second, 1)


def test_the_way_between_two_seeds(model):
    config = SampleConfig(steps=3)
    way = blend_seeds(model, 4, (2, 7), 5, config)
    for index, seed in ((0, 2), (4, 7)):
        torch.testing.assert_close(way[index], generate(model, torch.tensor([4]), SampleConfig(steps=3, seed=seed))[0])
    steps = (way[1:] - way[:-1]).flatten(1).norm(dim=1)
    assert steps.max() < (way[4] - way[0]).norm()
    assert torch.equal(*blend_seeds(model, 4, (2, 2), 2, config))
    for bad, message in (((-1, 2), "seeds: must be"), ((2, 1 << 31), "seeds: must be")):
        with pytest.raises(InputError, match=message):
            blend_seeds(model, 4, bad, 2, config)


def test_pictures_become_tokens_by_the_encoder_of_the_model(digits):
    layout = SplatLayout(8, 8, 1, 4, 4, (0.0,))
    encoder = Encoder(layout, EncoderConfig(width=16, depth=1, heads=2)).eval().requires_grad_(False)
    network = Denoiser(layout, 1, NetworkConfig(8, 1, 2))
    model = Model(network, layout, torch.zeros(6), torch.ones(6), (), "x", encoder)
    assert torch.equal(tokens_of(model, digits[0]), encoder(digits[0]))


# --- photos


def test_photos_are_brought_to_size(tmp_path):
    layout = SplatLayout(8, 12, 3, 2, 3, (0.0, 0.0, 0.0))
    wave = np.linspace(0, 1, 24, dtype=np.float32)[None, :, None] * np.ones((16, 1, 3), np.float32)
    path, notes = tmp_path / "wave.png", []
    save_image(path, wave)
    photos = load_photos((path, path), layout, notes.append)
    assert photos.shape == (2, 8, 12, 3)
    torch.testing.assert_close(
        photos[0, 4, 1:-1, 0], torch.from_numpy(wave[0, :, 0].reshape(12, 2).mean(1))[1:-1], atol=0.01, rtol=0
    )
    assert notes == [f"{path}: resized from 24x16 to 12x8 pixels"] * 2
    known = known_of("outpaint", Photo(path, scale=0.5), layout, 3, notes.append)
    assert known.values.shape == (3, 4 * 6, 3) and notes[-1].endswith("to 6x4 pixels")
    save_image(tmp_path / "grey.png", wave[..., :1])
    grey = known_of("colorize", Photo(tmp_path / "grey.png"), layout, 2, notes.append)
    assert grey.values.shape == (2, 8, 12, 1)


def test_places_on_the_canvas():
    layout = PatchLayout(8, 12, 1, 4)
    canvas, keep = centred(torch.ones(4, 6, 1), layout)
    assert keep.sum() == 24 and keep[2:6, 3:9].all() and torch.equal(canvas[..., 0] == 1, keep)
    mask = torch.zeros(16, 24, dtype=torch.bool)
    mask[5, 7] = True
    small = resized_mask(mask, layout)
    assert small[2, 3] and small.sum() <= 9  # and what the filter spreads to its neighbours
    assert resized_mask(keep, layout) is keep


# --- the command


@pytest.fixture(scope="module")
def files(folders, digits, tmp_path_factory):
    """Two digits, the means of one, and masks, as pictures; and the options of a quick edit."""
    folder = tmp_path_factory.mktemp("photos")
    images = digits[0].numpy()
    pictures = {
        "one": images[0],
        "two": images[1],
        "small": images[0].reshape(4, 2, 4, 2, 1).mean((1, 3)),
        "large": images[0].repeat(4, 0).repeat(4, 1),
        "wide": np.zeros((8, 16, 1), np.float32),
        "color": np.zeros((8, 8, 3), np.float32),
        "mask": 1 - UPPER.numpy().astype(np.float32)[..., None],
        "black": np.zeros((8, 8, 1), np.float32),
    }
    for name, picture in pictures.items():
        save_image(folder / f"{name}.png", picture)
    return folder


def run(folders, capsys, *arguments, tokens="splats"):
    capsys.readouterr()
    model = ["--model", folders[tokens] / "model.safetensors", "--steps", 3, "--count", 3, "--device", "cpu", "--json"]
    code = main(["diffusion", "edit", *map(str, [*arguments, *model])])
    out, err = capsys.readouterr()
    return (json.loads(out), err) if code == 0 else (code, err)


@pytest.mark.parametrize("tokens", ["splats", "pixels"])
def test_every_task_as_a_command(folders, files, tmp_path, capsys, tokens):
    output = tmp_path / "edits.npz"
    one, two = load_image(files / "one.png"), load_image(files / "two.png")
    for task in (
        ("inpaint", files / "one.png", "--mask", files / "mask.png", "--class", "4"),
        ("outpaint", files / "one.png", "--scale", 0.75),
        ("upscale", files / "small.png"),
        ("vary", files / "one.png", "--strength", 0),
        ("blend", files / "one.png", files / "two.png"),
        ("blend", "--seeds", 1, 2),
    ):
        report, notes = run(folders, capsys, *task, "-o", output, tokens=tokens)
        assert (report["task"], report["samples"]) == (task[0], 3) and report["seconds"] > 0
        assert report["class"] == ("4" if "--class" in task else "any")
        assert report["outputs"] == [{"path": str(output), "bytes": output.stat().st_size}]
        with np.load(output) as file:
            images = file["images"] / np.float32(255)
        assert images.shape == (3, 8, 8, 1)
        if task[0] in ("vary", "blend"):
            assert report["agreement"] is None
        else:
            mean, least = report["agreement"]
            assert mean >= least >= 30
        assert notes.count("\n") == (task[0] == "outpaint")
        if task[0] == "inpaint":
            assert splat2d.psnr(images[1][:4], one[:4]) > 29
        if task[0] == "vary":
            assert splat2d.psnr(images[2], one) > 22
        if task[:2] == ("blend", files / "one.png"):
            assert splat2d.psnr(images[0], one) > 22 and splat2d.psnr(images[2], two) > 22


def test_edits_of_a_large_photo_in_every_form(folders, files, tmp_path, capsys):
    outputs = [part for name in ("sheet.png", "each.s2d") for part in ("-o", tmp_path / name)]
    report, notes = run(folders, capsys, "vary", files / "large.png", *outputs, "--columns", 2)
    assert notes == f"splat2d: {files / 'large.png'}: resized from 32x32 to 8x8 pixels\n"
    names = ["each-0001.s2d", "each-0002.s2d", "each-0003.s2d", "sheet.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names and len(report["outputs"]) == 4
    assert load_image(tmp_path / "sheet.png").shape == (2 * 66 + 2, 2 * 66 + 2, 1)
    model = str(folders["splats"] / "model.safetensors")
    command = ["inpaint", files / "one.png", "--mask", files / "mask.png", "--steps", 2, "--count", 1]
    assert main(["diffusion", "edit", *map(str, command), "--model", model, "-o", str(tmp_path / "a.png")]) == 0
    out = capsys.readouterr().out
    assert "1 of class any, 8x8 pixels" in out and "PSNR of what was given" in out and "a.png" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inpaint", "one.png"], "inpaint: needs --mask FILE, a picture that is white where"),
        (["inpaint", "one.png", "--mask", "large.png"], "a mask of 32x32 pixels for a picture of 8x8"),
        (["inpaint", "one.png", "--mask", "black.png"], "mask: all of the picture is kept"),
        (["inpaint", "one.png", "--mask", "none.png"], "none.png: no such file"),
        (["vary", "one.png", "--mask", "mask.png"], "--mask: is for inpaint; leave it out for vary"),
        (["vary", "one.png", "--seeds", "1", "2"], "--seeds: is for blend; leave it out for vary"),
        (["vary"], "vary: takes 1 photo, got 0"),
        (["vary", "one.png", "two.png"], "vary: takes 1 photo, got 2"),
        (["vary", "one.png", "--strength", "2"], "strength: must be 0 to 1, got 2"),
        (["vary", "wide.png"], "wide.png: is 16x8 pixels, the model makes 8x8; crop it to that shape"),
        (["vary", "color.png"], "color.png: has 3 channels (RGB), the model makes 1 channels (grey); convert"),
        (["vary", "one.png", "--class", "cat"], 'classes: there is no "cat"; known: 0, 1'),
        (["vary", "one.png", "--count", "0"], "count: must be at least 1"),
        (["vary", "one.png", "--columns", "0"], "columns: must be at least 1"),
        (["blend", "one.png"], "blend: takes 2 photos, or --seeds N N and none, got 1"),
        (["blend", "one.png", "two.png", "--seeds", "1", "2"], "blend: takes 0 photos, got 2"),
        (["blend", "one.png", "two.png", "--count", "1"], "count: a way between two has at least 2 pictures"),
        (["outpaint", "one.png", "--scale", "0"], "scale: must be above 0 and at most 1, got 0"),
        (["outpaint", "one.png", "--scale", "1"], "mask: all of the picture is kept"),
        (["upscale", "one.png"], "8x8 pixels cannot become 8x8"),
        (["colorize", "one.png"], "colorize: this model has no colours"),
        (["vary", "one.png", "-o", "one.png"], "one.png is the input, which is never overwritten"),
        (["inpaint", "one.png", "--mask", "mask.png", "-o", "mask.png"], "mask.png is the input"),
        (["vary", "one.png", "-o", "a.txt"], 'cannot write a file of suffix ".txt"'),
    ],
)
def test_bad_edits(folders, files, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    before = sorted(files.iterdir())
    capsys.readouterr()
    command = ["diffusion", "edit", "--model", str(folders["splats"] / "model.safetensors"), "--count", "2"]
    assert main([*command, *arguments]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert sorted(files.iterdir()) == before
