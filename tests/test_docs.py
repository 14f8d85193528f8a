"""The generated documents: they are current, and the notebook runs."""

import importlib.util
from pathlib import Path

import nbformat
import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_api_page_is_that_of_the_docstrings(generator):
    page = (DOCS / "api.md").read_text()
    assert page == generator.api_page(), "run `make docs` and commit docs/api.md"


def pictures(notebook) -> list[int]:
    """How many pictures the output of each code cell has."""
    return [
        sum("image/png" in output.get("data", {}) for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.fixture(scope="module")
def executed(generator, mtcnn_folder, facenet_folder):
    return generator.run_notebook(nbformat.read(DOCS / "quickstart.ipynb", as_version=4))


def test_the_notebook_runs_from_top_to_bottom(executed):
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


def test_the_stored_notebook_has_the_pictures_that_running_it_gives(executed):
    stored = nbformat.read(DOCS / "quickstart.ipynb", as_version=4)
    assert pictures(stored) == pictures(executed)
    assert sum(pictures(stored)) >= 3
