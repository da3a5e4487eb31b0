# Two commands on a machine that has python3 (3.11 or newer) and nothing else of ours: `make demo`, `make test`.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
N      ?= 4000000
ROUNDS ?= 3
MINUTES ?= 25
SEED   ?=
REPORT ?=
MB ?= 1000
CHANGED_MB ?= 20
BARRIERS ?= 20

.PHONY: demo test lint bench bench-checkpoints chaos planted seeds clean

demo: $(VENV)/base.ok
	$(BIN)/streamcore demo

SERVED := tests/kafka tests/conformance tests/checkpoint

# What only computes runs on all cores; what has servers of its own runs by itself.
test: lint
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal $(SERVED:%=--ignore=%)
	$(BIN)/python -m pytest $(SERVED)

lint: $(VENV)/test.ok
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: $(VENV)/test,bench.ok
	$(BIN)/python -m benchmarks --records $(N) --rounds $(ROUNDS)
	@echo "Barriers, checkpoints, restores (about 18 minutes more): make bench-checkpoints"

bench-checkpoints: $(VENV)/test,bench.ok
	$(BIN)/python -m benchmarks.checkpoints --mb $(MB) --changed-mb $(CHANGED_MB) --barriers $(BARRIERS) --rounds $(ROUNDS)

chaos: $(VENV)/test.ok
	$(BIN)/python -m chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(REPORT),--report $(REPORT))

planted: $(VENV)/test.ok
	$(BIN)/python -m tests.simulation.hunt

seeds: N = 10000
seeds: $(VENV)/test.ok
	$(BIN)/python -m tests.simulation.seeds $(N)

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "streamcore needs Python 3.11 or newer; set PYTHON=/path/to/python3")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/base.ok: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/%.ok: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
