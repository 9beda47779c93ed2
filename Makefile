# Everything happens in .venv, made at first use; stamps in it record what is installed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt

# All tests of a file run in one process, as they share what they start: a browser, a cluster.
TEST := $(BIN)/pytest --numprocesses=$(or $(PROCESSES),2) --dist=loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check format docs gallery bench results clean
MAKEFLAGS += --no-print-directory

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.demo ## explain three sample pictures with a small classifier
	@$(BIN)/sfumato demo

test: $(VENV)/.dev ## run the fast tests, in two processes (PROCESSES=4 takes more, PROCESSES=0 one alone)
	@$(TEST)

test-all: $(VENV)/.dev ## run the slow tests too
	@$(TEST) -m ""

check: $(VENV)/.dev ## check format, style, types, imports and documentation, then run the fast tests (ALL=1: all tests)
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo
	@$(MAKE) docs
	@$(MAKE) $(if $(ALL),test-all,test)

format: $(VENV)/.dev ## format the code and mend what ruff can
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format --quiet .

docs: $(VENV)/.docs ## build the documentation, where warnings are errors, without running the examples
	@$(BIN)/sphinx-build -W --keep-going -q -D plot_gallery=0 docs build/docs
	@echo 'The documentation is in build/docs/index.html'

gallery: $(VENV)/.docs ## build it with all examples run (SCALE=10 takes ten times the pictures)
	@SFUMATO_SCALE=$(or $(SCALE),1) $(BIN)/sphinx-build -W --keep-going -E -D sphinx_gallery_conf.run_stale_examples=1 docs build/gallery
	@echo 'The gallery is in build/gallery/auto_examples/index.html'

bench: $(VENV)/.peers ## measure sfumato beside other libraries (ARGS="…" is passed on)
	@$(BIN)/python bench/run.py $(ARGS)

results: $(VENV)/.demo ## measure all methods on the models and pictures of SFUMATO_SHARED (hours), and write docs/results.md
	@test -n "$$SFUMATO_SHARED" || { echo 'SFUMATO_SHARED must name the folder of models and pictures' >&2; exit 1; }
	@PYTHONPATH=bench $(BIN)/sfumato bench run bench/results.toml --out build/results --workers $(or $(WORKERS),2) || test $$? = 1  # some items failed
	@$(BIN)/python bench/results.py build/results docs

clean: ## remove all that make made
	rm -rf $(VENV) build dist docs/auto_examples docs/executed docs/methods/drawn docs/reference .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'sfumato needs Python 3.11 or newer, which "$(PYTHON)" is not: name one with make PYTHON=python3.12 …' >&2; exit 1; }
	@echo 'Making $(VENV) …'
	@$(PYTHON) -m venv --clear $(VENV)
	@$(INSTALL) --upgrade pip  # dependency groups need pip 25.1
	@touch $@

$(VENV)/.demo: $(VENV)/.created pyproject.toml constraints.txt
	@echo 'Installing sfumato and what it needs (torch is large) …'
	@$(INSTALL) --editable '.[demo,plots]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo tests/beside_cpu_torch.py
	@echo 'Installing the development tools …'
	@$(INSTALL) --no-deps torchvision  # first and alone: it wants the torch for CUDA that it was built for
	@$(INSTALL) --group dev
	@$(BIN)/python tests/beside_cpu_torch.py
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	@echo 'Installing what builds the documentation …'
	@$(INSTALL) --group docs
	@touch $@

$(VENV)/.peers: $(VENV)/.demo
	@echo 'Installing the libraries to compare with …'
	@$(INSTALL) --group peers
	@$(INSTALL) --no-deps torchray  # it lists a database client, torchvision and more, and runs without
	@touch $@
