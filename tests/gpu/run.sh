#!/usr/bin/env bash
# Builds the native module in place and runs the GPU suite; needs a GPU, cuda-core, nanobind, CMake and Ninja.
# --sanitize: under compute-sanitizer instead: memcheck for all of it, racecheck for every kernel and some of its tests.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
mkdir -p build
cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE="$(command -v "$python")" \
  -Dnanobind_DIR="$("$python" -m nanobind --cmake_dir)" >build/gpu.log 2>&1 || { cat build/gpu.log; exit 1; }
cmake --build build/gpu >>build/gpu.log 2>&1 || { tail -30 build/gpu.log; exit 1; }
cp build/gpu/_cpu*.so src/splat2d/
export PYTHONPATH=$PWD/src
pytest=("$python" -m pytest -q -p no:cacheprovider)
if [ "${1:-}" = --sanitize ]; then
  # Without API errors: cuda-core asks for the current context before there is one.
  sanitizer=(compute-sanitizer --report-api-errors no --error-exitcode 9)
  echo "compute-sanitizer --tool memcheck"
  "${sanitizer[@]}" --tool memcheck "${pytest[@]}" tests/gpu
  echo "compute-sanitizer --tool racecheck, every kernel"
  "${sanitizer[@]}" --tool racecheck "${pytest[@]}" tests/gpu/test_cuda_kernels.py
  chosen="needles_in_many or test_gradients_equal_numpy"
  echo "compute-sanitizer --tool racecheck, tests of: $chosen"
  "${sanitizer[@]}" --tool racecheck "${pytest[@]}" tests/gpu -k "$chosen"
else
  "${pytest[@]}" tests/gpu "$@"
fi
