"""Containers, files that hold many photos: detecting, listing and reading them.

Listing and reading hold headers and one photo in memory at a time, never a whole container.
"""

import gzip
import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from facecluster.transforms.inputs import tar, tfrecord
from facecluster.transforms.inputs.parquet import (
    MAGIC,
    ParquetLayout,
    find_layout,
    list_rows,
    open_parquet,
    read_rows,
    read_uris,
)
from facecluster.transforms.inputs.paths import open_file, uri_of_path
from facecluster.transforms.inputs.sources import (
    SEPARATOR,
    Container,
    DamagedError,
    Source,
)

PHOTO_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"),
    *(".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".ppm", ".pgm", ".pnm", ".mpo"),
}
# Names of containers. Of the compressed ones only gzip can be read.
CONTAINER_NAMES = {
    "tar": re.compile(r"\.(tar|tar\.(gz|bz2|xz|zst)|tgz|tbz2|txz)$", re.IGNORECASE),
    "tfrecord": re.compile(r"\.(tfrecords?|tfrec)(-\d+-of-\d+)?(\.gz)?$", re.IGNORECASE),
    "parquet": re.compile(r"\.parquet$", re.IGNORECASE),
}
# Mostly of TFRecord files without a suffix.
NUMBERED_PART = re.compile(r"-\d+-of-\d+(\.gz)?$")
GZIP_MAGIC = b"\x1f\x8b\x08"
# First bytes of files in compressions that cannot be read.
UNSUPPORTED_COMPRESSIONS = {
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}

GZIP_ERRORS = (EOFError, OSError, zlib.error)  # after which nothing more can be decompressed
MEMBER_READERS: dict[str, Callable[[BinaryIO, Source, int], bytes]] = {
    "tar": tar.read_member,
    "tfrecord": tfrecord.read_photo_of_record,
}


@dataclass
class ContainerContents:
    """The contents of a container.

    Attributes:
      sources: its photos, in its order.
      n_other_files: number of members that are not named like photos.
      uris: the entries, if it is a list of photos.
      layout: of a Parquet file.
      problem: the error that ended the listing early, if any.
    """

    sources: list[Source] = field(default_factory=list)
    n_other_files: int = 0
    uris: list[str] = field(default_factory=list)
    layout: ParquetLayout | None = None
    problem: Exception | None = None


def is_photo(path: str) -> bool:
    """Whether a file is named like a photo. Hidden files are not: file managers leave them."""
    # Without pathlib, which takes more time than all else in listing a folder.
    name = path.rstrip("/").rpartition("/")[2]
    _, dot, suffix = name.rpartition(".")
    return (dot + suffix).lower() in PHOTO_SUFFIXES and not name.startswith(".")


def format_from_name(path: str) -> str | None:
    """tar, tfrecord or parquet by a file's name; None for other and for hidden files."""
    name = PurePosixPath(path).name
    if name.startswith("."):
        return None
    return next(
        (format for format, pattern in CONTAINER_NAMES.items() if pattern.search(name)), None
    )


def format_from_content(path: str) -> str | None:
    """tar, tfrecord or parquet by a file's first bytes; None for other files.

    Raises:
      OSError: it cannot be read.
      DamagedError: it is compressed with gzip, and damaged.
    """
    with open_file(path) as file:
        start = file.read(tarfile.BLOCKSIZE)
        if start.startswith(GZIP_MAGIC):
            file.seek(0)
            try:
                start = gzip.GzipFile(fileobj=file).read(tarfile.BLOCKSIZE)
            except GZIP_ERRORS as error:
                raise DamagedError(f"it cannot be decompressed: {error}") from error
    if start.startswith(MAGIC):
        return "parquet"
    if tfrecord.record_size(start[: tfrecord.HEADER_BYTES]) is not None:
        return "tfrecord"
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return None
    return "tar"


def list_container(path: str, format: str) -> ContainerContents:
    """Lists a container. If it is damaged, its `problem` is set, and it has the photos before that.

    Args:
      format: tar, tfrecord or parquet.
    """
    contents = ContainerContents()
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(open_file(path))
            start = raw.read(8)
            for magic, name in UNSUPPORTED_COMPRESSIONS.items():
                if start.startswith(magic):
                    raise DamagedError(f"it is compressed with {name}: decompress it, or use gzip")
            raw.seek(0)
            if format == "parquet":
                _list_parquet(raw, path, contents)
                return contents
            container = Container(path, format, gzipped=start.startswith(GZIP_MAGIC))
            file = stack.enter_context(_decompress(raw)) if container.gzipped else raw
            list_members = tar.list_members if format == "tar" else tfrecord.list_records
            uri_of_member = _MemberUris(path)
            for member in list_members(file):
                if format == "tar" and not is_photo(member.name):
                    contents.n_other_files += 1
                else:
                    uri = uri_of_member(member.name)
                    contents.sources.append(Source(uri, container, *member[1:]))
    except Exception as error:  # libraries raise many types for damaged files
        contents.problem = error
    return contents


def read_members(
    container: Container, sources: Sequence[Source], max_bytes: int
) -> Iterator[tuple[Source, bytes | Exception]]:
    """Yields the bytes of photos in a container, or their errors, in the container's order.

    The container is opened and read once.
    """
    sources = sorted(sources, key=lambda source: source.offset)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_file(container.path))
            if container.gzipped:
                file = stack.enter_context(_decompress(file))
        except Exception as error:
            yield from ((source, error) for source in sources)
            return
        if container.format == "parquet":
            yield from read_rows(file, container, sources, max_bytes)
            return
        stream_error = None
        for source in sources:
            if stream_error:
                yield source, stream_error
                continue
            try:
                content = MEMBER_READERS[container.format](file, source, max_bytes)
            except Exception as error:
                if container.gzipped and isinstance(error, GZIP_ERRORS):
                    stream_error = error
                content = error
            yield source, content


def _decompress(file: BinaryIO) -> BinaryIO:
    return cast(BinaryIO, gzip.GzipFile(fileobj=file))


def _list_parquet(file: BinaryIO, path: str, contents: ContainerContents) -> None:
    parquet, checksum = open_parquet(file)
    contents.layout = layout = find_layout(parquet.schema_arrow)
    if layout.kind in ("uris", "failures") and layout.column:
        contents.uris += read_uris(parquet, layout.column)
    elif layout.kind == "photos":
        groups = [
            Container(path, "parquet", column=layout.column, row_group=group)
            for group in range(parquet.num_row_groups)
        ]
        uri_of_member = _MemberUris(path)
        for group, member in list_rows(parquet, layout, checksum):
            uri = uri_of_member(member.name)
            contents.sources.append(Source(uri, groups[group], *member[1:]))


class _MemberUris:
    """Makes the URIs of a container's members unique.

    #2, #3, ... is appended to a name that an earlier member has, or that makes the URI of a file,
    which there may be in a folder named `CONTAINER!`.
    """

    def __init__(self, path: str):
        self.prefix = uri_of_path(path) + SEPARATOR
        self.may_be_files = os.path.isdir(path + "!")
        self.n_uses = Counter()
        self.used: set[str] = set()

    def __call__(self, name: str) -> str:
        name = uri_of_path(name)
        unique = name
        while unique in self.used or (self.may_be_files and os.path.exists(self.prefix + unique)):
            self.n_uses[name] = max(self.n_uses[name], 1) + 1
            unique = f"{name}#{self.n_uses[name]}"
        self.used.add(unique)
        return self.prefix + unique
