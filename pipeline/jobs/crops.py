"""The crops job: aligned crops of faces of known people, from labeled photos or from a run.

DIR/
  crops.json               options, state and counts
  PERSON/NAME.png          the crops; or SHARD.tar, or SHARD.tfrecord (transforms/crops/write.py)
  failures/SHARD.parquet   photos that could not be read or show no face; written last, so a shard
                           is complete if and only if it has one
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems

from facecluster.errors import InputError, JobError, UsageError
from facecluster.pipeline.beam.run import run_pipeline
from facecluster.pipeline.beam.runner import choose_execution
from facecluster.pipeline.cropping.manifest import (
    CropsManifest,
    read_crops_manifest,
    write_crops_manifest,
)
from facecluster.pipeline.cropping.requests import CropRequest, hash_requests
from facecluster.pipeline.options import CropOptions
from facecluster.pipeline.run.directory import TEMPORARY_ENDING
from facecluster.pipeline.run.settings import check_settings
from facecluster.transforms.crops.cut import (
    NO_FACE,
    LabeledPhoto,
    check_unchanged,
    cut_crops,
    keep_central_face,
)
from facecluster.transforms.crops.write import MARKER_TABLE, CropWriter
from facecluster.transforms.faces.detect import DetectFaces
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.inputs.listing import locate_photos
from facecluster.transforms.inputs.sources import Source
from facecluster.transforms.photos.decode import DecodePhotos
from facecluster.transforms.photos.read import read_photos
from facecluster.transforms.photos.shards import (
    ReadTask,
    choose_shard_size,
    make_read_tasks,
    split_into_shards,
)
from facecluster.transforms.photos.write import WriteShards
from facecluster.transforms.records import Photo, Shard
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.files import all_files, delete_files, list_files
from facecluster.transforms.tables.parquet_files import read_table

# A small input is split into about this many shards, so that all workers get some. Unlike in the
# embed job, the number of workers does not matter: a job that is continued on another machine must
# find its shards.
N_SHARDS = 64
REQUESTS_HASH = "plan_sha256"  # the setting that identifies photos, people and boxes


@dataclass(frozen=True)
class CropsJob:
    """Cuts crops into a folder.

    Attributes:
      output: the folder of the crops.
      options: how faces become crops.
      detector: finds the faces; None if the requests contain them.
      beam_arguments: options for Beam, as on its command line.
    """

    output: str
    options: CropOptions
    detector: SavedModel | None = None
    beam_arguments: Sequence[str] = ()

    def __call__(
        self,
        requests: Sequence[CropRequest],
        watch: Callable[[Callable[[], int], int], Any],
    ) -> CropsManifest:
        """Cuts the crops that the folder does not contain yet.

        Args:
          requests: as `request_photo_crops` or `request_run_crops` returns them.
          watch: takes a function that counts the finished photos, and their total; returns a
            context manager that shows progress while the job runs.

        Returns:
          The content of crops.json.

        Raises:
          InputError: there are no requests, or crops.json is damaged.
          UsageError: the folder contains other files, or a crop has no room beside its margin.
          JobError: the folder was made with other settings, or Beam failed.
        """
        if not requests:
            raise InputError("no face belongs to a known person: there is nothing to cut")
        started = time.monotonic()
        settings = self._settings(requests)
        self._check_folder(settings)
        write_crops_manifest(self.output, CropsManifest("running", settings))

        complete = self._complete_shards()
        shards = [
            (shard, sources)
            for shard, sources in self._shards(requests)
            if shard.name not in complete
        ]
        if shards:
            self._remove_temporary_files()
            sizes = {shard.name: shard.n_photos for shard, _ in shards}
            n_photos = sum(sizes.values())
            tasks = make_read_tasks(shards)
            execution = choose_execution(self.beam_arguments, n_photos, len(tasks))
            with watch(lambda: self._count_finished(sizes), n_photos):
                run_pipeline(
                    execution,
                    lambda pipeline: self._build(pipeline, tasks, requests, execution.threads),
                )
        manifest = CropsManifest(
            "done", settings, self._counts(requests), round(time.monotonic() - started, 1)
        )
        write_crops_manifest(self.output, manifest)
        return manifest

    def _build(self, pipeline, tasks, requests, threads):
        options = self.options
        request_of = {request.uri: request for request in requests}
        of_tasks = [
            [request_of[source.uri] for _, part in task for source in part] for task in tasks
        ]
        decoded = (
            pipeline
            | "Tasks" >> beam.Create(list(zip(tasks, of_tasks, strict=True)))
            | "Spread" >> beam.Reshuffle()
            | "Read photos"
            >> beam.FlatMapTuple(partial(read_requested, options.limits().max_bytes))
            # The shared steps are typed for Photo; a LabeledPhoto passes through them.
            | "Check" >> beam.Map(check_unchanged).with_input_types(Photo)
            | "Decode" >> DecodePhotos(options.limits())
        )
        if self.detector is None:
            with_faces = decoded
        else:
            detector = replace(self.detector, threads=threads)
            with_faces = (
                decoded
                | "Detect faces"
                >> DetectFaces(detector, options.min_face_size, options.detection_size)
                | "Choose face" >> beam.Map(keep_central_face)
            )
        _ = (
            with_faces
            | "Crop"
            >> beam.Map(cut_crops, options.crop_size, options.crop_margin).with_input_types(
                Photo, int, int
            )
            | "Write shards" >> WriteShards(CropWriter(self.output, options.form))
        )

    def _settings(self, requests: Sequence[CropRequest]) -> dict[str, Any]:
        """The settings that decide what the crops are; a folder has crops of one kind."""
        options = self.options
        if options.crop_margin >= options.crop_size:
            raise UsageError(
                f"a crop of {options.crop_size} px has no room for a face beside a margin of "
                f"{options.crop_margin} px: take a smaller --crop-margin"
            )
        settings = {
            "form": options.form,
            "crop_size": options.crop_size,
            "crop_margin": options.crop_margin,
            "photos_per_shard": options.photos_per_shard,
        }
        if self.detector is not None:
            settings |= {
                "detector_sha256": self.detector.card().sha256,
                "min_face_size": options.min_face_size,
                "detection_size": options.detection_size,
            }
        return settings | {REQUESTS_HASH: hash_requests(requests)}

    def _check_folder(self, settings: dict[str, Any]) -> None:
        """Refuses a folder with other files, or with crops made with other settings."""
        manifest = read_crops_manifest(self.output)
        if manifest is None:
            files = all_files(self.output)
            found = next((f for f in files if not f.endswith((".log", ".lock", ".tmp"))), None)
            if found:
                raise UsageError(
                    f"{self.output} holds files that are not crops, such as {found}: take an "
                    "output folder that is empty or does not exist yet"
                )
            return
        before = manifest.options
        check_settings(before, settings, self.output, ignored=(REQUESTS_HASH,))
        if before != settings:
            raise JobError(
                f"{self.output} holds the crops of other photos, or of other people in them: take "
                "another output folder"
            )

    def _shards(self, requests: Sequence[CropRequest]) -> list[tuple[Shard, tuple[Source, ...]]]:
        size = choose_shard_size(len(requests), N_SHARDS, self.options.photos_per_shard)
        failures = {request.uri: request.failure for request in requests}
        located = {
            source.uri: source._replace(failure=failures[source.uri] or source.failure)
            for source in locate_photos(list(failures))
        }
        # By the order of URIs, which does not change when a container is packed again.
        shards = split_into_shards([Source(uri) for uri in sorted(located)], size)
        return [(shard, tuple(located[uri] for uri, *_ in part)) for shard, part in shards]

    def _counts(self, requests: Sequence[CropRequest]) -> dict[str, int]:
        files = list_files(self._path(MARKER_TABLE))
        failures, _ = read_table(files, ["uri", "error"], schema.FAILURES)
        failed = set(failures["uri"].to_pylist())
        names = [
            name for request in requests if request.uri not in failed for name in request.names
        ]
        n_without_face = failures["error"].to_pylist().count(NO_FACE.error)
        return {
            "photos": len(requests),
            "crops": len(names),
            "people": len({name.partition("/")[0] for name in names}),
            "without_a_face": n_without_face,
            "failures": len(failures) - n_without_face,
        }

    def _complete_shards(self) -> set[str]:
        return {PurePosixPath(path).stem for path in list_files(self._path(MARKER_TABLE))}

    def _count_finished(self, sizes: dict[str, int]) -> int:
        return sum(sizes.get(name, 0) for name in self._complete_shards())

    def _remove_temporary_files(self) -> None:
        """Deletes what a killed job was writing; readers skip it, but it takes space."""
        delete_files([path for path in all_files(self.output) if TEMPORARY_ENDING.search(path)])

    def _path(self, *names: str) -> str:
        return FileSystems.join(self.output, *names)


def format_crops(manifest: CropsManifest) -> str:
    """The counts and seconds of a finished crops job, one line each."""
    counts = {name.replace("_", " "): f"{n:,}" for name, n in manifest.counts.items()}
    width = max(map(len, counts.values()))
    lines = [f"{name:16}{number:>{width}}" for name, number in counts.items()]
    return "\n".join([*lines, f"{'time':16}{manifest.seconds:,} s"])


def read_requested(
    max_bytes: int, task: ReadTask, requests: Sequence[CropRequest]
) -> Iterator[LabeledPhoto]:
    """The photos of a read task with their bytes and the requests for them."""
    request_of = {request.uri: request for request in requests}
    for photo in read_photos(task, max_bytes):
        request = request_of[photo.uri]
        yield LabeledPhoto(
            photo.uri, photo.shard, content=photo.content, photo_id=photo.photo_id,
            faces=request.faces, failure=photo.failure, names=request.names,
            known_as=request.photo_id,
        )  # fmt: skip
