# Everything a contributor runs. `make` alone lists it. Nothing here needs root, and nothing is written outside
# this folder but the cache of Kubernetes binaries (see hack/binaries).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.made-from-lock
BOOTSTRAP := .cache/bootstrap
ARGS ?=
WORKERS ?= 3
KEEP ?=
IMAGE ?= optiinfra
TAG ?= dev
BASE ?=
CONTAINER_TOOL ?=
# Found when a recipe needs it, not each time make is run.
UV = $(shell command -v uv || echo $(BOOTSTRAP)/bin/uv)
COMPILE = $(UV) pip compile pyproject.toml --universal --generate-hashes --python-version 3.11 --no-header --quiet

.PHONY: help
help: ## List what there is
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1|/' \
	  | while IFS='|' read -r name text; do printf '  %-18s %s\n' "$$name" "$$text"; done

# ---- set-up

.PHONY: venv
venv: $(STAMP) ## Make .venv from the lock file

$(STAMP): requirements/all.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@command -v uv >/dev/null || test -x $(BOOTSTRAP)/bin/uv || { echo "getting uv from PyPI"; \
	  $(PYTHON) -m venv $(BOOTSTRAP) && $(BOOTSTRAP)/bin/python -m pip install --quiet uv; }
	@test -x $(BIN)/python || $(UV) venv --quiet --no-python-downloads --python "$$(command -v $(PYTHON))" $(VENV)
	@echo "installing the locked packages into $(VENV)"
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes --requirement requirements/all.lock
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: binaries
binaries: ## Get etcd, the Kubernetes control plane, kubectl, kwok, helm and the VPA's recommender into the cache
	@$(PYTHON) -m hack.binaries

# Without what only tests and benches compare with, which takes minutes to build.
.PHONY: cluster-binaries
cluster-binaries: ## Get what a control plane and the demonstration need of them
	@$(PYTHON) -m hack.binaries etcd kube-apiserver kube-controller-manager kube-scheduler kubectl kwok helm

.PHONY: lock
lock: ## Resolve pyproject.toml again into requirements/*.lock (UPGRADE=--upgrade for newer versions)
	$(COMPILE) $(UPGRADE) --all-extras --group dev --output-file requirements/all.lock
	$(COMPILE) $(UPGRADE) --extra agent --constraints requirements/all.lock --output-file requirements/agent.lock
	$(COMPILE) $(UPGRADE) --extra operator --extra llm --constraints requirements/all.lock \
	  --output-file requirements/operator.lock

# ---- see it work

.PHONY: demo
demo: venv cluster-binaries ## Watch OptiInfra work on simulated engines, about four minutes (KEEP=1 leaves it up)
	@$(BIN)/python -m hack.demo $(if $(KEEP),--keep) $(ARGS)

.PHONY: cluster-up
cluster-up: venv cluster-binaries ## Start a control plane on loopback with simulated GPU nodes
	@$(BIN)/python -m hack.cluster up $(ARGS)

.PHONY: cluster-down
cluster-down: venv ## End it and remove its state
	@$(BIN)/python -m hack.cluster down $(ARGS)

.PHONY: node-up
node-up: venv cluster-binaries ## Start a real node with a control plane, as root on Debian or Ubuntu
	@$(BIN)/python -m hack.node up $(ARGS)

.PHONY: node-down
node-down: venv ## End it, and say what of the machine is as it was
	@$(BIN)/python -m hack.node down $(ARGS)

# ---- check it

# One pytest run, so that its last line counts every tier but that of the real node. The tests wait more than they
# compute; a file stays in one process, with its clusters.
.PHONY: test
test: venv binaries lint audit sbom ## Run every check and every test that needs no real node (WORKERS=0: one after the other)
	@$(BIN)/python -m pytest tests/unit tests/apiserver tests/controllers \
	  --numprocesses=$(WORKERS) --dist=loadfile --no-loadscope-reorder --second-try $(ARGS)

# In parts, each with control planes of its own: ARGS="--list", ARGS="replicas churn", ARGS="--short" (about an hour).
.PHONY: soak
soak: venv binaries ## Run the long tests of faults, other writers and churn (a night), and write docs/reliability.md
	@$(BIN)/python -m hack.soak $(ARGS)

.PHONY: test-unit
test-unit: venv ## Run the tests that need nothing
	@$(BIN)/python -m pytest tests/unit $(ARGS)

.PHONY: test-apiserver
test-apiserver: venv binaries ## Run the tests against etcd and kube-apiserver
	@$(BIN)/python -m pytest tests/apiserver $(ARGS)

.PHONY: test-controllers
test-controllers: venv binaries ## Run the tests against the full control plane with KWOK
	@$(BIN)/python -m pytest tests/controllers $(ARGS)

# KUBECONFIG from the environment does not count: the tests write into the cluster it names.
.PHONY: e2e
e2e: ## Run the tests of a real node on your own cluster, its images loaded: make e2e KUBECONFIG=path
	@test "$(origin KUBECONFIG)" = "command line" || { echo "name the cluster: make e2e KUBECONFIG=path" >&2; exit 2; }
	@$(MAKE) --no-print-directory venv
	@OPTIINFRA_E2E_KUBECONFIG="$(abspath $(KUBECONFIG))" $(BIN)/python -m pytest tests/node -m e2e $(ARGS)

.PHONY: test-node
test-node: venv binaries ## Run all tests on a real node, with images built here (root; half an hour)
	@$(BIN)/python -m pytest tests/node -m "soak or not soak" $(ARGS)

.PHONY: lint
lint: venv ## Check style, types, layers, generated files and the chart
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/optiinfra crds --docs --check
	$(BIN)/python -m hack.settings_reference --check
	$(BIN)/python -m hack.chart_checks

.PHONY: audit
audit: venv ## Ask the published advisories about every package of both images (ARGS=--strict)
	@$(BIN)/python -m hack.supply_chain audit $(ARGS)

.PHONY: sbom
sbom: venv ## Write a bill of materials for each image into build/
	@$(BIN)/python -m hack.supply_chain sbom $(ARGS)

.PHONY: crds
crds: venv ## Write what is generated: CRDs (also the chart's), their reference, the settings' reference
	@$(BIN)/optiinfra crds --docs
	@$(BIN)/optiinfra crds --directory charts/optiinfra/files/crds
	@$(BIN)/python -m hack.settings_reference

.PHONY: bench
bench: venv binaries ## Measure what must be reached
	@$(BIN)/python -m bench $(ARGS)

# ---- ship it

.PHONY: images
images: venv ## Build both images, print their sizes (IMAGE=, TAG=, BASE=debian or an image, CONTAINER_TOOL=)
	@$(BIN)/python -m hack.images --image "$(IMAGE)" --tag "$(TAG)" $(if $(BASE),--base "$(BASE)") \
	  $(if $(CONTAINER_TOOL),--tool "$(CONTAINER_TOOL)") $(ARGS)

.PHONY: clean
clean: ## Remove what was made in this folder; the cache of binaries stays
	rm -rf $(VENV) .cache build dist .demo .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
