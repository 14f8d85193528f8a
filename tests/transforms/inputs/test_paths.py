"""Paths and their URIs, which are UTF-8 whatever bytes a file name has."""

import os
import tempfile

from hypothesis import example, given, settings
from hypothesis import strategies as st

from facecluster.transforms.inputs.paths import path_of_uri, uri_of_path

PARTS = st.sampled_from([b"\xe9", b"\\xe9", b"\\x5c", b"\\", b"x5c", b"xe9", b"a"])
NAMES = st.lists(PARTS | st.binary(min_size=1, max_size=3), min_size=1, max_size=8).map(b"".join)


@settings(deadline=None)
@given(NAMES.map(lambda name: name.replace(b"/", b"").replace(b"\0", b"") or b"x"))
@example(b"\xe9\\xe9")
@example(b"\xe9\\x5cxe9")
def test_a_file_is_found_by_its_uri(name):
    if name in (b".", b".."):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = os.fsencode(folder) + b"/" + name
        open(path, "wb").close()
        uri = uri_of_path(os.fsdecode(path))
        uri.encode()  # tables hold UTF-8
        assert os.fsencode(path_of_uri(uri)) == path
        os.remove(path)
        if not _is_utf8(name):  # then the URI alone tells the path
            assert os.fsencode(path_of_uri(uri)) == path


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
