# Bluelift. `make` alone lists the targets. Everything happens in a private virtual environment, .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROFILE ?= linux
OUT ?= dist
TORTURE ?= 500
# A Windows install ISO of your own: make iso WINDOWS_ISO=path builds the WinPE image instead of the Linux one.
WINDOWS_ISO ?=
# Options for the builder, such as BUILD_OPTIONS="--mirror https://MIRROR/debian"
BUILD_OPTIONS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help iso winpe-demo test lint unit bench torture lock clean

help: ## List the targets
	@echo "Bluelift: recovery images that boot a broken Windows host and remove the file that breaks it."
	@echo
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'
	@echo
	@echo "Start with: make iso"

iso: $(VENV)/.project ## Build dist/bluelift-linux.iso; with WINDOWS_ISO=path: dist/bluelift-winpe.iso. Needs no root
	@$(BIN)/bluelift build $(if $(WINDOWS_ISO),winpe --windows-iso "$(WINDOWS_ISO)",$(PROFILE)) -o $(OUT) $(BUILD_OPTIONS)

winpe-demo: $(VENV)/.project $(VENV)/.system ## Watch a WinPE image repair two drives under Wine, without any Windows media
	@$(BIN)/bluelift demo -o build/demo

test: $(VENV)/.project $(VENV)/.system ## Lint, types and all tests; installs what they need through apt
	@echo "[1/3] lint (ruff)"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "[2/3] types (mypy, strict)"
	@$(BIN)/mypy
	@$(BIN)/mypy --platform win32 --exclude NOTHING payload/environment/windows*.py
	@echo "[3/3] tests, and at least 95% of payload/ covered; the boots, which take longest, come first"
	@$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --cov=payload --cov-report=term:skip-covered --cov-fail-under=95 $(PYTEST_OPTIONS)
	@echo "done: lint, types, tests and coverage are fine"
	@echo
	@echo "What to do next:"
	@echo "  make iso        builds dist/bluelift-linux.iso"
	@echo "  $(BIN)/bluelift verify dist/bluelift-linux.iso"

lint: $(VENV)/.project ## Lint and types alone
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy --platform win32 --exclude NOTHING payload/environment/windows*.py

unit: $(VENV)/.project ## The quick tests alone: no system packages, no network
	@$(BIN)/pytest tests/unit tests/payload tests/test_layering.py -m "not boot and not mounts" $(PYTEST_OPTIONS)

bench: $(VENV)/.project $(VENV)/.system ## Time builds: the Linux image, WinPE against mkwinpeimg and genisoimage, the cost of the hybrid form, a vault of a million keys
	@rm -rf build/bench
	@echo "first build:"
	@$(BIN)/bluelift build $(PROFILE) --plain -o build/bench/dist --cache build/bench/cache $(BUILD_OPTIONS)
	@echo
	@echo "second build:"
	@bash -c 'time $(BIN)/bluelift build $(PROFILE) --plain -o build/bench/dist --cache build/bench/cache'
	@echo
	@$(BIN)/python -m builder.bench build/bench/winpe
	@echo
	@$(BIN)/python -m builder.bench_keys build/bench/keys

torture: $(VENV)/.project $(VENV)/.system ## Cut the power TORTURE=500 times, and between any two writes; repair again
	@BLUELIFT_KILLS=$(TORTURE) BLUELIFT_REPLAYS=0 $(BIN)/pytest tests/boot -m torture -s $(PYTEST_OPTIONS)

lock: $(VENV)/.project ## Renew .ci/requirements.txt from pyproject.toml
	@rm -rf build/lock && mkdir -p build && $(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet pip-tools
	@build/lock/bin/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options --no-header \
		--extra test -o build/lock/requirements.txt pyproject.toml .ci/requirements.in
	@{ echo "# Every package of the private virtual environment, with its hashes: made by 'make lock', read by 'make'."; \
		cat build/lock/requirements.txt; } > .ci/requirements.txt
	@echo "renewed .ci/requirements.txt; now: make test"

clean: ## Remove the virtual environment and everything that was built (the cache: bluelift clean --all)
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up; each stamp is renewed when what it depends on is newer -------------------------------------------------

$(VENV)/.requirements: .ci/requirements.txt .ci/make-venv
	@echo "set-up: private virtual environment in $(VENV) with pinned packages (once, about half a minute)"
	@PYTHON="$(PYTHON)" .ci/make-venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .ci/requirements.txt
	@touch $@

$(VENV)/.project: pyproject.toml $(VENV)/.requirements
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.system: .ci/system-packages $(VENV)/.requirements
	@echo "set-up: packages of the system that the tests need (once)"
	@.ci/system-packages
	@touch $@
