"""Splats -> pictures as an operator of torch, over the kernels of splat2d."""

import math
import operator
from typing import Any

import torch
from torch import Tensor

from splat2d import _cpu
from splat2d.errors import InputError

LARGEST_SIDE = 1 << 24  # pixels, as in native/bindings.cpp
MOST_CHANNELS = 4096


def rasterize(
    means: Tensor,
    log_cholesky: Tensor,
    colors: Tensor,
    *,
    height: int,
    width: int,
    background: Tensor | None = None,
) -> Tensor:
    """Pictures [..., height, width, C] of splats means [..., N, 2], log_cholesky [..., N, 3], colors [..., N, C].

    Units and formula are those of docs/conventions.md. Leading dimensions broadcast; background [..., C] is 0 unless
    given. All tensors are float32, or on the CPU float64, on one device; the GPU works on the current stream. There
    are gradients with respect to every tensor, but none of gradients. Raises InputError.
    """
    tensors = {"means": means, "log_cholesky": log_cholesky, "colors": colors}
    if background is not None:
        tensors["background"] = background
    _check_kind(tensors)
    height, width = _checked_size("height", height), _checked_size("width", width)
    _check_shapes(means, log_cholesky, colors, background)
    if background is None:
        background = colors.new_zeros(colors.shape[-1])
    try:
        batch = torch.broadcast_shapes(
            means.shape[:-2], log_cholesky.shape[:-2], colors.shape[:-2], background.shape[:-1]
        )
    except RuntimeError:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise InputError(f"rasterize: the leading dimensions must broadcast, got {shapes}") from None

    def spread(tensor: Tensor, own: int) -> Tensor:
        """With all leading dimensions, before so many of its own."""
        first = tensor.ndim - own
        return tensor if tensor.shape[:first] == batch else tensor.expand(*batch, *tensor.shape[first:])

    images: Tensor = _rasterize(
        spread(means, 2), spread(log_cholesky, 2), spread(colors, 2), spread(background, 1), height, width
    )
    return images


def _check_kind(tensors: dict[str, Tensor]) -> None:
    """One type and one device, which there are kernels for."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise InputError(f"rasterize: {name} must be a torch tensor, got {type(tensor).__name__}")
    first = tensors["means"]
    if first.device.type not in ("cpu", "cuda"):
        raise InputError(f"rasterize: there are kernels for cpu and cuda, not for {first.device.type}")
    allowed = (torch.float32, torch.float64) if first.device.type == "cpu" else (torch.float32,)
    for name, tensor in tensors.items():
        if tensor.device != first.device:
            raise InputError(f"rasterize: {name} is on {tensor.device}, means on {first.device}; move it there")
        if tensor.dtype not in allowed:
            names = " or ".join(str(dtype) for dtype in allowed)
            raise InputError(f"rasterize: {name} must be {names} on {first.device.type}, got {tensor.dtype}")
        if tensor.dtype != first.dtype:
            raise InputError(f"rasterize: {name} is {tensor.dtype}, means {first.dtype}; convert one of them")


def _checked_size(name: str, value: int) -> int:
    try:
        size = operator.index(value)
    except TypeError:
        raise InputError(f"rasterize: {name} must be a whole number of pixels, got {value!r}") from None
    if not 1 <= size <= LARGEST_SIDE:
        raise InputError(f"rasterize: {name} must be 1 to {LARGEST_SIDE} pixels, got {size}")
    return size


def _check_shapes(means: Tensor, log_cholesky: Tensor, colors: Tensor, background: Tensor | None) -> None:
    """[..., N, 2], [..., N, 3], [..., N, C], [..., C]."""
    for name, tensor, last in (("means", means, 2), ("log_cholesky", log_cholesky, 3)):
        if tensor.ndim < 2 or tensor.shape[-1] != last:
            raise InputError(f"rasterize: {name} must be [..., N, {last}], got {tuple(tensor.shape)}")
    if colors.ndim < 2 or not 1 <= colors.shape[-1] <= MOST_CHANNELS:
        raise InputError(
            f"rasterize: colors must be [..., N, C] with C of 1 to {MOST_CHANNELS}, got {tuple(colors.shape)}"
        )
    if not means.shape[-2] == log_cholesky.shape[-2] == colors.shape[-2]:
        counts = f"{means.shape[-2]}, {log_cholesky.shape[-2]} and {colors.shape[-2]}"
        raise InputError(f"rasterize: means, log_cholesky and colors must have as many splats, got {counts}")
    if background is not None and (background.ndim < 1 or background.shape[-1] != colors.shape[-1]):
        raise InputError(
            f"rasterize: background must be [..., {colors.shape[-1]}], a value per channel of colors, "
            f"got {tuple(background.shape)}"
        )


# ---- the operators: [..., N, 2], [..., N, 3], [..., N, C], [..., C] -> [..., height, width, C] and back ----


def _on_cpu(means: Tensor, log_cholesky: Tensor, colors: Tensor, background: Tensor, height: int, width: int) -> Tensor:
    arrays = [_flat(tensor, 2).numpy() for tensor in (means, log_cholesky, colors)]
    images = _cpu.render_pictures(
        arrays[0], arrays[1], arrays[2], _flat(background, 1).numpy(), height, width, threads=torch.get_num_threads()
    )
    return torch.from_numpy(images).view(_picture_shape(colors, height, width))


def _backward_on_cpu(
    means: Tensor, log_cholesky: Tensor, colors: Tensor, d_images: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    arrays = [_flat(tensor, 2).numpy() for tensor in (means, log_cholesky, colors)]
    d_means, d_log_cholesky, d_colors = _cpu.render_pictures_backward(
        arrays[0], arrays[1], arrays[2], _flat(d_images, 3).numpy(), threads=torch.get_num_threads()
    )
    return (
        torch.from_numpy(d_means).view(means.shape),
        torch.from_numpy(d_log_cholesky).view(log_cholesky.shape),
        torch.from_numpy(d_colors).view(colors.shape),
    )


def _on_gpu(means: Tensor, log_cholesky: Tensor, colors: Tensor, background: Tensor, height: int, width: int) -> Tensor:
    splats = [tensor.contiguous() for tensor in (means, log_cholesky, colors)]
    images = colors.new_empty(_picture_shape(colors, height, width))
    if not images.numel() or not means.shape[-2]:
        return images.copy_(background[..., None, None, :])
    background = background.contiguous()
    pictures = _gpu_pictures()
    batch = pictures.Batch(math.prod(colors.shape[:-2]), *colors.shape[-2:], height, width)
    size = pictures.drawing_bytes(batch)
    with torch.cuda.device(means.device):
        work = torch.empty(size, dtype=torch.uint8, device=means.device)
        stream = torch.cuda.current_stream().cuda_stream
        kernels = pictures.picture_kernels(torch.cuda.current_device())
        kernels.draw(stream, batch, work.data_ptr(), _addresses(splats), background.data_ptr(), images.data_ptr())
    return images


def _backward_on_gpu(
    means: Tensor, log_cholesky: Tensor, colors: Tensor, d_images: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    splats = [tensor.contiguous() for tensor in (means, log_cholesky, colors)]
    gradients = [torch.empty_like(tensor) for tensor in splats]
    d_means, d_log_cholesky, d_colors = gradients
    if not d_images.numel() or not means.shape[-2]:
        return d_means, d_log_cholesky, d_colors  # of no splats
    d_images = d_images.contiguous()
    if d_images.data_ptr() % 16:  # a view into other memory: the kernels load four values at a time
        d_images = d_images.clone()
    pictures = _gpu_pictures()
    batch = pictures.Batch(math.prod(colors.shape[:-2]), *colors.shape[-2:], *d_images.shape[-3:-1])
    size = pictures.pulling_bytes(batch)
    with torch.cuda.device(means.device):
        work = torch.empty(size, dtype=torch.uint8, device=means.device)
        stream = torch.cuda.current_stream().cuda_stream
        kernels = pictures.picture_kernels(torch.cuda.current_device())
        kernels.pull_back(
            stream, batch, work.data_ptr(), _addresses(splats), d_images.data_ptr(), _addresses(gradients)
        )
    return d_means, d_log_cholesky, d_colors


def _gpu_pictures() -> Any:
    """The module of the GPU's kernels, which need the extra cuda beside torch."""
    try:
        from splat2d.engine import pictures
    except ImportError:
        advice = 'install it by: pip install "splat2d[cuda,torch]", or use tensors on the CPU'
        raise InputError(f"rasterize: the CUDA engine is not installed; {advice}") from None
    return pictures


