"""A step of training as one CUDA graph: launching its kernels one by one would take longer than they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

WARM_UPS = 3


class Replayed:
    """step(*tensors), called with other values of the same shapes. Its result is overwritten by the next call."""

    def __init__(
        self,
        step: Callable[..., Tensor],
        tensors: Sequence[Tensor],
        network: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
    ) -> None:
        """Runs step to warm up and to record it, then takes back what network and optimizers learned from that."""
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        self._tensors = [tensor.clone() for tensor in tensors]
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                step(*self._tensors)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self._graph, stream=stream):
            self._result = step(*self._tensors)
        network.load_state_dict(before)
        for optimizer in optimizers:
            for state in optimizer.state.values():
                for value in state.values():
                    value.zero_()

    def __call__(self, *tensors: Tensor) -> Tensor:
        for own, tensor in zip(self._tensors, tensors, strict=True):
            own.copy_(tensor)
        self._graph.replay()
        return self._result
