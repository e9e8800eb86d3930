# Everything starts from a fresh machine with Python >= 3.10, its venv module and a C++20 compiler.
#   make demo    install, build, and fit the sample that ships with the package
#   make test    install, build, and run the tests
#   make dist    an sdist, and a wheel for other Linuxes, tried in a fresh environment
#   make docs    the pages and the API reference as a site, in site/
#   make web     the demo that runs in the browser, in build/web
# TORCH is the requirement of the PyTorch build to take. On a machine without an NVIDIA GPU, point pip at
# PyTorch's CPU builds (PIP_EXTRA_INDEX_URL), or a plain install brings several GB of CUDA libraries.

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
# Editable installs build the native library in place, so that a change in csrc needs only `make native`.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
OUT ?= demo_out
WEB ?= build/web

.PHONY: help demo test fuzz native gpu sass bench dist web docs lint format types clean

help:
	@sed -n '1,9p' Makefile

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The build needs the torch that will run it: an isolated build environment would fetch another one.
$(VENV)/.installed: pyproject.toml setup.py | $(BIN)/python
	$(PIP) "setuptools>=77" wheel "$(TORCH)"
	$(PIP) --no-build-isolation --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.installed
	$(PIP) --no-build-isolation --editable ".[test]"
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) --no-build-isolation --editable ".[test,bench,dev]"
	@touch $@

native: $(VENV)/.installed
	$(BIN)/python setup.py --quiet build_ext --inplace

demo: native
	$(BIN)/eft-fast demo --out $(OUT)

# A process a core, each with its own files: one thread in each, and no more processes than memory bears.
test: $(VENV)/.test native
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n logical --maxprocesses 8 --dist loadfile

# A minute of each fuzzer; the suite runs a second of each. EFT_FAST_FUZZ_SEED goes on from a round.
fuzz: $(VENV)/.test native
	EFT_FAST_FUZZ_SECONDS=60 $(BIN)/python -m pytest -q tests/fuzz

bench: $(VENV)/.dev native
	$(BIN)/python -m pytest benchmarks --benchmark-only
	$(BIN)/python -m benchmarks.compare smpl
	$(BIN)/python -m benchmarks.compare points

web: $(VENV)/.test native
	$(BIN)/python tools/build_web.py --out $(WEB)

docs: $(VENV)/.installed
	$(PIP) --no-build-isolation --editable ".[docs]"
	$(BIN)/zensical build --clean --strict

dist: $(VENV)/.dev native
	PYTHON=$(BIN)/python .ci/dist

# On a machine with a GPU, nvcc, a CUDA torch and pytest, and without a network: no virtual environment.
gpu:
	EFT_FAST_CUDA=1 $(PYTHON) tools/gpu_check.py

# What the compiler made of the CUDA kernels, against their budgets. Needs nvcc and cuobjdump, no GPU.
sass: $(VENV)/.test
	$(BIN)/python tools/sass_table.py --archs 80,90a
	$(BIN)/python -m pytest -q -m "slow or not slow" tests/test_sass_table.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu')
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu')

clean:
	rm -rf build dist site *.egg-info eft_fast/_native.so
