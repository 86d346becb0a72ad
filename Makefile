# From a fresh checkout, with Python 3.11 or later and a package index: `make demo`, `make test`.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt

# What a build needs is pinned too; older and newer pip read it from different variables.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt

define CHECK
import sys, importlib.util
found = sys.version.split()[0]
if sys.version_info < (3, 11):
    sys.exit(f"concert needs Python 3.11 or later, this is {found}: make PYTHON=python3.11 ...")
if importlib.util.find_spec("ensurepip") is None:
    sys.exit("Python's venv module is incomplete: install it (on Debian: apt install python3-venv)")
endef
export CHECK

.PHONY: help demo test lint docs wheel clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    train, certify and compare on digits, in a few minutes"
	@echo "make test    all tests"
	@echo "make lint    style and types"
	@echo "make docs    the documentation, in docs/_build/index.html"
	@echo "make wheel   build the wheel, install it alone elsewhere and run the demo from it"
	@echo "make clean   remove what these made, but no training runs"

demo: $(VENV)/.installed
	$(BIN)/python -m concert demo

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

lint: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy --strict src

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build

wheel: $(VENV)/.installed-dev
	rm -rf dist
	$(BIN)/python -m build --wheel
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT \
	&& $(BIN)/python -m venv "$$folder/venv" \
	&& "$$folder/venv/bin/python" -m pip install --quiet -c constraints.txt dist/*.whl \
	&& cd "$$folder" && venv/bin/concert demo --quick \
	&& venv/bin/python -c 'from concert.recipes.shipped import recipe_names; assert recipe_names()'

clean:
	rm -rf $(VENV) dist build docs/_build concert-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) > /dev/null || { echo "there is no $(PYTHON): make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c "$$CHECK"
	$(PYTHON) -m venv $(VENV)

# Installed again only when what is asked for has changed.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@$(BIN)/python -c "$$CHECK"
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) -e '.[dev]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(INSTALL) -e '.[docs]'
	@touch $@
