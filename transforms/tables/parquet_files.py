"""Parquet files on any Beam file system: written whole or not at all, read back as one table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from facecluster.errors import JobError
from facecluster.transforms.tables.files import write_bytes
from facecluster.transforms.tables.schema import SCHEMA_VERSION, stamp_of


class TableError(JobError):
    """A table that cannot be used: unreadable, of another version, or mixing models."""


def write_table(path: str, table: pa.Table) -> None:
    """Writes one Parquet file, never half-visible (see `write_bytes`)."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(path, sink.getvalue())


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
