"""Files on any Beam file system: written whole or not at all, listed and deleted."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Sequence

from apache_beam.io.filesystems import FileSystems


def write_bytes(path: str, content: bytes) -> None:
    """Writes `path` under a temporary name in the same folder, then renames it into place.

    Raises:
      OSError: that failed, as on a full disk; what was at `path` is still there.
    """
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        with FileSystems.create(temporary, mime_type="application/octet-stream") as file:
            file.write(content)
        FileSystems.rename([temporary], [path])
    except Exception as error:
        with contextlib.suppress(Exception):  # it would take the room that there is too little of
            delete_files([temporary])
        raise OSError(f"{path} cannot be written: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What the system said, without the names of files that Beam and Python add to it."""
    inner = next(iter((getattr(error, "exception_details", None) or {}).values()), error)
    if isinstance(inner, OSError):
        while inner.args and isinstance(inner.args[0], OSError):
            inner = inner.args[0]
        return inner.strerror or str(inner)
    return str(inner)


# Beam takes local paths for globs, and would not find a folder named run[1]: they go to `os`.


def list_files(folder: str, suffix: str = ".parquet") -> list[str]:
    """The finished files of a table folder, sorted by name; empty when there is no such folder."""
    if is_local(folder):
        names = os.listdir(folder) if os.path.isdir(folder) else []
        names = [name for name in names if name.endswith(suffix) and not name.startswith(".")]
        return sorted(os.path.join(folder, name) for name in names)
    matched = FileSystems.match([FileSystems.join(folder, "*" + suffix)])[0].metadata_list
    return sorted(found.path for found in matched)


def all_files(folder: str) -> list[str]:
    """All files of a folder and of the folders in it, sorted; none when it is not there."""
    if is_local(folder):
        return sorted(
            os.path.join(top, name) for top, _, names in os.walk(folder) for name in names
        )
    # An object store has no folders, only names that begin alike.
    matched = FileSystems.match([FileSystems.join(folder, "**")])[0].metadata_list
    return sorted(found.path for found in matched)


def delete_files(paths: Sequence[str]) -> None:
    """Deletes files, all of one file system."""
    if paths and not is_local(paths[0]):
        FileSystems.delete(paths)
        return
    for path in paths:
        os.remove(path)


def delete_folder(folder: str) -> None:
    """Deletes a folder and all that is in it, if it is there."""
    if not is_local(folder):
        FileSystems.delete([folder + "/"])  # without the slash, stores take it for a file
    elif os.path.isdir(folder):
        shutil.rmtree(folder)


def is_local(path: str) -> bool:
    return FileSystems.get_scheme(path) is None
