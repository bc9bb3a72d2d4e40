# `make demo` and `make test` set up everything they need by themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Arguments for pip when it installs torch, such as --index-url of a CPU-only index (see README).
TORCH_ARGS ?=
# Two test processes with one thread each are faster than one with two.
PYTEST_ARGS ?= -n 2

.PHONY: help demo demo-llama test lint types imports check results study clean

help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

demo: $(VENV)/.installed  ## Take an MLP apart, put it back, read what it cost (about five minutes).
	$(BIN)/mxd demo

demo-llama: $(VENV)/.installed  ## The same for a GLU.
	$(BIN)/mxd demo --arch llama

test: $(VENV)/.installed-dev  ## Run the tests.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev  ## Lint and check the format.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev  ## Check the types.
	$(BIN)/mypy

imports: $(VENV)/.installed-dev  ## Check which room imports which.
	$(BIN)/lint-imports

check: lint types imports test  ## All of them.

results: $(VENV)/.installed-dev  ## Measure what docs/results.md reports (about 2 hours on two cores).
	$(BIN)/python benchmarks/compare.py --arch gpt2 --out benchmarks/results
	$(BIN)/python benchmarks/compare.py --arch llama --out benchmarks/results
	$(BIN)/python benchmarks/memory.py --out benchmarks/results

study: $(VENV)/.installed-dev  ## Measure what docs/results/ shows (some 40 minutes on two cores).
	$(BIN)/python benchmarks/study.py --out docs/results

$(VENV)/.torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch $(TORCH_ARGS)
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:  ## Remove the environment and caches.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
