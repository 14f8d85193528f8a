"""Splits photos into shards, and groups shards into the tasks that workers read."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

from facecluster.transforms.inputs.listing import list_photos
from facecluster.transforms.inputs.paths import Paths, path_list
from facecluster.transforms.inputs.sources import Source
from facecluster.transforms.records import Shard

# Shards with fewer photos are not worth a file of their own.
LEAST_PHOTOS_PER_SHARD = 16

ReadTask = list[tuple[Shard, tuple[Source, ...]]]
"""Shards, with their photos, that one worker reads together."""


def read_tasks(
    inputs: Paths, photos_per_shard: int = 256, exclude: str | Sequence[str] = ()
) -> list[ReadTask]:
    """Lists the photos of inputs and makes the tasks that are the elements of `ReadPhotos`.

    Args:
      inputs: files, folders, globs, containers and lists; see `list_photos`.
      photos_per_shard: the most photos in one shard, which is a unit of work and of output.
      exclude: patterns of files and folders below the inputs to pass over, with the meaning that
        they have in a .gitignore file.

    Raises:
      UsageError: a pattern cannot be used.
      InputError: an input does not exist or cannot be used, or the inputs have no photos.
    """
    sources = list_photos(path_list(inputs), exclude=path_list(exclude)).sources
    return make_read_tasks(split_into_shards(sources, photos_per_shard))


def choose_shard_size(n_photos: int, n_shards: int, most: int) -> int:
    """Photos per shard with which there are about n_shards.

    Args:
      n_photos: photos to split.
      n_shards: that all workers need to have some, and for progress to be visible.
      most: photos in one shard.
    """
    return min(most, max(math.ceil(n_photos / n_shards), LEAST_PHOTOS_PER_SHARD))


def split_into_shards(
    sources: Sequence[Source], photos_per_shard: int
) -> list[tuple[Shard, tuple[Source, ...]]]:
    """Splits photos into shards whose names depend only on the URIs in them.

    Photos that are next to each other in a container go into the same shard. A container that must
    be read from its beginning, and has more photos than one shard, shares its shards with no other
    input. Then each such container can be read on its own (see `make_read_tasks`).
    """
    parts: list[list[Source]] = []
    part: list[Source] = []
    ordered = sorted(sources, key=_position)
    for container, members in groupby(ordered, key=lambda source: source.container):
        group = list(members)
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
    return [(_make_shard(part), tuple(part)) for part in parts if part]


def make_read_tasks(shards: Sequence[tuple[Shard, Sequence[Source]]]) -> list[ReadTask]:
    """Groups shards into tasks: all shards of a container that is read in one pass are one task.

    Any other shard is a task of its own.
    """
    tasks: dict[object, ReadTask] = defaultdict(list)
    for shard, sources in shards:
        containers = {source.container for source in sources}
        passes = [c for c in containers if c is not None and c.read_in_one_pass]
        is_own_task = len(containers) > 1 or not passes
        tasks[shard.name if is_own_task else passes[0]].append((shard, tuple(sources)))
    return list(tasks.values())


def _position(source: Source) -> tuple[str, int, str]:
    return (source.container.path if source.container else source.uri, source.offset, source.uri)


def _make_shard(part: Sequence[Source]) -> Shard:
    uris = "\0".join(source.uri for source in part)
    return Shard(hashlib.sha256(uris.encode()).hexdigest()[:16], len(part))
