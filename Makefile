# Two commands do all: `make demo` and `make test`. Each sets up what it needs in .venv first.

PYTHON ?= python3
# The build that is installed; pyproject.toml asks only for a lower bound, so that a lab can keep its own.
TORCH ?= 2.13.0
# The project folder that `make ui` opens: settings, source, store and Dagster instance.
FOLDER ?= data/demo
PORT ?= 3000
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed

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
	$(BIN)/python -m pytest $(ARGS)

test-all: install
	$(BIN)/python -m pytest -m "" $(ARGS)

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
