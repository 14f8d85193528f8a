"""The read step: the bytes of photos, from files and containers."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import apache_beam as beam

from facecluster.transforms.inputs.containers import read_members
from facecluster.transforms.inputs.paths import open_file, path_of_uri
from facecluster.transforms.inputs.sources import Container, Source, TooLargeError
from facecluster.transforms.metrics import count, timed_items
from facecluster.transforms.photos.limits import MAX_PHOTO_BYTES
from facecluster.transforms.photos.shards import ReadTask
from facecluster.transforms.records import Photo, Shard, failure_of, mark_failed, step

CHUNK_BYTES = 1 << 20


class EmptyFileError(ValueError):
    """A photo has no bytes."""


@dataclass(eq=False)
class ReadPhotos(beam.PTransform):
    """Reads the bytes of photos, spread over all workers.

    Element in: a `ReadTask`, as `read_tasks` makes them of inputs.
    Element out: a `Photo` with content and photo_id, or with its failure.

    Tasks are shuffled and photos never are: a shard's photos stay in one bundle, so that its tables
    can be written without a second shuffle.

    Reports the counter `photos_read` and the distribution `read_milliseconds`.

    Attributes:
      max_bytes: a photo of more bytes fails.
    """

    max_bytes: int = MAX_PHOTO_BYTES

    def expand(self, tasks) -> beam.PCollection[Photo]:
        return tasks | beam.Reshuffle() | "Read task" >> beam.FlatMap(read_photos, self.max_bytes)


def read_photos(task: ReadTask, max_bytes: int = MAX_PHOTO_BYTES) -> Iterator[Photo]:
    """Yields the photos of a task one by one, with content and photo_id or with their failures."""
    for photo in timed_items("read", _read_files_and_members(task, max_bytes)):
        if not photo.failure:
            count("photos_read")
        yield photo


@step("read")
def read_photo(photo: Photo, max_bytes: int = MAX_PHOTO_BYTES) -> Photo:
    """Fills in content and photo_id of a photo that is a file of its own."""
    return _with_content(photo, _read_file(path_of_uri(photo.uri), max_bytes))


def _read_files_and_members(task: ReadTask, max_bytes: int) -> Iterator[Photo]:
    members: dict[Container, list[Source]] = defaultdict(list)
    shard_of: dict[str, Shard] = {}
    for shard, sources in task:
        for source in sources:
            photo = Photo(source.uri, shard)
            if source.failure:
                yield mark_failed(photo, source.failure)
            elif source.container is None:
                yield read_photo(photo, max_bytes)
            else:
                members[source.container].append(source)
                shard_of[source.uri] = shard
    for container, sources in members.items():
        for source, content in read_members(container, sources, max_bytes):
            photo = Photo(source.uri, shard_of[source.uri])
            if isinstance(content, Exception):
                yield mark_failed(photo, failure_of("read", content))
            else:
                yield _with_content(photo, content)


@step("read")
def _with_content(photo: Photo, content: bytes) -> Photo:
    if not content:
        raise EmptyFileError("the file is empty")
    return replace(photo, content=content, photo_id=hashlib.sha256(content).hexdigest())


def _read_file(path: str, max_bytes: int) -> bytes:
    chunks, size = [], 0
    with open_file(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            chunks.append(chunk)
            size += len(chunk)
            if size > max_bytes:
                raise TooLargeError(None, max_bytes)
    return b"".join(chunks)
