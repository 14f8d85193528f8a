"""Writes the crops of a shard, each named PERSON/NAME, in one of three forms.

folder    PERSON/NAME.png, one file per crop
tar       SHARD.tar with members PERSON/NAME.png, as WebDataset reads them
tfrecord  SHARD.tfrecord of tf.Example: image/encoded, image/format, image/class/text (PERSON)
          and image/filename (PERSON/NAME)
"""

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass

from apache_beam.io.filesystems import FileSystems

from facecluster.transforms.crops.cut import LabeledPhoto
from facecluster.transforms.inputs.tfrecord import make_record
from facecluster.transforms.photos.write import failures_table
from facecluster.transforms.tables.files import write_bytes
from facecluster.transforms.tables.parquet_files import write_table

MARKER_TABLE = "failures"  # written last: a shard that has it is complete


@dataclass(frozen=True)
class CropWriter:
    """Writes the crops of one shard, and the failures of its photos.

    Attributes:
      root: the folder of the crops.
      form: folder, tar or tfrecord.
    """

    root: str
    form: str

    def write(self, shard: str, photos: Iterable[LabeledPhoto]) -> None:
        """Writes a shard, ordered by the photos' URIs, whatever the order of the photos."""
        photos = sorted(photos, key=lambda photo: photo.uri)
        crops = [
            crop
            for photo in photos
            if not photo.failure
            for crop in zip(photo.names, photo.crops, strict=True)
        ]
        for path, content in self._files(shard, crops):
            write_bytes(FileSystems.join(self.root, path), content)
        failures = failures_table([photo for photo in photos if photo.failure])
        write_table(FileSystems.join(self.root, MARKER_TABLE, f"{shard}.parquet"), failures)

    def _files(self, shard: str, crops: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        """(path, content) of the shard's files; none if there are no crops."""
        if not crops or self.form == "folder":
            return [(f"{name}.png", png) for name, png in crops]
        content = {"tar": _encode_tar, "tfrecord": _encode_tfrecord}[self.form](crops)
        return [(f"{shard}.{self.form}", content)]


def _encode_tar(crops: list[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, png in crops:
            member = tarfile.TarInfo(f"{name}.png")  # without time and user: always the same bytes
            member.size = len(png)
            tar.addfile(member, io.BytesIO(png))
    return file.getvalue()


def _encode_tfrecord(crops: list[tuple[str, bytes]]) -> bytes:
    return b"".join(
        make_record(
            {
                "image/encoded": png,
                "image/format": b"png",
                "image/class/text": name.partition("/")[0].encode(),
                "image/filename": name.encode(),
            }
        )
        for name, png in crops
    )
