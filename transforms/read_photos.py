"""Which files are the input, how they are split into shards, and their bytes."""

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from facecluster.transforms.photo import Photo, Shard, step

PHOTO_SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp"),
    *(".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".ppm", ".pgm", ".pnm", ".mpo"),
}


class InputError(Exception):
    """An input that names no photos."""


@dataclass(frozen=True)
class Listing:
    """What the inputs name: photo URIs, sorted and each once, and how many files are no photos."""

    uris: tuple[str, ...]
    n_other_files: int


def list_photos(inputs: Sequence[str]) -> Listing:
    """Finds the photos of files, folders (with all their subfolders) and globs.

    In a folder the files with a photo's suffix count; a file or glob that is named is taken at its
    word, so that what turns out to be no photo ends as a failure and not in silence.

    Raises:
      InputError: an input is not there, or the inputs name no photo at all.
    """
    photos: set[str] = set()
    others: set[str] = set()
    for name in inputs:
        try:
            named, beside = _files(name)
        except (OSError, ValueError) as error:  # no such bucket, or no library for its scheme
            raise InputError(f"{name} cannot be listed: {error}") from error
        photos.update(named)
        others.update(beside)
    if not photos:
        where = ", ".join(inputs)
        none = f" (of {len(others)} files none is named like one)" if others else ""
        known = " ".join(sorted(PHOTO_SUFFIXES))
        raise InputError(f"there are no photos in {where}{none}; photos end in {known}")
    return Listing(tuple(sorted(set(map(_printable, photos)))), len(others - photos))


def plan_shards(uris: Sequence[str], photos_per_shard: int) -> list[tuple[Shard, tuple[str, ...]]]:
    """Splits URIs into shards whose names are a function of the URIs in them."""
    shards = []
    for start in range(0, len(uris), photos_per_shard):
        part = tuple(uris[start : start + photos_per_shard])
        name = hashlib.sha256("\0".join(part).encode()).hexdigest()[:16]
        shards.append((Shard(name, len(part)), part))
    return shards


def absolute(name: str) -> str:
    """A local path in full, so that a photo has one URI from wherever a job is started."""
    return name if FileSystems.get_scheme(name) else os.path.abspath(name)


class ReadPhotos(beam.PTransform):
    """From shards to photos with their bytes, spread over all workers.

    Shards are shuffled and never photos: a shard's photos stay together in one bundle, so that its
    tables can be written without a second shuffle.
    """

    def __init__(self, max_bytes: int | None = None):
        self.max_bytes = max_bytes

    def expand(self, shards):
        return (
            shards
            | beam.Reshuffle()
            | "List shard" >> beam.FlatMap(photos_of_shard)
            | "Read bytes" >> beam.Map(read_photo, self.max_bytes)
        )


def photos_of_shard(shard_and_uris: tuple[Shard, Iterable[str]]) -> Iterator[Photo]:
    shard, uris = shard_and_uris
    for uri in uris:
        yield Photo(uri, shard)


@step("read")
def read_photo(photo: Photo, max_bytes: int | None = None) -> Photo:
    """Fills in content and photo_id; of a file of more than max_bytes no more than that is read."""
    with FileSystems.open(_name_on_disk(photo.uri), mime_type="application/octet-stream") as file:
        content = file.read() if max_bytes is None else file.read(max_bytes + 1)
    if max_bytes is not None and len(content) > max_bytes:
        raise ValueError(f"the file is larger than the limit of {max_bytes:,} bytes")
    if not content:
        raise ValueError("the file is empty")
    return replace(photo, content=content, photo_id=hashlib.sha256(content).hexdigest())


def _files(name: str) -> tuple[list[str], list[str]]:
    """The photos and the other files that one input names."""
    if FileSystems.get_scheme(name):
        return _remote_files(name)
    name = absolute(name)
    matched = [name] if os.path.exists(name) else glob.glob(name, recursive=True)
    if not matched:
        raise InputError(f"{name} does not exist")
    photos, others = [], []
    for path in matched:
        if os.path.isdir(path):
            inside, beside = _walk(path)
            photos += inside
            others += beside
        else:
            photos.append(path)
    return photos, others


def _remote_files(name: str) -> tuple[list[str], list[str]]:
    is_glob = any(character in name for character in "*?[")
    # An object store has no folders, only names that begin alike.
    pattern = name if is_glob else FileSystems.join(name, "**")
    files = [file.path for file in FileSystems.match([pattern])[0].metadata_list]
    if files:
        return (files, []) if is_glob else _by_suffix(files)
    if is_glob or not FileSystems.exists(name):
        raise InputError(f"{name} does not exist")
    return [name], []


def _walk(folder: str) -> tuple[list[str], list[str]]:
    """As `_files`, of a folder; a folder in it that is closed to us goes as a photo, and fails."""
    closed: list[OSError] = []
    files = [
        os.path.join(top, name)
        for top, _, names in os.walk(folder, onerror=closed.append)
        for name in names
    ]
    photos, others = _by_suffix(files)
    return photos + [str(error.filename) for error in closed], others


def _by_suffix(files: list[str]) -> tuple[list[str], list[str]]:
    photos = [name for name in files if is_photo(PurePosixPath(name))]
    return photos, list(set(files) - set(photos))


def is_photo(path: PurePosixPath) -> bool:
    """Whether a file is named like a photo; hidden ones are what file managers leave."""
    return path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".")


def _printable(path: str) -> str:
    r"""The path with bytes that are not UTF-8 as \xNN, since tables hold only UTF-8."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _name_on_disk(uri: str) -> str:
    """The path that `_printable` made the URI of."""
    if os.path.exists(uri):
        return uri
    escaped = rb"\\x([89a-f][0-9a-f])"
    path = re.sub(escaped, lambda match: bytes.fromhex(match[1].decode()), uri.encode())
    return os.fsdecode(path)
