"""One step of training: from a batch to new weights."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from splat2d.diffusion.flow import velocity_loss, velocity_weight
from splat2d.diffusion.graphs import Replayed
from splat2d.diffusion.model import Model, clean_tokens
from splat2d.diffusion.muon import Muon
from splat2d.diffusion.network import Denoiser

# Earlier a prediction is the mean of many pictures' splats, which show another picture than the mean of those pictures.
RENDERED_FROM = 0.5


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything random about one step."""

    x: Tensor  # [B, N, F], whitened
    t: Tensor  # [B]
    noisy: Tensor  # [B, N, F]
    labels: Tensor  # [B], some of them empty


@dataclass(frozen=True, slots=True)
class Rules:
    """What an update minimises, and how."""

    decay: float  # of weights
    render: float  # weight of the error that pictures show


class Update:
    """Takes a batch and a learning rate; returns the two losses, [2], without waiting for the device."""

    def __init__(self, rules: Rules, model: Model, network: Denoiser, workers: int) -> None:
        """model: what tokens mean; network: what learns, on each of so many workers."""
        self._rules, self._model, self._network = rules, model, network
        # The rate is a tensor, so that a graph of the step can be told another one.
        self._rate = torch.zeros((), device=model.device)
        matrices = network.matrices()
        known = {weight for weight, _ in matrices}
        others = torch.optim.AdamW(
            [weight for weight in network.parameters() if weight not in known],
            lr=self._rate,
            betas=(0.9, 0.99),
            weight_decay=rules.decay,
            fused=True,
            capturable=model.device.type == "cuda",
        )
        self._optimizers = [others, Muon(matrices, self._rate, rules.decay)]
        self._whole: nn.Module = network
        if workers > 1:
            gpu = [model.device.index] if model.device.type == "cuda" else None
            self._whole = DistributedDataParallel(network, device_ids=gpu)

    def __call__(self, batch: Batch, rate: float) -> Tensor:
        self._rate.fill_(rate)
        return self._step(batch)

    def state(self, weight: nn.Parameter) -> dict[str, Tensor]:
        """What the optimizer of a weight remembers of it; may be written to."""
        owner = next(each for each in self._optimizers if any(weight is own for own in each.param_groups[0]["params"]))
        return owner.state[weight]

    def _step(self, batch: Batch) -> Tensor:
        with torch.autocast(self._model.device.type, torch.bfloat16, enabled=self._model.device.type == "cuda"):
            out = self._whole(batch.noisy, batch.t, batch.labels)
        clean = clean_tokens(self._model.prediction, out.float(), batch.noisy, batch.t)
        loss = velocity_loss(clean, batch.x, batch.t)
        shown = _render_loss(self._model, clean, batch) if self._rules.render else loss.new_zeros(())
        self._network.zero_grad(set_to_none=True)
        (loss + self._rules.render * shown).backward()
        nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        return torch.stack([loss.detach(), shown.detach()])


class GraphedUpdate(Update):
    """The same on one GPU, as a CUDA graph."""

    def __init__(self, rules: Rules, model: Model, network: Denoiser, batch: Batch) -> None:
        """batch: any of those to come, for its shapes."""
        super().__init__(rules, model, network, 1)
        for block in network.blocks:
            block.compile(dynamic=False)  # the code of one serves all

        def step(*tensors: Tensor) -> Tensor:
            return self._step(Batch(*tensors))

        self._replayed = Replayed(step, _tensors(batch), network, self._optimizers)

    def __call__(self, batch: Batch, rate: float) -> Tensor:
        self._rate.fill_(rate)
        return self._replayed(*_tensors(batch))


def _tensors(batch: Batch) -> list[Tensor]:
    return [getattr(batch, each.name) for each in fields(batch)]


def _render_loss(model: Model, clean: Tensor, batch: Batch) -> Tensor:
    """The error of the velocity as pictures show it: squared, summed over pixels, per number of a picture's tokens.

    Errors of neighbouring splats that cancel each other count for nothing here, and those that add up for more.
    """
    with torch.no_grad():
        wanted = model.layout.pictures(model.tokens(batch.x))
    error = (model.layout.pictures(model.tokens(clean)) - wanted).square().flatten(1).sum(1) / clean[0].numel()
    return (velocity_weight(batch.t) * error * (batch.t > RENDERED_FROM)).mean()
