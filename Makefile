.DEFAULT_GOAL := help
.PHONY: help prepare format lint types imports test slow-test

EXTRAS = cpu train test
BIN = .venv/bin
# A file's tests stay in one process, which makes what they share once. Files are started in their
# order: the slow ones, of end_to_end, come first.
JOBS = 2
PYTEST = $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

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

test: lint imports  ## what CI checks: style, imports, all tests
	$(PYTEST)

slow-test: prepare  ## the tests that take minutes each
	$(PYTEST) -m slow
