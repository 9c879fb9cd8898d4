# One command per question; CI asks the same ones. Works with GNU make 3.81 and any Python from 3.11 on.
#   make run       serve on 127.0.0.1:5000 with no configuration       ARGS="--config FILE" is passed on
#   make test      everything that must hold: lint, types, layers, tests
#   make tests     the tests alone                                      ARGS="tests/oci -k digest" is passed on
#   make clients   the tests with real clients, and the table of docs/clients.md from their results
#   make suites    programs of newer Debian releases for them, in folders (as root; needs mmdebstrap)
#   make bench     compare with nginx and other registries              ARGS="--quick --only manifest,blob64k" is passed on
#   make fix       let ruff repair what it can          make demo       the whole story, with no network
#   make clean     remove the environment and all caches

PYTHON ?= python3
VENV ?= .venv
JOBS ?= auto
ARGS ?=
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run demo test lint types layers tests clients clients-table suites bench fix clean
.DEFAULT_GOAL := test

run: $(VENV)/.installed
	exec $(BIN)/iarproxy serve $(ARGS)

demo: $(VENV)/.installed
	exec $(BIN)/iarproxy demo $(ARGS)

test: lint types layers tests

lint: $(VENV)/.testable
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.testable
	$(BIN)/mypy
	@for each in tests/*/conftest.py; do $(BIN)/mypy --no-error-summary $$each || exit 1; done

layers: $(VENV)/.testable
	$(BIN)/lint-imports

tests: $(VENV)/.testable
	$(BIN)/pytest -n $(JOBS) --dist loadgroup $(ARGS)

RESULTS ?= .pytest_cache/d/clients/results.json

clients: $(VENV)/.testable
	$(BIN)/pytest -n $(JOBS) --dist loadgroup $(ARGS) tests/real
	$(MAKE) clients-table

# From the results of the last run of tests, or of RESULTS="FILE..."
clients-table: $(VENV)/.testable
	$(BIN)/python tests/real/table.py $(RESULTS) >docs/clients.md.new
	mv docs/clients.md.new docs/clients.md

suites:
	$(PYTHON) tests/real/suites.py trixie forky

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks prepare
	$(BIN)/python -m benchmarks run $(ARGS)

fix: $(VENV)/.testable
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second run fast; a change of pyproject.toml installs again.
$(VENV)/.testable: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "iarproxy needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1 | head -n 1); name one with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make environments; on Debian: apt-get install -y python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
