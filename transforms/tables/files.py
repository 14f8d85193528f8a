"""Files on any Beam file system: written whole or not at all, listed and deleted."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Sequence

from apache_beam.io.filesystems import FileSystems

CONCURRENT_READS = 16  # files; reading from an object store is mostly waiting


def write_bytes(path: str, content: bytes) -> None:
    """Writes a file under a temporary name in the same folder, then renames it into place.

    Raises:
      OSError: writing failed, as on a full disk; the file that was at `path` is still there.
    """
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with FileSystems.create(temporary, mime_type="application/octet-stream") as file:
            file.write(content)
        FileSystems.rename([temporary], [path])
    except Exception as error:
        with contextlib.suppress(Exception):  # the disk may be full: do not leave half a file
            delete_files([temporary])
        raise OSError(f"{path} cannot be written: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The system's message, without the file names that Beam and Python add to it."""
    inner = next(iter((getattr(error, "exception_details", None) or {}).values()), error)
    if isinstance(inner, OSError):
        while inner.args and isinstance(inner.args[0], OSError):
            inner = inner.args[0]
        return inner.strerror or str(inner)
    return str(inner)


# Beam treats local paths as glob patterns and would not find a folder named run[1]. The functions
# below use `os` for local paths.


def list_files(folder: str, suffix: str = ".parquet") -> list[str]:
    """The finished files in a folder, sorted by name; none if the folder does not exist."""
    if is_local(folder):
        names = os.listdir(folder) if os.path.isdir(folder) else []
        names = [name for name in names if name.endswith(suffix) and not name.startswith(".")]
        return sorted(os.path.join(folder, name) for name in names)
    matched = FileSystems.match([FileSystems.join(folder, "*" + suffix)])[0].metadata_list
    return sorted(found.path for found in matched)


def all_files(folder: str) -> list[str]:
    """All files in a folder and its subfolders, sorted; none if the folder does not exist."""
    if is_local(folder):
        return sorted(
            os.path.join(top, name) for top, _, names in os.walk(folder) for name in names
        )
    # An object store has no folders, only names with a common prefix.
    matched = FileSystems.match([FileSystems.join(folder, "**")])[0].metadata_list
    return sorted(found.path for found in matched)


def delete_files(paths: Sequence[str]) -> None:
    """Deletes files, all on one file system."""
    if paths and not is_local(paths[0]):
        FileSystems.delete(paths)
        return
    for path in paths:
        os.remove(path)


def delete_folder(folder: str) -> None:
    """Deletes a folder and everything in it, if it exists."""
    if not is_local(folder):
        FileSystems.delete([folder + "/"])  # without the slash, object stores delete one object
    elif os.path.isdir(folder):
        shutil.rmtree(folder)


def is_local(path: str) -> bool:
    """Whether a path is on this machine, and not in an object store or another file system."""
    return FileSystems.get_scheme(path) is None
