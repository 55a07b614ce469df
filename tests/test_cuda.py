"""What can be held of the CUDA engine without a GPU: its choice, its sources, its compiler and its cache."""

import ctypes
import importlib.util
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import reference
from scenes import random_scene, rotated

from splat2d import _cpu
from splat2d.engine import engine
from splat2d.errors import InputError

NATIVE = Path(__file__).resolve().parents[1] / "native"
CUDA = importlib.util.find_spec("cuda") is not None and importlib.util.find_spec("cuda.core") is not None
needs_compiler = pytest.mark.skipif(not CUDA, reason="cuda-core is not installed")


def without(monkeypatch, module):
    """Makes the import of a module fail."""
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "splat2d.engine.cuda", raising=False)


def test_the_cpu_where_cuda_is_not_installed(monkeypatch):
    without(monkeypatch, "cuda.core")
    without(monkeypatch, "cuda.bindings")
    assert engine("auto").name == "cpu"
    assert engine("cpu").name == "cpu"
    with pytest.raises(InputError, match=r'pip install "splat2d\[cuda\]"') as caught:
        engine("cuda")
    assert "\n" not in str(caught.value)


@needs_compiler
def test_one_line_where_no_gpu_can_be_used(monkeypatch):
    from splat2d.engine import cuda

    def broken():
        raise RuntimeError("no driver here\nand much more about it")

    monkeypatch.setattr(cuda, "_Gpu", broken)
    cuda._gpu.cache_clear()
    try:
        assert engine("auto").name == "cpu"
        with pytest.raises(InputError, match=r"^cuda: no GPU can be used here \(no driver here\); use --device cpu$"):
            engine("cuda")
    finally:
        cuda._gpu.cache_clear()


@needs_compiler
def test_one_line_where_the_driver_is_too_old(monkeypatch):
    """Also without a driver here: its version is faked, and asked for before anything else."""
    from splat2d.engine import cuda

    answer = (cuda.driver.CUresult.CUDA_SUCCESS, 12080)
    monkeypatch.setattr(cuda.driver, "cuDriverGetVersion", lambda: answer)
    monkeypatch.setattr(cuda.nvrtc, "nvrtcVersion", lambda: (cuda.nvrtc.nvrtcResult.NVRTC_SUCCESS, 13, 0))
    cuda._gpu.cache_clear()
    try:
        with pytest.raises(InputError) as caught:
            engine("cuda")
        assert str(caught.value) == (
            "cuda: no GPU can be used here (the driver is for CUDA 12.8, too old for kernels of 13.0: update it); "
            "use --device cpu"
        )
        chosen = engine("auto")
        assert chosen.name == "cpu"
        scene = random_scene(0, 3, 1, 8, 8).astype(np.float32)
        assert np.isfinite(chosen.render(*scene, 8, 8, None)).all()
    finally:
        cuda._gpu.cache_clear()


@needs_compiler
@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90"])
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_the_kernels_compile(arch, channels, tmp_path, monkeypatch):
    from splat2d.engine import cuda

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = tuple(file for file in cuda.KERNELS if channels <= 4 or file != "batch")
    codes = cuda.cubins(channels, arch, files)
    assert all(code[:4] == b"\x7fELF" for code in codes)
    for file, code in zip(files, codes, strict=True):
        names = {name for name in cuda._FILE_OF if f"\0{name}\0".encode() in code}
        assert names == {*cuda.KERNELS[file]}
    kept = [*(tmp_path / "splat2d").iterdir()]
    assert {path.read_bytes() for path in kept} == {*codes} and all(path.name.startswith(arch) for path in kept)
    monkeypatch.setattr(cuda, "Program", None)  # now only the cache can answer
    assert cuda.cubins(channels, arch, files) == codes


@needs_compiler
def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    from splat2d.engine import cuda

    occupied = tmp_path / "file"
    occupied.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(occupied))
    cuda._warn_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="cannot be kept for the next run"):
        assert cuda.cubin(1, "sm_90", "loss")[:4] == b"\x7fELF"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cuda.cubin(1, "sm_90", "loss")[:4] == b"\x7fELF"


@needs_compiler
def test_the_hash_covers_every_source():
    from splat2d.engine import cuda

    written = {path.relative_to(NATIVE).as_posix() for path in (NATIVE / "cuda").iterdir()}
    assert {*cuda._SOURCES} == written | {"gaussian.h", "coding.h", "residual.h", "ssim.h"}


# ---- the inner functions, built for the CPU ----

WRAPPER = """
#include "cuda/inner.h"
using namespace splat2d;
extern "C" {
int touching(const float* s, const float* box, float limit) {
  return touches(s[0], s[1], s[2], s[3], s[4], {box[0], box[1], box[2], box[3]}, limit);
}
void rows(const float* s, float dx, int height, int* out) {
  const Range r = rows_at(s[0], s[1], s[2], s[3], dx, s[4], height);
  out[0] = r.first, out[1] = r.last;
}
void share(int t, int log_team, int log_columns, int* out) {
  const Share s = share_of(t, log_team, log_columns);
  out[0] = s.first, out[1] = s.stride, out[2] = s.row, out[3] = s.log_step;
}
int columns(int log_team, int strips, int rows) { return best_columns(log_team, strips, rows); }
float adam_step(float p, float g, float* mv, const float* o) {
  return adam(p, g, mv[0], mv[1], o[0], o[1], o[2], o[3], o[4]);
}
unsigned key(float x, float y, float hx, float hy, float scale) { return order_key(x, y, hx, hy, scale); }
}
"""


