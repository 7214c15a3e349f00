# Two commands do everything: `make demo` and `make test`. Each sets up what it needs in .venv first.

PYTHON ?= python3
# The torch release that is installed; pyproject.toml asks only for a lower bound, so that a lab can keep its own.
TORCH ?= 2.13.0
# What pip installs for it. On Linux, TORCH_SPEC="torch --index-url https://download.pytorch.org/whl/cpu" takes the build
# without CUDA libraries, which saves 4.5 GB.
TORCH_SPEC ?= torch==$(TORCH)
# The project folder that `make ui` opens: settings, source, store and Dagster instance.
FOLDER ?= data/demo
PORT ?= 3000
# Parallel test processes; 0 runs the tests in pytest's own process, for a debugger.
WORKERS ?= 2
ARGS ?=

BIN := .venv/bin
INSTALLED := .venv/.installed
# In the order of their names: sorted by the number of tests, the few long tests of the daemon would be last.
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: install demo test test-all check coverage docs ui bench clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH_SPEC)
	# Otherwise, the torchvision of a dependency might replace that torch by another release.
	$(BIN)/python -m pip freeze | grep '^torch==' > .venv/torch.txt
	$(BIN)/python -m pip install --quiet --constraint .venv/torch.txt --editable '.[dev]'
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

coverage: install
	$(PYTEST) --cov --cov-report=term $(ARGS)

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

ui: install
	$(BIN)/kwneuro-assets --home $(FOLDER) ui --port $(PORT)

bench: install
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf .venv data/demo build/site
