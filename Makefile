# PyTorch and PEFT serve comparisons in the tests: `make test EXTRAS=test` leaves them, and these tests, out.

# `make demo` and `make test` need Python 3.11 to 3.13, make and a C compiler; everything else goes into .venv.

# The first of these that is Python 3.11 to 3.13.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
WORKERS ?= 2
EXTRAS ?= test,parity

.PHONY: demo test test-slow test-integrations test-lowest lint types docs clean

demo: $(VENV)/installed
	$(BIN)/jaxlv demo

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/installed-test test-integrations
	$(BIN)/python -m pytest -m slow

# jaxlv within sktime, statsforecast and lm-evaluation-harness, which need an older pandas: in an environment of its own.
test-integrations: $(VENV)-integrations/installed
	$(VENV)-integrations/bin/python -m pytest -m "slow or not slow" tests/test_sktime.py tests/test_nixtla.py tests/test_harness.py

# With the oldest versions that pyproject.toml allows, in an environment of its own.
test-lowest: $(VENV)-lowest/installed
	$(VENV)-lowest/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-test
	$(BIN)/mypy jaxlv tools benchmarks

# The pages as a site. Building it loads nothing from a network.
docs: $(VENV)/installed-docs
	$(BIN)/mkdocs build --strict
	@echo "site: build/site/index.html"

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "jaxlv needs Python 3.11 to 3.13 with venv (Debian: python3-venv): make PYTHON=python3.x"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a few minutes the first time)"
	$(PIP) -e .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) -e '.[$(EXTRAS)]'
	@touch $@

$(VENV)-integrations/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-integrations
	$(VENV)-integrations/bin/python -m pip --disable-pip-version-check install --quiet -e '.[$(EXTRAS),sktime,nixtla,harness]'
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(PIP) -e '.[docs]'
	@touch $@

$(VENV)-lowest/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip --disable-pip-version-check install --quiet uv
	$(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-integrations $(VENV)-lowest build *.egg-info .pytest_cache .ruff_cache .mypy_cache
