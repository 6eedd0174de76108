# Everything runs in .venv; each target installs first, which costs nothing where nothing changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WRITING := $(VENV)/.writing

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test test-all bench docs notebooks lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## create .venv and install the package with the tested versions

$(VENV)/pyvenv.cfg:
	$(PYTHON) -c 'import sys; v = sys.version.split()[0]; (3, 10) <= sys.version_info < (3, 14) or sys.exit(f"expected Python 3.10 to 3.13, got {v}; name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml .ci/constraints.txt $(VENV)/pyvenv.cfg
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint .ci/constraints.txt --editable '.[dev,plots,slurm]'
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --constraint .ci/constraints.txt curvlinops-for-pytorch
	@touch $@

# What documentation and notebooks need besides; nobody else waits for it.
$(WRITING): $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint .ci/constraints.txt --editable '.[docs,notebooks]'
	@touch $@

demo: install ## train XOR, TMS and a small transformer, decompose them, show what was found
	$(BIN)/eigen-lightning demo --run_dir runs/demo

test: install ## the quick tests
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(WRITING) ## every test, the slow ones too, with coverage
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term

bench: install ## time ours against nested products
	$(BIN)/python tests/benchmarks/run.py

docs: $(WRITING) ## build the documentation, warnings as errors
	$(BIN)/python -m sphinx -W --keep-going -q -b html -c notebooks/docs notebooks build/docs
	@echo "open build/docs/docs/index.html"

notebooks: $(WRITING) ## run the notebooks and keep their outputs
	OMP_NUM_THREADS=1 $(BIN)/python notebooks/build.py

lint: install ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy eigen_lightning

clean: ## remove what was built; .venv and runs stay
	rm -rf build dist *.egg-info .coverage .coverage.* htmlcov .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
