# Every target makes its own environment: a fresh clone needs Python 3.11+ and nothing else.
PYTHON ?= python3
BIN := .venv/bin
# One thread a process where tests run side by side.
JOBS ?= 2

.PHONY: setup demo test test-slow lint docs format bench clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/python -m fomo_ssl.demo

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m "not slow"

test-slow: setup
	HYPOTHESIS_PROFILE=explore OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	@ls benchmarks/*.py
	@echo 'each says at its top how it is run'

clean:
	rm -rf .venv build dist
