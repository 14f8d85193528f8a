"""The suffixes of photos are those that can be read with the installed libraries."""

import subprocess
import sys

import pytest

from facecluster.errors import InputError
from facecluster.transforms.inputs.listing import list_photos
from facecluster.transforms.inputs.photo_suffixes import (
    KNOWN_SUFFIXES,
    PHOTO_SUFFIXES,
    SUFFIXES_OF_MODULES,
    UNREAD_SUFFIXES,
    readable_suffixes,
)


@pytest.fixture
def installed(monkeypatch):
    """A function that hides all modules but those named."""

    def install(*modules: str) -> None:
        for module in SUFFIXES_OF_MODULES:
            if module not in modules:
                monkeypatch.setitem(sys.modules, module, None)
        readable_suffixes.cache_clear()

    yield install
    readable_suffixes.cache_clear()


def test_suffixes_are_in_lower_case_and_named_once():
    assert {suffix.lower() for suffix in KNOWN_SUFFIXES} == KNOWN_SUFFIXES
    assert all(suffix.startswith(".") for suffix in KNOWN_SUFFIXES)
    sets = (PHOTO_SUFFIXES, UNREAD_SUFFIXES, *SUFFIXES_OF_MODULES.values())
    assert sum(map(len, sets)) == len(KNOWN_SUFFIXES)


def test_without_a_library_its_suffixes_are_not_readable(installed, tmp_path):
    installed()
    assert readable_suffixes() == PHOTO_SUFFIXES
    for name in ("a.jpg", "b.jxl", "c.NEF", "d.dng", "e.nef"):
        (tmp_path / name).touch()
    listing = list_photos([str(tmp_path)])
    assert len(listing.sources) == 1
    assert listing.unread_photos == {".nef": 2, ".jxl": 1, ".dng": 1}
    (tmp_path / "a.jpg").rename(tmp_path / "a.psd")
    with pytest.raises(InputError) as raised:
        list_photos([str(tmp_path)])
    assert (
        "formats that are not read: .nef 2, .dng 1, .jxl 1, .psd 1; to read .dng, .jxl, .nef, "
        "pip install 'facecluster[formats]'"
    ) in str(raised.value)


@pytest.mark.parametrize("module", SUFFIXES_OF_MODULES)
def test_with_a_library_its_suffixes_are_readable(installed, module):
    pytest.importorskip(module)
    installed(module)
    assert readable_suffixes() == PHOTO_SUFFIXES | SUFFIXES_OF_MODULES[module]


def test_libraries_are_not_imported_to_know_that():
    program = (
        "import sys; from facecluster.transforms.inputs.photo_suffixes import readable_suffixes\n"
        f"assert readable_suffixes(); assert not {set(SUFFIXES_OF_MODULES)!r} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
