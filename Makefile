# make test: everything that .ci/run runs; make slow-test: the checks that take long.
.PHONY: test slow-test

EXTRAS = cpu train test

test:
	./prepare.sh $(EXTRAS)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pytest

slow-test:
	./prepare.sh $(EXTRAS)
	.venv/bin/pytest -m slow
