# make test: everything that .ci/run runs; make slow-test: the checks that take long.
.PHONY: test slow-test

test:
	./prepare.sh cpu test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pytest

slow-test:
	./prepare.sh cpu test
	.venv/bin/pytest -m slow
