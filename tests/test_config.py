"""FitConfig and Loss refuse what cannot be meant, in one line."""

import pytest

from splat2d import FitConfig, InputError, Loss


@pytest.mark.parametrize(
    ("text", "loss"),
    [
        ("l2", Loss()),
        ("L1", Loss(l2=0, l1=1)),
        ("ssim", Loss(l2=0, ssim=1)),
        ("0.8*l1+0.2*ssim", Loss(l2=0, l1=0.8, ssim=0.2)),
        (" 0.5 * l2 + 1e-1*l1 ", Loss(l2=0.5, l1=0.1)),
        ("l1+l1", Loss(l2=0, l1=2)),
    ],
)
def test_loss_text(text: str, loss: Loss) -> None:
    assert Loss.parse(text) == loss


@pytest.mark.parametrize("text", ["", "l3", "l1+", "x*l1", "0*l1", "-1*l2", "nan*l2", "inf*l2", "l1*0.5", "l1 l2"])
def test_loss_text_that_means_nothing(text: str) -> None:
    with pytest.raises(InputError, match=r"^loss: .*$"):
        Loss.parse(text)


@pytest.mark.parametrize("weights", [{"l2": 0}, {"l1": -0.1}, {"ssim": float("nan")}, {"l2": float("inf")}])
def test_loss_weights(weights: dict[str, float]) -> None:
    with pytest.raises(InputError, match=r"^loss: weights"):
        Loss(**weights)


def test_a_budget_is_optional() -> None:
    assert FitConfig().splats is None
    assert FitConfig(splats=1, steps=1, threads=1).psnr is None
    assert FitConfig(psnr=32.5, preset="best", device="cuda").splats is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splats": 100, "psnr": 30.0}, "two budgets"),
        ({"splats": 0}, "splats: must be at least 1, got 0"),
        ({"splats": -5}, "splats: must be at least 1, got -5"),
        ({"steps": 0}, "steps: must be at least 1"),
        ({"threads": 0}, "threads: must be at least 1"),
        ({"psnr": 0.0}, "psnr: must be"),
        ({"psnr": -3.0}, "psnr: must be"),
        ({"psnr": float("nan")}, "psnr: must be"),
        ({"psnr": float("inf")}, "psnr: must be"),
        ({"seed": -1}, "seed: must be"),
        ({"preset": "slow"}, 'preset: "slow" is unknown; choose from fast, balanced, best'),
        ({"device": "gpu"}, 'device: "gpu" is unknown; choose from auto, cpu, cuda'),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        FitConfig(**options)
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)
