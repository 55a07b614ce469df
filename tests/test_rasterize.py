"""splat2d.torch on the CPU: values and gradients against the reference, the operator under torch's own checks."""

import importlib
import math
import sys

import numpy as np
import pytest
import reference
from scenes import random_scene

from splat2d import _cpu, render
from splat2d.errors import InputError
from splat2d.splats import Splats

pytest.importorskip("torch", reason='torch is not installed: pip install "splat2d[torch]"')
import torch

import splat2d.torch
from splat2d.torch import rasterize, z_order
from splat2d.torch.rasterizing import _rasterize, _rasterize_backward

HEIGHT, WIDTH = 13, 17
NAMES = ("means", "log_cholesky", "colors", "background")


def scenes(shape=(), count=5, channels=3, height=HEIGHT, width=WIDTH, seed=0):
    """The arrays of random scenes with these leading dimensions, float64."""
    all_ = [random_scene(seed + i, count, channels, height, width, small=0.7, large=4) for i in range(math.prod(shape))]
    return [np.reshape([scene[k] for scene in all_], (*shape, *all_[0][k].shape)) for k in range(4)]


def tensors(arrays, dtype=torch.float64, grad=True):
    return [torch.tensor(array, dtype=dtype, requires_grad=grad) for array in arrays]


def draw(means, log_cholesky, colors, background=None, height=HEIGHT, width=WIDTH):
    return rasterize(means, log_cholesky, colors, height=height, width=width, background=background)


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 2)])
def test_values_and_gradients_equal_the_reference(shape, channels):
    arrays = scenes(shape, channels=channels)
    inputs = tensors(arrays)
    picture = draw(*inputs)
    assert picture.shape == (*shape, HEIGHT, WIDTH, channels) and picture.dtype == torch.float64
    d_image = np.random.default_rng(1).normal(size=picture.shape)
    picture.backward(torch.tensor(d_image))
    for index in np.ndindex(shape):
        scene = [array[index] for array in arrays]
        expected = reference.render(*scene, HEIGHT, WIDTH, _cpu.CUTOFF)
        np.testing.assert_allclose(picture[index].detach(), expected, atol=1e-12)
        gradients = *reference.render_backward(*scene[:3], d_image[index], _cpu.CUTOFF), d_image[index].sum((0, 1))
        for name, tensor, wanted in zip(NAMES, inputs, gradients, strict=True):
            np.testing.assert_allclose(tensor.grad[index], wanted, rtol=1e-9, atol=1e-9, err_msg=name)


def test_gradcheck():
    """By finite differences, so no pixel may lie so near the cut-off that a step takes it across."""
    arrays = scenes((2,), count=4)
    for means, log_cholesky in zip(*arrays[:2], strict=True):
        assert abs(reference.exponents(means, log_cholesky, HEIGHT, WIDTH) - _cpu.CUTOFF).min() > 1e-4
    assert torch.autograd.gradcheck(draw, tensors(arrays), eps=1e-6, atol=1e-6)


def test_gradcheck_of_what_broadcasts():
    means, log_cholesky, colors, background = scenes((2,), count=3)
    shared = (means[0], log_cholesky[:1], colors, background[0])
    assert draw(*tensors(shared)).shape == (2, HEIGHT, WIDTH, 3)
    assert torch.autograd.gradcheck(draw, tensors(shared), eps=1e-6, atol=1e-6)


def test_float32_is_the_picture_of_the_engine():
    arrays = scenes(count=60, height=90, width=70)
    inputs = tensors(arrays, torch.float32)
    picture = draw(*inputs, height=90, width=70)
    floats = [array.astype(np.float32) for array in arrays]
    np.testing.assert_array_equal(picture.detach(), _cpu.render(*floats, 90, 70))
    (picture**2).sum().backward()
    wanted = _cpu.render_backward(*floats[:3], 2 * picture.detach().numpy())
    for tensor, gradient in zip(inputs, wanted, strict=False):
        np.testing.assert_array_equal(tensor.grad, gradient)


