# One command each for a newcomer, a developer and a build server; `make help` lists them.
# All that is installed goes into .venv, and every download is checked against a pinned hash.

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# The first Python that is new enough. To choose one: make install PYTHON=python3.13
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PINNED := $(PIP) install --require-hashes --requirement
UV := $(firstword $(wildcard $(BIN)/uv) uv)
LOCK := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test lint bench soak lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(VENV)/.package ## Make .venv with the package and its command, .venv/bin/bandmeter
	@echo "Installed: $(BIN)/bandmeter"

demo: $(VENV)/.package ## Ingest captured logs of six proxies, and answer on 127.0.0.1:8080 until Ctrl-C (DEMO_PORT)
	@$(BIN)/python demo/run.py

test: $(VENV)/.dev $(VENV)/.clients $(VENV)/.packaging ## Run the tests; pytest takes more by ARGS="…"
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(VENV)/.dev ## Check style, types and layers
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(VENV)/.dev ## Measure; ARGS="…" go to python -m bench
	@$(BIN)/python -m bench $(ARGS)

soak: $(VENV)/.debian $(VENV)/.dev ## Run the long tests, and those of the laws twenty times longer: about two hours
	@$(BIN)/python -m pytest -m soak $(ARGS)
	@BANDMETER_SOAK=1 $(BIN)/python -m pytest tests/property $(ARGS)

lock: ## Pin the requirements again, with uv; ARGS=--upgrade takes newer ones
	@command -v $(UV) >/dev/null || { echo "make lock needs uv: $(BIN)/pip install uv"; exit 1; }
	@$(LOCK) $(ARGS) pyproject.toml --output-file requirements/run.txt
	@$(LOCK) $(ARGS) pyproject.toml --group dev --constraint requirements/run.txt --output-file requirements/dev.txt
	@$(LOCK) $(ARGS) requirements/clients.in --output-file requirements/clients.txt
	@$(LOCK) $(ARGS) requirements/build.in --constraint requirements/dev.txt --output-file requirements/build.txt

clean: ## Remove whatever the targets above have made
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis demo-data dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---------------------------------------------------------------- stamps: what is done is not done again

$(VENV)/.made:
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Bandmeter needs Python 3.11 or later: install it, or name it with PYTHON=/path/to/python3."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) has no venv: on Debian and Ubuntu, install the package python3-venv."; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.made requirements/run.txt requirements/build.txt
	@echo "Installing what Bandmeter needs: about a minute, most of it downloads"
	@$(PINNED) requirements/build.txt --requirement requirements/run.txt
	@touch $@

$(VENV)/.package: $(VENV)/.run pyproject.toml
	@$(PIP) install --no-index --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.package requirements/dev.txt
	@echo "Installing what the tests need"
	@$(PINNED) requirements/dev.txt
	@touch $@

# Other people's clients, which the tests run against us. Without npm those tests say that they were skipped.
$(VENV)/.clients: $(VENV)/.dev tests/clients/package-lock.json requirements/clients.txt
	@echo "Installing the clients that the tests run"
	@$(BIN)/python -m venv $(VENV)/clients
	@$(VENV)/clients/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes \
		--requirement requirements/clients.txt
	@cp tests/clients/package.json tests/clients/package-lock.json $(VENV)/clients
	@if command -v npm >/dev/null; then \
		npm ci --prefix $(VENV)/clients --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null; \
	else echo "There is no npm: the tests of clients from there will be skipped."; fi
	@touch $@

# Other people's programs, which the tests run. It is tried again until all are there.
$(VENV)/.debian: $(VENV)/.dev requirements/debian.txt requirements/debian.sh
	@if sh requirements/debian.sh requirements/debian.txt; then touch $@; fi

# A small Debian in a folder, in which the container file is built and systemd runs the unit.
$(VENV)/.packaging: $(VENV)/.debian tests/debian/prepare.py requirements/run.txt requirements/build.txt
	@if [ "$$(id -u)" = 0 ] && command -v debootstrap >/dev/null; then \
		echo "Making a small Debian for the tests of packaging: about two minutes"; \
		$(BIN)/python tests/debian/prepare.py $(VENV)/debian && touch $@ || \
			echo "It could not be made: the tests that need it will be skipped."; \
	else touch $@; fi
