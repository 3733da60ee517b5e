# `make repro` builds everything, `make test` checks everything; both set up .venv first.

PYTHON ?= python3
ARGS ?=
SPEC ?= campaigns/seeds.yaml

VENV := .venv
BIN := $(VENV)/bin
PIP := -m pip --quiet --disable-pip-version-check
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup doctor repro campaign readme stress verify test mutants lint format deps lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

setup: $(INSTALLED) ## Make .venv (PYTHON=python3.12 chooses the Python) and install requirements.lock

# The stamp is as old as the last installation: pip runs again only when a lock is newer.
$(INSTALLED): requirements.lock requirements-test.lock
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || \
		{ echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13: make setup PYTHON=..." >&2; exit 1; }; \
		$(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing requirements.lock into $(VENV): about 2 GB, some minutes the first time"
	@$(BIN)/python $(PIP) install -r requirements.lock
	@$(BIN)/python $(PIP) install --no-deps -r requirements-test.lock
	@touch $@

doctor: $(INSTALLED) ## Check that MuJoCo renders, and say how long a run takes here
	@$(BIN)/python -m lib.runner doctor

repro: $(INSTALLED) ## Run the pipeline: what changed, and only that (ARGS="-f vision" goes to dvc repro)
	@$(BIN)/python -m lib.runner $(ARGS)

campaign: $(INSTALLED) ## Run seeds and variants, a row each in a CSV (SPEC=campaigns/seeds.yaml)
	@$(BIN)/python -m lib.campaign $(SPEC) $(ARGS)

readme: $(INSTALLED) ## Write the numbers of metrics/ and of the last campaign into README's table
	@$(BIN)/python -m lib.readme

stress: $(INSTALLED) ## Drive the robots under all kinds of stress, in pairs and mixed: docs/stress.md
	@$(BIN)/python -m lib.evaluate.stress_report

verify: $(INSTALLED) ## Compare the small preset's outs with tests/goldens (CPU=Haswell: under qemu)
	@$(BIN)/python -m lib.verify $(if $(CPU),--cpu $(CPU)) $(ARGS)

test: lint ## Lint, then run the tests (ARGS="-n 4" goes to pytest)
	@$(BIN)/python -m pytest $(ARGS)

mutants: $(INSTALLED) ## Put known faults into the code, one at a time: a test must notice each
	@$(BIN)/python -m tests.mutate $(ARGS)

lint: $(INSTALLED) ## Check style, types and the import contracts
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/ty check --quiet
	@$(BIN)/lint-imports --no-logo

format: $(INSTALLED) ## Format the code and mend what ruff can mend
	@$(BIN)/ruff check --fix --quiet
	@$(BIN)/ruff format --quiet

deps: $(INSTALLED) ## Write into dvc.yaml which modules each stage imports
	@$(BIN)/python -m tests.closure

# The old lock is a constraint, so only a pin that no longer fits, or whose line is gone, moves.
lock: ## Write requirements.lock from requirements.in
	@$(PYTHON) -m venv --clear .work/lock
	@.work/lock/bin/python $(PIP) install -c requirements.lock -r requirements.in
	@grep '^#' requirements.lock > .work/requirements.lock
	@.work/lock/bin/python -m pip freeze --all --exclude pip | sed 's/+[a-z0-9.]*$$//' \
		| grep -v -E '^(cuda|nvidia|triton)' >> .work/requirements.lock
	@mv .work/requirements.lock requirements.lock
	@rm -rf .work/lock

clean: ## Delete caches and timings; results stay
	@rm -rf .work .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find lib stages tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
