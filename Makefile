# Folio's commands; `make help` lists them. They run in .venv, which `make setup` creates.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
STAMP := .venv/.installed
TRANSFORMERS := tests/golden/transformers.txt
COMPANIONS := tests/golden/companions.txt
# The variable turns off a notice that Material for MkDocs ends in May 2027; see mkdocs.yml.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs
# One more than the processors, because many tests wait for processes that they started.
WORKERS ?= $(shell expr `getconf _NPROCESSORS_ONLN` + 1)

# Where runs are: paths.output_dir of conf/train.yaml, unless another folder is given.
OUTPUT_DIR ?= $(shell $(BIN)/python train.py --cfg job --package paths | sed -n 's/^output_dir: //p')

.DEFAULT_GOAL := help
.PHONY: help setup train page test test-slow check format docs docs-serve schema tensorboard bench soak clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  make train ARGS="model=mini trainer=gpu" trains another model; see python train.py --help'

setup: $(STAMP) ## Create .venv and install the pinned dependencies
$(STAMP): pyproject.toml constraints.txt $(TRANSFORMERS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Folio needs Python 3.11 or newer: make setup PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --upgrade --no-deps --target .venv/hugging_face --requirement $(TRANSFORMERS)
	@touch $(STAMP)

train: setup ## Train experiment=quickstart on Tiny Shakespeare: five minutes on two CPU cores
	$(BIN)/python train.py $(or $(ARGS),experiment=quickstart)

test: setup ## Run the fast tests
	$(BIN)/python -m pytest -m "not slow" --numprocesses $(WORKERS) --dist loadfile $(ARGS)

# What only slow tests need: 200 MB.
.venv/.companions: $(STAMP) $(COMPANIONS)
	$(BIN)/pip install --quiet --upgrade --no-deps --target .venv/companions --requirement $(COMPANIONS)
	@touch $@

test-slow: setup .venv/.companions ## Run the slow tests, such as training the recipes to their published losses
	$(BIN)/python -m pytest -m slow $(ARGS)

check: setup ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## Format the code and fix what lint can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## Build the documentation into site/; a warning is an error
	$(MKDOCS) build --strict $(ARGS)

docs-serve: setup ## Show the documentation: http://localhost:8000
	$(MKDOCS) serve $(ARGS)

schema: setup ## Write docs/config.md, and JSON schemas for editors, from the schema of the config
	$(BIN)/python -m folio.cli.config_page

page: setup ## Write page.html, which shows the latest run at work in a browser; RUN=outputs/... for another
	$(BIN)/python scripts/export.py $(or $(RUN),latest) page.html --format page --force --output-dir "$(OUTPUT_DIR)" $(ARGS)

tensorboard: setup ## Show all runs: http://localhost:6006
	$(BIN)/python scripts/board.py --logdir "$(OUTPUT_DIR)" $(ARGS)

bench: setup ## Measure speed and memory beside other programs: about ten minutes on two cores
	$(BIN)/python -m benchmarks $(ARGS)

soak: setup ## Test recovery from random faults for an hour; ARGS="--minutes 5" for less
	$(BIN)/python tests/e2e/soak.py $(ARGS)

clean: ## Remove caches and the site; keeps .venv, data and outputs
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build site src/*.egg-info
	find src tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
