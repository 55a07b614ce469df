"""Fixtures shared by the tests."""

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of test pictures that lies beside a checkout; none of it is part of the project."""
    if not DATA.is_dir():
        pytest.skip("the test pictures are absent: they lie in ../shared/data beside the checkout")
    return DATA
