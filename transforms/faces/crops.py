"""Photos of known people into aligned crops of their faces, and those into the files of a shard.

A crop is called PERSON/NAME in all three forms:
  folder    PERSON/NAME.png, one file per crop
  tar       SHARD.tar with members PERSON/NAME.png, as WebDataset reads them
  tfrecord  SHARD.tfrecord of tf.Example: image/encoded, image/format, image/class/text (PERSON)
            and image/filename (PERSON/NAME)
"""

import io
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import PurePosixPath

import numpy as np
from apache_beam.io.filesystems import FileSystems
from PIL import Image

from facecluster.transforms.faces.align import crop_face
from facecluster.transforms.faces.boxes import prominence
from facecluster.transforms.inputs.tfrecord import make_record
from facecluster.transforms.photos.write import failures_table
from facecluster.transforms.records import Failure, Photo, step
from facecluster.transforms.tables.files import write_bytes
from facecluster.transforms.tables.parquet_files import write_table

MARKER_TABLE = "failures"  # written last: a shard that has it is complete
# File systems allow 255 bytes; the rest is for the number of a name that is taken, for .png and
# for what a file is called until it is whole.
MAX_NAME_BYTES = 200
NO_FACE = Failure("detect", "NoFace", "no face was found")


@dataclass(frozen=True)
class LabelledPhoto(Photo):
    """A photo on its way through the crops job.

    Attributes:
      names: what the crops of its faces are called, PERSON/NAME, one for each face wanted.
      known_as: the photo_id under which its faces were found; None where they are still to be.
      crops: the aligned faces as PNG, one for each name once they are cut.
    """

    names: tuple[str, ...] = ()
    known_as: str | None = None
    crops: tuple[bytes, ...] = ()


@step("read")
def check_unchanged(photo: LabelledPhoto) -> LabelledPhoto:
    """Refuses a photo that is another one than when its faces were found."""
    if photo.known_as not in (None, photo.photo_id):
        raise ValueError("the file has changed since its faces were found: embed it again")
    return photo


@step("detect")
def keep_central_face(photo: Photo) -> Photo:
    """Keeps the face that the photo's label is about: the most prominent, of equal ones the first.

    A photo that shows none fails with NO_FACE.
    """
    if not photo.faces:
        return replace(photo, image=None, failure=NO_FACE)
    boxes = np.stack([face.box for face in photo.faces])
    best = np.argmax(prominence(boxes, photo.width, photo.height))
    return replace(photo, faces=(photo.faces[best],))


@step("align")
def cut_crops(photo: LabelledPhoto, size: int, margin: int) -> LabelledPhoto:
    """Fills in the crops (see `align.crop_face`); drops the image and the faces."""
    crops = [_png(crop_face(photo.image, face.box, size, margin)) for face in photo.faces]
    return replace(photo, image=None, faces=(), crops=tuple(crops))


def crop_name(person: str, uri: str, form: str, index: int | None = None) -> str:
    """PERSON/NAME of a photo's crop, its index appended where the photo gives several."""
    stem = PurePosixPath(uri).stem
    if form == "tar":  # WebDataset takes what follows a name's first dot for its extension
        stem = stem.replace(".", "_")
    number = "" if index is None else f"_{index}"
    return f"{_file_name(person)}/{_file_name(stem)}{number}"


def unique_names(wanted: Sequence[str]) -> list[str]:
    """The names, numbered (_1, _2, ...) where an earlier one is alike; a function of their order.

    Names that differ only in capitals are alike: some file systems cannot hold both.
    """
    wished = {name.casefold() for name in wanted}
    seen: set[str] = set()
    numbers = defaultdict(lambda: count(1))
    names = []
    for name in wanted:
        key = name.casefold()
        if key in seen:
            number = next(n for n in numbers[key] if f"{key}_{n}" not in wished)
            name = f"{name}_{number}"
        seen.add(key)
        names.append(name)
    return names


@dataclass(frozen=True)
class CropWriter:
    """Writes the crops of one shard and the failures of its photos.

    Attributes:
      root: the folder of the crops.
      form: folder, tar or tfrecord.
    """

    root: str
    form: str

    def write(self, shard: str, photos: Iterable[LabelledPhoto]) -> None:
        """Writes a shard, in the order of the photos' URIs whatever order they came in."""
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
        """(path, content) of the shard's files; none where there are no crops."""
        if not crops or self.form == "folder":
            return [(f"{name}.png", png) for name, png in crops]
        content = {"tar": _tar, "tfrecord": _tfrecord}[self.form](crops)
        return [(f"{shard}.{self.form}", content)]


def _png(crop: Image.Image) -> bytes:
    file = io.BytesIO()
    crop.save(file, "PNG")
    return file.getvalue()


def _tar(crops: list[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, png in crops:
            member = tarfile.TarInfo(f"{name}.png")  # without time and user: always the same bytes
            member.size = len(png)
            tar.addfile(member, io.BytesIO(png))
    return file.getvalue()


def _tfrecord(crops: list[tuple[str, bytes]]) -> bytes:
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


def _file_name(text: str) -> str:
    """The text, changed only where no file can be called so."""
    text = re.sub(r"[/\0]", "_", text).encode()[:MAX_NAME_BYTES].decode(errors="ignore")
    return text.replace(".", "_") if text in (".", "..") else text or "_"
