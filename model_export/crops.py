"""Collections of aligned face crops of known people: listing, reading, selecting.

    crops = list_crops(["casia/", "vggface2/shard-*.tar", "more.tfrecord"])
    crops = select_people(crops, min_images=5)
    crops.names[0], crops.people[crops.labels[0]], crops.read(0)

Listing indexes every file in one pass. Reading then seeks to a crop's bytes.
"""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from facecluster.errors import InputError
from facecluster.transforms.inputs.containers import (
    GZIP_MAGIC,
    UNSUPPORTED_COMPRESSIONS,
    is_photo,
)
from facecluster.transforms.inputs.listing import list_photos
from facecluster.transforms.inputs.paths import open_file
from facecluster.transforms.inputs.photo_suffixes import readable_suffixes
from facecluster.transforms.inputs.sources import DamagedError
from facecluster.transforms.inputs.tfrecord import list_records, parse_example

TO_END_OF_FILE = -1  # the size of a crop that is a file of its own


class Location(NamedTuple):
    """Where an encoded crop is stored; offset and size in bytes, size may be TO_END_OF_FILE."""

    path: str
    offset: int
    size: int


@dataclass(frozen=True, eq=False)
class Crops:
    """n crops of m people; `list_crops` sorts them by name.

    Two objects are equal only if they are the same object.

    Attributes:
      labels: (n,) int32, each crop's person, 0 to m - 1.
      people: m names, sorted.
      names: n strings PERSON/NAME, without extension.
      locations: n locations of encoded images.
    """

    labels: np.ndarray
    people: tuple[str, ...]
    names: tuple[str, ...]
    locations: tuple[Location, ...]

    def __post_init__(self):
        self.labels.setflags(write=False)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        """The encoded image of a crop. Safe to call from several threads.

        Raises:
          InputError: the file cannot be read, or is shorter than it was when it was listed.
        """
        path, offset, size = self.locations[index]
        try:
            with open_file(path) as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise InputError(f"{self.names[index]} of {path} cannot be read: {error}") from error
        if size not in (TO_END_OF_FILE, len(content)):
            raise InputError(
                f"{self.names[index]} of {path} cannot be read: the file has become shorter since "
                "it was listed; do not change it while a job runs"
            )
        return content

    def select(self, mask: np.ndarray) -> "Crops":
        """The crops where mask, (n,) bool, is true; their people are renumbered."""
        mask = np.asarray(mask, bool)
        if mask.shape != self.labels.shape:
            raise ValueError(f"a mask of shape {mask.shape} for {len(self)} crops")
        kept = np.flatnonzero(mask)
        people, labels = np.unique(self.labels[kept], return_inverse=True)
        return Crops(
            labels.astype(np.int32),
            tuple(self.people[person] for person in people),
            tuple(self.names[index] for index in kept),
            tuple(self.locations[index] for index in kept),
        )


def list_crops(sources: Sequence[str]) -> Crops:
    """Indexes the crops of all sources, sorted by name, each crop once.

    A source is on any file system that Beam supports, and is one of
    - a folder: a crop's person is the folder it is in, at any depth;
    - a tar file, written by WebDataset or another program: a crop's person is the content of
      KEY.cls beside KEY.jpg, else of KEY.txt, else the folder it is in;
    - a TFRecord file of tf.Example: `image/encoded` is the image, `image/class/text` or else
      `image/class/label` its person, `image/filename` its name if present. Listing checks that
      records are complete, but not the checksums of their contents;
    - a single image; its person is the folder it is in;
    - a glob of any of these.

    Raises:
      InputError: a source does not exist or contains no crop, or a file is compressed or damaged.
    """
    found: list[tuple[str, str, Location]] = []  # name, person, location
    for path in _list_files(sources):
        if is_photo(path):
            image = PurePosixPath(path)
            crops = [(image.stem, image.parent.name, Location(path, 0, TO_END_OF_FILE))]
        elif path.lower().endswith(".tar"):
            crops = list(_list_tar(path))
        else:
            crops = list(_list_tfrecord(path))
        if not crops:
            raise InputError(f"{path} contains no crop: leave it out, or copy it again")
        found += [(f"{person}/{stem}", person, location) for stem, person, location in crops]
    names, persons, locations = zip(*sorted(found), strict=True)
    people, labels = np.unique(np.array(persons, object), return_inverse=True)
    return Crops(labels.astype(np.int32), tuple(people), names, locations)


def select_people(crops: Crops, min_images: int) -> Crops:
    """The crops of the people with at least min_images.

    Raises:
      InputError: no person has that many.
    """
    if len(crops) == 0 or (sizes := np.bincount(crops.labels)).max() < min_images:
        raise InputError(f"no person has {min_images} images: ask for fewer, or give more crops")
    return crops.select(sizes[crops.labels] >= min_images)


