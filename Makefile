# Everything here works on a machine with only Python (3.11 or newer) and make:
# the first target that needs it creates .venv and installs vidapt with its tools into it.

PYTHON ?= python3
SEED ?= 0
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test test-all check lint format types imports clean

install: $(INSTALLED)

# torch and torchvision stand in one command, so that pip takes both from one build. The official Cityscapes scorers, for
# tests, come without what they ask for: it includes a backport of typing that shadows Python's own.
$(INSTALLED): setup.py pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check torch torchvision -e '.[dev]'
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps cityscapesscripts==2.3.0
	touch $@

demo: $(INSTALLED)
	$(BIN)/vidapt demo --out runs/demo --seed $(SEED)

test: $(INSTALLED)
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

# An empty -m replaces the "not slow and not gpu" of pyproject.toml; tests that need a GPU skip themselves without one.
test-all: $(INSTALLED)
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile -m ""

check: lint types imports

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The four source folders only become one package when built; a stale build/ would add modules that are gone.
types: $(INSTALLED)
	rm -rf build *.egg-info
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --target build/typetree .
	cd build/typetree && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache vidapt

imports: $(INSTALLED)
	$(BIN)/python -m pytest -q tests/packaging/test_import_direction.py

clean:
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