def _addresses(tensors: list[Tensor]) -> tuple[int, ...]:
    return tuple(tensor.data_ptr() for tensor in tensors)


def _flat(tensor: Tensor, own: int) -> Tensor:
    """All leading dimensions as one before so many of its own; contiguous, without a copy where it was."""
    first = tensor.ndim - own
    return tensor.detach().contiguous().view(math.prod(tensor.shape[:first]), *tensor.shape[first:])


def _picture_shape(colors: Tensor, height: int, width: int) -> tuple[int, ...]:
    return *colors.shape[:-2], height, width, colors.shape[-1]


def _shape(means: Tensor, log_cholesky: Tensor, colors: Tensor, background: Tensor, height: int, width: int) -> Tensor:
    return colors.new_empty(_picture_shape(colors, height, width))


def _backward_shapes(
    means: Tensor, log_cholesky: Tensor, colors: Tensor, d_images: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return means.new_empty(means.shape), log_cholesky.new_empty(log_cholesky.shape), colors.new_empty(colors.shape)


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])


def _backward(ctx: Any, d_images: Tensor) -> tuple[Tensor | None, ...]:
    of_splats: tuple[Tensor | None, ...] = (None, None, None)
    if any(ctx.needs_input_grad[:3]):
        of_splats = _rasterize_backward(*ctx.saved_tensors, d_images)
    d_background = d_images.sum((-3, -2)) if ctx.needs_input_grad[3] else None
    return *of_splats, d_background, None, None


def _refuse(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
    raise RuntimeError("rasterize: gradients of gradients are not there; detach the first ones, or difference them")


_rasterize = torch.library.custom_op("splat2d::rasterize", _on_cpu, mutates_args=(), device_types="cpu")
_rasterize.register_kernel("cuda", _on_gpu)
_rasterize.register_fake(_shape)
_rasterize.register_autograd(_backward, setup_context=_keep_inputs)

_rasterize_backward = torch.library.custom_op(
    "splat2d::rasterize_backward", _backward_on_cpu, mutates_args=(), device_types="cpu"
)
_rasterize_backward.register_kernel("cuda", _backward_on_gpu)
_rasterize_backward.register_fake(_backward_shapes)
_rasterize_backward.register_autograd(_refuse)
