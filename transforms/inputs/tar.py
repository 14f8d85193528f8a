"""Tar files: their members by hopping from header to header, and a member's bytes at its offset."""

import tarfile
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

from facecluster.transforms.inputs.sources import (
    ChangedError,
    DamagedError,
    Member,
    Source,
    TooLargeError,
)

# A member's headers with its name in full; no system's paths are longer than 4 KiB.
MAX_HEADER_BYTES = 1 << 20
SPARSE = -1  # the size of a member that is stored without its zeros, so not as it is
CHUNK_BYTES = 1 << 20


def list_members(file: BinaryIO) -> Iterator[Member]:
    """The regular files of a tar in their order; folders, links and devices are passed over.

    Nothing but headers is held; where `file` can seek, nothing else is read.

    Raises:
      DamagedError: the tar is damaged, breaks off, or goes on behind its end; after the members
        that are sound.
    """
    headers = _Headers(file)
    try:
        with tarfile.open(
            fileobj=headers, mode="r:", encoding="utf-8", errors="surrogateescape"
        ) as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # tarfile would keep every header it has read
                head = headers.take(member.offset, member.offset_data)
                if member.isreg():
                    size = SPARSE if member.issparse() else member.size
                    check = google_crc32c.value(head)
                    yield Member(member.name, member.offset, len(head), size, check)
            end = tar.offset
    except tarfile.TarError as error:
        raise DamagedError(f"it is no tar file or damaged: {error}") from error
    # tarfile takes a damaged header for the end, and a file cut between two members for whole.
    block = headers.take(end, end + tarfile.BLOCKSIZE)
    if not block:
        raise DamagedError(
            f"it ends after {end:,} bytes without the mark that ends a tar, so it may be cut"
        )
    if block.count(0) < tarfile.BLOCKSIZE:
        raise DamagedError(f"at byte {end:,} no member begins: it is damaged or breaks off there")
    while chunk := file.read(CHUNK_BYTES):  # of a compressed one, checks its end too
        if chunk.count(0) < len(chunk):
            raise DamagedError(
                f"more follows behind the mark that ends it at byte {end:,}, as when tars are "
                "joined by `cat`: give them one by one"
            )


def read_member(file: BinaryIO, source: Source, max_bytes: int) -> bytes:
    """The content of a listed member.

    Raises:
      ChangedError: there is another member in its place.
      DamagedError: the file breaks off within it, or it is stored as a sparse file.
      TooLargeError: it has more than max_bytes.
    """
    file.seek(source.offset)
    head = file.read(source.head)
    if len(head) < source.head or google_crc32c.value(head) != source.check:
        raise ChangedError(source.container)
    if source.size == SPARSE:
        raise DamagedError("it is stored as a sparse file: make the tar without --sparse")
    if source.size > max_bytes:
        raise TooLargeError(source.size, max_bytes)
    content = file.read(source.size)
    if len(content) < source.size:
        raise DamagedError("its container breaks off within it")
    return content


class _Headers:
    """A file as tarfile reads it, which is headers only; keeps their bytes until they are taken."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.kept = bytearray()
        self.start = 0  # of what is kept, in the file

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

    def take(self, begin: int, end: int) -> bytes:
        """What was read from `begin` to `end`."""
        taken = bytes(self.kept[begin - self.start : end - self.start])
        self.start += len(self.kept)
        self.kept.clear()
        return taken
