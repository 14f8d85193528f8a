"""Parquet files: which column has photos or names of photos, and reading it in bounded memory.

A column is read page by page. How large these are is up to who wrote it: pyarrow makes pages of up
to 1,024 rows, but none across row groups.
"""

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

# Of several columns these are taken, the names by which data sets call them.
PHOTO_COLUMNS = ("image", "photo", "img", "jpg", "jpeg", "png", "webp", "picture", "image_bytes",
                 "image/encoded", "bytes", "content")  # fmt: skip
URI_COLUMNS = ("uri", "path", "file", "photo", "image")
MAGIC = b"PAR1"
BUFFER_BYTES = 1 << 20  # of a column as it is read, where its row groups are larger
BATCH_BYTES = 16 << 20  # of photos that are in memory at once, about
MAX_BATCH_ROWS = 64


@dataclass(frozen=True)
class Layout:
    """What a Parquet file is to us.

    Attributes:
      kind: photos, uris, failures (of a run), table (another one of a run), ambiguous or none.
      column: the leaf column with bytes or URIs.
      name_column: the leaf column with the photos' file names, if there is one.
      message: of what cannot be used, why.
    """

    kind: str
    column: str | None = None
    name_column: str | None = None
    message: str = ""


def layout_of(columns: pa.Schema) -> Layout:
    """Finds the column of a Parquet file that has photos, or else their URIs.

    Photos are a column of bytes or, as Hugging Face's datasets write them, a struct with `bytes`
    and `path`; URIs are a column of strings. Of several, the one with a customary name.
    """
    if schema.METADATA_KEY in (columns.metadata or {}):
        names = set(columns.names)
        if names == set(schema.FAILURES.names):
            return Layout("failures", "uri")
        return Layout("table", message="it is a table of a run and holds no photos")
    structs = [field for field in columns if _has_bytes(field.type)]
    binaries = [field.name for field in columns if _is_bytes(field.type)]
    strings = [field.name for field in columns if _is_string(field.type)]
    photos = [field.name for field in structs] or _customary(binaries, PHOTO_COLUMNS)
    uris = [] if photos else _customary(strings, URI_COLUMNS)[:1]
    if not photos and not uris:
        photos = binaries
        uris = [] if photos else strings
    if len(photos) > 1:
        photos = _customary(photos, PHOTO_COLUMNS) or photos
    found = photos or uris
    if len(found) > 1:
        what = "photos" if photos else "URIs"
        return Layout(
            "ambiguous",
            message=f"any of its columns {', '.join(found)} may be the {what}: name that one "
            f"`{'image' if photos else 'uri'}`, or write a file with it alone",
        )
    if uris:
        return Layout("uris", uris[0])
    if not photos:
        has = ", ".join(f"{field.name} ({field.type})" for field in columns) or "no columns"
        return Layout(
            "none",
            message=f"it has no column of photos (bytes, or a struct of bytes and path) nor of "
            f"URIs (strings, named `uri`), but {has[:500]}",
        )
    (name,) = photos
    kind = columns.field(name).type
    if not pa.types.is_struct(kind):
        return Layout("photos", name)
    path = "path" if kind.get_field_index("path") >= 0 else None
    with_names = path and _is_string(kind.field(path).type)
    return Layout("photos", f"{name}.bytes", f"{name}.path" if with_names else None)


def open_parquet(file: BinaryIO) -> tuple[pq.ParquetFile, int]:
    """A Parquet file for reading piece by piece, and the CRC32C of its footer.

    Raises:
      DamagedError: it is none.
    """
    size = file.seek(0, 2)
    size = file.tell() if size is None else size
    file.seek(max(size - 8, 0))
    end = file.read(8)
    if len(end) < 8 or end[4:] != MAGIC:
        raise DamagedError("it is no Parquet file, or breaks off: its end is not that of one")
    (length,) = struct.unpack("<I", end[:4])
    if length + 12 > size:
        raise DamagedError("it is a damaged Parquet file: its footer would be larger than itself")
    file.seek(size - 8 - length)
    check = google_crc32c.value(file.read(length))
    try:
        # Row groups can be as large as the file; buffered, a column is read page by page.
        parquet = pq.ParquetFile(
            file, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedError(f"it is a damaged Parquet file: {error}") from error
    return parquet, check


def list_rows(parquet: pq.ParquetFile, layout: Layout, check: int) -> Iterator[tuple[int, Member]]:
    """(row group, row) of each photo, named NUMBER, or NUMBER/NAME where it carries a name."""
    row = 0
    for group in range(parquet.num_row_groups):
        n_rows = parquet.metadata.row_group(group).num_rows
        names = iter(_strings(parquet, layout.name_column, [group]) if layout.name_column else ())
        for _ in range(n_rows):
            name = next(names, None)
            number = f"{row:08d}"
            full_name = f"{number}/{name.lstrip('/')}" if name else number
            yield group, Member(full_name, row, 0, 0, check)
            row += 1


def read_rows(
    file: BinaryIO, container: Container, sources: Sequence[Source], max_bytes: int
) -> Iterator[tuple[Source, bytes | Exception]]:
    """The photos of listed rows of one row group, which is passed through once.

    Args:
      sources: sorted by row.
    """
    waiting = list(reversed(sources))
    try:
        parquet, check = open_parquet(file)
        if any(source.check != check for source in sources):
            raise ChangedError(container)
        metadata = parquet.metadata
        row = sum(metadata.row_group(i).num_rows for i in range(container.row_group))
        group = metadata.row_group(container.row_group)
        per_row = group.total_byte_size // max(group.num_rows, 1)
        batches = parquet.iter_batches(
            min(MAX_BATCH_ROWS, max(1, BATCH_BYTES // max(per_row, 1))),
            row_groups=[container.row_group],
            columns=[container.column],
            use_threads=False,
        )
        for batch in batches:
            column = _leaf(batch, container.column)
            while waiting and waiting[-1].offset < row + len(column):
                source = waiting.pop()
                yield source, _content(column[source.offset - row], max_bytes)
            row += len(column)
            if not waiting:
                return
        raise DamagedError("its row is not there")
    except Exception as error:  # a page that is damaged: nothing behind it can be found
        while waiting:
            yield waiting.pop(), error


def read_uris(parquet: pq.ParquetFile, column: str) -> Iterator[str]:
    """The URIs of a list, without rows that name none."""
    groups = range(parquet.num_row_groups)
    yield from (uri for uri in _strings(parquet, column, groups) if uri)


def _content(value: pa.Scalar, max_bytes: int) -> bytes | Exception:
    if not value.is_valid:
        return DamagedError("its row holds no bytes (nor does a path alone do)")
    buffer = value.as_buffer()
    if buffer.size > max_bytes:
        return TooLargeError(buffer.size, max_bytes)
    return buffer.to_pybytes()


def _strings(parquet: pq.ParquetFile, column: str, groups: Sequence[int]) -> Iterator[str | None]:
    for batch in parquet.iter_batches(1024, row_groups=groups, columns=[column], use_threads=False):
        for value in _leaf(batch, column):  # not as strings, as some files have bad UTF-8
            text = value.as_buffer().to_pybytes() if value.is_valid else None
            yield text and text.decode("utf-8", "surrogateescape")


def _leaf(batch: pa.RecordBatch, column: str) -> pa.Array:
    """A column, or NAME.FIELD of a struct, whose rows that are null have null fields."""
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


def _customary(names: Sequence[str], customary: Sequence[str]) -> list[str]:
    """Those of the names that are customary, in the order in which these are."""
    return sorted(
        (name for name in names if name.lower() in customary),
        key=lambda name: customary.index(name.lower()),
    )
