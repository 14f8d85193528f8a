"""How photos are split into shards, which of these a worker reads together, and their bytes."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import apache_beam as beam

from facecluster.transforms.inputs.containers import read_members
from facecluster.transforms.inputs.sources import (
    Container,
    Source,
    TooLargeError,
    name_on_disk,
    open_file,
)
from facecluster.transforms.records import Photo, Shard, failing, step

MAX_PHOTO_BYTES = 100 << 20  # no camera writes more, and a worker holds several
CHUNK_BYTES = 1 << 20

Task = list[tuple[Shard, tuple[Source, ...]]]


def plan_shards(
    sources: Sequence[Source], photos_per_shard: int
) -> list[tuple[Shard, tuple[Source, ...]]]:
    """Splits photos into shards whose names are a function of the URIs in them.

    A shard takes what lies together in a container. If that is to be read in one pass and is more
    than a shard, it shares none of its shards with anything else, so that passes are independent
    of each other (see `plan_tasks`).
    """
    parts: list[list[Source]] = []
    part: list[Source] = []
    ordered = sorted(sources, key=_place)
    for container, of_container in groupby(ordered, key=lambda source: source.container):
        group = list(of_container)
        if container and container.read_in_one_pass and len(part) + len(group) > photos_per_shard:
            parts.append(part)
            parts += (
                group[start : start + photos_per_shard]
                for start in range(0, len(group), photos_per_shard)
            )
            part = []
            continue
        for source in group:
            if len(part) == photos_per_shard:
                parts.append(part)
                part = []
            part.append(source)
    parts.append(part)
    return [(_shard(part), tuple(part)) for part in parts if part]


def plan_tasks(shards: Sequence[tuple[Shard, Sequence[Source]]]) -> list[Task]:
    """Shards that one worker reads together: all those of a container that is read in one pass.

    Any other shard is a task by itself.
    """
    tasks: dict[object, Task] = defaultdict(list)
    for shard, sources in shards:
        containers = {source.container for source in sources}
        passes = [c for c in containers if c is not None and c.read_in_one_pass]
        alone = len(containers) > 1 or not passes
        tasks[shard.name if alone else passes[0]].append((shard, tuple(sources)))
    return list(tasks.values())


class ReadPhotos(beam.PTransform):
    """From tasks (see `plan_tasks`) to photos with their bytes, spread over all workers.

    Tasks are shuffled and never photos: a shard's photos stay together in one bundle, so that its
    tables can be written without a second shuffle.
    """

    def __init__(self, max_bytes: int = MAX_PHOTO_BYTES):
        """Args:
        max_bytes: a photo with more of them fails.
        """
        self.max_bytes = max_bytes

    def expand(self, tasks):
        return tasks | beam.Reshuffle() | "Read task" >> beam.FlatMap(read_task, self.max_bytes)


def read_task(task: Task, max_bytes: int = MAX_PHOTO_BYTES) -> Iterator[Photo]:
    """The photos of a task with their content and photo_id, or failures; one by one."""
    in_containers: dict[Container, list[Source]] = defaultdict(list)
    shard_of: dict[str, Shard] = {}
    for shard, sources in task:
        for source in sources:
            if source.failure:
                yield Photo(source.uri, shard, failure=source.failure)
            elif source.container is None:
                yield read_photo(Photo(source.uri, shard), max_bytes)
            else:
                in_containers[source.container].append(source)
                shard_of[source.uri] = shard
    for container, sources in in_containers.items():
        for source, content in read_members(container, sources, max_bytes):
            photo = Photo(source.uri, shard_of[source.uri])
            if isinstance(content, Exception):
                yield failing(photo, "read", content)
            else:
                yield _with_content(photo, content)


@step("read")
def read_photo(photo: Photo, max_bytes: int = MAX_PHOTO_BYTES) -> Photo:
    """Fills in content and photo_id of a photo that is a file of its own."""
    return _with_content(photo, _read_file(name_on_disk(photo.uri), max_bytes))


@step("read")
def _with_content(photo: Photo, content: bytes) -> Photo:
    if not content:
        raise ValueError("the file is empty")
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


def _place(source: Source) -> tuple[str, int, str]:
    return (source.container.path if source.container else source.uri, source.offset, source.uri)


def _shard(part: Sequence[Source]) -> Shard:
    uris = "\0".join(source.uri for source in part)
    return Shard(hashlib.sha256(uris.encode()).hexdigest()[:16], len(part))
