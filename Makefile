# make demo     see it work: a broker, a door and the daemon on this machine; needs Python 3.11 or newer, not root
# make test     lint, types and all tests, with real Kafka and XRootD (prepare.sh fetches them; see tests/support)
# make lint     lint and types only
# make ledger   a long run under faults that balances what was sent against what landed: make ledger SECONDS=900
# make clean    removes what the others made here (downloads in ~/.cache/dcalqr-tests stay)

VENV := .venv
BIN := $(VENV)/bin
SECONDS ?= 900

# The test environment holds all that the demo needs, so that the two never replace each other's installation.
DEMO := $(if $(wildcard $(VENV)/.test),$(VENV)/.test,$(VENV)/.demo)

.PHONY: help demo test prepare lint ledger clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(DEMO)
	$(BIN)/dcalqr demo

test: prepare lint
	$(BIN)/python -m pytest

prepare:
	tests/support/prepare.sh

lint: $(VENV)/.test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

ledger: prepare $(VENV)/.test
	$(BIN)/python -m tests.ledger --seconds $(SECONDS)

clean:
	rm -rf $(VENV) dist build .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first Python that is new enough and can make an environment; make PYTHON=... names another.
$(BIN)/python:
	@set -e; \
	for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "Making $(VENV) with $$($$python --version) ($$(command -v $$python))"; \
	    exec $$python -m venv --clear $(VENV); \
	  fi; \
	done; \
	echo "No Python 3.11 or newer with venv was found: apt-get install python3-venv, or make PYTHON=/path/to/python" >&2; \
	exit 1

$(VENV)/.demo: $(BIN)/python pyproject.toml $(shell find dcalqr -name '*.py')
	$(BIN)/python -m pip install --progress-bar off '.[demo]'
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --progress-bar off --editable '.[test]'
	@touch $@
