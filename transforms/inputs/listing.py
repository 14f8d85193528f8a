"""Lists the photos that inputs name: files, folders, globs, containers, lists, a run's failures."""

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from facecluster.errors import InputError
from facecluster.transforms.inputs.containers import format_from_name
from facecluster.transforms.inputs.folders import Rules
from facecluster.transforms.inputs.passed_over import Excludes
from facecluster.transforms.inputs.paths import stat_file
from facecluster.transforms.inputs.photo_collector import PhotoCollector
from facecluster.transforms.inputs.photo_suffixes import how_to_read
from facecluster.transforms.inputs.sources import SEPARATOR, Source
from facecluster.transforms.tables.reasons import format_reasons, sort_by_count

# For the files that lists name. On a network disk, asking for their sizes is mostly waiting.
STAT_THREADS, STAT_BATCH = 16, 1000


@dataclass(frozen=True)
class Listing:
    """The photos of the inputs.

    Attributes:
      sources: photos, sorted by their URIs, without repetition. A container, list or folder that
        could not be listed completely is among them, as a source with a failure.
      other_files: number of files, and of members of containers, that were passed over, by reason,
        the most frequent first: "not named like photos", "hidden", "trash or system files",
        "thumbnails", "facecluster's own output", "excluded" and "without photos".
      unread_photos: of these, the number in photo formats that are not read, by suffix, likewise.
      fully_listed: URIs of the folders, containers and lists that were listed completely.
      input_folders: URIs of the folders that are inputs, or entries of lists.
      unused_excludes: patterns of `exclude` that decided about no file or folder.
    """

    sources: tuple[Source, ...]
    other_files: Mapping[str, int] = field(default_factory=dict)
    unread_photos: Mapping[str, int] = field(default_factory=dict)
    fully_listed: frozenset[str] = frozenset()
    input_folders: frozenset[str] = frozenset()
    unused_excludes: tuple[str, ...] = ()

    @property
    def uris(self) -> tuple[str, ...]:
        return tuple(source.uri for source in self.sources)

    @property
    def n_other_files(self) -> int:
        """The number of files, and of members of containers, that were passed over."""
        return sum(self.other_files.values())

    @cached_property
    def table(self) -> pa.Table:
        """Columns uri, and size and version (int64), null if the version is unknown."""
        return source_table(self.sources)


def list_photos(
    inputs: Sequence[str],
    containers: bool = True,
    exclude: Sequence[str] = (),
    own_output: bool = False,
) -> Listing:
    """Lists the photos of files, folders (with their subfolders), globs, containers and lists.

    In a folder, files with the suffix of a photo or container count. A file that is an input
    itself, or matches a glob, counts whatever its suffix: its type is detected from its content,
    and it becomes a failure if it turns out not to be a photo. An entry of a list counts as if it
    were an input, but is no glob.

    Below an input, and in containers, files are passed over that are hidden or in hidden folders,
    in folders of systems or of photo software for thumbnails, or that facecluster wrote. An input
    itself, or an entry of a list, is never passed over.

    Args:
      inputs: local paths, or URIs of files and folders in object stores.
      containers: whether to list the photos in containers and lists; otherwise they count as files.
      exclude: patterns of files and folders below the inputs that are passed over, too, with the
        meaning that they have in a .gitignore file in the input.
      own_output: whether to list the photos that facecluster wrote below an input.

    Raises:
      InputError: an input does not exist or cannot be used, or the inputs have no photos.
      UsageError: a pattern cannot be used.
    """
    excludes = Excludes(exclude)
    collector = PhotoCollector(containers, Rules(excludes, own_output))
    for name in inputs:
        try:
            collector.add_input(absolute_uri(name))
        except (OSError, ValueError) as error:  # no such bucket, or no library for its scheme
            raise InputError(f"{name} cannot be listed: {error}") from error
    collector.list_containers()
    other_files, unread_photos = map(sort_by_count, collector.count_other_files())
    if not collector.sources:
        message = f"there are no photos in {', '.join(inputs)}"
        if other_files:
            message += f" ({_describe(other_files, unread_photos)})"
        if collector.run_tables:
            message += f"; {min(collector.run_tables)} is a table of a run, not photos"
        raise InputError(
            f"{message}; photos end in .jpg, .png, .heic or others, see docs/photos.md"
        )
    sources = sorted(with_versions(collector.sources.values()), key=lambda source: source.uri)
    return Listing(
        tuple(sources),
        other_files,
        unread_photos,
        frozenset(collector.fully_listed),
        frozenset(collector.input_folders),
        excludes.unused,
    )


def with_versions(sources: Iterable[Source]) -> list[Source]:
    """Fills in size and version of the local files that have none yet, because a list named them.

    Files in object stores that no listing covered get no version: each would cost a request.
    """
    sources = list(sources)
    unknown = [
        i
        for i, source in enumerate(sources)
        if source.version is None
        and not (source.container or source.failure or FileSystems.get_scheme(source.uri))
    ]
    parts = [unknown[i : i + STAT_BATCH] for i in range(0, len(unknown), STAT_BATCH)]

    def stat_part(part: list[int]) -> list[tuple[int, int | None]]:
        return [stat_file(sources[i].path) for i in part]

    with ThreadPoolExecutor(STAT_THREADS) as pool:
        for part, states in zip(parts, pool.map(stat_part, parts), strict=True):
            for i, (size, version) in zip(part, states, strict=True):
                sources[i] = sources[i]._replace(size=size, version=version)
    return sources


def source_table(sources: Sequence[Source]) -> pa.Table:
    """Columns uri, size and version of photos; see `Listing.table`."""
    versions = pa.array([source.version for source in sources], pa.int64())
    sizes = pa.array([source.size for source in sources], pa.int64())
    return pa.table(
        {
            "uri": pa.array([source.uri for source in sources], pa.string()),
            "size": pc.if_else(versions.is_valid(), sizes, None),
            "version": versions,
        }
    )


def locate_photos(uris: Sequence[str]) -> list[Source]:
    """Finds where the bytes of photos are that were listed before, in the order of the URIs.

    Only containers are opened. A container or member that no longer exists has a failure.
    """
    collector = PhotoCollector(with_containers=True)
    for uri in uris:
        if SEPARATOR in uri or format_from_name(uri):
            collector.add_list_entry(uri)
    collector.list_containers()
    return [collector.sources.get(uri, Source(uri)) for uri in uris]


def absolute_uri(name: str) -> str:
    """A local path made absolute, so that a photo's URI does not depend on the current folder."""
    if FileSystems.get_scheme(name):
        return name
    path, separator, member = name.partition(SEPARATOR)  # a member's name stays as it is
    return os.path.abspath(path) + separator + member


def _describe(other_files: Mapping[str, int], unread_photos: Mapping[str, int]) -> str:
    """Why there are no photos among files."""
    n = sum(other_files.values())
    if len(other_files) == 1:
        files = "its only file is" if n == 1 else f"all {n:,} files are"
        text = f"{files} {next(iter(other_files))}"
    else:
        text = f"none of its {n:,} files is used: {format_reasons(other_files)}"
    if unread_photos:
        text += f"; formats that are not read: {format_reasons(unread_photos)}"
    how = how_to_read(unread_photos)
    return f"{text}; {how}" if how else text
