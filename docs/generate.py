"""Generates docs: the API page from docstrings, the outputs of the notebook by running it.

`make docs` runs it.
"""

import dataclasses
import re
import tempfile
from pathlib import Path

import griffe
import nbclient
import nbformat
from griffe2md import render_object_docs

import facecluster

SECTIONS = {
    "Jobs": (
        "run", "embed", "cluster", "crops", "evaluate_people", "evaluate_pairs",
        "Progress", "fetch_sample_photos",
    ),
    "Options": ("EmbedOptions", "ClusterOptions", "WorkerOptions", "CropOptions"),
    "Results": ("Run",),
    "Your own vectors and photos": (
        "FaceClusterer", "Cohort", "load_model", "FaceModel", "Detections",
    ),
    "Beam transforms": (
        "ReadPhotos", "DecodePhotos", "DetectFaces", "AlignFaces", "EmbedFaces", "WriteShards",
        "read_tasks", "DecodeLimits", "ShardWriter", "SavedModel", "Photo", "Face", "Failure",
        "Shard",
    ),
    "Errors": ("FaceclusterError", "UsageError", "InputError", "JobError"),
}  # fmt: skip
STYLE = {
    "docstring_section_style": "list",
    "filters": ["!^_", "!^expand$"],
    "heading_level": 3,
    "line_length": 80,
    "load_external_modules": False,
    "members_order": "source",
    "separate_signature": True,
    "show_if_no_docstring": False,
    "show_object_full_path": False,
    "show_root_full_path": False,
    "show_root_members_full_path": False,
    "show_signature_annotations": True,
    "summary": False,
}
HEADER = """# API

What `import facecluster` offers. Generated from the docstrings by `make docs`; do not edit.
"""


def main() -> None:
    """Writes api.md and quickstart.ipynb beside this file."""
    Path(__file__).with_name("api.md").write_text(api_page())
    path = Path(__file__).with_name("quickstart.ipynb")
    nbformat.write(run_notebook(nbformat.read(path, as_version=4)), path)


def run_notebook(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Runs a notebook and returns it with its outputs.

    Messages on stderr are left out: TensorFlow and Beam write there about the machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        notebook = nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the time
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return notebook


def api_page() -> str:
    """The page as Markdown.

    Raises:
      ValueError: a public name is in no section, or a section has a name that is not public.
    """
    sectioned = {name for names in SECTIONS.values() for name in names}
    if sectioned != set(facecluster.__all__):
        different = ", ".join(sorted(sectioned ^ set(facecluster.__all__)))
        raise ValueError(f"public names and the sections of docs/api.md differ in {different}")
    folder = Path(facecluster.__file__).parents[1]
    package = griffe.load("facecluster", search_paths=[folder], docstring_parser="auto")
    parts = [HEADER]
    for title, names in SECTIONS.items():
        parts.append(f"## {title}\n")
        parts += [_entry(package, name) for name in names]
    lines = (line.rstrip() for line in "\n".join(parts).splitlines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def _entry(package: griffe.Module, name: str) -> str:
    if name.endswith("Options"):
        return _options_entry(name)
    text = render_object_docs(package[name].final_target, STYLE)
    # Links to types lead nowhere on this page.
    return re.sub(r"\[([^\]]+)\]\(#[^)]*\)", r"\1", text)


def _options_entry(name: str) -> str:
    """An options class as a table: its defaults and help are those of the command line."""
    options = getattr(facecluster, name)
    rows = "\n".join(
        f"| `{field.name}` | `{field.default!r}` | {_in_a_cell(field.metadata['help'])} |"
        for field in dataclasses.fields(options)
    )
    docstring = re.sub(r"\s*\n\s*", " ", options.__doc__.strip())
    return f"### `{name}`\n\n{docstring}\n\n| field | default | |\n|---|---|---|\n{rows}\n"


def _in_a_cell(help: str) -> str:
    return help.replace("%%", "%").replace("|", "\\|")


if __name__ == "__main__":
    main()
