.DEFAULT_GOAL := help
.PHONY: help prepare format lint types imports check test docs slow-test

EXTRAS = cpu train test
BIN = .venv/bin
# A file's tests stay in one process, which makes what they share once. Files are started in their
# order: the slow ones, of end_to_end, come first.
JOBS = 2
PYTEST = $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Tests of code that runs no network and starts no process: a minute in all.
PURE_TESTS = tests/pipeline/run tests/pipeline/test_options.py tests/test_architecture.py \
    $(addprefix tests/transforms/, grouping inputs people tables)

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 12

prepare:  ## install facecluster and its tools into .venv; does nothing when they are there
	@./prepare.sh $(EXTRAS)

format: prepare  ## format the code and apply the linter's safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: prepare  ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: prepare  ## check types
	$(BIN)/pyright

imports: prepare  ## check which folder may import which
	$(BIN)/lint-imports

check: lint imports types  ## before a commit: style, imports, types, tests of pure and of changed modules
	$(PYTEST) -q $(PURE_TESTS) $$(.ci/changed-tests)

test: lint imports types  ## what CI checks: style, imports, types, all tests
	$(PYTEST)

docs: prepare  ## generate docs/api.md and the outputs of docs/quickstart.ipynb
	$(BIN)/python docs/generate.py

slow-test: prepare  ## the tests that take minutes each
	$(PYTEST) -m slow
