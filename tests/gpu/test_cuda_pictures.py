"""Pictures and the gradients of their splats over raw addresses, without torch: against the reference and the CPU."""

import numpy as np
import pytest
import reference
from scenes import random_scene
from test_gradients import NAMES, gradient_scale

from splat2d import _cpu
from splat2d.errors import InputError

pytest.importorskip("cuda.core", reason="cuda-core is not installed")
from splat2d.engine.pictures import Batch, PictureKernels, drawing_bytes, pulling_bytes


def draw_and_pull_back(gpu, means, log_cholesky, colors, backgrounds, d_images):
    """float32 [B, ...] each -> images and the three gradients. The work memory holds what was there before: noise."""
    device = gpu._gpu
    batch = Batch(len(means), means.shape[1], colors.shape[2], *d_images.shape[1:3])
    kernels, stream = PictureKernels(device), int(device.stream.handle)
    address = lambda buffer: int(buffer.handle)  # noqa: E731
    splats = [device.upload(np.ascontiguousarray(array)) for array in (means, log_cholesky, colors)]
    ground, cotangent = device.upload(backgrounds), device.upload(d_images)
    images, *gradients = (np.empty_like(array) for array in (d_images, means, log_cholesky, colors))
    image_buffer, *buffers = (device.allocate(array.nbytes) for array in (images, *gradients))
    at, to = tuple(map(address, splats)), tuple(map(address, buffers))
    dirty = [device.upload(np.full(size, 255, np.uint8)) for size in (drawing_bytes(batch), pulling_bytes(batch))]
    kernels.draw(stream, batch, address(dirty[0]), at, address(ground), address(image_buffer))
    kernels.pull_back(stream, batch, address(dirty[1]), at, address(cotangent), to)
    for buffer, array in zip((image_buffer, *buffers), (images, *gradients), strict=True):
        device.download(buffer, array)
    return images, gradients


def check(gpu, scenes, d_images, tolerance=2e-4):
    """Against the reference in float64, but for pixels at the edge of the cut-off, and splats for which these count."""
    height, width = d_images.shape[1:3]
    arrays = [np.stack([scene[k] for scene in scenes]).astype(np.float32) for k in range(4)]
    images, gradients = draw_and_pull_back(gpu, *arrays, d_images)
    for i, scene in enumerate(scenes):
        half_q = reference.exponents(*scene[:2], height, width)
        near = abs(half_q - _cpu.CUTOFF) < 1e-4
        pixels = ~near.any(axis=0)
        expected = reference.render(*scene, height, width, _cpu.CUTOFF)
        np.testing.assert_allclose(images[i][pixels], expected[pixels], atol=5e-5)
        certain = near.sum(axis=(1, 2)) <= 5e-4 * (half_q < _cpu.CUTOFF).sum(axis=(1, 2))
        assert certain.mean() > 0.5
        wanted = reference.render_backward(*scene[:3], d_images[i], _cpu.CUTOFF)
        scales = gradient_scale(scene, d_images[i])
        for name, all_, exact, scale in zip(NAMES, gradients, wanted, scales, strict=True):
            error = abs(all_[i] - exact)[certain] / (scale[certain] + 1e-3 * scale.max())
            assert error.max() < tolerance, name


def cotangents(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize(("pictures", "count"), [(1, 40), (3, 1), (5, 33), (70, 20)])
def test_batches(gpu, channels, pictures, count):
    """Boxes of 32 and of 1024 splats reach over the borders of pictures."""
    height, width = 19, 37
    scenes = [random_scene(100 * channels + i, count, channels, height, width) for i in range(pictures)]
    check(gpu, scenes, cotangents(pictures, height, width, channels))


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_large_splats_are_shared_out(gpu, channels):
    height, width = 230, 310
    scenes = [random_scene(i, 12, channels, height, width, small=20, large=120) for i in range(2)]
    check(gpu, scenes, cotangents(2, height, width, channels), tolerance=1e-3)


def test_many_splats_of_one_picture(gpu):
    """Several boxes of 1024, the last of them not full."""
    height, width = 96, 128
    scene = random_scene(1, 5000, 3, height, width, small=0.6, large=3)
    arrays = [array[None].astype(np.float32) for array in scene]
    d_images = cotangents(1, height, width, 3)
    (image,), gradients = draw_and_pull_back(gpu, *arrays, d_images)
    floats = scene.astype(np.float32)
    assert np.quantile(abs(image - _cpu.render(*floats, height, width)), 0.999) < 1e-4
    for gradient, wanted in zip(gradients, _cpu.render_backward(*floats[:3], d_images[0]), strict=True):
        error = abs(gradient[0] - wanted) / np.median(abs(wanted))
        assert np.median(error) < 1e-4 and np.quantile(error, 0.98) < 1e-2


def test_the_same_bytes_every_time(gpu):
    scenes = [random_scene(i, 300, 3, 60, 70, small=1, large=60) for i in range(4)]
    arrays = [np.stack([scene[k] for scene in scenes]).astype(np.float32) for k in range(4)]
    d_images = cotangents(4, 60, 70, 3)
    one, other = (draw_and_pull_back(gpu, *arrays, d_images) for _ in range(2))
    assert one[0].tobytes() == other[0].tobytes()
    assert [g.tobytes() for g in one[1]] == [g.tobytes() for g in other[1]]


def test_parameters_past_their_limit_have_no_gradient(gpu):
    means, colors = np.full((1, 2, 2), 4.0, np.float32), np.ones((1, 2, 1), np.float32)
    log_cholesky = np.float32([[[21, 0, 1], [1, 0, 21]]])
    d_images = np.ones((1, 8, 8, 1), np.float32)
    _, (_, d_log, _) = draw_and_pull_back(gpu, means, log_cholesky, colors, np.zeros((1, 1), np.float32), d_images)
    np.testing.assert_array_equal(d_log[0, [0, 1], [0, 2]], 0)
    assert (d_log[0, [0, 1], [2, 0]] > 0).all()


def test_too_much_for_one_call():
    with pytest.raises(InputError, match="cuda: a picture of 65536x65536 pixels"):
        drawing_bytes(Batch(1, 1, 1, 65536, 65536))
    with pytest.raises(InputError, match="split the batch"):
        pulling_bytes(Batch(2**21, 2**10, 1, 8, 8))
