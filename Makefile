# Two commands do all: `make demo` and `make test`. Each sets up what it needs in .venv first.

PYTHON ?= python3
# The build that is installed; pyproject.toml asks only for a lower bound, so that a lab can keep its own.
TORCH ?= 2.13.0
# The project folder that `make ui` opens: settings, source, store and Dagster instance.
FOLDER ?= data/demo
PORT ?= 3000
# Test processes beside each other; 0 for none, as a debugger wants it.
WORKERS ?= 2
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: install demo test test-all check ui bench clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==$(TORCH) --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/kwneuro-assets demo $(ARGS)

test: install
	$(PYTEST) $(ARGS)

test-all: install
	$(PYTEST) -m "" $(ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ui: install
	$(BIN)/kwneuro-assets --home $(FOLDER) ui --port $(PORT)

bench: install
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf .venv data/demo
