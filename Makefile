# Every target sets up what it needs by itself: Python 3.11 or newer, make and git are enough.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= auto

.PHONY: help venv demo test lint format binary benchmarks clean

help:
	@echo "make demo        watch a real daemon poll batches and start jobs (about 20 s)"
	@echo "make test        lint, types and tests"
	@echo "make lint        lint and types only"
	@echo "make binary      dist/teckochecker, the whole program in one file"
	@echo "make venv        the virtual environment, with the program in $(BIN)/teckochecker"
	@echo "make benchmarks  measure what the README claims (about half an hour)"

venv: $(VENV)/ready

$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3") if sys.version_info < (3, 11) else None'
	@echo "Setting up $(VENV) (once, about a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: venv
	@$(BIN)/teckochecker demo

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --cov --cov-report=term -q

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The settings make two builds of the same sources alike.
binary: venv
	PYTHONHASHSEED=0 SOURCE_DATE_EPOCH=946684800 $(BIN)/python -m PyInstaller --noconfirm \
	  --log-level ERROR --workpath build/pyinstaller --distpath build teckochecker.spec
	$(BIN)/python deploy/executable/pack.py build/teckochecker dist/teckochecker

benchmarks: venv
	$(BIN)/python -m tests.benchmarks

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
