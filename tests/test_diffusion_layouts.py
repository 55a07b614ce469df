"""Tokens and what they show, sets of splats and their files."""

import json
import math
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch", reason='torch is not installed: pip install "splat2d[diffusion]"')
pytest.importorskip("safetensors", reason='safetensors is not installed: pip install "splat2d[diffusion]"')
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from splat2d import InputError
from splat2d.diffusion.encoder import EncoderConfig, encoded
from splat2d.diffusion.layouts import PatchLayout, SplatLayout, between, grid_for, packed, unpacked, usual_count
from splat2d.diffusion.pictures import Pictures
from splat2d.diffusion.splatset import (
    BuildConfig,
    build,
    build_by,
    fit_tokens,
    floor_psnr,
    load_splats,
    rendered,
    save_splats,
    statistics,
)

pytestmark = pytest.mark.usefixtures("one_thread")

SPLATS = SplatLayout(12, 16, 3, 3, 4, (0.2, 0.5, 0.1))
PATCHES = PatchLayout(12, 16, 3, 4)


def some_tokens(layout, *shape, seed=0):
    return 0.5 * torch.randn(*shape, layout.count, layout.fields, generator=torch.Generator().manual_seed(seed))


def test_splats_and_tokens_are_inverse():
    tokens = some_tokens(SPLATS, 2, 5)
    splats = SPLATS.splats(tokens)
    assert splats.means.shape == (2, 5, 12, 2) and splats.colors.shape == (2, 5, 12, 3)
    torch.testing.assert_close(SPLATS.tokens(splats), tokens, atol=1e-5, rtol=0)


def test_a_token_of_zeros_is_a_circle_on_its_slot():
    splats = SPLATS.splats(torch.zeros(12, 8))
    assert SPLATS.sigma == 0.5 * math.sqrt(12 * 16 / 12)
    torch.testing.assert_close(splats.means[5], torch.tensor([6.0, 6.0]))  # row 1, column 1 of 3 x 4
    torch.testing.assert_close(splats.log_cholesky[5], torch.tensor([math.log(2), 0, math.log(2)]))
    torch.testing.assert_close(SPLATS.pictures(torch.zeros(12, 8))[0, 0], torch.tensor([0.2, 0.5, 0.1]))


def test_any_numbers_are_splats():
    tokens = some_tokens(SPLATS)
    tokens[0], tokens[1], tokens[2], tokens[3] = math.nan, math.inf, -1e30, 1e30
    splats = SPLATS.splats(tokens)
    assert splats.means.isfinite().all() and splats.log_cholesky.isfinite().all() and splats.colors.isfinite().all()
    assert (splats.log_cholesky[:, ::2] >= math.log(0.5)).all()
    assert SPLATS.pictures(tokens).isfinite().all()
    assert PATCHES.pictures(torch.full((12, 48), math.nan)).isfinite().all()


def test_patches_are_the_picture():
    pictures = torch.rand(2, 5, 12, 16, 3)
    tokens = PATCHES.tokens(pictures)
    assert tokens.shape == (2, 5, 12, 48)
    assert torch.equal(PATCHES.pictures(tokens), pictures)
    assert torch.equal(tokens[0, 0, 5].view(4, 4, 3), pictures[0, 0, 4:8, 4:8])  # row 1, column 1


