"""splat2d.torch on the GPU: as on the CPU, on the current stream, in CUDA graphs and compiled."""

import numpy as np
import pytest
from scenes import random_scene

from splat2d import _cpu
from splat2d.errors import InputError

pytest.importorskip("torch", reason='torch is not installed: pip install "splat2d[torch]"')
import torch

if not torch.cuda.is_available():
    pytest.skip("torch sees no GPU", allow_module_level=True)

from splat2d.torch import Splats, rasterize
from splat2d.torch.rasterizing import _rasterize, _rasterize_backward

HEIGHT, WIDTH = 45, 60


@pytest.fixture(autouse=True)
def kernels(gpu):
    """Skips without the extra cuda."""


def arrays(shape=(), count=40, channels=3, height=HEIGHT, width=WIDTH):
    scenes = [
        random_scene(seed, count, channels, height, width, small=0.8, large=9) for seed in range(int(np.prod(shape)))
    ]
    return [np.reshape([scene[k] for scene in scenes], (*shape, *scenes[0][k].shape)) for k in range(4)]


def tensors(of, device="cuda", grad=True):
    return [torch.tensor(array, dtype=torch.float32, device=device, requires_grad=grad) for array in of]


def draw(means, log_cholesky, colors, background=None, height=HEIGHT, width=WIDTH):
    return rasterize(means, log_cholesky, colors, height=height, width=width, background=background)


def assert_near(one, other):
    """Float32 sums in another order; a pixel at the edge of the cut-off may count on one side only."""
    error = (one.detach().cpu() - other.detach().cpu()).abs() / (other.detach().cpu().abs().median() + 1e-6)
    assert error.median() < 1e-4
    assert error.flatten().quantile(0.97) < 2e-2


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3)])
def test_as_on_the_cpu(shape, channels):
    of = arrays(shape, channels=channels)
    here, there = tensors(of), tensors(of, "cpu")
    one, other = draw(*here), draw(*there)
    assert one.shape == other.shape and one.device.type == "cuda"
    assert_near(one, other)
    weights = torch.randn(one.shape, generator=torch.Generator().manual_seed(0))
    (one * weights.cuda()).sum().backward()
    (other * weights).sum().backward()
    for a, b in zip(here, there, strict=True):
        assert_near(a.grad, b.grad)


def test_any_strides_and_offsets_will_do():
    of = arrays((3,), channels=4)
    plain = tensors(of)
    rows = [torch.cat([tensor.detach().flatten()[:1], tensor.detach().flatten()])[1:] for tensor in plain]
    shifted = [row.view(tensor.shape).requires_grad_() for row, tensor in zip(rows, plain, strict=True)]
    assert shifted[2].data_ptr() % 16
    weights = torch.randn(3 * HEIGHT * WIDTH * 4 + 1, device="cuda")[1:].view(3, HEIGHT, WIDTH, 4)
    assert weights.data_ptr() % 16
    for inputs in (plain, shifted):
        draw(*inputs).backward(weights)
    for a, b in zip(plain, shifted, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)
    one = draw(*plain).sum()  # its gradient is one number, expanded
    one.backward()


def test_nothing_to_draw():
    for shape, count in (((), 0), ((2,), 0), ((0,), 3)):
        inputs = [torch.full((*shape, *end), 0.5, device="cuda") for end in ((count, 2), (count, 3), (count, 2), (2,))]
        inputs = [tensor.requires_grad_() for tensor in inputs]
        picture = draw(*inputs)
        assert picture.shape == (*shape, HEIGHT, WIDTH, 2) and (picture == 0.5).all()
        picture.sum().backward()
        assert all(tensor.grad.shape == tensor.shape for tensor in inputs)


def test_opcheck():
    inputs = tensors(arrays((2,)))
    # Its own comparison of gradients is a second run of the same kernels: the bytes are the same.
    torch.library.opcheck(_rasterize, (*inputs, HEIGHT, WIDTH))
    plain = [tensor.detach() for tensor in inputs[:3]]
    torch.library.opcheck(_rasterize_backward, (*plain, torch.ones(2, HEIGHT, WIDTH, 3, device="cuda")))


def test_on_the_current_stream():
    """The splats are written by the same stream, late: a kernel elsewhere would draw what was there before."""
    of = arrays()
    wanted = draw(*tensors(of, grad=False))
    torch.cuda.synchronize()
    late = [torch.zeros_like(tensor) for tensor in tensors(of, grad=False)]
    source = tensors(of, grad=False)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        for to, tensor in zip(late, source, strict=True):
            to.copy_(tensor)
        picture = draw(*late)
    stream.synchronize()
    torch.testing.assert_close(picture, wanted, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_no_wait_for_the_device():
    inputs = tensors(arrays((4,)))
    draw(*inputs).sum().backward()  # compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        draw(*inputs).square().sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_in_a_cuda_graph():
    of = arrays((2,))
    inputs = tensors(of)
    target = torch.rand(2, HEIGHT, WIDTH, 3, device="cuda")

    def step():
        for tensor in inputs:
            tensor.grad = None
        loss = ((draw(*inputs) - target) ** 2).sum()
        loss.backward()
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        loss = step()
    with torch.no_grad():
        inputs[0] += 0.3  # what the graph reads anew
    graph.replay()
    replayed = [loss.clone(), *(tensor.grad.clone() for tensor in inputs)]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # where gradients were first summed; torch warns of another stream
        plain = [step().detach(), *(tensor.grad for tensor in inputs)]
    torch.cuda.current_stream().wait_stream(side)
    for a, b in zip(replayed, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore")  # torch's own
@pytest.mark.parametrize("options", [{}, {"mode": "reduce-overhead"}], ids=["default", "cudagraphs"])
def test_compiled_whole(options):
    def loss(means, log_cholesky, colors, background):
        return (torch.sigmoid(draw(means, log_cholesky, 2 * colors, background)) ** 2).sum()

    compiled = torch.compile(loss, fullgraph=True, **options)
    one, other = tensors(arrays((2,))), tensors(arrays((2,)))
    loss(*one).backward()
    for _ in range(3):
        for tensor in other:
            tensor.grad = None
        compiled(*other).backward()
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_another_device():
    of = arrays((2,))
    inputs = tensors(of, "cuda:1")
    picture = draw(*inputs)
    assert picture.device.index == 1 and torch.cuda.current_device() == 0
    picture.sum().backward()
    torch.testing.assert_close(picture.detach().cpu(), draw(*tensors(of)).detach().cpu(), rtol=0, atol=0)


def test_splats_go_there_and_come_back():
    from splat2d import splats

    means, log_cholesky, colors, background = arrays()
    source = splats.Splats(means, log_cholesky, colors, WIDTH, HEIGHT, background)
    held = Splats.of(source, device="cuda")
    np.testing.assert_array_equal(held.splats().means, source.means)
    floats = [np.float32(array) for array in (means, log_cholesky, colors, background)]
    error = abs(held.picture().cpu().numpy() - _cpu.render(*floats, HEIGHT, WIDTH))
    assert np.quantile(error, 0.999) < 1e-4


def test_float64_and_mixed_devices_are_refused():
    inputs = tensors(arrays(), grad=False)
    with pytest.raises(InputError, match=r"means must be torch.float32 on cuda, got torch.float64"):
        draw(inputs[0].double(), *inputs[1:])
    with pytest.raises(InputError, match="colors is on cpu, means on cuda:0; move it there"):
        draw(inputs[0], inputs[1], inputs[2].cpu())
