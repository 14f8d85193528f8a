"""Collections of aligned face crops of known people: what is in them, and each crop's bytes.

    crops = list_crops(["casia/", "vggface2/shard-*.tar", "more.tfrecord"])
    crops = select_people(crops, min_images=5)
    crops.names[0], crops.people[crops.labels[0]], crops.read(0)

Listing makes an index in one pass over every file; reading then goes straight to a crop's bytes.
"""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from facecluster.errors import InputError
from facecluster.transforms.inputs.containers import COMPRESSED, GZIP, PHOTO_SUFFIXES, is_photo
from facecluster.transforms.inputs.listing import list_photos
from facecluster.transforms.inputs.sources import DamagedError, open_file
from facecluster.transforms.inputs.tfrecord import list_records, parse_example

TO_THE_END = -1  # the size of a crop that ends where its file does


class Location(NamedTuple):
    """Where the bytes of an encoded crop are; offset and size in bytes, size may be TO_THE_END."""

    path: str
    offset: int
    size: int


@dataclass(frozen=True, eq=False)
class Crops:
    """n crops of m people; in the order of their names as `list_crops` makes it.

    Attributes:
      labels: (n,) int32, each crop's person, 0 to m - 1.
      people: m names, sorted.
      names: n strings PERSON/NAME, without extension.
      locations: n places of encoded images.
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
        """The encoded image of a crop. Any number of threads may read at once.

        Raises:
          InputError: the file is gone, or shorter than it was when it was listed.
        """
        path, offset, size = self.locations[index]
        try:
            with open_file(path) as file:
                file.seek(offset)
                content = file.read(size)
        except OSError as error:
            raise InputError(f"{self.names[index]} of {path} cannot be read: {error}") from error
        if size not in (TO_THE_END, len(content)):
            raise InputError(
                f"{self.names[index]} of {path} cannot be read: the file has become shorter since "
                "it was listed; leave it alone while a job runs"
            )
        return content

    def select(self, mask: np.ndarray) -> "Crops":
        """The crops where mask, (n,) bool, is true, and their people, numbered anew."""
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
    """Indexes the crops of all sources together, sorted by name, each once.

    A source is on any file system that Beam knows, and is one of
    - a folder: a crop's person is the folder it is in, at whatever depth;
    - a tar file, as WebDataset writes them or any other: a crop's person is the content of KEY.cls
      or else of KEY.txt beside KEY.jpg, or else the folder it is in. The .cls wins;
    - a TFRecord file of tf.Example: `image/encoded` is the image, `image/class/text` or else
      `image/class/label` its person, `image/filename` its name where there is one. That records
      are complete is checked, that the bytes in them are sound is not;
    - a single image, its person again being the folder it is in;
    - a glob of any of these.

    Raises:
      InputError: a source is not there or holds no crop, or a file is compressed or damaged.
    """
    found: list[tuple[str, str, Location]] = []  # name, person, place
    for path in _files(sources):
        if is_photo(PurePosixPath(path)):
            place = PurePosixPath(path)
            crops = [(place.stem, place.parent.name, Location(path, 0, TO_THE_END))]
        elif path.lower().endswith(".tar"):
            crops = list(_of_tar(path))
        else:
            crops = list(_of_tfrecord(path))
        if not crops:
            raise InputError(f"{path} holds no crop: leave it out, or copy it again")
        found += [(f"{person}/{stem}", person, location) for stem, person, location in crops]
    names, persons, locations = zip(*sorted(found), strict=True)
    people, labels = np.unique(np.array(persons, object), return_inverse=True)
    return Crops(labels.astype(np.int32), tuple(people), names, locations)


def select_people(crops: Crops, min_images: int) -> Crops:
    """The crops of people who have at least min_images.

    Raises:
      InputError: nobody has as many.
    """
    if len(crops) == 0 or (sizes := np.bincount(crops.labels)).max() < min_images:
        raise InputError(f"no person has {min_images} images: ask for fewer, or give more crops")
    return crops.select(sizes[crops.labels] >= min_images)


def distances_to_centres(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How far each of n faces is from the middle of its person's faces.

    The published measure of the cleaning of a training set (davidsandberg/facenet,
    src/calculate_filtering_metrics.py): the Euclidean distance to the mean of the person's vectors,
    the mean not being scaled back to unit length.

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


def filter_by_centre(
    crops: Crops, embeddings: np.ndarray, percentile: float, min_images: int
) -> Crops:
    """Drops the crops farthest from their person's centre, then the people left with few.

    The published filtering of a training set (davidsandberg/facenet, src/train_softmax.py,
    filter_dataset), which differs in three ways: it reads the percentile off a histogram of 100
    bins, where ours is that of the distances themselves, so that 100 keeps everything; it drops a
    distance equal to the threshold, which ours keeps; and it asks for min_images only of people who
    lost a crop, where ours asks it of all.

    Args:
      embeddings: (n, d) unit vectors, one per crop.
      percentile: 0 to 100; a crop stays if its distance is at most this percentile of all.
      min_images: a person stays with at least as many crops.

    Raises:
      InputError: nobody is left.
      ValueError: there is not one embedding per crop.
    """
    if len(embeddings) != len(crops):
        raise ValueError(f"{len(embeddings)} embeddings for {len(crops)} crops: one each is needed")
    distances = distances_to_centres(embeddings, crops.labels)
    near = crops.select(distances <= np.percentile(distances, percentile))
    return select_people(near, min_images)


def _files(sources: Sequence[str]) -> list[str]:
    files: set[str] = set()
    for source in sources:
        try:
            files.update(list_photos([source], containers=False).uris)
        except InputError as error:
            raise InputError(
                f"{error}. Give folders with one subfolder per person, tar files or TFRecord "
                f"files, shards in a folder by a glob such as {source.rstrip('/')}/*.tar"
            ) from error
    if not files:
        raise InputError("no source of crops is given: name a folder, tar or TFRecord files")
    return sorted(files)


def _of_tar(path: str) -> Iterator[tuple[str, str, Location]]:
    """(name without folder and extension, person, place) of each image in a tar file."""
    images: list[tuple[PurePosixPath, Location]] = []
    written: dict[str, dict[PurePosixPath, str]] = {".cls": {}, ".txt": {}}
    with open_file(path) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    name = PurePosixPath(member.name)
                    if not member.isfile():
                        continue
                    if is_photo(name):
                        location = Location(path, member.offset_data, member.size)
                        images.append((name.with_suffix(""), location))
                    elif name.suffix in written:
                        text = tar.extractfile(member).read().decode(errors="replace").strip()
                        first = written[name.suffix].setdefault(name.with_suffix(""), text)
                        if text != first:
                            raise InputError(
                                f"{path}: {name} is there twice, as {first!r} and {text!r}: give "
                                "every crop a name of its own"
                            )
                    tar.members = []  # tarfile would keep every header it has read
                end = tar.offset
        except (tarfile.TarError, OSError) as error:
            raise _damaged(path, "tar file", str(error)) from error
        # tarfile takes a damaged header for the end, and a file cut between two members for whole.
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise _damaged(path, "tar file", f"it breaks off after {end:,} bytes")
    for key, location in images:
        person = written[".cls"].get(key) or written[".txt"].get(key) or key.parent.name
        if not person:
            raise InputError(
                f"{path}: nothing says who {key} is; put it into a folder with the person's name, "
                f"or the name into {key}.cls"
            )
        yield key.name, person, location


def _of_tfrecord(path: str) -> Iterator[tuple[str, str, Location]]:
    """As `_of_tar`, of each tf.Example in a TFRecord file."""
    with open_file(path) as file:
        try:
            for number, record in enumerate(list_records(file)):
                offset = record.offset + record.head
                file.seek(offset)
                yield _of_example(path, number, offset, file.read(record.size))
        except DamagedError as error:
            raise _damaged(path, "TFRecord file", str(error)) from error


def _of_example(path: str, number: int, offset: int, record: bytes) -> tuple[str, str, Location]:
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
            f"{path}: record {number} has {has or 'no features'}, but a crop has image/encoded "
            "and image/class/text or image/class/label: write them"
        )
    name = PurePosixPath(filename[0].decode(errors="replace") if filename else f"{number:08d}")
    stem = name.stem if name.suffix.lower() in PHOTO_SUFFIXES else name.name
    # The image lies in the message as it is, so that reading it takes no parsing.
    return stem, person, Location(path, offset + record.index(encoded[0]), len(encoded[0]))


def _damaged(path: str, kind: str, reason: str) -> InputError:
    with open_file(path) as file:
        head = file.read(8)
    for magic, compression in {GZIP: "gzip", **COMPRESSED}.items():
        if head.startswith(magic):
            return InputError(
                f"{path} is compressed with {compression}, and crops are read from all over a "
                "file: unpack it"
            )
    return InputError(
        f"{path} is no {kind}, or is damaged: {reason}. Copy or make it again; what can be read "
        "are images, tar and TFRecord files"
    )