@pytest.mark.parametrize("layout", [SPLATS, PATCHES], ids=["splats", "patches"])
def test_the_mirrored_tokens_show_the_mirrored_picture(layout):
    tokens = some_tokens(layout, 3)
    torch.testing.assert_close(
        layout.pictures(layout.flipped(tokens)), layout.pictures(tokens).flip(-2), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(layout.flipped(layout.flipped(tokens)), tokens)


@pytest.mark.parametrize("layout", [SPLATS, PATCHES], ids=["splats", "patches"])
def test_a_layout_survives_json(layout):
    assert unpacked(json.loads(json.dumps(packed(layout)))) == layout
    assert layout.positions().shape == (12, 2)
    torch.testing.assert_close(layout.positions()[5], torch.tensor([1.5 / 4, 1.5 / 3]))


def test_grids():
    assert grid_for(64, 28, 28) == (8, 8)
    assert grid_for(32, 10, 20) == (4, 8)
    assert grid_for(12, 30, 40) == (3, 4)
    with pytest.raises(InputError, match="splats: 17 splats make no grid over 28x28 pixels; take 16"):
        grid_for(17, 28, 28)


def test_between_pixels():
    """Exact on slopes, but at the edges, and the same of splats as a sum of Gaussians where four pixels meet."""
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(7.0), indexing="ij")
    slope = torch.stack([2 * x + 3 * y, 1 - x], -1)[None]
    torch.testing.assert_close(between(slope)[:, 1:-2, 1:-2], (slope + torch.tensor([2.5, -0.5]))[:, 1:-2, 1:-2])
    assert between(slope).shape == slope.shape

    tokens = some_tokens(SPLATS, 1).double()
    splats = SPLATS.splats(tokens)
    a, b, c = splats.log_cholesky[0].unbind(-1)
    shown = splats.background.double().expand(12, 16, 3).clone()
    for row in range(12):
        for column in range(16):
            dx, dy = (torch.tensor([column + 1.0, row + 1.0]) - splats.means[0]).unbind(-1)
            u = dx / a.exp()
            v = (dy - b * u) / c.exp()
            shown[row, column] += (-0.5 * (u * u + v * v)).exp() @ splats.colors[0]
    torch.testing.assert_close(SPLATS.between(tokens)[0], shown, atol=0.01, rtol=0)  # Gaussians have a cut-off


@pytest.mark.parametrize(
    ("height", "width", "grid"),
    [(28, 28, (14, 14)), (8, 8, (4, 4)), (5, 7, (2, 4)), (1, 1, (1, 1)), (32, 64, (16, 32)), (256, 256, (32, 32))],
)
def test_a_splat_for_every_four_pixels(height, width, grid):
    assert grid_for(usual_count(height, width), height, width) == grid