def test_any_strides_will_do():
    arrays = scenes((2,))
    inputs = [tensor.transpose(0, -1).contiguous().transpose(0, -1) for tensor in tensors(arrays, grad=False)]
    assert not inputs[0].is_contiguous()
    inputs[0].requires_grad_()
    picture = draw(*inputs)
    torch.testing.assert_close(picture, draw(*tensors(arrays)))
    picture.sum().backward()  # its gradient is one number, expanded
    assert inputs[0].grad.abs().sum() > 0


def test_no_background_is_black():
    inputs = tensors(scenes(), grad=False)
    torch.testing.assert_close(draw(*inputs[:3]), draw(*inputs) - inputs[3])


@pytest.mark.parametrize(("shape", "count"), [((), 0), ((2,), 0), ((0,), 3), ((0, 2), 0)])
def test_nothing_to_draw(shape, count):
    ends = (count, 2), (count, 3), (count, 2), (2,)
    inputs = [torch.full((*shape, *end), 0.5, requires_grad=True) for end in ends]
    picture = draw(*inputs)
    assert picture.shape == (*shape, HEIGHT, WIDTH, 2)
    assert (picture == 0.5).all()
    picture.sum().backward()
    assert all(tensor.grad.shape == tensor.shape for tensor in inputs)


def test_only_what_is_asked_for_has_gradients():
    means, log_cholesky, colors, background = tensors(scenes(), grad=False)
    draw(means, log_cholesky, colors.requires_grad_(), background).sum().backward()
    assert colors.grad is not None and means.grad is None and background.grad is None
    draw(means, log_cholesky, colors.detach(), background.requires_grad_()).sum().backward()
    np.testing.assert_allclose(background.grad, HEIGHT * WIDTH)
    assert not draw(*(tensor.detach() for tensor in (means, log_cholesky, colors))).requires_grad


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's own, in version 2.15
def test_opcheck():
    inputs = tensors(scenes((2,)), torch.float32)
    torch.library.opcheck(_rasterize, (*inputs, HEIGHT, WIDTH))
    plain = [tensor.detach() for tensor in inputs[:3]]
    d_images = torch.ones(2, HEIGHT, WIDTH, 3)
    # Of its autograd there is only the refusal.
    utilities = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(_rasterize_backward, (*plain, d_images), test_utils=utilities)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_compiled_whole():
    def loss(means, log_cholesky, colors, background):
        return ((torch.sigmoid(draw(means, log_cholesky.exp().log(), 2 * colors, background)) - 0.4) ** 2).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for shape in ((), (2,), (3,)):  # with other sizes it is traced anew
        one, other = tensors(scenes(shape)), tensors(scenes(shape))
        loss(*one).backward()
        compiled(*other).backward()
        for name, a, b in zip(NAMES, one, other, strict=True):
            torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_gradients_of_gradients_are_refused():
    inputs = tensors(scenes())
    (d_means,) = torch.autograd.grad((draw(*inputs) ** 2).sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"^rasterize: gradients of gradients are not there.*$"):
        d_means.sum().backward()


