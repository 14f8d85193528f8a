"""Parquet files on any Beam file system: written whole or not at all, read back as one table."""

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from facecluster.transforms.schema import SCHEMA_VERSION, stamp_of


class TableError(Exception):
    """A table that cannot be used: unreadable, of another version, or mixing models."""


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


def write_table(path: str, table: pa.Table) -> None:
    """Writes one Parquet file, never half-visible (see `write_bytes`)."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(path, sink.getvalue())


# Beam takes local paths for globs, and would not find a folder named run[1]: they go to `os`.


def list_files(folder: str, suffix: str = ".parquet") -> list[str]:
    """The finished files of a table folder, sorted by name; empty when there is no such folder."""
    if _is_local(folder):
        names = os.listdir(folder) if os.path.isdir(folder) else []
        names = [name for name in names if name.endswith(suffix) and not name.startswith(".")]
        return sorted(os.path.join(folder, name) for name in names)
    matched = FileSystems.match([FileSystems.join(folder, "*" + suffix)])[0].metadata_list
    return sorted(found.path for found in matched)


def all_files(folder: str) -> list[str]:
    """All files of a folder and of the folders in it, sorted; none when it is not there."""
    if _is_local(folder):
        return sorted(
            os.path.join(top, name) for top, _, names in os.walk(folder) for name in names
        )
    # An object store has no folders, only names that begin alike.
    matched = FileSystems.match([FileSystems.join(folder, "**")])[0].metadata_list
    return sorted(found.path for found in matched)


def delete_files(paths: Sequence[str]) -> None:
    """Deletes files, all of one file system."""
    if paths and not _is_local(paths[0]):
        FileSystems.delete(paths)
        return
    for path in paths:
        os.remove(path)


def delete_folder(folder: str) -> None:
    """Deletes a folder and all that is in it, if it is there."""
    if not _is_local(folder):
        FileSystems.delete([folder + "/"])  # without the slash, stores take it for a file
    elif os.path.isdir(folder):
        shutil.rmtree(folder)


def _is_local(path: str) -> bool:
    return FileSystems.get_scheme(path) is None


def read_table(paths: Sequence[str], columns: Iterable[str], schema: pa.Schema | None = None):
    """Reads files of one table and checks that they belong together.

    Args:
      paths: Parquet files that `write_table` wrote.
      columns: the columns to read, in this order.
      schema: what to return for no files; without it no files are an error.

    Returns:
      (table, stamp): a pyarrow.Table of all rows in the order of `paths`, and the metadata that
      the first file carries (schema version, model hash, embedding space, codec).

    Raises:
      TableError: a file is unreadable, has another schema version, lacks a column, or was made
        with another codec than the first or by a model whose embeddings cannot be compared.
    """
    columns = list(columns)
    parts, stamps = [], []
    for path in paths:
        try:
            with FileSystems.open(path, mime_type="application/octet-stream") as file:
                parquet = pq.ParquetFile(pa.BufferReader(file.read()))
            stamp = stamp_of(parquet.schema_arrow)
            if stamp:  # an older version may lack columns, but that is not what is to be said
                _check_version(path, stamp)
            missing = [column for column in columns if column not in parquet.schema_arrow.names]
            if missing:
                raise TableError(f"{path} has no column {missing[0]!r}; is it a facecluster table?")
            part = parquet.read(columns)
        except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: broken UTF-8, JSON
            raise TableError(f"{path} cannot be read as a Parquet table: {error}") from error
        parts.append(part)
        stamps.append(stamp)
    if not parts:
        if schema is None:
            raise TableError("there are no files to read")
        empty = schema.empty_table().select(columns)
        return empty, stamp_of(schema)
    check_together(paths, stamps)
    return pa.concat_tables(parts), stamps[0]


def check_together(paths: Sequence[str], stamps: Sequence[Mapping[str, Any]]) -> None:
    """Checks that files are of one table.

    Args:
      paths, stamps: the files and the metadata that each carries.

    Raises:
      TableError: a file has another schema version, or was made with another codec than the first
        or by a model whose embeddings cannot be compared.
    """
    for path, stamp in zip(paths, stamps, strict=True):
        _check_version(path, stamp)
        # Two models that share an embedding space are as good as one.
        keys = stamp.keys() | stamps[0].keys()
        for key in keys - {"model"} if "embedding_space" in keys else keys:
            if stamp.get(key) != stamps[0].get(key):
                raise TableError(
                    f"{path} was made with {key} {stamp.get(key)!r} but {paths[0]} with "
                    f"{stamps[0].get(key)!r}: their embeddings cannot be compared; embed all "
                    "photos with one model and codec into a new output folder"
                )


def _check_version(path: str, stamp: Mapping[str, Any]) -> None:
    if stamp.get("schema_version") != SCHEMA_VERSION:
        raise TableError(
            f"{path} has schema version {stamp.get('schema_version')}, this facecluster reads "
            f"version {SCHEMA_VERSION}: start again with --overwrite, or take another output folder"
        )
