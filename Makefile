# `make demo` and `make test` set up everything they need by themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Arguments for pip when it installs torch, such as --index-url of a CPU-only index (see README).
TORCH_ARGS ?=
# Two test processes with one thread each are faster than one with two.
PYTEST_ARGS ?= -n 2
# What mxd is timed against; benchmarks/engine/ has the worker and the versions of each.
PEERS := sparsify saelens dictlearn

.PHONY: help demo demo-llama test lint types imports check results study fuzz bench bench-peers torture clean

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

fuzz: $(VENV)/.installed-dev  ## Spoil 10,000 layers, runs, caches and texts, and see that none does harm.
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.run --mutations 10000 --json benchmarks/results/fuzz.json

bench: $(VENV)/.installed-dev  ## Time the engine beside its peers, and its parts (some 40 minutes on two quiet cores).
	-$(MAKE) --keep-going bench-peers
	$(BIN)/python -m benchmarks.engine.run
	$(BIN)/python -m benchmarks.engine.plot
	$(BIN)/python -m benchmarks.engine.table
	$(BIN)/python benchmarks/engine_costs.py

torture: $(VENV)/.installed-dev  ## Kill trainings at random moments, resume them, compare the bytes (some 30 minutes on two quiet cores).
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture.run --kills 50 --json benchmarks/results/torture.json

bench-peers: $(PEERS:%=.bench-envs/%/.installed)  ## Install the peers, each in an environment of its own (3 GB).

.bench-envs/%/.installed: benchmarks/engine/requirements-%.txt
	rm -rf $(@D) && mkdir -p $(@D)
	( $(PYTHON) -m venv $(@D) && \
	  $(@D)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 $(TORCH_ARGS) && \
	  $(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $< \
	) > $(@D).log 2>&1 || { tail -n 3 $(@D).log; exit 1; }
	@touch $@

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