def test_large_pictures_of_any_shape_have_a_grid():
    for height in range(1, 300, 7):
        for width in range(max(1, height // 3), 3 * height, 11):
            count = usual_count(height, width)
            rows, columns = grid_for(count, height, width)
            assert rows * columns == count <= 1100


def test_statistics_whiten():
    tokens = 3 + 2 * torch.randn(50, 12, 8)
    tokens[..., 7] = 5.0
    mean, deviation = statistics(tokens)
    assert deviation[7] == 1 and mean[7] == 5
    whitened = ((tokens - mean) / deviation).flatten(0, 1)
    torch.testing.assert_close(whitened.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(whitened[:, :7].std(0), torch.ones(7), atol=1e-4, rtol=0)


def test_digits_as_splats(digit_pictures, digit_splats):
    assert digit_splats.tokens.shape == (1797, 16, 6) and digit_splats.tokens.dtype == torch.float16
    assert digit_splats.tokens.isfinite().all()
    assert digit_splats.layout.background == (np.median(digit_pictures.images) / 255,)
    assert len(digit_splats.part(False)) == 1200 and len(digit_splats.part(True)) == 597
    for test in (False, True):
        assert floor_psnr(digit_splats, test) > 28
    shown = rendered(digit_splats.layout, digit_splats.tokens)
    errors = np.square((shown.astype(float) - digit_pictures.images) / 255).mean((1, 2, 3))
    test = digit_pictures.test
    assert floor_psnr(digit_splats, True) == pytest.approx(-10 * np.log10(errors[test]).mean(), abs=1e-3)


def test_build_in_parts_gives_the_same(digit_pictures, monkeypatch):
    few = Pictures(
        *(array[1190:1210] for array in (digit_pictures.images, digit_pictures.labels, digit_pictures.test)), ()
    )
    config = BuildConfig(splats=16, steps=5)
    told = []
    whole = build(few, config, progress=lambda done, total: told.append((done, total)))
    assert told == [(step + 1, 5) for step in range(5)]
    monkeypatch.setattr("splat2d.diffusion.splatset.AT_ONCE_ON_CPU", 7 * 64)
    parts = build(few, config, progress=lambda done, total: told.append((done, total)))
    assert told[5:] == [(step + 1, 15) for step in range(15)]
    torch.testing.assert_close(parts.tokens, whole.tokens, atol=2e-3, rtol=0)
    for wrong, message in ((BuildConfig(splats=0), "splats: must"), (BuildConfig(steps=0), "steps: must")):
        with pytest.raises(InputError, match=message):
            build(few, wrong)


def test_more_steps_and_splats_come_closer(digit_pictures):
    few = Pictures(
        *(array[1150:1250] for array in (digit_pictures.images, digit_pictures.labels, digit_pictures.test)), ()
    )
    found = [floor_psnr(build(few, BuildConfig(*sizes)), True) for sizes in ((9, 20), (16, 20), (16, 80))]
    assert found == sorted(found) and found[0] < found[2] - 3


def test_a_set_survives_its_file(digit_splats, tmp_path):
    path = tmp_path / "splats.safetensors"
    save_splats(path, digit_splats)
    found = load_splats(path)
    assert torch.equal(found.tokens, digit_splats.tokens)
    assert (found.layout, found.config, found.pictures.names) == (
        *(digit_splats.layout, digit_splats.config),
        digit_splats.pictures.names,
    )
    for name in ("images", "labels", "test"):
        np.testing.assert_array_equal(getattr(found.pictures, name), getattr(digit_splats.pictures, name))
    assert found.fingerprint() == digit_splats.fingerprint()
    assert [path.name for path in tmp_path.iterdir()] == ["splats.safetensors"]


def test_files_that_are_no_sets(digit_splats, tmp_path):
    path = tmp_path / "splats.safetensors"

    def refused(message):
        with pytest.raises(InputError, match=message) as error:
            load_splats(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)

    refused("no such file")
    save_splats(path, digit_splats)
    data = path.read_bytes()
    for broken in (b"", b"none", data[: len(data) // 2], data[:-1], b"\xff" * 8 + data[8:], data[:8] + b"[" + data[9:]):
        path.write_bytes(broken)
        refused("cannot be read as safetensors")
    path.write_bytes(data)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        header = json.loads(file.metadata()["splat2d"])

    def changed(tensors=tensors, **values):
        save_file(tensors, path, {"splat2d": json.dumps(header | values)})

    save_file(tensors, path)
    refused("is not a set of splats of splat2d")
    save_file(tensors, path, {"splat2d": "[3"})
    refused("cannot be read as safetensors")
    changed(kind="model")
    refused(r"is not a set of splats of splat2d \(it says model\)")
    changed(version=99)
    refused("is of version 99, this splat2d reads 1")
    changed(layout=header["layout"] | {"rows": 5})
    refused(r"it has \(16, 6\) numbers a picture, not \(20, 6\)")
    changed(layout=header["layout"] | {"width": 9})
    refused("its pictures are not of its size")
    changed(layout={"kind": "splats"})
    refused("cannot be read as a set of splats")
    changed(names=["a", "b"])
    refused("labels out of range for 2 classes")
    changed(tensors | {"labels": tensors["labels"][:5].clone()})
    refused("its parts do not fit together")
    changed({name: tensor for name, tensor in tensors.items() if name != "test"})
    refused("cannot be read as a set of splats")
    changed()
    assert torch.equal(load_splats(path).tokens, digit_splats.tokens)


SMALL = EncoderConfig(width=32, depth=1, heads=4, passes=2, features=16, steps=120, batch=64, rate=3e-3, settling=220)


@pytest.fixture(scope="module")
def encoded_digits(digit_pictures, one_thread):
    return build(digit_pictures, BuildConfig(16, encoder=SMALL))


def test_an_encoder_learns_to_give_splats(digit_pictures, encoded_digits):
    """Of pictures that it has not seen too; a second pass brings them closer."""
    assert floor_psnr(encoded_digits, True) > 20
    images = torch.from_numpy(digit_pictures.images[digit_pictures.test])
    first, second = encoded_digits.encoder.refine(images.float() / 255)
    settled = encoded(encoded_digits.encoder, images)
    shown = [encoded_digits.layout.pictures(tokens) for tokens in (first, second, settled)]
    errors = [(each - images / 255).square().mean() for each in shown]
    assert errors[1] < 0.8 * errors[0] and errors[2] < errors[1]
    assert torch.equal(settled.half(), encoded_digits.tokens[torch.from_numpy(digit_pictures.test)])


def test_settling_moves_what_shows(digit_pictures, encoded_digits):
    """Every picture comes closer, by less movement than steps of Adam take for as much."""
    encoder, layout = encoded_digits.encoder, encoded_digits.layout
    images = torch.from_numpy(digit_pictures.images[:200]).float() / 255
    answer = encoder.refine(images)[-1].detach()
    adam = BuildConfig(16, steps=100, rate=0.01, anchor=0.0)

    def errors(tokens):
        return (layout.pictures(tokens) - images).square().flatten(1).sum(1)

    def moved(tokens):
        return ((tokens - answer) / encoder.spread).square().sum()

    settled, fitted = encoder(images), fit_tokens(images, layout, adam, start=answer)
    assert (errors(settled) < errors(answer)).all()
    assert errors(settled).sum() < errors(fitted).sum()
    assert moved(settled) < moved(fitted)


def test_settling_does_not_go_astray(encoded_digits):
    """Pictures of bright dots, where plain descent at the usual rate ends hundreds of deviations away."""
    encoder = deepcopy(encoded_digits.encoder)
    dots = torch.randint(0, 2, (100, 8, 8, 1), generator=torch.Generator().manual_seed(0)).float()
    answer = encoder.refine(dots)[-1].detach()
    errors = []
    for steps in (100, 200, 400):
        encoder.config = replace(encoder.config, settling=steps)
        settled = encoder(dots)
        assert ((settled - answer) / encoder.spread).abs().max() < 20
        errors.append(float((encoder.layout.pictures(settled) - dots).square().sum()))
    assert errors[0] > 1.2 * errors[1] > 1.4 * errors[2]


@pytest.mark.parametrize("method", ["encode", "fit"])
def test_dense_splats_are_no_lattice(digit_pictures, encoded_digits, method):
    """Where four pixels meet, splats of one for four pixels show about what the pixels around say, not dots."""
    splats = encoded_digits if method == "encode" else build(digit_pictures, BuildConfig(steps=100))
    assert splats.layout.count == 16
    images = torch.from_numpy(digit_pictures.images[digit_pictures.test]).float() / 255
    tokens = splats.tokens[torch.from_numpy(digit_pictures.test)].float()
    for shown, wanted in (
        (splats.layout.pictures(tokens), images),
        (splats.layout.between(tokens), between(images)),
    ):
        assert float((shown - wanted).square().mean().log10()) < -2.2


def test_an_encoder_is_kept_with_its_set(encoded_digits, tmp_path):
    save_splats(tmp_path / "set.safetensors", encoded_digits)
    loaded = load_splats(tmp_path / "set.safetensors")
    assert loaded.config == encoded_digits.config and torch.equal(loaded.tokens, encoded_digits.tokens)
    for name, tensor in encoded_digits.encoder.state_dict().items():
        assert torch.equal(loaded.encoder.state_dict()[name], tensor)


def test_an_encoder_makes_other_sets(digit_pictures, encoded_digits):
    few = replace(digit_pictures, **{name: getattr(digit_pictures, name)[::9] for name in ("images", "labels", "test")})
    told = []
    splats = build_by(encoded_digits.encoder, few, progress=lambda done, total: told.append((done, total)))
    torch.testing.assert_close(splats.tokens, encoded_digits.tokens[::9], atol=2e-3, rtol=2e-3)
    assert splats.config.splats == 16 and told[-1] == (len(few), len(few))
    wide = replace(few, images=np.zeros((len(few), 8, 12, 1), np.uint8))
    with pytest.raises(InputError, match="is for pictures of 8x8 pixels and 1 channels, these have 12x8 and 1"):
        build_by(encoded_digits.encoder, wide)


def test_the_same_pictures_give_the_same_encoder(digit_pictures, encoded_digits):
    assert torch.equal(build(digit_pictures, BuildConfig(16, encoder=SMALL)).tokens, encoded_digits.tokens)


@pytest.mark.parametrize("wrong", [{"passes": 0}, {"width": 30}, {"rate": math.inf}, {"noise": -1.0}])
def test_encoders_that_cannot_be(digit_pictures, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        build(digit_pictures, BuildConfig(16, encoder=replace(SMALL, **wrong)))
