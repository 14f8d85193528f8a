"""Parquet files on any Beam file system: written whole or not at all, read column by column."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from facecluster.errors import JobError
from facecluster.transforms.tables.files import CONCURRENT_READS, is_local, write_bytes
from facecluster.transforms.tables.schema import SCHEMA_VERSION, stamp_of

Content = TypeVar("Content")

ID_COLUMNS = ("face_id", "photo_id", "uri")  # a row without its id cannot be used


class TableError(JobError):
    """A table that cannot be used: unreadable, of another version, or mixing models."""


@dataclass(frozen=True)
class Footer:
    """What a Parquet file says about itself, without any of its rows.

    Attributes:
      n_rows: number of rows.
      schema: names and types of the columns.
      stamp: schema version, model hash, embedding space and codec, see `stamp_of`.
    """

    n_rows: int
    schema: pa.Schema
    stamp: dict[str, Any]


def write_table(path: str, table: pa.Table) -> None:
    """Writes one Parquet file, never half-visible (see `write_bytes`)."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(path, sink.getvalue())


def read_table(
    paths: Sequence[str], columns: Iterable[str], schema: pa.Schema | None = None
) -> tuple[pa.Table, dict[str, Any]]:
    """Reads columns of the files of one table and checks that the files belong together.

    Only the footers and the chunks of these columns are read, of several files at once.

    Args:
      paths: Parquet files that `write_table` wrote.
      columns: the columns to read, in this order.
      schema: the schema of the empty table that is returned for no files; without it, no files are
        an error.

    Returns:
      (table, stamp): a pyarrow.Table of all rows in the order of `paths`, and the metadata that
      the first file carries (schema version, model hash, embedding space, codec).

    Raises:
      TableError: a file is unreadable, has another schema version, lacks a column or an id, or was
        made with another codec than the first or by a model whose embeddings cannot be compared.
    """
    columns = list(columns)
    if not paths:
        if schema is None:
            raise TableError("there are no files to read")
        return schema.empty_table().select(columns), stamp_of(schema)

    def read(path: str) -> tuple[pa.Table, dict[str, Any]]:
        return _read_file(path, lambda file: _read_columns(path, file, columns))

    parts, stamps = zip(*_map_concurrently(read, paths), strict=True)
    check_compatible(paths, stamps)
    try:  # of a damaged file, a column may be nullable
        table = pa.concat_tables(parts, promote_options="default")
    except pa.ArrowException as error:
        raise TableError(
            f"{paths[0]} and the {len(paths) - 1} files beside it have different columns: {error}"
        ) from error
    return table, stamps[0]


def read_footers(paths: Sequence[str]) -> list[Footer]:
    """Reads the footers of the files of one table and checks that the files belong together.

    Raises:
      TableError: as for `read_table`.
    """

    def read(path: str) -> Footer:
        return _read_file(path, _footer_of)

    footers = _map_concurrently(read, paths)
    check_compatible(paths, [footer.stamp for footer in footers])
    return footers


def count_rows(paths: Sequence[str]) -> int:
    """The number of rows of a table, from the footers of its files.

    Raises:
      TableError: as for `read_table`.
    """
    return sum(footer.n_rows for footer in read_footers(paths))


def check_compatible(paths: Sequence[str], stamps: Sequence[Mapping[str, Any]]) -> None:
    """Checks that files belong to one table.

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


def _map_concurrently(function: Callable[[str], Content], paths: Sequence[str]) -> list[Content]:
    if len(paths) == 1:  # the usual case of small tables; a thread would cost more than it saves
        return [function(paths[0])]
    with ThreadPoolExecutor(CONCURRENT_READS) as pool:
        return list(pool.map(function, paths))


def _read_file(path: str, read: Callable[[pq.ParquetFile], Content]) -> Content:
    """Calls `read` with an open Parquet file; errors of reading become TableErrors."""
    try:
        if is_local(path):
            with pa.OSFile(path) as file:
                return read(pq.ParquetFile(file))
        with FileSystems.open(path, mime_type="application/octet-stream") as file:
            # Columns that lie side by side are fetched in one request.
            return read(pq.ParquetFile(_without_read_ahead(file), pre_buffer=True))
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: broken UTF-8, JSON
        raise TableError(f"{path} cannot be read as a Parquet table: {error}") from error


def _without_read_ahead(file):
    """A file that fetches what is asked for; Beam's on S3 fetch at least 16 MiB at a time."""
    # A buffer of one byte, because a raw file may return less than it is asked for.
    return io.BufferedReader(file.raw, 1) if isinstance(file, io.BufferedReader) else file


def _footer_of(file: pq.ParquetFile) -> Footer:
    return Footer(file.metadata.num_rows, file.schema_arrow, stamp_of(file.schema_arrow))


def _read_columns(
    path: str, file: pq.ParquetFile, columns: list[str]
) -> tuple[pa.Table, dict[str, Any]]:
    footer = _footer_of(file)
    if footer.stamp:  # of an older version, columns may be missing: the version is what matters
        _check_version(path, footer.stamp)
    missing = [column for column in columns if column not in footer.schema.names]
    if missing:
        raise TableError(f"{path} has no column {missing[0]!r}; is it a facecluster table?")
    table = file.read(columns)
    for column in ID_COLUMNS:
        if column in columns and table[column].null_count:
            raise TableError(
                f"{path} has a row without {column}: the file is damaged; delete it, and embed its "
                "photos again with the command that wrote it"
            )
    return table, footer.stamp
