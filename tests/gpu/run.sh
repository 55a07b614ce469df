#!/usr/bin/env bash
# Builds the native module in place and runs the GPU suite; needs a GPU, cuda-core, nanobind, CMake and Ninja.
# --sanitize: a part of the suite under compute-sanitizer as well.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
mkdir -p build
cmake -S . -B build/gpu -G Ninja -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE="$(command -v "$python")" \
  -Dnanobind_DIR="$("$python" -m nanobind --cmake_dir)" >build/gpu.log 2>&1 || { cat build/gpu.log; exit 1; }
cmake --build build/gpu >>build/gpu.log 2>&1 || { tail -30 build/gpu.log; exit 1; }
cp build/gpu/_cpu*.so src/splat2d/
export PYTHONPATH=$PWD/src
"$python" -m pytest -q -p no:cacheprovider tests/gpu "${@:1}"
