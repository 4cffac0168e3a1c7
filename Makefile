# Everything runs in $(VENV), which the first target that needs it creates. Only Python 3.11+ and make are needed.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-gpu lint format bench chaos clean docs load audit programs screenshots

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED)  ## Create the environment

$(INSTALLED): pyproject.toml constraints.txt setup.py $(wildcard kernels/cpu/*.?pp)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(INSTALLED)  ## Run the service with a live simulated fleet; Ctrl-C stops it
	@exec $(BIN)/emberwatch demo

test: $(INSTALLED) programs  ## Run every test
	$(BIN)/python -m pytest -p tests.two_processes --numprocesses 2 --dist loadscope

test-gpu: $(INSTALLED)  ## Run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

lint: $(INSTALLED)  ## Style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy kernels model service tests loadtest
	$(BIN)/lint-imports

format: $(INSTALLED)  ## Rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)  ## Cost of a sample after 100 and after 100,000 samples of history (a minute)
	$(BIN)/python -m loadtest.constant_cost --start-service

load: $(INSTALLED)  ## Run every load scenario in an open loop (two minutes, loopback only)
	$(BIN)/python -m loadtest.run all --start-service

docs: $(INSTALLED)  ## Build the documents as a site, in .emberwatch/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

audit: $(INSTALLED)  ## Ask for known vulnerabilities of what is pinned (needs the internet)
	$(BIN)/pip install --quiet pip-audit
	$(BIN)/pip-audit --requirement constraints.txt --no-deps --disable-pip

programs: $(INSTALLED)  # that some tests run; without one of them its tests are skipped, aloud
	@for pair in promtool:prometheus haproxy:haproxy faketime:faketime prometheus-alertmanager:prometheus-alertmanager chromium:chromium; do \
		command -v $${pair%:*} >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $${pair#*:} >/dev/null; } \
		|| echo "$${pair%:*} is not installed and cannot be: its tests will be skipped (Debian: apt-get install $${pair#*:})"; done
	@[ -x $(BIN)/helm ] || command -v helm >/dev/null || $(BIN)/python deploy/helm/install_helm.py \
		|| echo "helm is not installed and cannot be: its tests will be skipped"

chaos: $(INSTALLED) programs  ## Run the chaos scenarios again and again (EMBERWATCH_CHAOS_ROUNDS, default 10)
	EMBERWATCH_CHAOS_ROUNDS=$${EMBERWATCH_CHAOS_ROUNDS:-10} $(BIN)/python -m pytest tests/chaos

screenshots: $(INSTALLED) programs  ## Take the page's pictures in docs/screenshots again
	$(BIN)/python -m tests.e2e.screenshots

clean:  ## Remove the environment and caches; the demo's data folder stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info build
