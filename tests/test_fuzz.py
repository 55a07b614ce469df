"""Mutated payloads through the packet decoder under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "fuzz"
NATIVE = Path(__file__).parents[1] / "native"
FLAGS = ["-std=c++20", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
MUTATIONS = 10000  # a second or two


def build(compiler: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([compiler, *FLAGS, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", params=["-g0", "-march=native"])
def fuzz(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fuzz target, for any machine and for this one. Skips where the compiler cannot build it."""
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "probe.cpp").write_text("int main() {}\n")
    probe = folder / "probe"
    if build(compiler, folder / "probe.cpp", "-o", probe).returncode or subprocess.run([probe], check=False).returncode:
        pytest.skip(f"{compiler} lacks AddressSanitizer or UndefinedBehaviorSanitizer")
    if build(compiler, request.param, folder / "probe.cpp", "-o", probe).returncode:
        pytest.skip(f"{compiler} does not know {request.param}")
    sources = [HERE / "decode.cpp", *(NATIVE / "codec").glob("[!b]*.cpp")]  # all but the bindings
    built = build(compiler, request.param, "-DSPLAT2D_FUZZ_MAIN", f"-I{NATIVE}", *sources, "-o", folder / "fuzz")
    assert built.returncode == 0, built.stderr
    return folder / "fuzz"


def run(fuzz: Path, seed: int, first: int, count: int, files: list[Path]) -> tuple[int, ...]:
    """Files, those of them that decode, mutations, those of them that decode."""
    arguments = [str(fuzz), str(seed), str(first), str(count), *map(str, files)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(map(int, re.findall(r"\d+", done.stdout)))


def test_mutated_payloads(fuzz: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, HERE / "corpus.py", tmp_path], check=True)
    fresh = sorted(tmp_path.iterdir())
    kept = sorted((HERE / "corpus").glob("*.bin"))
    assert run(fuzz, 0, 0, 0, fresh) == (len(fresh), len(fresh), 0, 0)
    files, _, mutations, decoded = run(fuzz, 0, 0, MUTATIONS, [*fresh, *kept])
    assert files == len(fresh) + len(kept) and mutations == MUTATIONS and 0 < decoded < MUTATIONS


def test_the_committed_corpus_is_one() -> None:
    assert {path.stem for path in (HERE / "corpus").glob("*.bin")} >= {"one", "grey", "packets"}
