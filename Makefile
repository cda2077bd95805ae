# make train and make test each set up what they need on first use.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.setup-done
export HF_HUB_OFFLINE ?= 1
export OMP_NUM_THREADS ?= 1
.DEFAULT_GOAL := help

.PHONY: help setup train test test-all test-faults lint format image clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml scripts/setup.py scripts/torchvision_ops.py
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or run make PYTHON=/path/to/python"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python scripts/setup.py
	@touch $@

setup: $(STAMP)  ## create .venv and install what fits this machine (GPU or CPU build)

train: $(STAMP)  ## train the small model on synthetic scenes (configs/quickstart.yaml)
	@$(BIN)/pointvg scenes data/scenes --train 2400 --validation 128 --test 512 --far
	@$(BIN)/pointvg train --config configs/quickstart.yaml $(ARGS)

# The service's tests run in a process of their own: Serve keeps state of a process's earlier Ray clusters, and a handle
# to a new one may then wait for ever.
test: $(STAMP)  ## lint, types and the tests that take minutes at most
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/python -m pytest -m "not slow" --ignore tests/services $(ARGS)
	@$(BIN)/python -m pytest -m "not slow" tests/services $(ARGS)

test-all: $(STAMP)  ## every test, the slow ones too, but for test-faults
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/python -m pytest --ignore tests/services --ignore tests/faults $(ARGS)
	@$(BIN)/python -m pytest tests/services $(ARGS)

test-faults: $(STAMP)  ## kill, stop and break every part of a real training run; prints the recovery times
	@$(BIN)/python -m pytest -s tests/faults $(ARGS)

lint: $(STAMP)  ## ruff and pyright
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright

format: $(STAMP)  ## format every file
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

BUILD  ?= cpu
ENGINE ?= docker
IMAGE  ?= pointvg-r:$(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)-$(BUILD)

image:  ## build the container image: BUILD=cpu or gpu, ENGINE=docker or podman; see docs/clusters.md
	$(ENGINE) build --file docker/Dockerfile --build-arg BUILD=$(BUILD) --tag $(IMAGE) $(IMAGE_ARGS) .

clean:  ## remove .venv and caches; runs/ and data/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info build
