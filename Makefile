# make train and make test each set up what they need on first use: the first what a run needs, the second the
# developers' tools too.
ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for each in python3.11 python3.12 python3.13 python3; do \
    $$each -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$each && break; \
    done)
endif
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.setup-done
TOOLS  := $(VENV)/.setup-tools-done
export HF_HUB_OFFLINE ?= 1
export OMP_NUM_THREADS ?= 1
.DEFAULT_GOAL := help

.PHONY: help setup setup-tools hooks train test test-all test-faults lint docs format image clean right-python

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

SETUP := scripts/setup.py scripts/pip_progress.py scripts/left_out.py scripts/precompile.py

$(STAMP): pyproject.toml $(SETUP) scripts/torchvision_ops.py docker/constraints-cpu.txt docker/constraints-gpu.txt | right-python
	@test -n "$(PYTHON)" || { echo "no Python from 3.11 to 3.13 found: install one or run make PYTHON=/path/to/python"; exit 1; }
	@command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON) not found: install it or run make PYTHON=/path/to/python"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 \
	    || { echo "setup: making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv --clear $(VENV); }
	@$(BIN)/python scripts/setup.py
	@touch $@

$(TOOLS): $(STAMP) docker/constraints-dev.txt docker/constraints-docs.txt
	@$(BIN)/python scripts/setup.py --tools
	@touch $@

# An environment that is there already is not made again with another Python; saying nothing would test the wrong one.
right-python:
ifeq ($(origin PYTHON),command line)
	@test ! -x $(BIN)/python || test "`$(BIN)/python -V`" = "`$(PYTHON) -V 2>&1`" \
	    || { echo "$(VENV) has `$(BIN)/python -V`, PYTHON=$(PYTHON) is `$(PYTHON) -V 2>&1`: run make clean first"; exit 1; }
endif

setup: $(STAMP)  ## create .venv and install what fits this machine (GPU or CPU build)

setup-tools: $(TOOLS)  ## the same with the developers' tools (tests, types, lint)

hooks: $(TOOLS)  ## run the checks of make lint before each commit and push
	@$(BIN)/pre-commit install --hook-type pre-commit --hook-type pre-push

# TRACK=trackio (or wandb, mlflow, swanlab; several with commas) shows the run there too.
comma := ,
TRACKERS = $(if $(TRACK),"run.trackers=[tensorboard$(comma) $(TRACK)]")

train: $(STAMP)  ## train the small model on synthetic scenes (configs/quickstart.yaml); TRACK=trackio: with a live view
	@$(BIN)/pointvg scenes data/scenes --train 2400 --validation 128 --test 512 --far
	@$(BIN)/pointvg train --config configs/quickstart.yaml $(TRACKERS) $(ARGS)

# The service's tests run in a process of their own: Serve keeps state of a process's earlier Ray clusters, and a handle
# to a new one may then wait for ever.
test: lint  ## lint, types and the tests that take minutes at most
	@$(BIN)/python -m pytest -m "not slow" --ignore tests/services $(ARGS)
	@$(BIN)/python -m pytest -m "not slow" tests/services $(ARGS)

test-all: lint  ## every test, the slow ones too, but for test-faults
	@$(BIN)/python -m pytest --ignore tests/services --ignore tests/faults $(ARGS)
	@$(BIN)/python -m pytest tests/services $(ARGS)

test-faults: $(TOOLS)  ## kill, stop and break every part of a real training run; prints the recovery times
	@$(BIN)/python -m pytest -s tests/faults $(ARGS)

lint: $(TOOLS)  ## ruff and pyright
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright

docs: $(TOOLS)  ## build the site of the pages into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "site         build/site/index.html"

format: $(TOOLS)  ## format every file
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

BUILD  ?= cpu
ENGINE ?= docker
IMAGE  ?= pointvg-r:$(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)-$(BUILD)

image:  ## build the container image: BUILD=cpu or gpu, ENGINE=docker or podman; see docs/clusters.md
	$(ENGINE) build --file docker/Dockerfile --build-arg BUILD=$(BUILD) --tag $(IMAGE) $(IMAGE_ARGS) .

clean:  ## remove .venv and caches; runs/ and data/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info build
