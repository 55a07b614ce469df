#!/usr/bin/env bash
# Builds the native module in place and runs the GPU suite; needs a GPU, cuda-core, nanobind, CMake and Ninja.
# --sanitize: a part of the suite, which has every kernel, under compute-sanitizer instead.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
mkdir -p build
cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE="$(command -v "$python")" \
  -Dnanobind_DIR="$("$python" -m nanobind --cmake_dir)" >build/gpu.log 2>&1 || { cat build/gpu.log; exit 1; }
cmake --build build/gpu >>build/gpu.log 2>&1 || { tail -30 build/gpu.log; exit 1; }
cp build/gpu/_cpu*.so src/splat2d/
export PYTHONPATH=$PWD/src
if [ "${1:-}" = --sanitize ]; then
  chosen="test_the_errors_are or test_values or test_evaluate or test_the_same_bytes or test_grow or test_relocate or test_gradients_of_needles or test_sort"
  for tool in memcheck racecheck; do
    echo "compute-sanitizer --tool $tool"
    # Without API errors: cuda-core asks for the current context before there is one.
    compute-sanitizer --tool "$tool" --report-api-errors no --error-exitcode 9 "$python" -m pytest -q -p no:cacheprovider tests/gpu -k "$chosen"
  done
else
  "$python" -m pytest -q -p no:cacheprovider tests/gpu "$@"
fi
