"""Which files are the input, how they are split into shards, and their bytes."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import apache_beam as beam
from apache_beam.io.filesystem import BeamIOError
from apache_beam.io.filesystems import FileSystems

from facecluster.transforms.photo import Photo, Shard, step

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


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
    found: set[str] = set()
    n_other_files = 0
    for name in inputs:
        if _is_glob(name):
            found.update(_match(name))
        elif not FileSystems.exists(name):
            raise InputError(f"{name} does not exist")
        elif _is_folder(name):
            photos, others = _walk(name)
            found.update(photos)
            n_other_files += others
        else:
            found.add(name)
    if not found:
        where = ", ".join(inputs)
        others = f" (of {n_other_files} files none is named like one)" if n_other_files else ""
        known = " ".join(sorted(PHOTO_SUFFIXES))
        raise InputError(f"there are no photos in {where}{others}; photos end in {known}")
    return Listing(tuple(sorted(found)), n_other_files)


def plan_shards(uris: Sequence[str], photos_per_shard: int) -> list[tuple[Shard, tuple[str, ...]]]:
    """Splits URIs into shards whose names are a function of the URIs in them."""
    shards = []
    for start in range(0, len(uris), photos_per_shard):
        part = tuple(uris[start : start + photos_per_shard])
        name = hashlib.sha256("\n".join(part).encode(errors="surrogateescape")).hexdigest()[:16]
        shards.append((Shard(name, len(part)), part))
    return shards


class ReadPhotos(beam.PTransform):
    """From shards to photos with their bytes, spread over all workers.

    Shards are shuffled and never photos: a shard's photos stay together in one bundle, so that its
    tables can be written without a second shuffle.
    """

    def expand(self, shards):
        return (
            shards
            | beam.Reshuffle()
            | "List shard" >> beam.FlatMap(photos_of_shard)
            | "Read bytes" >> beam.Map(read_photo)
        )


def photos_of_shard(shard_and_uris: tuple[Shard, Iterable[str]]) -> Iterator[Photo]:
    shard, uris = shard_and_uris
    for uri in uris:
        yield Photo(uri, shard)


@step("read")
def read_photo(photo: Photo) -> Photo:
    """Fills in content and photo_id."""
    with FileSystems.open(photo.uri, mime_type="application/octet-stream") as file:
        content = file.read()
    if not content:
        raise ValueError("the file is empty")
    return replace(photo, content=content, photo_id=hashlib.sha256(content).hexdigest())


def _is_glob(name: str) -> bool:
    return any(character in name for character in "*?[") and not os.path.exists(name)


def _is_folder(name: str) -> bool:
    if FileSystems.get_scheme(name) is None:
        return os.path.isdir(name)
    return not PurePosixPath(name).suffix or name.endswith("/")


def _match(pattern: str) -> list[str]:
    try:
        matched = FileSystems.match([pattern])[0].metadata_list
    except BeamIOError as error:
        raise InputError(f"{pattern} cannot be listed: {error}") from error
    return [file.path for file in matched]


def _walk(folder: str) -> tuple[list[str], int]:
    if FileSystems.get_scheme(folder) is None:
        files = [os.path.join(top, name) for top, _, names in os.walk(folder) for name in names]
    else:
        files = _match(FileSystems.join(folder, "**"))
    photos = [name for name in files if PurePosixPath(name).suffix.lower() in PHOTO_SUFFIXES]
    return photos, len(files) - len(photos)
