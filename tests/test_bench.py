"""The benchmark takes turns fairly and times what it says. No test asserts a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import splat2d
from splat2d import bench
from splat2d.cli import _device_rows
from splat2d.config import FitConfig
from splat2d.engine import Engine, engine
from splat2d.engine.cpu import CpuEngine, CpuSession


def test_functions_take_turns() -> None:
    calls: list[str] = []
    blocks = bench.interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert set(blocks) == {"a", "b"} and all(times.shape == (3,) and (times > 0).all() for times in blocks.values())
    turns = [name for name, before in zip(calls, ["", *calls], strict=False) if name != before]
    assert turns == ["a", "b"] * 4  # a first round to warm up


def test_a_step_moves_no_splat() -> None:
    rng = np.random.default_rng(0)
    image = rng.random((20, 30, 3), np.float32)
    splats = splat2d.fit(image, splats=20, steps=20).splats
    session = bench.start(image, splats, threads=1)
    for _ in range(5):
        session.run(bench.HOLD)
    for now, before in zip(session.get_splats(), (splats.means, splats.log_cholesky, splats.colors), strict=True):
        np.testing.assert_array_equal(now, before)


def measured(monkeypatch: pytest.MonkeyPatch, chosen: Engine) -> bench.DeviceBenchmark:
    """Of an engine, as if it were another than the CPU's."""
    for name, value in {
        "PICTURES": 3,
        "SMALL_SPLATS": 4,
        "SMALL_STEPS": 2,
        "ROUNDS": 2,
        "BLOCK": 0.0,
        "FITS": 1,
    }.items():
        monkeypatch.setattr(bench, name, value)
    image = np.random.default_rng(0).random((20, 30, 3), np.float32)
    return bench.measure_device(chosen, image, FitConfig(splats=20, steps=12, device="cpu"))


def test_another_device_is_timed_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, engine("cpu"))
    assert (found.width, found.height, found.splats) == (30, 20, 20) and found.device.startswith("CPU, ")
    assert min(*found.steps_per_second, *found.render, found.fit_seconds, found.pictures_per_second) > 0
    assert 0 < found.near_seconds <= found.fit_seconds and found.near_psnr == found.psnr - 0.5
    assert found.memory is None and found.device_render is None and found.device_steps_per_second is None
    rows = _device_rows(found)
    assert "wall" in rows["steps"] and "memory" not in rows


def test_a_device_with_a_clock_is_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clocked(CpuSession):
        def clock_steps(self, rounds: int) -> NDArray[np.float64]:
            return np.full(rounds, 1e-4)

        def clock_renders(self, rounds: int) -> NDArray[np.float64]:
            return np.full(rounds, 2e-5)

    class Metered(CpuEngine):
        def __init__(self) -> None:
            super().__init__()
            self.held = 0

        def start(self, *args: Any) -> Clocked:
            self.held += 2**20
            return Clocked(*args)

        def memory(self) -> int:
            return self.held

    found = measured(monkeypatch, Metered())
    assert found.device_steps_per_second == pytest.approx((1e4,) * 3)
    assert found.device_render == pytest.approx((0.02,) * 3)
    assert found.memory == 2**20
    rows = _device_rows(found)
    assert rows["memory"] == "1 MiB on the device" and "events" in rows["device steps"]


def test_small_pictures_repeat() -> None:
    pictures = bench.small_pictures(1003)
    assert pictures.shape == (1003, 28, 28, 1) and pictures.dtype == np.float32
    np.testing.assert_array_equal(pictures[1000:], pictures[:3])
    assert pictures[:1000].std(axis=0).min() > 0.2
