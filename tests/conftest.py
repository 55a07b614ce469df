"""Fixtures shared by the tests."""

from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of test pictures that lies beside a checkout; none of it is part of the project."""
    if not DATA.is_dir():
        pytest.skip("the test pictures are absent: they lie in ../shared/data beside the checkout")
    return DATA


@pytest.fixture(scope="module")
def one_thread():
    """Nets as small as those here gain nothing from threads, which wait long for each other on a busy machine."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digit_pictures():
    """scikit-learn's 1,797 digits of 8x8 pixels, 1,200 of them to train on."""
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    from splat2d.diffusion.pictures import Pictures

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.images))
    images = np.rint(found.images[order] * (255 / 16)).astype(np.uint8)[..., None]
    held_out = np.arange(len(images)) >= 1200
    return Pictures(images, found.target[order].astype(np.int64), held_out, tuple("0123456789"))


@pytest.fixture(scope="session")
def digit_splats(digit_pictures):
    """Sixteen splats for each digit, quickly fitted."""
    from splat2d.diffusion.splatset import BuildConfig, build

    return build(digit_pictures, BuildConfig(splats=16, steps=100, rate=0.05))
