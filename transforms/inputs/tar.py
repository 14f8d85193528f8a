"""Lists the members of a tar by seeking from header to header, and reads one at its offset."""

import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import google_crc32c

from facecluster.transforms.inputs.sources import (
    ChangedError,
    DamagedError,
    Member,
    Source,
    TooLargeError,
)
from facecluster.transforms.own_output import MARKERS, MAX_MARKER_BYTES, marks_output

# Of a member's headers with its full name. Paths of operating systems are at most 4 KiB long.
MAX_HEADER_BYTES = 1 << 20
SPARSE = -1  # the size of a member that is stored without its zeros
CHUNK_BYTES = 1 << 20


def list_members(file: BinaryIO, own_output: set[str] | None = None) -> Iterator[Member]:
    """Yields the regular files of a tar in their order, without folders, links and devices.

    It holds only headers in memory, and reads nothing else if `file` can seek.

    Args:
      own_output: gets the names of the folders that facecluster wrote. Small members that may mark
        their folder are read for it.

    Raises:
      DamagedError: the tar is damaged or truncated, or data follows its end; after yielding the
        members before that.
    """
    headers = _Headers(file)
    try:
        with tarfile.open(
            fileobj=cast(Any, headers), mode="r:", encoding="utf-8", errors="surrogateescape"
        ) as tar:
            # Python 3.10 raises ValueError for the next member of an empty tar.
            is_empty = tar.firstmember is None  # pyright: ignore[reportAttributeAccessIssue]
            while not is_empty and (member := tar.next()) is not None:
                # tarfile would keep all headers in memory.
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
                header = headers.take(member.offset, member.offset_data)
                if member.isreg():
                    size = SPARSE if member.issparse() else member.size
                    checksum = google_crc32c.value(header)
                    if own_output is not None and 0 <= size <= MAX_MARKER_BYTES:
                        _add_own_output(own_output, member, headers)
                    yield Member(member.name, member.offset, len(header), size, checksum)
            end = tar.offset
    except tarfile.TarError as error:
        raise DamagedError(f"it is not a tar file, or is damaged: {error}") from error
    # tarfile ends without an error at a damaged header, and at a cut between two members.
    block = headers.take(end, end + tarfile.BLOCKSIZE)
    if not block:
        raise DamagedError(
            f"it ends after {end:,} bytes without an end-of-archive marker, so it may be truncated"
        )
    if block.count(0) < tarfile.BLOCKSIZE:
        raise DamagedError(f"no member starts at byte {end:,}: it is damaged or truncated there")
    while chunk := file.read(CHUNK_BYTES):  # which also checks the end of a compressed file
        if chunk.count(0) < len(chunk):
            raise DamagedError(
                f"data follows the end-of-archive marker at byte {end:,}, as when tars are joined "
                "with `cat`: give them one by one"
            )


def read_member(file: BinaryIO, source: Source, max_bytes: int) -> bytes:
    """Reads the content of a listed member.

    Raises:
      ChangedError: there is another member in its place.
      DamagedError: the tar is truncated within it, or it is stored as a sparse file.
      TooLargeError: it has more than max_bytes.
    """
    file.seek(source.offset)
    header = file.read(source.header_size)
    if len(header) < source.header_size or google_crc32c.value(header) != source.version:
        raise ChangedError(source.path)
    if source.size == SPARSE:
        raise DamagedError("it is stored as a sparse file: make the tar without --sparse")
    if source.size > max_bytes:
        raise TooLargeError(source.size, max_bytes)
    content = file.read(source.size)
    if len(content) < source.size:
        raise DamagedError("its container is truncated within it")
    return content


def _add_own_output(folders: set[str], member: tarfile.TarInfo, headers: "_Headers") -> None:
    """Adds the member's folder if the member marks it as one that facecluster wrote."""
    folder, _, name = member.name.rpartition("/")
    if name in MARKERS:
        headers.read(member.size)
        content = headers.take(member.offset_data, member.offset_data + member.size)
        if marks_output(name, content):
            folders.add(folder)


class _Headers:
    """The file that tarfile reads headers from. It keeps their bytes until they are taken."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.kept = bytearray()
        self.start = 0  # offset of the kept bytes in the file

    def tell(self) -> int:
        return self.file.tell()

    def seek(self, offset: int) -> None:
        self.file.seek(offset)
        self.start = offset
        self.kept.clear()

    def read(self, size: int) -> bytes:
        if len(self.kept) + size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(
                f"the header at byte {self.start:,} has more than {MAX_HEADER_BYTES:,} bytes"
            )
        content = self.file.read(size)
        self.kept += content
        return content

    def take(self, start: int, end: int) -> bytes:
        """Returns the kept bytes from offset `start` to `end`, and drops all kept bytes."""
        taken = bytes(self.kept[start - self.start : end - self.start])
        self.start += len(self.kept)
        self.kept.clear()
        return taken
