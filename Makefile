# make demo: sets up and runs the main job.   make test: sets up and passes the tests.
# make test EXTRAS=test,diffusion: with those that need torch, skipped where it is not. docs: the site likewise.
# make docs: the site, to build/site.
# Needs Python 3.11 or newer with venv, a C++ compiler (GCC 11, Clang 14) and make; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
EXTRAS ?= test
SOURCES := pyproject.toml CMakeLists.txt $(shell find native src -name '*.h' -o -name '*.cpp' -o -name '*.py' -o -name '*.pyi' \
	-o -name '*.cuh' -o -name '*.cu' -o -name '*.bin' \
	-o -name '*.js' -o -name '*.html' -o -name '*.css')

.PHONY: demo test check bench docs clean

demo: .venv/installed
	$(BIN)/splat2d demo -o demo

test: check
	$(BIN)/python -m pytest

check: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(shell find native -type f)
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/splat2d bench

docs: .venv/documented
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

.venv/installed: .venv/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet .
	touch $@

# The tests run against the installed package, as a user has it.
.venv/tested: .venv/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet '.[$(EXTRAS)]'
	touch $@ .venv/installed

.venv/documented: .venv/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet '.[docs]'
	touch $@ .venv/installed

clean:
	rm -rf .venv build demo
