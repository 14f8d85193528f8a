"""Finds the column of a Parquet file that has photos or their URIs, and reads it.

A column is read page by page, which bounds the memory. The writer decides how large pages are:
pyarrow makes pages of up to 1,024 rows, within a row group.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq

from facecluster.transforms.inputs.sources import (
    ChangedError,
    Container,
    DamagedError,
    Member,
    Source,
    TooLargeError,
)
from facecluster.transforms.tables import schema

# Names of such columns in published datasets, the preferred first.
PHOTO_COLUMNS = ("image", "photo", "img", "jpg", "jpeg", "png", "webp", "picture", "image_bytes",
                 "image/encoded", "bytes", "content")  # fmt: skip
URI_COLUMNS = ("uri", "path", "file", "photo", "image")
MAGIC = b"PAR1"
# Where pyarrow keeps the types that a column had in memory. With them a column of categories is
# read with its dictionary, which takes four times its memory; without them, as plain values.
ARROW_TYPES, IGNORED_TYPES = b"ARROW:schema", b"arrow:schema"
BUFFER_BYTES = 1 << 20  # of a column, when its row group is larger
BATCH_BYTES = 16 << 20  # of photos that are in memory at once, approximately
MAX_BATCH_ROWS = 64


@dataclass(frozen=True)
class ParquetLayout:
    """What a Parquet file contains, by its columns.

    Attributes:
      kind: photos, uris, failures (of a run), table (another one of a run), ambiguous or none.
      column: the leaf column with bytes or URIs.
      name_column: the leaf column with the photos' file names, if there is one.
      message: why it cannot be used, of the kinds table, ambiguous and none.
    """

    kind: str
    column: str | None = None
    name_column: str | None = None
    message: str = ""


def find_layout(columns: pa.Schema) -> ParquetLayout:
    """Finds the column of a Parquet file that has photos, or else their URIs.

    Photos are a column of bytes or, as Hugging Face's datasets write them, a struct of `bytes` and
    `path`; URIs are a column of strings. Of several columns, one with a well-known name is taken.
    """
    if schema.METADATA_KEY in (columns.metadata or {}):
        names = set(columns.names)
        if names == set(schema.FAILURES.names):
            return ParquetLayout("failures", "uri")
        return ParquetLayout("table", message="it is a table of a run and holds no photos")
    structs = [field for field in columns if _has_bytes(field.type)]
    binaries = [field.name for field in columns if _is_bytes(field.type)]
    strings = [field.name for field in columns if _is_string(field.type)]
    photos = [field.name for field in structs] or _known_names(binaries, PHOTO_COLUMNS)
    uris = [] if photos else _known_names(strings, URI_COLUMNS)[:1]
    if not photos and not uris:
        photos = binaries
        uris = [] if photos else strings
    if len(photos) > 1:
        photos = _known_names(photos, PHOTO_COLUMNS) or photos
    found = photos or uris
    if len(found) > 1:
        what = "photos" if photos else "URIs"
        return ParquetLayout(
            "ambiguous",
            message=f"any of its columns {', '.join(found)} may have the {what}: rename that "
            f"column to `{'image' if photos else 'uri'}`, or write a file without the others",
        )
    if uris:
        return ParquetLayout("uris", uris[0])
    if not photos:
        has = ", ".join(f"{field.name} ({field.type})" for field in columns) or "no columns"
        return ParquetLayout(
            "none",
            message="it has no column of photos (bytes, or a struct of bytes and path) or of URIs "
            f"(strings, named `uri`), but {has[:500]}",
        )
    (name,) = photos
    kind = columns.field(name).type
    if not pa.types.is_struct(kind):
        return ParquetLayout("photos", name)
    path = "path" if kind.get_field_index("path") >= 0 else None
    with_names = path and _is_string(kind.field(path).type)
    return ParquetLayout("photos", f"{name}.bytes", f"{name}.path" if with_names else None)


def open_parquet(file: BinaryIO) -> tuple[pq.ParquetFile, int]:
    """Opens a Parquet file for reading page by page; returns it and the CRC32C of its footer.

    Raises:
      DamagedError: it is not a Parquet file, or is damaged.
    """
    size = file.seek(0, 2)
    size = file.tell() if size is None else size
    file.seek(max(size - 8, 0))
    end = file.read(8)
    if len(end) < 8 or end[4:] != MAGIC:
        raise DamagedError(
            "it is not a Parquet file, or is truncated: it does not end like a Parquet file"
        )
    (length,) = struct.unpack("<I", end[:4])
    if length + 12 > size:
        raise DamagedError("it is a damaged Parquet file: its footer is larger than the file")
    file.seek(size - 8 - length)
    footer = file.read(length)
    checksum = google_crc32c.value(footer)
    try:
        plain = footer.replace(ARROW_TYPES, IGNORED_TYPES)
        # A buffer makes pyarrow read page by page. A row group may be as large as the file.
        parquet = pq.ParquetFile(
            file, metadata=pq.read_metadata(io.BytesIO(MAGIC + plain + end)),
            buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True,
        )  # fmt: skip
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedError(f"it is a damaged Parquet file: {error}") from error
    metadata = parquet.metadata
    group_rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    if min(group_rows, default=0) < 0 or sum(group_rows) != metadata.num_rows:
        raise DamagedError(
            f"it is a damaged Parquet file: it states {metadata.num_rows:,} rows, and its row "
            f"groups have {sum(group_rows):,}"
        )
    return parquet, checksum


def list_rows(
    parquet: pq.ParquetFile, layout: ParquetLayout, checksum: int
) -> Iterator[tuple[int, Member]]:
    """Yields (row group, row) of each photo, called NUMBER, or NUMBER/NAME if it has a name."""
    row = 0
    for group in range(parquet.num_row_groups):
        n_rows = parquet.metadata.row_group(group).num_rows
        names = iter(_strings(parquet, layout.name_column, [group]) if layout.name_column else ())
        for _ in range(n_rows):
            name = next(names, None)
            number = f"{row:08d}"
            full_name = f"{number}/{name.lstrip('/')}" if name else number
            yield group, Member(full_name, row, 0, 0, checksum)
            row += 1


def read_rows(
    file: BinaryIO, container: Container, sources: Sequence[Source], max_bytes: int
) -> Iterator[tuple[Source, bytes | Exception]]:
    """Yields the bytes of photos of one row group, or their errors; reads the group once.

    Args:
      sources: the photos, sorted by row.
    """
    column_name, row_group = container.column, container.row_group
    assert column_name is not None
    assert row_group is not None
    waiting = list(reversed(sources))
    try:
        parquet, checksum = open_parquet(file)
        if any(source.version != checksum for source in sources):
            raise ChangedError(container.path)
        metadata = parquet.metadata
        row = sum(metadata.row_group(i).num_rows for i in range(row_group))
        group = metadata.row_group(row_group)
        per_row = group.total_byte_size // max(group.num_rows, 1)
        batches = parquet.iter_batches(
            min(MAX_BATCH_ROWS, max(1, BATCH_BYTES // max(per_row, 1))),
            row_groups=[row_group],
            columns=[column_name],
            use_threads=False,
        )
        for batch in batches:
            column = _leaf(batch, column_name)
            while waiting and waiting[-1].offset < row + len(column):
                source = waiting.pop()
                yield source, _content(column[source.offset - row], max_bytes)
            row += len(column)
            if not waiting:
                return
        raise DamagedError("the file has no such row")
    except Exception as error:  # after a damaged page no other can be found
        while waiting:
            yield waiting.pop(), error


def read_uris(parquet: pq.ParquetFile, column: str) -> Iterator[str]:
    """Yields the entries of a list, without empty rows."""
    groups = range(parquet.num_row_groups)
    yield from (uri for uri in _strings(parquet, column, groups) if uri)


def _content(value: pa.Scalar, max_bytes: int) -> bytes | Exception:
    if not value.is_valid:
        return DamagedError("its row has no bytes (a path alone is not read)")
    buffer = value.as_buffer()
    if buffer.size > max_bytes:
        return TooLargeError(buffer.size, max_bytes)
    return buffer.to_pybytes()


def _strings(parquet: pq.ParquetFile, column: str, groups: Sequence[int]) -> Iterator[str | None]:
    for batch in parquet.iter_batches(1024, row_groups=groups, columns=[column], use_threads=False):
        for value in _leaf(batch, column):  # as bytes, since they may not be valid UTF-8
            text = value.as_buffer().to_pybytes() if value.is_valid else None
            yield text and text.decode("utf-8", "surrogateescape")


def _leaf(batch: pa.RecordBatch, column: str) -> pa.Array:
    """A column, or the field NAME.FIELD of a struct, null where the struct is null."""
    if column in batch.schema.names:
        return batch.column(column)
    name, _, inner = column.rpartition(".")
    parent = batch.column(name)
    return parent.flatten()[parent.type.get_field_index(inner)]


def _has_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and any(
        field.name == "bytes" and _is_bytes(field.type) for field in kind
    )


def _is_bytes(kind: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(test(kind) for test in tests)


def _is_string(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in tests)


def _known_names(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """The well-known ones of the names, the preferred first."""
    return sorted(
        (name for name in names if name.lower() in known),
        key=lambda name: known.index(name.lower()),
    )
