"""Splats are checked once, when built, and do not change afterwards."""

from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest

from splat2d import InputError, Splats


def parts(count: int = 4, channels: int = 3, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    fields = {
        "means": rng.normal(size=(count, 2)),
        "log_cholesky": rng.normal(size=(count, 3)),
        "colors": rng.normal(size=(count, channels)),
        "width": 7,
        "height": 5,
        "background": np.zeros(channels),
    }
    return {**fields, **changes}


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 17])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_any_number_of_splats_and_channels(count: int, channels: int) -> None:
    splats = Splats(**parts(count, channels))
    assert (len(splats), splats.channels, splats.width, splats.height) == (count, channels, 7, 5)


def test_arrays_are_contiguous_float32_copies_that_nobody_can_change() -> None:
    fields = parts(means=np.asfortranarray(np.ones((4, 2))), colors=np.ones((4, 6))[:, ::2].tolist())
    splats = Splats(**fields)
    fields["means"][:] = 9
    assert (splats.means == 1).all()
    for name in ("means", "log_cholesky", "colors", "background"):
        array = getattr(splats, name)
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    with pytest.raises(FrozenInstanceError):
        splats.width = 8  # type: ignore[misc]


def test_replace_checks_again() -> None:
    splats = Splats(**parts())
    moved = replace(splats, means=splats.means + 1)
    np.testing.assert_array_equal(moved.means, splats.means + 1)
    with pytest.raises(InputError, match=r"Splats.means: expected shape \(4, 2\), got \(3, 2\)"):
        replace(splats, means=splats.means[:3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"means": np.zeros((3, 2))}, "Splats.means: expected shape (4, 2), got (3, 2)"),
        ({"means": np.zeros((4, 3))}, "Splats.means: expected shape (4, 2), got (4, 3)"),
        ({"log_cholesky": np.zeros((4, 2))}, "Splats.log_cholesky: expected shape (4, 3), got (4, 2)"),
        ({"colors": np.zeros(4)}, "Splats.colors: expected shape [N, C] with C >= 1, got (4,)"),
        ({"colors": np.zeros((4, 0))}, "Splats.colors: expected shape [N, C] with C >= 1, got (4, 0)"),
        ({"background": np.zeros(4)}, "Splats.background: expected shape (3,), got (4,)"),
        ({"width": 0}, "Splats.width: expected at least 1 pixel, got 0"),
        ({"height": -2}, "Splats.height: expected at least 1 pixel, got -2"),
    ],
)
def test_shapes_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        Splats(**parts(**changes))
    assert str(refusal.value) == message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["means", "log_cholesky", "colors", "background"])
def test_values_that_are_not_finite(name: str, value: float) -> None:
    fields = parts()
    fields[name].flat[-1] = value
    with pytest.raises(InputError, match=f"^Splats.{name}: every value must be finite$"):
        Splats(**fields)


def test_repr_is_short() -> None:
    assert repr(Splats(**parts())) == "Splats(4 splats, 7x5 pixels, 3 channels)"
