"""Computes the photo_ids of inputs as they are now, on Beam's workers, without embedding them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from facecluster.pipeline.beam.run import run_pipeline
from facecluster.pipeline.beam.runner import choose_execution
from facecluster.pipeline.run.directory import PHOTO_IDS_FOLDER, RunDirectory
from facecluster.transforms.inputs.sources import Source
from facecluster.transforms.photos.read import ReadPhotos
from facecluster.transforms.photos.shards import (
    choose_shard_size,
    make_read_tasks,
    split_into_shards,
)
from facecluster.transforms.photos.write import WriteShards
from facecluster.transforms.records import Photo
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.files import delete_folder, list_files
from facecluster.transforms.tables.parquet_files import read_table, write_table

# Photos in one file of results: enough files for all workers and for progress that can be seen.
SHARDS_PER_WORKER, MOST_PHOTOS = 16, 1024


@dataclass(frozen=True)
class PhotoIdWriter:
    """Writes the URIs and photo_ids of a shard into a folder."""

    folder: str

    def write(self, name: str, photos: Iterable[Photo]) -> None:
        rows = [{"uri": photo.uri, "photo_id": photo.photo_id} for photo in photos]
        table = pa.Table.from_pylist(rows, schema.stamped(schema.PHOTO_IDS))
        write_table(FileSystems.join(self.folder, f"{name}.parquet"), table)


def compute_photo_ids(
    run: RunDirectory,
    sources: Sequence[Source],
    max_bytes: int,
    beam_arguments: Sequence[str],
    watch,
) -> pa.Table:
    """Reads inputs and computes their photo_ids.

    Args:
      run: its folder holds the results while the job runs.
      sources: the inputs.
      max_bytes: an input of more bytes has none.
      beam_arguments: options for Beam, as on its command line.
      watch: shows progress, as in `EmbedJob`.

    Returns:
      Columns uri and photo_id, null if an input cannot be read; in any order.
    """
    folder = run.path(PHOTO_IDS_FOLDER)
    n_shards = SHARDS_PER_WORKER * choose_execution(beam_arguments, len(sources)).n_workers
    shards = split_into_shards(sources, choose_shard_size(len(sources), n_shards, MOST_PHOTOS))
    tasks = make_read_tasks(shards)
    execution = choose_execution(beam_arguments, len(sources), len(tasks))
    sizes = {shard.name: shard.n_photos for shard, _ in shards}
    paths = [FileSystems.join(folder, f"{name}.parquet") for name in sizes]

    def build(pipeline: beam.Pipeline) -> None:
        _ = (
            pipeline
            | "Shards" >> beam.Create(tasks)
            | "Read photos" >> ReadPhotos(max_bytes)
            | "Drop content" >> beam.Map(_without_content).with_output_types(Photo)
            | "Write photo_ids" >> WriteShards(PhotoIdWriter(folder))
        )

    def count_done() -> int:
        return sum(
            sizes.get(FileSystems.split(path)[1].removesuffix(".parquet"), 0)
            for path in list_files(folder)
        )

    with watch(count_done, len(sources), "checking photos"):
        run_pipeline(execution, build)
    photo_ids, _ = read_table(paths, schema.PHOTO_IDS.names, schema.PHOTO_IDS)
    delete_folder(folder)
    return photo_ids


def _without_content(photo: Photo) -> Photo:
    return replace(photo, content=None)
