# Every target sets up .venv itself. PYTHON chooses the interpreter (3.11 or newer), PIP_ARGS is
# handed to pip, for instance to take torch from an index that offers its CPU build.

PYTHON ?= python3
PIP_ARGS ?=
RUN ?= runs/demo
BASE_ARGS ?=
BENCH_ARGS ?=
RESULTS_ARGS ?=
PYTEST_ARGS ?= -n 2 --dist loadfile

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install $(PIP_ARGS) -c constraints.txt
ASSETS := src/stllava/assets

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow soak check bench phantom-base results clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: .venv/.all ## create .venv with the pinned packages, tests and tools included

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.train: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[train]'
	@touch $@

.venv/.all: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e '.[train,test]'
	@touch .venv/.train $@

demo: .venv/.train ## the whole loop on drawn images, on a CPU, into RUN (runs/demo)
	$(BIN)/stllava demo --run $(RUN)

test: .venv/.all ## the fast tests
	$(BIN)/python -m pytest -m "not slow and not soak" $(PYTEST_ARGS)

test-slow: .venv/.all ## the slow tests, some minutes each
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

soak: .venv/.all ## what takes longest: kills by the dozen, every family at every setting
	$(BIN)/python -m pytest -m soak $(PYTEST_ARGS)

check: .venv/.all ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.train .venv-trl/.trl ## what sharing saves, against trl and the plain way (docs/performance.md)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

.venv-trl/.trl: constraints.txt
	$(PYTHON) -m venv .venv-trl
	@echo '*' > .venv-trl/.gitignore
	.venv-trl/bin/python -m pip --disable-pip-version-check install $(PIP_ARGS) -c constraints.txt \
	  torch transformers trl peft datasets pillow safetensors
	@touch $@

phantom-base: .venv/.train ## train both packaged base policies again, from nothing
	$(BIN)/python scripts/phantom_base.py --variant prototype --out $(ASSETS)/base-prototype $(BASE_ARGS)
	$(BIN)/python scripts/phantom_base.py --variant mlp --out $(ASSETS)/base-mlp $(BASE_ARGS)

results: .venv/.train ## the demo over several seeds, with its controls: docs/demo-results.md
	$(BIN)/python scripts/demo_results.py $(RESULTS_ARGS)

clean: ## remove caches and builds; .venv and runs stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
