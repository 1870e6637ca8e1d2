# Everything runs in .venv, which the first target that needs it builds from the pins.
# Needs Python 3.11 or newer and make; choose another interpreter with `make PYTHON=python3.12 test`.
PYTHON ?= python3
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.installed

.PHONY: help install demo test check docs format bench clean
.DEFAULT_GOAL := help

help:
	@echo "make install  build .venv from the pins in requirements/"
	@echo "make demo     run the demonstration on toy models"
	@echo "make test     run the tests (slow ones deselected)"
	@echo "make check    lint, formatting, types, import layers"
	@echo "make docs     build the documentation site into build/docs, its tutorials executed"
	@echo "make format   apply formatting and safe lint fixes"
	@echo "make bench    run every script in benchmarks/"
	@echo "make clean    remove .venv and caches"

install: $(STAMP)

# torch goes first and alone, so that the machine's own pip settings decide which build it is;
# the pins then apply as constraints to what torch brings along.
$(STAMP): requirements/torch.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("subscape needs Python >= 3.11; choose one: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --requirement requirements/torch.txt --constraint requirements/dev.txt
	$(PIP) install --quiet --requirement requirements/dev.txt
	$(PIP) install --quiet --no-deps --editable .
	@touch $@

demo: $(STAMP)
	$(BIN)/subscape demo

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

# A stamp of its own: only who builds the site needs Sphinx and notebooks.
$(VENV)/.docs: $(STAMP) requirements/docs.txt
	$(PIP) install --quiet --requirement requirements/docs.txt --constraint requirements/dev.txt
	@touch $@

docs: $(VENV)/.docs
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs
	@echo "open build/docs/index.html"

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	@for script in benchmarks/*.py; do \
		[ -e "$$script" ] || continue; \
		echo "== $$script"; \
		$(BIN)/python "$$script" || exit 1; \
	done

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache
