"""splat2d.editing: each edit against the same operation on the picture, at any point and in float64."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference
from PIL import Image
from scenes import random_scene, rotated

import splat2d
from splat2d import InputError, Splats, _cpu, codec, editing, psnr, render
from splat2d.cli import main
from splat2d.config import Profile
from splat2d.editing import LUMA

WIDTH, HEIGHT = 60, 40


def canvas(seed: int = 0, channels: int = 3, count: int = 50, **sizes: float) -> Splats:
    scene = random_scene(seed, count, channels, HEIGHT, WIDTH, **sizes)
    return Splats(scene.means, scene.log_cholesky, scene.colors, WIDTH, HEIGHT, scene.background)


def centres(width: int, height: int) -> np.ndarray:
    """Pixel centres x, y: [height, width, 2]."""
    return np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)


def at(splats: Splats, points: np.ndarray, cutoff: float = np.inf) -> np.ndarray:
    """The formula in float64, at any points [..., 2]."""
    a, b, c = splats.log_cholesky.astype(np.float64).T
    lower = np.stack([np.stack([np.exp(a), 0 * a], -1), np.stack([b, np.exp(c)], -1)], -2)
    away = points[..., None, :] - splats.means.astype(np.float64)
    half_q = (np.linalg.solve(lower, away[..., None])[..., 0] ** 2).sum(-1) / 2
    weight = np.exp(-half_q) * (half_q <= cutoff)
    return splats.background.astype(np.float64) + weight @ splats.colors.astype(np.float64)


def drawn(splats: Splats) -> np.ndarray:
    """By the reference, without a cut-off: [H, W, C]."""
    arrays = (splats.means, splats.log_cholesky, splats.colors, splats.background)
    return reference.render(*arrays, splats.height, splats.width)


def same_picture(picture: np.ndarray, expected: np.ndarray) -> None:
    """Up to float32 and to single pixels that flip at the cut-off."""
    assert picture.shape == expected.shape
    difference = abs(picture - expected)
    assert np.quantile(difference, 0.99) < 1e-4 and difference.max() < 0.02


@pytest.fixture
def splats() -> Splats:
    return canvas()


# --- places


@pytest.mark.parametrize(
    "matrix", [np.eye(2), [[0, 1], [1, 0]], [[1.5, -0.7], [0.4, 0.6]], [[-0.1, 2], [-1, 0.3]], np.diag([3, -0.2])]
)
def test_transform_moves_the_picture_as_the_matrix_moves_points(splats: Splats, matrix: np.ndarray) -> None:
    matrix, offset = np.array(matrix, np.float64), np.array([7.25, -3.5])
    moved = editing.transform(splats, matrix, offset, width=70, height=30)
    source = (centres(70, 30) - offset) @ np.linalg.inv(matrix).T
    np.testing.assert_allclose(drawn(moved), at(splats, source), atol=2e-5)
    same_picture(render(moved), at(splats, source, _cpu.CUTOFF))


def test_two_transforms_are_their_product(splats: Splats) -> None:
    first, second = np.array([[0.8, 0.5], [-0.3, 1.2]]), np.array([[1, -2], [0.5, 0.5]])
    twice = editing.transform(editing.transform(splats, first, (3, 4)), second, (-1, 2))
    once = editing.transform(splats, second @ first, second @ [3, 4] + [-1, 2])
    np.testing.assert_allclose(twice.means, once.means, atol=1e-4)
    np.testing.assert_allclose(twice.log_cholesky, once.log_cholesky, atol=1e-4)


@pytest.mark.parametrize("ratio", [1, 30, 300])
def test_needles_stay_needles_at_every_angle(ratio: float) -> None:
    angles = np.linspace(0, np.pi, 33)
    needles = Splats(np.zeros((33, 2)), rotated(ratio, 1, angles), np.ones((33, 1)), 4, 4, [0])
    turned = editing.rotate(editing.rotate(needles, 30), -30)
    a, b, c = (turned.log_cholesky.astype(np.float64) - needles.log_cholesky).T
    assert abs(a + c).max() < 2e-6  # the area
    assert abs(a).max() < 1e-2 and (abs(b) <= 1e-2 * np.hypot(needles.log_cholesky[:, 1], 1)).all()


def test_parameters_past_the_limits_of_the_kernels_are_transformed_as_they_are_drawn() -> None:
    stripes = Splats([[8, 4], [3, 3]], [[40, 0, 1], [30, 2, 0.5]], [[0.5], [0.2]], 16, 12, [0.1])
    np.testing.assert_allclose(render(editing.rotate(stripes, 90)), np.rot90(render(stripes)), atol=1e-5)


def test_translate(splats: Splats) -> None:
    moved = editing.translate(splats, 5, -3)
    same_picture(render(moved)[:-3, 5:], render(splats)[3:, :-5])
    between = at(splats, centres(WIDTH, HEIGHT) - (0.3, 0.7))
    np.testing.assert_allclose(drawn(editing.translate(splats, 0.3, 0.7)), between, atol=2e-5)


@pytest.mark.parametrize("turns", [-1, 0, 1, 2, 3, 5])
def test_quarter_turns_are_those_of_numpy(splats: Splats, turns: int) -> None:
    same_picture(render(editing.rotate(splats, 90 * turns)), np.rot90(render(splats), turns))


def test_rotate_turns_as_pillow_does() -> None:
    smooth = canvas(small=4, large=9)
    picture = render(smooth)[..., 0].copy()
    turned = np.asarray(Image.fromarray(picture).rotate(20, Image.Resampling.BICUBIC))
    ours = render(editing.rotate(smooth, 20, expand=False))[..., 0]
    inside = abs(centres(60, 40) - (30, 20)).max(-1) < 12  # where no corner of the canvas came from
    assert ours.shape == turned.shape
    np.testing.assert_allclose(ours[inside], turned[inside], atol=0.04)


def test_a_turned_canvas_holds_its_corners(splats: Splats) -> None:
    turned = editing.rotate(splats, 33)
    cos, sin = np.cos(np.radians(33)), np.sin(np.radians(33))
    assert (turned.width, turned.height) == (np.ceil(60 * cos + 40 * sin), np.ceil(60 * sin + 40 * cos))
    middle = np.array([turned.width, turned.height]) / 2
    back = (centres(turned.width, turned.height) - middle) @ np.array([[cos, sin], [-sin, cos]])
    np.testing.assert_allclose(drawn(turned), at(splats, np.add(back, (30, 20))), atol=2e-5)


def test_flip(splats: Splats) -> None:
    same_picture(render(editing.flip(splats, "horizontal")), render(splats)[:, ::-1])
    same_picture(render(editing.flip(splats, "vertical")), render(splats)[::-1])
    twice = editing.flip(editing.flip(splats, "vertical"), "vertical")
    np.testing.assert_allclose(twice.means, splats.means, atol=1e-5)
    np.testing.assert_allclose(twice.log_cholesky, splats.log_cholesky, atol=1e-5)


@pytest.mark.parametrize("box", [(10, 5, 20, 15), (-6, -8, 80, 60), (12.5, 3.25, 9, 30), (59, 39, 1, 1)])
def test_crop(splats: Splats, box: editing.Box) -> None:
    part = editing.crop(splats, box)
    same_picture(render(part), render(splats, crop=box))
    same_picture(render(part, scale=3), render(splats, crop=box, scale=3))


def test_crop_leaves_out_what_does_not_show_and_nothing_else() -> None:
    many = canvas(count=400, small=0.5, large=3)
    box = (20, 10, 16, 12)
    part = editing.crop(many, box)
    assert 20 < len(part) < 200
    moved = editing.transform(many, np.eye(2), (-20, -10), width=16, height=12)
    np.testing.assert_array_equal(render(part, scale=4), render(moved, scale=4))


def test_resize_canvas(splats: Splats) -> None:
    picture = render(splats)
    larger, smaller = editing.resize_canvas(splats, 71, 50), editing.resize_canvas(splats, 30, 20, anchor=(1, 0))
    same_picture(render(larger)[5:45, 6:66], picture)
    same_picture(render(smaller), picture[:20, 30:])
    far = Splats([[5, 5]], [[0, 0, 0]], [[1.0]], 10, 10, [0.25])
    np.testing.assert_array_equal(render(editing.resize_canvas(far, 40, 10))[:, 25:], 0.25)  # uncovered: the background


@pytest.mark.parametrize("size", [{"scale": 2.5}, {"width": 21}, {"height": 13, "width": 100}, {"scale": 0.3}, {}])
def test_resize_is_what_render_draws_at_that_size(splats: Splats, size: dict[str, float]) -> None:
    np.testing.assert_allclose(render(editing.resize(splats, **size)), render(splats, **size), atol=1e-6)


# --- colours


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    "change", [{"exposure": 0.7}, {"brightness": -0.2}, {"contrast": 1.6}, {"saturation": 0.3}, {}]
)
def test_recolor_is_the_formula_on_every_pixel(channels: int, change: dict[str, float]) -> None:
    splats = canvas(channels=channels)
    picture = drawn(splats)
    value = {"exposure": 0, "brightness": 0, "contrast": 1, "saturation": 1} | change
    colour, alpha = picture[..., :3], picture[..., 3:] if channels == 4 else 1
    # Of premultiplied colour, c = colour / alpha is changed and multiplied again; the picture's alpha may be 0 here.
    expected = value["contrast"] * (2 ** (value["exposure"] / 2.2) * colour - 0.5 * alpha) + 0.5 * alpha
    expected = expected + value["brightness"] * alpha
    if channels > 1:
        grey = (expected @ np.array(LUMA))[..., None]
        expected = grey + value["saturation"] * (expected - grey)
    result = drawn(editing.recolor(splats, **change))
    np.testing.assert_allclose(result[..., :3], expected, atol=3e-6)
    np.testing.assert_array_equal(result[..., 3:], picture[..., 3:])


def test_a_stop_is_about_twice_the_light_of_srgb() -> None:
    """Against the true transfer function (IEC 61966-2-1), from dark grey on."""
    coded = np.linspace(0.2, 0.7, 50)
    light = ((coded + 0.055) / 1.055) ** 2.4
    expected = 1.055 * (2 * light) ** (1 / 2.4) - 0.055
    for value, twice in zip(coded, expected, strict=True):
        plain = Splats(np.empty((0, 2)), np.empty((0, 3)), np.empty((0, 1)), 1, 1, [value])
        assert abs(editing.recolor(plain, exposure=1).background[0] - twice) < 0.02
    linear = Splats([[0, 0]], [[1, 0, 1]], [[3.0]], 1, 1, [0.5])
    assert editing.recolor(linear, exposure=-1, gamma=1).colors[0, 0] == 1.5


def test_grey_without_colour_and_a_channel_of_choice(splats: Splats) -> None:
    grey = drawn(editing.recolor(splats, saturation=0))
    np.testing.assert_allclose(grey, np.repeat(grey[..., :1], 3, axis=2), atol=1e-6)
    green = editing.map_colors(splats, [[0, 1, 0]], [0.5])
    assert green.channels == 1
    np.testing.assert_allclose(drawn(green), drawn(splats)[..., 1:2] + 0.5, atol=1e-6)


# --- choices and mixtures


def test_a_choice_and_its_rest_are_the_whole(splats: Splats) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 20:45] = True
    for region in ((20, 10, 25, 20), mask):
        inside, rest = editing.select(splats, region), editing.select(splats, region, outside=True)
        assert 0 < len(inside) < len(splats) and len(inside) + len(rest) == len(splats)
        assert (abs(inside.means - (32.5, 20)) <= (12.5, 10)).all()
        np.testing.assert_allclose(drawn(editing.concatenate([rest, inside])), drawn(splats), atol=1e-9)


def test_overlay_adds_what_the_other_adds_to_its_background() -> None:
    base, top = canvas(1), replace(canvas(2, count=8), width=12, height=9)
    expected = drawn(base) + at(top, centres(WIDTH, HEIGHT) - (4.5, 20)) - np.float64(top.background)
    both = editing.overlay(base, top, x=4.5, y=20)
    assert (both.width, both.height) == (WIDTH, HEIGHT)
    np.testing.assert_allclose(drawn(both), expected, atol=2e-5)


def test_cross_fade_mixes_the_pictures() -> None:
    first, second = canvas(1), canvas(2, count=70)
    expected = 0.7 * drawn(first) + 0.3 * drawn(second)
    np.testing.assert_allclose(drawn(editing.cross_fade(first, second, 0.3)), expected, atol=2e-6)


def test_blend_moves_splats_from_one_place_to_the_other(splats: Splats) -> None:
    moved = editing.recolor(editing.translate(splats, 10, 6), exposure=1)
    np.testing.assert_array_equal(drawn(editing.blend(splats, moved, 0)), drawn(splats))
    np.testing.assert_array_equal(drawn(editing.blend(splats, moved, 1)), drawn(moved))
    # Half way the picture has moved half way, instead of showing both.
    gain = (1 + 2 ** (1 / 2.2)) / 2
    half = drawn(editing.blend(splats, moved, 0.5))
    np.testing.assert_allclose(half, gain * at(splats, centres(WIDTH, HEIGHT) - (5, 3)), atol=3e-5)


def test_shapes_between_two_are_between_them_on_the_geodesic() -> None:
    one, other = (Splats([[0, 0]], [shape], [[1.0]], 4, 4, [0]) for shape in ([0, 2, 1], [2, -4, 3]))
    np.testing.assert_allclose(editing.blend(one, other, 0.25).log_cholesky, [[0.5, 0.5, 1.5]])


# --- bad input


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: editing.transform(s, [[1, 2], [2, 4]]), "flattens the picture"),
        (lambda s: editing.transform(s, [1, 2]), "finite matrix"),
        (lambda s: editing.transform(s, [[1, 0], [0, np.inf]]), "finite matrix"),
        (lambda s: editing.rotate(s, float("nan")), "angle"),
        (lambda s: editing.flip(s, "sideways"), "horizontal or vertical"),
        (lambda s: editing.crop(s, (0, 0, 10.5, 4)), "whole numbers"),
        (lambda s: editing.crop(s, (0, 0, 0, 4)), "above 0"),
        (lambda s: editing.crop(s, (60, 0, 5, 5)), "outside the canvas"),
        (lambda s: editing.crop(s, (0, 0, 5)), "four numbers"),
        (lambda s: editing.resize(s, width=0), "at least 1 pixel"),
        (lambda s: editing.map_colors(s, np.eye(4)), r"matrix \[C', 3\]"),
        (lambda s: editing.map_colors(s, np.eye(3), [1]), "offset of shape"),
        (lambda s: editing.recolor(s, saturation=-1), "saturation"),
        (lambda s: editing.recolor(s, gamma=0), "gamma"),
        (lambda s: editing.recolor(s, exposure=1e9), "stops"),
        (lambda s: editing.recolor(canvas(channels=2)), "use map_colors"),
        (lambda s: editing.select(s, np.ones((3, 4))), "the mask has 4x3 pixels"),
        (lambda s: editing.concatenate([]), "at least one"),
        (lambda s: editing.overlay(s, canvas(channels=1)), "3 and 1 channels"),
        (lambda s: editing.cross_fade(s, editing.rotate(s, 90), 0.5), "canvases differ"),
        (lambda s: editing.cross_fade(s, s, 1.1), "0 to 1"),
        (lambda s: editing.blend(s, canvas(count=3), 0.5), "50 and 3 splats"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(splats: Splats, edit, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        edit(splats)
    assert "\n" not in str(caught.value)


def test_no_splats_can_be_edited_too() -> None:
    empty = Splats(np.empty((0, 2)), np.empty((0, 3)), np.empty((0, 4)), 8, 6, [0.1, 0.2, 0.3, 0.5])
    edited = editing.recolor(editing.crop(editing.rotate(empty, 45), (0, 0, 5, 5)), saturation=0)
    assert len(editing.concatenate([edited, editing.select(empty, (0, 0, 4, 4))])) == 0
    assert edited.background[3] == 0.5


# --- the command


def edit(source: Path, *options: object) -> Splats:
    """What the command makes of a file, through .npz."""
    target = source.with_name("edited.npz")
    assert main(["edit", str(source), *map(str, options), "-o", str(target)]) == 0
    return splat2d.load(target)


@pytest.fixture
def file(splats: Splats, tmp_path: Path) -> Path:
    splat2d.save(tmp_path / "splats.npz", splats)
    return tmp_path / "splats.npz"


def test_the_command_does_what_the_functions_do(splats: Splats, file: Path) -> None:
    other = editing.flip(splats, "vertical")
    splat2d.save(file.with_name("other.npz"), other)
    splat2d.save_image(file.with_name("mask.png"), (centres(WIDTH, HEIGHT)[..., :1] < 30).astype(np.float32))
    name = file.with_name("other.npz")
    for options, expected in (
        ([], splats),
        (["--select", 5, 5, 30, 30, "--outside"], editing.select(splats, (5, 5, 30, 30), outside=True)),
        (["--mask", file.with_name("mask.png")], editing.select(splats, (0, 0, 30, HEIGHT))),
        (["--crop", 5, 6, 20, 10], editing.crop(splats, (5, 6, 20, 10))),
        (["--flip", "vertical"], other),
        (["--rotate", 30], editing.rotate(splats, 30)),
        (["--rotate", 30, "--keep-canvas"], editing.rotate(splats, 30, expand=False)),
        (["--scale", 0.5], editing.resize(splats, scale=0.5)),
        (["--translate", 2, -3.5], editing.translate(splats, 2, -3.5)),
        (["--canvas", 80, 20], editing.resize_canvas(splats, 80, 20)),
        (
            ["--exposure", 1, "--contrast", 0.8, "--brightness", 0.1, "--saturation", 1.5],
            editing.recolor(splats, exposure=1, contrast=0.8, brightness=0.1, saturation=1.5),
        ),
        (["--overlay", name, "--at", 3, 4], editing.overlay(splats, other, x=3, y=4)),
        (["--cross-fade", name, "--amount", 0.25], editing.cross_fade(splats, other, 0.25)),
        (["--blend", name], editing.blend(splats, other, 0.5)),
    ):
        edited = edit(file, *options)
        for field in ("means", "log_cholesky", "colors", "background"):
            np.testing.assert_array_equal(getattr(edited, field), getattr(expected, field), err_msg=str(options))
        assert (edited.width, edited.height) == (expected.width, expected.height)


def test_steps_come_in_the_order_of_the_help(splats: Splats, file: Path) -> None:
    edited = edit(file, "--scale", 2, "--rotate", 90, "--crop", 0, 0, 30, 20)
    expected = editing.resize(editing.rotate(editing.crop(splats, (0, 0, 30, 20)), 90), scale=2)
    np.testing.assert_array_equal(edited.means, expected.means)


@pytest.mark.parametrize("profile", ["scalar", "vector"])
def test_a_coded_file_stays_one_of_its_kind(splats: Splats, tmp_path: Path, profile: Profile) -> None:
    source, target = tmp_path / "a.s2d", tmp_path / "b.s2d"
    quality = 40 if profile == "scalar" else None
    metadata = codec.Metadata(text={"Title": "A test"})
    source.write_bytes(codec.encode(splats, quality=quality, metadata=metadata, profile=profile))
    assert main(["edit", str(source), "--flip", "horizontal", "-o", str(target)]) == 0
    before, after = (codec.read(path.read_bytes()) for path in (source, target))
    assert after.container.metadata.text == {"Title": "A test"}
    assert after.container.header.profile == before.container.header.profile
    assert after.container.header.quality_index == before.container.header.quality_index
    assert psnr(render(after.splats), render(before.splats)[:, ::-1]) > 25


def test_the_report_and_every_kind_of_output(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = [file.with_name(f"out{suffix}") for suffix in (".s2d", ".npz", ".png", ".svg", ".ply", ".html")]
    arguments = [part for path in outputs for part in ("-o", str(path))]
    assert main(["edit", str(file), "--crop", "0", "0", "20", "10", *arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["width"], report["height"], report["channels"]) == (20, 10, 3)
    assert report["outputs"] == [{"path": str(path), "bytes": path.stat().st_size} for path in outputs]
    assert report["next"] == f"splat2d info {outputs[0]}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nowhere to write"),
        (["-o", "out.xyz"], "known: .npz .s2d"),
        (["-o", "out.npz", "--blend", "absent.npz"], "no such file"),
        (["-o", "out.npz", "--mask", "small.png"], "the mask has 4x3 pixels"),
        (["-o", "out.npz", "--crop", "0", "0", "2.5", "2"], "whole numbers"),
        (["-o", "out.npz", "--scale", "2", "--width", "4"], "not both"),
    ],
)
def test_bad_edits_end_with_a_line(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    monkeypatch.chdir(file.parent)
    splat2d.save_image("small.png", np.ones((3, 4, 1), np.float32))
    assert main(["edit", file.name, *options]) == 1
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not list(file.parent.glob("out.*"))
