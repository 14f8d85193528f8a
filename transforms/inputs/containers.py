"""Files that hold many photos: which files do, what is in them, and the bytes of each.

Listing and reading hold headers and one photo at a time, never a container.
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
from typing import BinaryIO

from facecluster.transforms.inputs import tar as tar_photos
from facecluster.transforms.inputs import tfrecord
from facecluster.transforms.inputs.parquet import (
    MAGIC,
    Layout,
    layout_of,
    list_rows,
    open_parquet,
    read_rows,
    read_uris,
)
from facecluster.transforms.inputs.sources import (
    SEPARATOR,
    Container,
    DamagedError,
    Member,
    Source,
    open_file,
    printable,
)

PHOTO_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"),
    *(".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".ppm", ".pgm", ".pnm", ".mpo"),
}
# How containers are named; of compressed ones only gzip's can be read.
NAMES = {
    "tar": re.compile(r"\.(tar|tar\.(gz|bz2|xz|zst)|tgz|tbz2|txz)$", re.IGNORECASE),
    "tfrecord": re.compile(r"\.(tfrecords?|tfrec)(-\d+-of-\d+)?(\.gz)?$", re.IGNORECASE),
    "parquet": re.compile(r"\.parquet$", re.IGNORECASE),
}
NUMBERED = re.compile(r"-\d+-of-\d+(\.gz)?$")  # mostly TFRecords, without a suffix that says so
GZIP = b"\x1f\x8b\x08"
# How files begin that are compressed in ways that are not read.
COMPRESSED = {
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}

STREAM_ERRORS = (EOFError, OSError, zlib.error)  # of gzip, which knows no way on
READERS: dict[str, Callable[[BinaryIO, Source, int], bytes]] = {
    "tar": tar_photos.read_member,
    "tfrecord": tfrecord.read_photo_of_record,
}


@dataclass
class Contents:
    """What is in a container.

    Attributes:
      sources: its photos, in its order.
      n_other_files: members that are not named like photos.
      uris: the photos it names, where it is a list of them.
      layout: of a Parquet file.
      problem: why this is not everything.
    """

    sources: list[Source] = field(default_factory=list)
    n_other_files: int = 0
    uris: list[str] = field(default_factory=list)
    layout: Layout | None = None
    problem: Exception | None = None


def is_photo(path: PurePosixPath) -> bool:
    """Whether a file is named like a photo; hidden ones are what file managers leave."""
    return path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".")


def form_by_name(path: str) -> str | None:
    """tar, tfrecord or parquet as a file's name has it; None for other and for hidden files."""
    name = PurePosixPath(path).name
    if name.startswith("."):
        return None
    return next((form for form, pattern in NAMES.items() if pattern.search(name)), None)


def form_by_content(path: str) -> str | None:
    """tar, tfrecord or parquet as a file's first bytes have it; None for other files.

    Raises:
      OSError: it cannot be read.
      DamagedError: it is compressed by gzip, and damaged.
    """
    with open_file(path) as file:
        head = file.read(tarfile.BLOCKSIZE)
        if head.startswith(GZIP):
            file.seek(0)
            try:
                head = gzip.GzipFile(fileobj=file).read(tarfile.BLOCKSIZE)
            except STREAM_ERRORS as error:
                raise DamagedError(f"it cannot be unpacked: {error}") from error
    if head.startswith(MAGIC):
        return "parquet"
    if tfrecord.record_size(head[: tfrecord.HEADER_BYTES]) is not None:
        return "tfrecord"
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return None
    return "tar"


def list_container(path: str, form: str) -> Contents:
    """Lists a container; what is wrong with it is in `problem`, beside the photos before that."""
    contents = Contents()
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(open_file(path))
            head = raw.read(8)
            for magic, name in COMPRESSED.items():
                if head.startswith(magic):
                    raise DamagedError(f"it is compressed with {name}: unpack it, or use gzip")
            raw.seek(0)
            if form == "parquet":
                _list_parquet(raw, path, contents)
                return contents
            container = Container(path, form, gzipped=head.startswith(GZIP))
            file = stack.enter_context(gzip.GzipFile(fileobj=raw)) if container.gzipped else raw
            members = tar_photos.list_members if form == "tar" else tfrecord.list_records
            name_of = _Names(path)
            for member in members(file):
                if form == "tar" and not is_photo(PurePosixPath(member.name)):
                    contents.n_other_files += 1
                else:
                    contents.sources.append(_source(name_of(member.name), container, member))
    except Exception as error:  # it may be damaged in any way
        contents.problem = error
    return contents


def read_members(
    container: Container, sources: Sequence[Source], max_bytes: int
) -> Iterator[tuple[Source, bytes | Exception]]:
    """The bytes of photos in a container, or why there are none, in the container's order.

    The container is opened once and passed through once.
    """
    sources = sorted(sources, key=lambda source: source.offset)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_file(container.path))
            if container.gzipped:
                file = stack.enter_context(gzip.GzipFile(fileobj=file))
        except Exception as error:
            yield from ((source, error) for source in sources)
            return
        if container.form == "parquet":
            yield from read_rows(file, container, sources, max_bytes)
            return
        broken = None
        for source in sources:
            if broken:
                yield source, broken
                continue
            try:
                content = READERS[container.form](file, source, max_bytes)
            except Exception as error:
                if container.gzipped and isinstance(error, STREAM_ERRORS):
                    broken = error
                content = error
            yield source, content


def _list_parquet(file: BinaryIO, path: str, contents: Contents) -> None:
    parquet, check = open_parquet(file)
    contents.layout = layout = layout_of(parquet.schema_arrow)
    if layout.kind in ("uris", "failures"):
        contents.uris += read_uris(parquet, layout.column)
    elif layout.kind == "photos":
        groups = [
            Container(path, "parquet", column=layout.column, row_group=group)
            for group in range(parquet.num_row_groups)
        ]
        name_of = _Names(path)
        for group, member in list_rows(parquet, layout, check):
            contents.sources.append(_source(name_of(member.name), groups[group], member))


def _source(uri: str, container: Container, member: Member) -> Source:
    return Source(uri, container, *member[1:])


class _Names:
    """The URIs of a container's members: #2, #3, ... is appended to names that were there before.

    To those, too, by which there is a file, which is possible in a folder named `CONTAINER!`.
    """

    def __init__(self, path: str):
        self.prefix = printable(path) + SEPARATOR
        self.beside_files = os.path.isdir(path + "!")
        self.times = Counter()
        self.taken: set[str] = set()

    def __call__(self, name: str) -> str:
        name = printable(name)
        uri = name
        while uri in self.taken or (self.beside_files and os.path.exists(self.prefix + uri)):
            self.times[name] = max(self.times[name], 1) + 1
            uri = f"{name}#{self.times[name]}"
        self.taken.add(uri)
        return self.prefix + uri
