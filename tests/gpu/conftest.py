"""Everything here runs on a GPU and is skipped without one."""

import pytest

from splat2d.engine import Optimizer, engine
from splat2d.errors import InputError


@pytest.fixture(scope="session")
def gpu():
    """The CUDA engine."""
    try:
        return engine("cuda")
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture
def start(gpu):
    """A function: scene, picture, loss weights and optimiser settings -> a session with the splats of the scene."""
    from splat2d.config import Loss

    def begin(scene, picture, *, l2=1.0, l1=0.0, ssim=0.0, outside=1.0, **settings):
        settings = {"diagonal_rate": 0.05, "log_min": -1.2, **settings}
        session = gpu.start(picture, scene.background, Loss(l2, l1, ssim), Optimizer(**settings), None, outside)
        session.set_splats(*scene[:3])
        return session

    return begin
