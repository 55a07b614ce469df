"""Muon against the singular value decomposition, in float64."""

import numpy as np
import pytest

pytest.importorskip("torch", reason='torch is not installed: pip install "splat2d[diffusion]"')
import torch

from splat2d.diffusion.muon import MOMENTUM, UPDATE_RMS, Muon, orthogonal

pytestmark = pytest.mark.usefixtures("one_thread")


def polar(matrix):
    """The nearest matrix whose singular values are 1."""
    u, _, v = np.linalg.svd(matrix, full_matrices=False)
    return u @ v


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_every_matrix_becomes_nearly_orthogonal(scale):
    random = np.random.default_rng(0)
    shapes = [(24, 24), (24, 96), (96, 24), (24, 24)]
    matrices = [scale * random.standard_normal(shape) for shape in shapes]
    for matrix, found in zip(matrices, orthogonal([torch.from_numpy(each) for each in matrices]), strict=True):
        assert found.shape == matrix.shape
        values = np.linalg.svd(found.numpy(), compute_uv=False)
        assert values[-2] > 0.6 and values[0] < 1.3  # the least of a square matrix may be close to 0
        aligned = (found.numpy() * polar(matrix)).sum() / np.linalg.norm(found) / np.linalg.norm(polar(matrix))
        assert aligned > 0.95


def test_a_matrix_of_zeros_stays_one():
    (found,) = orthogonal([torch.zeros(4, 6)])
    assert not found.any()


def test_steps_follow_the_momentum_of_each_part():
    """Three steps against the formulas, with the polar factors that orthogonal() comes near to."""
    random = np.random.default_rng(1)
    weight = torch.nn.Parameter(torch.from_numpy(random.standard_normal((48, 16))))
    rate, decay = 0.1, 0.02
    expected, momentum = weight.detach().numpy().copy(), np.zeros((48, 16))
    optimizer = Muon([(weight, 3)], torch.tensor(rate), decay)
    for _ in range(3):
        gradient = random.standard_normal((48, 16))
        weight.grad = torch.from_numpy(gradient)
        before = weight.detach().numpy().copy()
        optimizer.step()
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        ahead = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        change = -rate * UPDATE_RMS * 4 * np.concatenate([polar(part) for part in np.split(ahead, 3)])
        expected = (1 - rate * decay) * before + change
        found = weight.detach().numpy()
        assert np.linalg.norm(found - expected) < 0.35 * np.linalg.norm(change)
    np.testing.assert_allclose(optimizer.state[weight]["momentum"].numpy(), momentum, rtol=1e-6)


def test_the_rate_is_read_at_every_step():
    weight = torch.nn.Parameter(torch.eye(4))
    rate = torch.tensor(0.0)
    optimizer = Muon([(weight, 1)], rate, 0.1)
    weight.grad = torch.eye(4)
    optimizer.step()
    assert torch.equal(weight, torch.eye(4))
    rate.fill_(0.1)
    optimizer.step()
    assert (weight.diagonal() < 0.99).all()