@pytest.fixture(scope="module")
def inner(tmp_path_factory):
    """native/cuda/inner.h as a library for this CPU."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("inner")
    (folder / "inner.cpp").write_text(WRAPPER)
    library = folder / "inner.so"
    flags = ["-std=c++17", "-O2", "-Wall", "-Werror", "-Wno-unused-function", "-shared", "-fPIC", f"-I{NATIVE}"]
    subprocess.run([compiler, *flags, str(folder / "inner.cpp"), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.adam_step.restype = ctypes.c_float
    loaded.key.restype = ctypes.c_uint
    return loaded


def floats(*values):
    return (ctypes.c_float * len(values))(*values)


def shapes(scene):
    """Constants of each splat: k, n1, n3, 1 / e^a, e^c."""
    a, b, c = scene.log_cholesky.T
    half = np.log2(np.e) / 2
    return np.stack([b / np.exp(a), -half * np.exp(-2 * a), -half * np.exp(-2 * c), np.exp(-a), np.exp(c)], axis=1)


LIMIT = -_cpu.CUTOFF * np.log2(np.e)


def scenes():
    yield random_scene(1, 150, 1, 64, 64, small=0.5, large=20)
    needles = random_scene(2, 60, 1, 64, 64)
    yield needles._replace(log_cholesky=rotated(np.full(60, 40.0), np.full(60, 0.5), np.linspace(0, np.pi, 60)))


def test_touches_never_misses_a_pixel_and_seldom_errs(inner):
    wrong = right = 0
    for scene in scenes():
        weights = reference.weights(*scene[:2], 64, 64, _cpu.CUTOFF) > 0
        for i, shape in enumerate(shapes(scene)):
            for y in range(0, 64, 8):
                for x in range(0, 64, 8):
                    hit = inner.touching(
                        floats(*scene.means[i], *shape[:3]),
                        floats(x + 0.5, y + 0.5, x + 7.5, y + 7.5),
                        ctypes.c_float(LIMIT),
                    )
                    needed = weights[i, y : y + 8, x : x + 8].any()
                    assert hit or not needed
                    wrong += bool(hit) and not needed
                    right += not hit
    assert wrong < 0.1 * right


def test_rows_cover_each_column(inner):
    radius = np.sqrt(2 * _cpu.CUTOFF)
    for scene in scenes():
        weights = reference.weights(*scene[:2], 64, 64, _cpu.CUTOFF) > 0
        for i, (k, _, _, i1, l3) in enumerate(shapes(scene)):
            for x in range(64):
                out = (ctypes.c_int * 2)()
                dx = x + 0.5 - scene.means[i, 0]
                inner.rows(floats(scene.means[i, 1], k, i1, l3, radius), ctypes.c_float(dx), 64, out)
                inside = np.flatnonzero(weights[i, :, x])
                if len(inside):
                    assert out[0] <= inside[0] and out[1] >= inside[-1]
                    assert out[1] - out[0] <= inside[-1] - inside[0] + 1 or out[1] - out[0] < 3


@pytest.mark.parametrize("log_team", [0, 2, 3, 6, 10])
@pytest.mark.parametrize(("strips", "rows"), [(0, 0), (1, 900), (2, 3), (7, 100), (100, 7), (64, 64), (600, 2)])
def test_a_team_shares_every_row_of_every_strip_once(inner, log_team, strips, rows):
    loads = {}
    for log_columns in range(log_team + 1):
        done = np.zeros((strips, rows), int)
        loads[log_columns] = 0
        for t in range(2**log_team):
            out = (ctypes.c_int * 4)()
            inner.share(t, log_team, log_columns, out)
            first, stride, row, log_step = out
            mine = done[first::stride, row :: 2**log_step]
            mine += 1
            loads[log_columns] = max(loads[log_columns], mine.size)
        assert (done == 1).all()
    # The choice is within a few rows of the best.
    assert loads[inner.columns(log_team, strips, rows)] <= 1.3 * min(loads.values()) + 8


def test_adam_equals_the_reference(inner):
    value, m, v = 0.7, 0.0, 0.0
    state, p = floats(0, 0), value
    for step, gradient in enumerate([0.3, -0.2, 0.05], start=1):
        options = floats(0.1, 0.9, 0.99, 1 / (1 - 0.9**step), 1 / (1 - 0.99**step))
        p = inner.adam_step(ctypes.c_float(p), ctypes.c_float(gradient), state, options)
        value, m, v = reference.adam(value, gradient, m, v, step, 0.1, beta2=0.99)
        assert p == pytest.approx(value, rel=1e-5)


def test_order_keys(inner):
    def key(x, y, size):
        return inner.key(*map(ctypes.c_float, (x, y, size, size / 2, 1 / 100)))

    assert key(10, 10, 1) < key(90, 90, 1) < key(10, 10, 40)
    assert key(0, 0, 0.5) == 0
    assert abs(key(10, 10, 1) - key(10.01, 10.01, 1)) < abs(key(10, 10, 1) - key(60, 60, 1))
    assert key(float("nan"), 1e30, 1) < 2**22
