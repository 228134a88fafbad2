# The whole contributor manual. Each verb sets up what it needs; `make help` lists them.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
UPGRADE ?=
# Tests run beside each other on the cores of a small machine.
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-long check format tools gen lock bench clean

help:  ## list the verbs
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Muster needs Python 3.11 or newer: $$($(PYTHON) --version). Set PYTHON=/path/to/python3."; exit 1; }
	@echo "setting up $(VENV) (once; a minute or two) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)  ## a whole fleet on this machine: six clusters, one coordinator, real programs (ARGS=--keep leaves it running)
	@$(BIN)/muster demo $(ARGS)

test: $(STAMP)  ## every test that fits in 15 minutes (ARGS= goes to pytest); builds the real components first where Go is present
	@if command -v go >/dev/null; then $(BIN)/python tests/tools/build.py; else echo "Go is not installed: tests that need a real API server will be skipped (and counted)."; fi
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup $(ARGS)

test-long: $(STAMP)  ## the same with the long runs: 20,000 examples, many kills, every check taken out once
	@if command -v go >/dev/null; then $(BIN)/python tests/tools/build.py; fi
	@MUSTER_LONG=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup --timeout 1800 $(ARGS)
	@$(BIN)/python tests/attack/mutants.py

check: $(STAMP)  ## lint, types, import contracts, generated code fresh
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || { echo "run: make format"; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@PATH=$$PWD/$(BIN):$$PATH $(BIN)/python proto/generate.py --check

format: $(STAMP)  ## rewrite the layout of the code
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --fix --quiet . || true

tools: $(STAMP)  ## build kube-apiserver, kube-controller-manager, etcd and kustomize (Go; cached, resumable)
	@$(BIN)/python tests/tools/build.py

gen: $(STAMP)  ## write the generated modules of the wire again
	@PATH=$$PWD/$(BIN):$$PATH $(BIN)/python proto/generate.py

lock: $(STAMP)  ## compile requirements.lock from pyproject.toml and requirements-dev.in (UPGRADE=--upgrade takes newer versions)
	@$(BIN)/pip-compile --quiet $(UPGRADE) --all-extras --allow-unsafe --generate-hashes --no-annotate --no-header \
	  --no-emit-index-url --no-emit-find-links --strip-extras --output-file requirements.lock pyproject.toml requirements-dev.in

bench: $(STAMP)  ## the benchmarks; raw results go to tests/bench/results/ (MUSTER_LONG=1: 10,000 agents, 1,000,000 simulated)
	@set -e; for file in tests/bench/bench_*.py; do echo "== $$file"; $(BIN)/python $$file; done

clean:  ## remove what the verbs made here (not the tools cache)
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
