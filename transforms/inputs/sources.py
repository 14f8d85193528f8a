"""Where a photo's bytes are: in a file of its own, or with others in a container.

A member of a container has the URI CONTAINER!/MEMBER.
"""

import os
import re
from typing import BinaryIO, NamedTuple

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from facecluster.transforms.records import Failure

SEPARATOR = "!/"


class Container(NamedTuple):
    """A file with many photos, or that part of it which is read in one go.

    Attributes:
      path: of the file.
      form: tar, tfrecord or parquet.
      gzipped: it can be read only from its beginning on.
      column: of a Parquet file, the leaf column with the bytes, as in `image.bytes`.
      row_group: of a Parquet file, the number of its part.
    """

    path: str
    form: str
    gzipped: bool = False
    column: str | None = None
    row_group: int | None = None

    @property
    def read_in_one_pass(self) -> bool:
        """Whether its photos cost the same read together as one of them alone."""
        return self.gzipped or self.form == "parquet"


class Member(NamedTuple):
    """A photo or another file in a container.

    Attributes:
      name: unique only where the container keeps names unique.
      offset: where its header begins in the (unpacked) container, bytes; of Parquet, the row.
      head: bytes of the header, 0 where it has none.
      size: bytes of the content.
      check: tells this member from whatever else may stand there later, as a CRC32C: tar, of the
        header; TFRecord, of the content as the file has it; Parquet, of the file's footer.
    """

    name: str
    offset: int
    head: int
    size: int
    check: int


class Source(NamedTuple):
    """A photo of the input.

    Attributes:
      uri: its name in all tables.
      container: None for a file of its own, which is what the rest is for.
      offset, head, size, check: as in `Member`.
      failure: why it cannot be read, where listing found that out; of a container too, whose
        photos behind the damage are unknown.
    """

    uri: str
    container: Container | None = None
    offset: int = 0
    head: int = 0
    size: int = 0
    check: int = 0
    failure: Failure | None = None


class DamagedError(ValueError):
    """A container, or a member of it, that is not as its format has it."""


class ChangedError(ValueError):
    """A container that is not as it was when it was listed."""

    def __init__(self, container: Container):
        super().__init__(
            f"{printable(container.path)} has changed since it was listed: run the command again, "
            "and leave the file alone while it runs"
        )


class TooLargeError(ValueError):
    """A photo beyond the limit of bytes."""

    def __init__(self, size: int | None, max_bytes: int):
        what = "it has more" if size is None else f"its {size:,} bytes are more"
        super().__init__(f"{what} than the limit of {max_bytes:,} bytes a photo")


def open_file(path: str) -> BinaryIO:
    """The file as it is on disk: Beam would unpack what is named like a compressed one.

    Raises:
      OSError: it cannot be opened.
      ValueError: it is a pipe or a device, which may never come to an end.
    """
    if FileSystems.get_scheme(path) is None:
        if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
            raise ValueError("it is a pipe or a device, not a file")
        return open(path, "rb")
    return FileSystems.open(path, "application/octet-stream", CompressionTypes.UNCOMPRESSED)


def printable(path: str) -> str:
    r"""The path with bytes that are not UTF-8 as \xNN, since tables hold only UTF-8."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def name_on_disk(uri: str) -> str:
    """The path that `printable` made the URI of."""
    if os.path.exists(uri):
        return uri
    escaped = rb"\\x([89a-f][0-9a-f])"
    path = re.sub(
        escaped,
        lambda match: bytes.fromhex(match[1].decode()),
        uri.encode("utf-8", "surrogateescape"),
    )
    return path.decode("utf-8", "surrogateescape")
