"""The benchmark takes turns fairly and times what it says. No test asserts a time."""

from __future__ import annotations

import numpy as np

import splat2d
from splat2d import bench
from splat2d.engine import engine


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


def test_another_device_is_timed_by_the_clock() -> None:
    image = np.random.default_rng(0).random((20, 30, 3), np.float32)
    found = bench.measure_device(engine("cpu"), image, splat2d.fit(image, splats=20, steps=5).splats)
    assert (found.width, found.height, found.splats) == (30, 20, 20) and found.device.startswith("CPU, ")
    assert min(*found.steps_per_second, *found.render) > 0
