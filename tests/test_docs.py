"""The documents name all tables and fields; the generated ones are current, the notebook runs."""

import importlib.util
import re
from dataclasses import fields
from pathlib import Path

import nbformat
import pyarrow as pa
import pytest

from facecluster.pipeline.run.manifest import ClusterDiagnostics
from facecluster.transforms.tables import schema

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


def first_column(text: str) -> list[str]:
    """The names in the first column of the first table of a text."""
    rows = re.search(r"^\|---.*\n((\|.*\n)+)", text, re.MULTILINE)
    assert rows
    return [name for row in rows[1].splitlines() for name in row.split(" | ")[0][2:].split(", ")]


@pytest.mark.parametrize(
    ("heading", "table"),
    [
        ("photos", schema.PHOTOS),
        ("faces", schema.faces(pa.list_(pa.int8(), 128))),
        ("people", schema.PEOPLE),
        ("assignments", schema.ASSIGNMENTS),
        ("near_duplicates", schema.NEAR_DUPLICATES),
        ("failures", schema.FAILURES),
        ("plan.parquet", schema.PLAN),
    ],
)
def test_the_page_of_tables_has_their_columns(heading, table):
    page = (DOCS / "tables.md").read_text()
    assert first_column(page.split(f"\n## {heading}: ")[1]) == table.names


def test_the_page_of_tables_has_the_version_of_the_schema():
    version = f"The schema version is {schema.SCHEMA_VERSION}."
    assert version in (DOCS / "tables.md").read_text()


def test_the_page_of_tables_has_the_diagnostics():
    page = (DOCS / "tables.md").read_text()
    names = first_column(page.split("`steps.cluster.diagnostics`")[1])
    assert names == [field.name for field in fields(ClusterDiagnostics)]


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
