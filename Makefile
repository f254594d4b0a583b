# make demo     see it work: a broker, a door and the daemon on this machine; needs Python 3.11 or newer, not root
# make test     lint, types and all tests, with real Kafka and XRootD (prepare.sh fetches them; see tests/support)
# make lint     lint and types only
# make ledger   a long run under faults that balances what was sent against what landed: make ledger SECONDS=900
# make bench    dcalqr beside Go, rclone, curl and others, and its own figures: 25 minutes; make bench QUICK=1: 3 minutes
# make wheel    dist/dcalqr-VERSION-py3-none-any.whl; make dcalqr.pyz: all of dcalqr in one file, for the Python that makes it
# make boot-test, make image-test, make pyz-test: units under a real systemd, image, one-file form; as root, 2 minutes each
# make lock     finds the newest versions of all dependencies for image and pyz, and writes requirements.txt
# make clean    removes what the others made here (downloads in ~/.cache/dcalqr-tests stay)

VENV := .venv
BIN := $(VENV)/bin
SECONDS ?= 900

# The test environment holds all that the demo needs, so that the two never replace each other's installation.
DEMO := $(if $(wildcard $(VENV)/.test),$(VENV)/.test,$(VENV)/.demo)

.PHONY: help demo test prepare lint ledger bench wheel boot-test image-test pyz-test lock clean

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

bench: $(VENV)/.test
	benchmarks/prepare.sh
	@$(BIN)/python -m benchmarks $(if $(QUICK),--quick)

# What is installed elsewhere is tested as it is installed: from the wheel, with the locked dependencies.
wheel: $(BIN)/python
	rm -rf dist build/lib
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

dcalqr.pyz: wheel build/tools/.made
	rm -rf build/pyz
	$(BIN)/python -m pip install --quiet --only-binary :all: --require-hashes --target build/pyz -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-index --target build/pyz dist/dcalqr-*.whl
	$(BIN)/python -c 'import sys; print("Python", "%d.%d" % sys.version_info[:2], "on", sys.platform)' > build/pyz/made-for.txt
	build/tools/bin/shiv --site-packages build/pyz --entry-point dcalqr.cli:main --preamble pyz/preamble.py \
	  --python '/usr/bin/env python3' --compressed --output-file $@

build/tools/.made: $(BIN)/python
	$(BIN)/python -m venv build/tools
	build/tools/bin/pip install --quiet shiv==1.0.8 uv==0.13.9
	@touch $@

lock: build/tools/.made
	build/tools/bin/uv pip compile --quiet --upgrade --no-header --python-version 3.11 --generate-hashes \
	  --extra elasticsearch --extra opensearch pyproject.toml --output-file build/locked.txt
	{ sed -n '/^#/!q;p' requirements.txt; cat build/locked.txt; } > build/requirements.txt
	mv build/requirements.txt requirements.txt

boot-test: wheel $(VENV)/.test
	tests/boot/prepare.sh >/dev/null
	$(BIN)/python -m pytest tests/boot

image-test: wheel $(VENV)/.test
	tests/image/prepare.sh >/dev/null
	$(BIN)/python -m pytest tests/image

pyz-test: dcalqr.pyz $(VENV)/.test
	$(BIN)/python -m pytest tests/pyz

clean:
	rm -rf $(VENV) dcalqr.pyz dist build .hypothesis .mypy_cache .pytest_cache .ruff_cache
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
