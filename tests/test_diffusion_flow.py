"""The flow and its samplers, against data whose every answer has a formula."""

import math

import pytest

pytest.importorskip("torch", reason='torch is not installed: pip install "splat2d[diffusion]"')
pytest.importorskip("safetensors", reason='safetensors is not installed: pip install "splat2d[diffusion]"')
import torch

from splat2d.diffusion.flow import evaluations, guided, noised, sample, times, velocity_loss

pytestmark = pytest.mark.usefixtures("one_thread")

# Data: every field of every token normal, with a mean and a deviation of its own.
GENERATOR = torch.Generator().manual_seed(0)
MEAN = torch.randn(3, 2, generator=GENERATOR, dtype=torch.float64)
DEVIATION = 0.2 + torch.rand(3, 2, generator=GENERATOR, dtype=torch.float64)
NOISE = torch.randn(50, 3, 2, generator=GENERATOR, dtype=torch.float64)


def expected_clean(x, t):
    """E[data | x_t = x]: x_t is normal with mean t MEAN and variance t^2 DEVIATION^2 + (1 - t)^2."""
    t = t.double()[:, None, None]
    gain = t * DEVIATION**2 / (t**2 * DEVIATION**2 + (1 - t) ** 2)
    return MEAN + gain * (x - t * MEAN)


def at(t):
    """x_t of the flow that begins at NOISE: every value keeps its quantile."""
    t = torch.tensor(t, dtype=torch.float64)
    return t * MEAN + (t**2 * DEVIATION**2 + (1 - t) ** 2).sqrt() * NOISE


def order(sampler, first, last, steps):
    """Between so many steps and twice as many; and the larger error of the finer of them."""
    errors = []
    for count in (steps, 2 * steps):
        schedule = torch.linspace(first, last, count + 1, dtype=torch.float64)
        errors.append((sample(expected_clean, at(first), schedule, sampler) - at(last)).abs().max().item())
    return math.log2(errors[0] / errors[1]), errors[1]


@pytest.mark.parametrize(("sampler", "expected"), [("euler", 1), ("heun", 2), ("dpm++", 2)])
def test_orders_of_convergence_on_the_way(sampler, expected):
    measured, error = order(sampler, 0.25, 0.75, 64)
    assert measured == pytest.approx(expected, abs=0.1)
    assert error < {1: 1e-2, 2: 1e-4}[expected]


@pytest.mark.parametrize(("sampler", "expected"), [("euler", 1), ("heun", 2), ("dpm++", 1.7)])
def test_orders_of_convergence_from_noise_to_data(sampler, expected):
    """Both ends are infinitely far in the logarithm of the signal-to-noise ratio, in which dpm++ extrapolates."""
    measured, error = order(sampler, 0.0, 1.0, 128)
    assert measured == pytest.approx(expected, abs=0.1)
    assert error < {1: 1e-2, 2: 1e-4, 1.7: 5e-4}[expected]


def test_samples_have_the_mean_and_deviation_of_the_data():
    noise = torch.randn(4000, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = sample(expected_clean, noise, times(40), "heun")
    torch.testing.assert_close(drawn.mean(0), MEAN, atol=0.08, rtol=0)
    torch.testing.assert_close(drawn.std(0), DEVIATION, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm++"])
def test_evaluations_are_as_many_as_said(sampler):
    asked = []

    def denoise(x, t):
        asked.append(t[0].item())
        return expected_clean(x, t)

    sample(denoise, NOISE, times(7), sampler)
    assert len(asked) == evaluations(7, sampler)
    assert min(asked) == 0 and max(asked) < 1


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm++"])
def test_one_step_is_one_guess(sampler):
    torch.testing.assert_close(sample(expected_clean, NOISE, times(1), sampler), MEAN.expand_as(NOISE))


def test_times():
    torch.testing.assert_close(times(4), torch.tensor([0, 0.25, 0.5, 0.75, 1], dtype=torch.float64))
    for shift in (0.3, 1, 3):
        found = times(10, shift)
        assert found[0] == 0 and found[-1] == 1 and (found.diff() > 0).all()
    assert times(10, 0.3)[5] > 0.5 > times(10, 3)[5]


def test_noise_and_loss():
    x, noise = NOISE[:2], NOISE[2:4]
    assert torch.equal(noised(x, noise, torch.zeros(2)), noise)
    assert torch.equal(noised(x, noise, torch.ones(2)), x)
    t = torch.tensor([0.25, 0.75], dtype=torch.float64)
    clean = x + 0.3
    there = noised(x, noise, t)
    of_velocity = ((clean - there) / (1 - t)[:, None, None] - (x - noise)).square().mean()
    torch.testing.assert_close(velocity_loss(clean, x, t), of_velocity)
    assert velocity_loss(clean, x, torch.ones(2)).isfinite()


def test_guidance():
    """Data of class k lies at k; the empty class, 2, has the mean of both."""

    def denoise(x, t, labels):
        return torch.tensor([0.0, 1.0, 0.5], dtype=x.dtype)[labels][:, None, None].expand_as(x)

    labels, x = torch.tensor([0, 1]), NOISE[:2]
    middle, early = torch.full((2,), 0.5), torch.full((2,), 0.05)
    conditional = denoise(x, middle, labels)
    assert torch.equal(guided(denoise, labels, 2, 1.0)(x, middle), conditional)
    assert torch.equal(guided(denoise, labels, 2, 3.0)(x, early), conditional)
    torch.testing.assert_close(guided(denoise, labels, 2, 3.0)(x, middle)[:, 0, 0].tolist(), [-1.0, 2.0])
    torch.testing.assert_close(guided(denoise, labels, 2, 0.0)(x, middle)[:, 0, 0].tolist(), [0.5, 0.5])
    whole = [
        sample(guided(denoise, labels, 2, 1.0), x, times(8), "heun"),
        sample(lambda x, t: denoise(x, t, labels), x, times(8), "heun"),
    ]
    assert torch.equal(*whole)