GOOD = {"means": (4, 2), "log_cholesky": (4, 3), "colors": (4, 3), "background": (3,)}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"means": torch.zeros(4, 3)}, r"means must be \[..., N, 2\], got \(4, 3\)"),
        ({"log_cholesky": torch.zeros(3)}, r"log_cholesky must be \[..., N, 3\], got \(3,\)"),
        ({"colors": torch.zeros(4, 0)}, r"colors must be \[..., N, C\] with C of 1 to 4096, got \(4, 0\)"),
        ({"colors": torch.zeros(5, 3)}, "must have as many splats, got 4, 4 and 5"),
        ({"background": torch.zeros(4)}, r"background must be \[..., 3\], .* got \(4,\)"),
        ({"background": torch.tensor(0.0)}, r"background must be \[..., 3\], .* got \(\)"),
        ({"means": torch.zeros(2, 4, 2), "colors": torch.zeros(3, 4, 3)}, r"must broadcast, got means \(2, 4, 2\), "),
        ({"means": np.zeros((4, 2))}, "means must be a torch tensor, got ndarray"),
        ({"means": torch.zeros(4, 2).half()}, "means must be torch.float32 or torch.float64 on cpu, got torch.float16"),
        ({"colors": torch.zeros(4, 3).double()}, "colors is torch.float64, means torch.float32"),
        ({"colors": torch.zeros(4, 3, device="meta")}, "colors is on meta, means on cpu; move it there"),
        ({"means": torch.zeros(4, 2, device="meta")}, "there are kernels for cpu and cuda, not for meta"),
        ({"height": 0}, "height must be 1 to 16777216 pixels, got 0"),
        ({"width": 2**24 + 1}, "width must be 1 to 16777216 pixels, got 16777217"),
        ({"width": 2.5}, "width must be a whole number of pixels, got 2.5"),
    ],
)
def test_bad_input_is_one_line(changed, message):
    arguments = {name: torch.zeros(shape) for name, shape in GOOD.items()} | {"height": 5, "width": 6} | changed
    with pytest.raises(InputError, match=f"^rasterize: .*{message}") as caught:
        rasterize(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_in_z_order_the_picture_is_the_same_and_neighbours_are_near(shape):
    arrays = scenes(shape, count=400, height=90, width=120)
    means, log_cholesky, colors, background = tensors(arrays, grad=False)
    order = z_order(means, log_cholesky, height=90, width=120)
    assert order.shape == (*shape, 400)
    assert (order.sort(-1).values == torch.arange(400)).all()
    sorted_ = [torch.take_along_dim(tensor, order[..., None], -2) for tensor in (means, log_cholesky, colors)]
    one, other = (draw(*of, background, height=90, width=120) for of in ((means, log_cholesky, colors), sorted_))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    jumps = [means_.diff(dim=-2).norm(dim=-1).mean() for means_ in (means, sorted_[0])]
    assert jumps[1] < 0.25 * jumps[0]


def test_z_order_of_what_is_no_number():
    means = torch.tensor([[float("nan"), 1e38], [-1e38, 5.0], [3.0, 3.0]])
    order = z_order(means, torch.tensor([[99.0, 0, 0], [0, 1e30, 0], [0, 0, 0]]), height=8, width=8)
    assert sorted(order.tolist()) == [0, 1, 2] and order[0] == 2


def test_splats_to_tensors_and_back():
    means, log_cholesky, colors, background = scenes(count=9)
    splats = Splats(means, log_cholesky, colors, WIDTH, HEIGHT, background)
    held = splat2d.torch.Splats.of(splats)
    assert held.means.dtype == torch.float32 and not held.means.requires_grad
    np.testing.assert_array_equal(held.picture(), render(splats, device="cpu"))
    again = held.splats()
    for name in NAMES:
        np.testing.assert_array_equal(getattr(again, name), getattr(splats, name))
    assert (again.width, again.height) == (WIDTH, HEIGHT)
    held.means.add_(1)  # a copy: the splats stay
    np.testing.assert_array_equal(splats.means, np.float32(means))
    assert splat2d.torch.Splats.of(splats, dtype=torch.float64).colors.dtype == torch.float64


def test_splats_of_several_pictures_are_drawn_but_not_converted():
    held = splat2d.torch.Splats(*tensors(scenes((2,)))[:3], WIDTH, HEIGHT, torch.zeros(3, dtype=torch.float64))
    assert held.picture().shape == (2, HEIGHT, WIDTH, 3)
    with pytest.raises(InputError, match=r"expected one picture, means \[N, 2\], got \(2, 5, 2\)"):
        held.splats()


def test_without_torch_the_extra_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("splat2d.torch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r'pip install "splat2d\[torch\]"'):
        importlib.import_module("splat2d.torch")
