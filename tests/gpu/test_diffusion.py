"""Training of splat2d.diffusion on the GPU: compiled and replayed as a graph, it learns what it learns without."""

import pytest

pytest.importorskip("torch", reason='torch is not installed: pip install "splat2d[torch]"')
import torch

if not torch.cuda.is_available():
    pytest.skip("torch sees no GPU", allow_module_level=True)
pytest.importorskip("safetensors", reason='safetensors is not installed: pip install "splat2d[diffusion]"')

from splat2d.diffusion.encoder import Encoder, EncoderConfig, train_encoder
from splat2d.diffusion.layouts import SplatLayout
from splat2d.diffusion.network import Block, Denoiser, NetworkConfig

LAYOUT = SplatLayout(28, 28, 1, 10, 10, (0.0,))

# torch's own, of its compiler
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def kernels(gpu):
    """Skips without the extra cuda."""


def pictures(count):
    """Soft discs, [count, 28, 28, 1] of 0..1."""
    generator = torch.Generator().manual_seed(0)
    x, y, size = (torch.rand(3, count, 1, 1, generator=generator) * torch.tensor([20, 20, 4]).view(3, 1, 1, 1)) + 4
    rows, columns = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    return torch.sigmoid(size - torch.hypot(columns - x, rows - y))[..., None].cuda()


def start_anywhere(network):
    """Layers that begin as zero would hide what is wrong with gradients."""
    for weight in network.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.02)


def gradients(network, loss):
    network.zero_grad()
    with torch.autocast("cuda", torch.bfloat16):
        value = loss()
    value.backward()
    return {name: weight.grad.clone() for name, weight in network.named_parameters()}


def assert_alike(one, other):
    for name, gradient in one.items():
        error = float((gradient - other[name]).norm() / gradient.norm())
        assert error < 0.05, f"{name}: {error}"


def compiled(blocks: list[Block]):
    torch._dynamo.reset()
    for block in blocks:
        block.compile(dynamic=False)


@pytest.mark.parametrize("width", [128, 160])
def test_gradients_of_a_compiled_encoder(width):
    torch.manual_seed(0)
    images = pictures(256)
    encoder = Encoder(LAYOUT, EncoderConfig(width=width, heads=4, passes=2)).cuda()
    start_anywhere(encoder)

    def loss():
        return sum((tokens.float() ** 2).mean() for tokens in encoder.refine(images))

    plain = gradients(encoder, loss)
    compiled(encoder.blocks)
    assert_alike(plain, gradients(encoder, loss))


def test_gradients_of_a_compiled_denoiser():
    torch.manual_seed(0)
    x, t = torch.randn(256, 100, 6, device="cuda"), torch.rand(256, device="cuda")
    labels = torch.randint(11, (256,), device="cuda")
    denoiser = Denoiser(LAYOUT, 10, NetworkConfig(width=128, depth=2)).cuda()
    start_anywhere(denoiser)

    def loss():
        return (denoiser(x, t, labels).float() - x).square().mean()

    plain = gradients(denoiser, loss)
    compiled(denoiser.blocks)
    assert_alike(plain, gradients(denoiser, loss))


def test_an_encoder_learns():
    images = (pictures(2000) * 255).round().byte()
    encoder = train_encoder(images, LAYOUT, EncoderConfig(steps=300, batch=128))
    some = images[:256].float() / 255
    errors = [(LAYOUT.pictures(tokens) - some).square().mean() for tokens in (*encoder.refine(some), encoder(some))]
    first, last, settled = float(errors[0]), float(errors[-2]), float(errors[-1])
    assert settled < last < first < 0.02
