# Ponor's commands. Everything is installed into .venv, once, and again when what it is made from has changed.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
  command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
ARGS ?=
DRILLS ?= scale-out rolling-restart pause storage-brownout kill --minutes 2

.PHONY: help up install test sim coverage check format docs bench drill tools clean
.DEFAULT_GOAL := help

help:
	@echo "make up      run a broker in the foreground: Kafka on 127.0.0.1:9092, HTTP on 127.0.0.1:9080, data in ./data"
	@echo "             (ARGS='--port 19092 …' passes flags of ponor up)"
	@echo "make test    all tests          make check   lint, types, import contracts, generated docs: under a minute"
	@echo "make coverage  all tests, and whether they ran every error path (listed: tools/error_paths.txt)"
	@echo "make sim     thousands of seeds of the whole cluster on virtual time (ARGS='--seeds 5000', '--minutes 30', '--help')"
	@echo "make tools   outside programs that some tests need (MinIO, versitygw, Kafka, kcat, PostgreSQL)"
	@echo "make docs    write the generated pages"
	@echo "make bench   Ponor and Apache Kafka side by side        make drill   kill, pause, stop, add brokers under load"

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or say make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) …"
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-tests: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing what the tests need into $(VENV) …"
	@$(PIP) -e '.[test]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed

# exec: signals reach ponor itself, and the exit code is its own.
up: $(VENV)/.installed
	@exec $(BIN)/ponor up $(ARGS)

# What cannot be installed here is named at the end of the run, with the command that would bring it.
# COVERAGE=1 records which lines are run in the tests' own processes, and fails when an error path is not:
# tools/error_paths.py.
test: $(VENV)/.installed-tests tools
	@$(BIN)/python tools/run_tests.py $(if $(COVERAGE),--coverage) $(ARGS)

# A failing seed is named with the command that shows what happened in it.
sim: $(VENV)/.installed-tests
	@$(BIN)/python -m tests.simulation.run $(ARGS)

coverage:
	@$(MAKE) --no-print-directory test COVERAGE=1

check: $(VENV)/.installed-tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@PATH="$(BIN):$$PATH" $(BIN)/lint-imports
	@$(BIN)/python -m brokers.cli.docs --check

format: $(VENV)/.installed-tests
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(VENV)/.installed
	@$(BIN)/python -m brokers.cli.docs

bench: $(VENV)/.installed-tests
	@$(BIN)/python tools/install.py --require minio kafka
	@$(BIN)/python -m tests.benchmarks.run $(ARGS)

drill: $(VENV)/.installed-tests
	@$(BIN)/python tools/install.py --require minio postgresql
	@PONOR_REQUIRE_TOOLS=1 $(BIN)/python -m pytest -m drill
	@$(BIN)/python -m tests.drills.kill --seconds 300
	@$(BIN)/ponor drill $(DRILLS) $(ARGS)

tools: $(BIN)/python
	@$(BIN)/python tools/install.py

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
