# Each target makes .venv and installs what it needs on its own; Python 3.11+ with venv, and make, are enough.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

# The first of these that runs, is new enough, and can make an environment.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import ensurepip, venv, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo $$python && break; done)

BIN := .venv/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.PHONY: help venv demo test check bench

help:            ## this list
	@sed -n 's/^\([a-z]*\): .*##/  make \1\t/p' Makefile

venv: .venv/dev .venv/data  ## everything below needs, in .venv

demo: .venv/core .venv/data  ## compare a few models on real accelerometer data
	$(BIN)/cerebro demo

test: .venv/dev .venv/data  ## the whole test suite
	$(BIN)/python -m pytest -n 2

check: .venv/dev  ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo --no-cache

bench: .venv/dev .venv/data  ## every bench, quickly
	@for bench in $(sort $(wildcard benches/[a-z]*.py)); do \
		echo "== $$bench"; $(BIN)/python $$bench --quick || exit 1; done

.venv/pyvenv.cfg:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer with venv is needed: set PYTHON=..." >&2; exit 1; }
	@echo "making .venv with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# `--group` needs pip 25.1, newer than what Python 3.11 brings.
.venv/core: pyproject.toml constraints.txt | .venv/pyvenv.cfg
	@echo "installing cerebro and what it runs on (torch is large: minutes on a first time)"
	@$(PIP) pip
	@$(PIP) -e .
	@touch $@

.venv/dev: .venv/core
	@echo "installing the development tools"
	@$(PIP) --group dev
	@touch $@

.venv/data: .venv/core
	@echo "installing the demo's data"
	@$(PIP) --no-deps seglearn
	@touch $@
