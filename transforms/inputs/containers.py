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
from facecluster.transforms.inputs.folders import Rules
from facecluster.transforms.inputs.parquet import (
    MAGIC,
    ParquetLayout,
    find_layout,
    list_rows,
    open_parquet,
    read_rows,
    read_uris,
)
from facecluster.transforms.inputs.passed_over import EXCLUDED, NOT_NAMED
from facecluster.transforms.inputs.paths import open_file, uri_of_path
from facecluster.transforms.inputs.photo_suffixes import KNOWN_SUFFIXES, readable_suffixes
from facecluster.transforms.inputs.sources import (
    SEPARATOR,
    Container,
    DamagedError,
    Source,
)
from facecluster.transforms.own_output import JOB_FILES

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
      passed_over: other photos, each with the reason to pass over it.
      other_files: number of members that are no photos, by the reason to pass over them.
      unread_photos: of these, the number of photos in formats that are not read, by suffix.
      uris: the entries, if it is a list of photos.
      layout: of a Parquet file.
      problem: the error that ended the listing early, if any.
    """

    sources: list[Source] = field(default_factory=list)
    passed_over: list[tuple[Source, str]] = field(default_factory=list)
    other_files: Counter[str] = field(default_factory=Counter)
    unread_photos: Counter[str] = field(default_factory=Counter)
    uris: list[str] = field(default_factory=list)
    layout: ParquetLayout | None = None
    problem: Exception | None = None

    def add(self, source: Source, reason: str | None) -> None:
        """Adds a photo, which is passed over if there is a reason."""
        if reason:
            self.passed_over.append((source, reason))
        else:
            self.sources.append(source)


def is_photo(path: str) -> bool:
    """Whether a file is named like a photo. Hidden files are not: file managers leave them."""
    # Without pathlib, which takes more time than all else in listing a folder.
    name = path.rstrip("/").rpartition("/")[2]
    _, dot, suffix = name.rpartition(".")
    return (dot + suffix).lower() in readable_suffixes() and not name.startswith(".")


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


def unread_suffix(name: str) -> str | None:
    """The suffix of a file that is named like a photo in a format that is not read."""
    suffix = os.path.splitext(name)[1].lower()
    is_unread = suffix in KNOWN_SUFFIXES and suffix not in readable_suffixes()
    return suffix if is_unread else None


def list_container(
    path: str, format: str, rules: Rules | None = None, is_input: bool = True
) -> ContainerContents:
    """Lists a container. If it is damaged, its `problem` is set, and it has the photos before that.

    Args:
      format: tar, tfrecord or parquet.
      rules: which members are passed over. Of TFRecord and Parquet, whose members lie in no folders
        of photo software, only those that patterns exclude.
      is_input: whether it is an input itself, so that it is used even if facecluster wrote it.
    """
    rules = rules or Rules()
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
                _list_parquet(raw, path, rules, contents)
                return contents
            container = Container(path, format, gzipped=start.startswith(GZIP_MAGIC))
            file = stack.enter_context(_decompress(raw)) if container.gzipped else raw
            if format == "tar":
                _list_tar(file, container, rules, is_input, contents)
            else:
                _list_records(file, container, rules, contents)
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


def _list_tar(
    file: BinaryIO, container: Container, rules: Rules, is_input: bool, contents: ContainerContents
) -> None:
    """Adds the members of a tar. Which folders facecluster wrote is known at its end only."""
    photos: list[tuple[Source, str, str | None]] = []
    others: Counter[tuple[str, str | None, str | None]] = Counter()
    own_output: set[str] = set()
    uri_of_member = _MemberUris(container.path)
    try:
        for member in tar.list_members(file, None if rules.reads_own_output else own_output):
            path = _normalize(member.name)
            folder, _, name = path.rpartition("/")
            reason = rules.judge_file(path)
            if is_photo(name):
                source = Source(uri_of_member(member.name), container, *member[1:])
                photos.append((source, folder, reason))
            else:
                reason = reason or (None if name in JOB_FILES else NOT_NAMED)
                others[folder, reason, unread_suffix(name) if reason == NOT_NAMED else None] += 1
    finally:
        own_output = set(map(_normalize, own_output))
        if is_input:
            own_output.discard("")
        folders = {folder for _, folder, _ in photos} | {folder for folder, _, _ in others}
        reasons = rules.judge_folders(folders, container.path, own_output)
        for source, folder, reason in photos:
            contents.add(source, reasons[folder] or reason)
        for (folder, reason, suffix), count in others.items():
            if reason := reasons[folder] or reason:
                contents.other_files[reason] += count
            if suffix and not reasons[folder]:
                contents.unread_photos[suffix] += count


def _normalize(name: str) -> str:
    """The name of a member of a tar without `./`."""
    if "./" in name or "//" in name or name.startswith("/"):
        return "/".join(part for part in name.split("/") if part not in ("", "."))
    return "" if name == "." else name


def _list_records(
    file: BinaryIO, container: Container, rules: Rules, contents: ContainerContents
) -> None:
    uri_of_member = _MemberUris(container.path)
    for member in tfrecord.list_records(file):
        source = Source(uri_of_member(member.name), container, *member[1:])
        contents.add(source, _reason_by_pattern(rules, member.name))


def _reason_by_pattern(rules: Rules, name: str) -> str | None:
    return EXCLUDED if rules.excludes and rules.excludes.match_member(name) else None


def _list_parquet(file: BinaryIO, path: str, rules: Rules, contents: ContainerContents) -> None:
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
            source = Source(uri_of_member(member.name), groups[group], *member[1:])
            contents.add(source, _reason_by_pattern(rules, member.name))


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
