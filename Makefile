# Three environments, each installed from a lock with hashes: .venv runs
# everything, .venv-oldest holds the oldest jax that is supported, .venv-newest
# the newest Python and jax.
# Always `python -m TOOL`: the scripts in bin/ break when the tree is moved.
PYTHON ?= python3
NEWEST_PYTHON ?=
ARGS ?=
# Two workers; PYTEST_ARGS="-n 0 -k mlp" runs in one process.
PYTEST_ARGS ?=
PRESET ?= full
WORKERS = -n 2 --dist loadfile
# What takes minutes and no version of Python or jax decides runs in one
# environment alone.
VERSIONS = $(WORKERS) -m 'not once'
# Most of their time goes into compiling, a quarter of which this saves.
FASTER = XLA_FLAGS=--xla_backend_optimization_level=0

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help train chapter page notebook docs bench browser test test-oldest \
  test-newest lint format setup setup-oldest peers lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' \
	  Makefile
	@echo '  PYTHON=python3.12 chooses the Python (3.11 or newer) of a new .venv,'
	@echo '  NEWEST_PYTHON=python3.13 that of a new .venv-newest.'

train: setup ## train the book's run; ARGS="--epochs=5 ..." adds flags
	@.venv/bin/python -m experiments.train $(ARGS)

chapter: setup ## judge all claims; PRESET=quick takes minutes, full hours
	@.venv/bin/python -m experiments.chapter --preset=$(PRESET) $(ARGS)

bench: setup ## our speed beside peers' and the machine's, about half an hour
	@.venv/bin/python -m benchmarks.bench $(ARGS)
	@.venv/bin/python -m benchmarks.bench --write

page: setup ## build docs/chapter.html from the committed results
	@.venv/bin/python -m experiments.report $(ARGS)

notebook: setup ## run experiments/colab.ipynb into docs/colab.ipynb, minutes
	@.venv/bin/python tools/notebook.py

docs: setup ## the reference of what is exported: build/docs/index.html
	@.venv/bin/python -m pdoc mnist_jax --docformat=google --no-show-source \
	  --template-directory=tools/pdoc --output-directory=build/docs

browser: # for the tests of the page; where none can be had they are skipped
	@sh tools/browser.sh >/dev/null

test: lint browser ## make lint, then pytest; PYTEST_ARGS="-k mlp ..." adds flags
	@.venv/bin/python -m pytest $(WORKERS) $(PYTEST_ARGS)

test-oldest: setup-oldest ## pytest on the oldest supported jax
	@$(FASTER) .venv-oldest/bin/python -m pytest $(VERSIONS) $(PYTEST_ARGS)

# Without such a Python nothing is wrong with the project: that the tests were
# not run is said in a line, and is no failure. One that was named has to run.
test-newest: ## pytest on the newest Python and jax of the lock
	@python='$(NEWEST_PYTHON)'; chosen=$${python:+chosen}; \
	[ "$$chosen" ] || python=$$(sh tools/newest.sh) || exit 0; \
	NAMED_BY=NEWEST_PYTHON sh tools/install.sh .venv-newest requirements.lock \
	  "$$python" $$chosen && \
	$(FASTER) .venv-newest/bin/python -m pytest $(VERSIONS) $(PYTEST_ARGS)

lint: setup ## ruff (lint and format) and mypy; changes nothing
	@.venv/bin/python -m ruff check
	@.venv/bin/python -m ruff format --check
	@.venv/bin/python -m mypy

format: setup ## let ruff format and fix what it can
	@.venv/bin/python -m ruff format
	@.venv/bin/python -m ruff check --fix

INSTALLED_WITH = '$(PYTHON)' $(if $(filter command,$(origin PYTHON)),chosen)

setup: ## only create or update .venv
	@sh tools/install.sh .venv requirements.lock $(INSTALLED_WITH)

peers: ## .venv-peers, with what benchmarks.foreign and bench compare with
	@sh tools/install.sh .venv-peers requirements.lock $(INSTALLED_WITH)
	@.venv-peers/bin/python -m pip install --quiet --no-deps \
	  --disable-pip-version-check -r benchmarks/requirements-peers.txt

setup-oldest:
	@sh tools/install.sh .venv-oldest requirements-oldest.lock $(INSTALLED_WITH)

# A universal lock: one file for Linux and macOS, Python 3.11 and newer.
COMPILE = uv pip compile --quiet --universal --python-version 3.11 \
  --generate-hashes --custom-compile-command 'make lock' \
  requirements-dev.txt $(ARGS)

lock: ## write both locks anew, with uv; ARGS=--upgrade moves them on
	@command -v uv >/dev/null || { echo 'make lock needs uv on the PATH' >&2; \
	  exit 1; }
	@$(COMPILE) --output-file requirements.lock
	@$(COMPILE) --resolution lowest-direct --constraint requirements-oldest.txt \
	  --output-file requirements-oldest.lock

clean: ## remove the environments and all caches; runs/ stays
	@rm -rf .venv .venv-oldest .venv-newest .venv-peers .cache .hypothesis .mypy_cache \
	  .pytest_cache .ruff_cache build mnist_jax.egg-info
	@find mnist_jax experiments benchmarks tests -name __pycache__ \
	  -type d -prune -exec rm -rf {} +
