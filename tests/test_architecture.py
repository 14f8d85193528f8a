"""docs/architecture.md names the modules that exist, and all of them."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ROOMS = ("facecluster", "pipeline", "model_export", "transforms")


@pytest.fixture(scope="module")
def text() -> str:
    return (REPOSITORY / "docs" / "architecture.md").read_text()


@pytest.fixture(scope="module")
def modules() -> set[str]:
    """All modules, as paths from the top of the repository."""
    paths = list((REPOSITORY / "facecluster").glob("*.py"))
    for room in ROOMS[1:]:
        paths += (REPOSITORY / room).rglob("*.py")
    return {path.relative_to(REPOSITORY).as_posix() for path in paths if path.name != "__init__.py"}


def list_drawn_modules(tree: str) -> list[str]:
    """The paths of the modules in an indented tree, where folders end with a slash."""
    found, folders = [], []
    for line in filter(None, tree.splitlines()):
        indent, name = re.match(r"( *)(\S+)", line).groups()
        folders[len(indent) // 2 :] = [name.removesuffix("/")]
        if name.endswith(".py"):
            found.append("/".join(folders))
    return found


def test_the_tree_has_every_module_once(text, modules):
    drawn = list_drawn_modules(text.split("```")[1])
    assert modules - set(drawn) == set(), "not in docs/architecture.md"
    assert set(drawn) - modules == set(), "in docs/architecture.md, but no longer there"
    assert len(drawn) == len(modules)


def test_every_module_that_the_text_names_exists(text, modules):
    prose = "".join(text.split("```")[::2])
    files = {*modules, "setup.py"}
    for name in re.findall(r"[\w/]+\.py\b", prose):
        assert any(f"/{path}".endswith(f"/{name}") for path in files), name


def test_no_folder_has_more_than_a_dozen_modules(modules):
    """A folder is one subject, which fits on one screen of a file browser."""
    folders = [path.rpartition("/")[0] for path in modules]
    assert max(map(folders.count, folders)) <= 12