def distances_to_centers(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The distance of each of n faces from the center of its person's faces.

    The published measure for cleaning a training set (davidsandberg/facenet,
    src/calculate_filtering_metrics.py): the Euclidean distance to the mean of the person's vectors,
    where the mean is not scaled back to unit length.

    Args:
      embeddings: (n, d) unit vectors.
      labels: (n,) int, the person of each.

    Returns:
      (n,) float64.
    """
    distances = np.empty(len(labels))
    order = np.argsort(labels, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        faces = embeddings[members].astype(np.float64)
        distances[members] = np.linalg.norm(faces - faces.mean(axis=0), axis=1)
    return distances


def filter_by_center(
    crops: Crops, embeddings: np.ndarray, percentile: float, min_images: int
) -> Crops:
    """Drops the crops farthest from their person's center, then the people left with few crops.

    The published filtering of a training set (davidsandberg/facenet, src/train_softmax.py,
    filter_dataset) with three differences. The published code takes the percentile from a histogram
    of 100 bins; here it is that of the distances themselves, so that 100 keeps everything. It drops
    a distance equal to the threshold, which is kept here. It applies min_images only to people who
    lost a crop; here it applies to all.

    Args:
      embeddings: (n, d) unit vectors, one per crop.
      percentile: 0 to 100; a crop is kept if its distance is at most this percentile of all.
      min_images: a person is kept with at least this many crops.

    Raises:
      InputError: no person is left.
      ValueError: the number of embeddings is not the number of crops.
    """
    if len(embeddings) != len(crops):
        raise ValueError(f"{len(embeddings)} embeddings for {len(crops)} crops: give one per crop")
    distances = distances_to_centers(embeddings, crops.labels)
    near = crops.select(distances <= np.percentile(distances, percentile))
    return select_people(near, min_images)


def _list_files(sources: Sequence[str]) -> list[str]:
    files: set[str] = set()
    for source in sources:
        try:
            files.update(list_photos([source], containers=False, own_output=True).uris)
        except InputError as error:
            raise InputError(
                f"{error}. Give folders with one subfolder per person, tar files or TFRecord "
                f"files; for shards in a folder, a glob such as {source.rstrip('/')}/*.tar"
            ) from error
    if not files:
        raise InputError("no source of crops is given: name a folder, tar or TFRecord files")
    return sorted(files)


def _list_tar(path: str) -> Iterator[tuple[str, str, Location]]:
    """(name without folder and extension, person, location) of each image in a tar file."""
    images: list[tuple[PurePosixPath, Location]] = []
    labels: dict[str, dict[PurePosixPath, str]] = {".cls": {}, ".txt": {}}
    with open_file(path) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    name = PurePosixPath(member.name)
                    if not member.isfile():
                        continue
                    if is_photo(str(name)):
                        location = Location(path, member.offset_data, member.size)
                        images.append((name.with_suffix(""), location))
                    elif name.suffix in labels:
                        content = tar.extractfile(member)
                        assert content  # of a regular file it is never None
                        text = content.read().decode(errors="replace").strip()
                        first = labels[name.suffix].setdefault(name.with_suffix(""), text)
                        if text != first:
                            raise InputError(
                                f"{path}: {name} occurs twice, as {first!r} and {text!r}: give "
                                "every crop a name of its own"
                            )
                    tar.members = []  # type: ignore  # otherwise it keeps every header
                end = tar.offset
        except (tarfile.TarError, OSError) as error:
            raise _damaged(path, "tar file", str(error)) from error
        # tarfile treats a damaged header as the end of the archive, and does not notice a file
        # that is truncated between two members. A complete one ends with a block of zeros.
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise _damaged(path, "tar file", f"it is truncated after {end:,} bytes")
    for key, location in images:
        person = labels[".cls"].get(key) or labels[".txt"].get(key) or key.parent.name
        if not person:
            raise InputError(
                f"{path}: the person of {key} is unknown; put it into a folder with the person's "
                f"name, or write the name into {key}.cls"
            )
        yield key.name, person, location


def _list_tfrecord(path: str) -> Iterator[tuple[str, str, Location]]:
    """As `_list_tar`, of each tf.Example in a TFRecord file."""
    with open_file(path) as file:
        try:
            for number, record in enumerate(list_records(file)):
                offset = record.offset + record.header_size
                file.seek(offset)
                yield _parse_crop(path, number, offset, file.read(record.size))
        except DamagedError as error:
            raise _damaged(path, "TFRecord file", str(error)) from error


def _parse_crop(path: str, number: int, offset: int, record: bytes) -> tuple[str, str, Location]:
    try:
        features = parse_example(record)
    except DamagedError as error:
        raise _damaged(path, "TFRecord file of tf.Example", f"record {number}") from error
    encoded = features["image/encoded"].bytes_list.value[:1]
    text = features["image/class/text"].bytes_list.value[:1]
    label = features["image/class/label"].int64_list.value[:1]
    filename = features["image/filename"].bytes_list.value[:1]
    person = (text and text[0].decode(errors="replace").strip()) or (label and str(label[0]))
    if not encoded or not person:
        has = " ".join(sorted(key for key, value in features.items() if value.ByteSize()))
        raise InputError(
            f"{path}: record {number} has {has or 'no features'}, but a crop needs image/encoded "
            "and image/class/text or image/class/label: add them"
        )
    name = PurePosixPath(filename[0].decode(errors="replace") if filename else f"{number:08d}")
    stem = name.stem if name.suffix.lower() in readable_suffixes() else name.name
    # The message stores the image's bytes unchanged, so they can be read without parsing it.
    return stem, person, Location(path, offset + record.index(encoded[0]), len(encoded[0]))


def _damaged(path: str, kind: str, reason: str) -> InputError:
    with open_file(path) as file:
        head = file.read(8)
    for magic, compression in {GZIP_MAGIC: "gzip", **UNSUPPORTED_COMPRESSIONS}.items():
        if head.startswith(magic):
            return InputError(
                f"{path} is compressed with {compression}, and crops need random access to their "
                "file: unpack it"
            )
    return InputError(
        f"{path} is not a {kind}, or is damaged: {reason}. Copy or create it again; images, tar "
        "and TFRecord files can be read"
    )
