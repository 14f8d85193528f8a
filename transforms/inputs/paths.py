"""Files on disk and in object stores: opening and finding them, and their URIs."""

import os
import re
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from facecluster.errors import InputError

ESCAPED = rb"\\x([89a-f][0-9a-f]|5c)"  # a byte in a URI

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""One path or several."""


def path_list(paths: Paths) -> list[str]:
    """Makes a list of strings of one path or several."""
    if isinstance(paths, (str, os.PathLike)):
        return [os.fspath(paths)]
    return [os.fspath(path) for path in paths]


def open_file(path: str) -> BinaryIO:
    """Opens a file without decompressing it, which Beam does by its suffix otherwise.

    Raises:
      OSError: it cannot be opened.
      ValueError: it is a pipe or a device, reading which may never end.
    """
    if FileSystems.get_scheme(path) is None:
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise ValueError("it is a pipe or a device, not a file")
        return open(path, "rb")
    return FileSystems.open(path, "application/octet-stream", CompressionTypes.UNCOMPRESSED)


def uri_of_path(path: str) -> str:
    r"""The path with bytes that are not UTF-8 written as \xNN, since tables hold only UTF-8.

    In such a path, a backslash that could be taken for the start of \xNN is written as \x5c.
    """
    raw = path.encode("utf-8", "surrogateescape")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return re.sub(ESCAPED, rb"\\x5cx\1", raw).decode("utf-8", "backslashreplace")


def path_of_uri(uri: str) -> str:
    """The path whose URI, by `uri_of_path`, this is."""
    if os.path.exists(uri):
        return uri
    path = re.sub(
        ESCAPED,
        lambda match: bytes.fromhex(match[1].decode()),
        uri.encode("utf-8", "surrogateescape"),
    )
    return path.decode("utf-8", "surrogateescape")


class File(NamedTuple):
    """A file that was found, with its size and version as in `Source`."""

    path: str
    size: int = 0
    version: int | None = None


def stat_file(path: str) -> tuple[int, int | None]:
    """The size and version of a local file, as in `Source`; (0, None) if it cannot be found."""
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return 0, None
    return state.st_size, state.st_mtime_ns


def find_remote_files(name: str) -> tuple[list[File], bool]:
    """Finds the files in an object store that a name, a folder's name or a glob stands for.

    Returns:
      The files, and whether the name is a folder's.

    Raises:
      InputError: there are none.
      OSError, ValueError: the store cannot be listed, or no library for it is installed.
    """
    is_glob = any(character in name for character in "*?[")
    # An object store has no folders, only names with a common prefix.
    pattern = name if is_glob else FileSystems.join(name, "**")
    files = _match(pattern)
    if files:
        return files, not is_glob
    files = [] if is_glob else _match(name)
    if not files:
        raise InputError(f"{name} does not exist")
    return files, False


def _match(pattern: str) -> list[File]:
    """The files in an object store; a store that does not say when they changed has no versions."""
    return [
        File(file.path, file.size_in_bytes, round(file.last_updated_in_seconds * 1e9) or None)
        for file in FileSystems.match([pattern])[0].metadata_list
    ]
