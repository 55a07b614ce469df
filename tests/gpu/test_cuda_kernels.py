"""Every kernel in little: so short that compute-sanitizer's racecheck, some hundred times slower, gets through."""

import numpy as np
import pytest
from scenes import random_scene

from splat2d.batch import fit_batch
from splat2d.config import Loss
from splat2d.engine import Coding, Optimizer

pytest.importorskip("cuda.core", reason="cuda-core is not installed")
from test_cuda_pictures import draw_and_pull_back

from splat2d.engine.cuda import KERNELS

HEIGHT, WIDTH = 40, 52


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_every_kernel_runs(gpu, channels):
    """More splats than one block sorts, small ones and some that are shared out; each kind of step."""
    scenes = [
        random_scene(1, count, channels, HEIGHT, WIDTH, small=small, large=large)
        for count, small, large in ((2300, 0.4, 2), (10, 30, 60))
    ]
    means, log_cholesky, colors = (np.concatenate(arrays) for arrays in zip(*(s[:3] for s in scenes), strict=True))
    scene = scenes[0]._replace(means=means, log_cholesky=log_cholesky, colors=0.1 * colors).astype(np.float32)
    picture = np.random.default_rng(0).random((HEIGHT, WIDTH, channels), np.float32)
    assert np.isfinite(gpu.render(*scene, HEIGHT, WIDTH, None)).all()
    for loss in (Loss(), Loss(0.5, 0.3, 0.2)):
        session = gpu.start(picture, scene.background, loss, Optimizer(), None)
        session.set_splats(*scene[:3], np.arange(2310) % 7 == 0)
        session.sort()
        for coding in (None, Coding(0.05, 0.01, 1)):
            session.run(np.ones(2, np.float32), coding)
        session.relocate(50, 2.0, 1.5, 0)
        session.grow(20, 1.5, 1.0, 0)
        session.prune(1e-5)
        session.run(np.ones(1, np.float32))
        session.set_splats(*scene[:3])
        assert np.isfinite([session.run(np.ones(1, np.float32)), session.evaluate().loss]).all()
        assert all(np.isfinite(array).all() for array in session.get_splats())
    if channels <= 4:
        result = fit_batch(picture[None, :12, :10], splats=9, steps=2, device="cuda")
        assert np.isfinite(result.means).all()
    arrays = [np.stack([array, array]) for array in scene]
    _, gradients = draw_and_pull_back(gpu, *arrays, np.stack([picture, picture]))
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    expected = {kernel for file, kernels in KERNELS.items() if channels <= 4 or file != "batch" for kernel in kernels}
    assert {name for number, name in gpu._gpu._kernels if number == channels} == expected
