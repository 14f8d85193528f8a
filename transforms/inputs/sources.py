"""Where a photo's bytes are: in a file of its own, or in a container with other photos.

A member of a container has the URI CONTAINER!/MEMBER.
"""

from typing import NamedTuple

from facecluster.transforms.inputs.paths import path_of_uri, uri_of_path
from facecluster.transforms.records import Failure

SEPARATOR = "!/"


class Container(NamedTuple):
    """A file with many photos, or a part of it that is read in one piece.

    Attributes:
      path: of the file.
      format: tar, tfrecord or parquet.
      gzipped: whether it can only be read from its beginning.
      column: of a Parquet file, the leaf column with the bytes, such as `image.bytes`.
      row_group: of a Parquet file, the number of the row group.
    """

    path: str
    format: str
    gzipped: bool = False
    column: str | None = None
    row_group: int | None = None

    @property
    def read_in_one_pass(self) -> bool:
        """Whether reading one of its photos costs as much as reading all of them."""
        return self.gzipped or self.format == "parquet"


class Member(NamedTuple):
    """A photo or another file in a container.

    Attributes:
      name: as the container has it, which may not be unique.
      offset: start of its header in the (decompressed) container, bytes; of Parquet, the row.
      header_size: bytes of the header, 0 if it has none.
      size: bytes of the content.
      checksum: CRC32C that detects another member in the same place: of tar, of the header; of
        TFRecord, of the content as the file states it; of Parquet, of the file's footer.
    """

    name: str
    offset: int
    header_size: int
    size: int
    checksum: int


class Source(NamedTuple):
    """A photo of the input.

    Attributes:
      uri: its name in all tables.
      container: None if the photo is a file of its own.
      offset, header_size: as in `Member`; 0 of a file.
      size: bytes of the file; of a member, as in `Member`.
      version: tells, with the size, whether the photo has changed: the time when the file was last
        modified, ns since 1970; of a member its checksum, as in `Member`. None if unknown.
      failure: why it cannot be read, if listing found that out. Also of a damaged container, whose
        photos after the damage are unknown.
    """

    uri: str
    container: Container | None = None
    offset: int = 0
    header_size: int = 0
    size: int = 0
    version: int | None = None
    failure: Failure | None = None

    @property
    def path(self) -> str:
        """The file that holds it."""
        return self.container.path if self.container else path_of_uri(self.uri)


class DamagedError(ValueError):
    """A container or a member of it violates its format."""


class ChangedError(ValueError):
    """A container has changed since it was listed."""

    def __init__(self, path: str):
        super().__init__(
            f"{uri_of_path(path)} has changed since it was listed: run the command "
            "again, and do not change the file while it runs"
        )


class TooLargeError(ValueError):
    """A photo is over the limit of bytes; its size is None if it was not read to its end."""

    def __init__(self, size: int | None, max_bytes: int):
        start = "it has more" if size is None else f"its {size:,} bytes are more"
        super().__init__(f"{start} than the limit of {max_bytes:,} bytes a photo")
