# `make demo` and `make test` need Python 3.11 to 3.13, make and a C compiler; everything else goes into .venv.

PYTHON ?= $(shell for v in 3.13 3.12 3.11; do command -v python$$v && break; done || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
WORKERS ?= 2

.PHONY: demo test test-slow lint types clean

demo: $(VENV)/installed
	$(BIN)/jaxlv demo

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-test
	$(BIN)/mypy jaxlv tools benchmarks

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), f"jaxlv needs Python 3.11 to 3.13, this is {sys.version.split()[0]}: make PYTHON=python3.x"'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a few minutes the first time)"
	$(PIP) -e .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
