"""Aligned crops of faces whose person is known, from labelled photos or from a run.

DIR/
  crops.json               options, state and counts
  PERSON/NAME.png          the crops; or SHARD.tar, or SHARD.tfrecord (see write_crops.py)
  failures/SHARD.parquet   photos that could not be read or show no face; written last, so a shard
                           is complete exactly when it has one
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from facecluster.errors import JobError
from facecluster.pipeline.beam.run import run_pipeline
from facecluster.pipeline.beam.runner import choose_execution
from facecluster.pipeline.jobs.evaluate import (
    assigned_people,
    labelled_faces,
    labelled_people,
    read_assignments,
)
from facecluster.pipeline.options import CropOptions
from facecluster.pipeline.run.directory import TEMPORARY_ENDING, RunDirectory
from facecluster.pipeline.run.settings import check_settings
from facecluster.transforms.faces.crops import (
    MARKER_TABLE,
    NO_FACE,
    CropWriter,
    LabelledPhoto,
    check_unchanged,
    crop_name,
    cut_crops,
    keep_central_face,
    unique_names,
)
from facecluster.transforms.faces.detect import DetectFaces
from facecluster.transforms.faces.saved_model import SavedModel
from facecluster.transforms.inputs.listing import locate_photos
from facecluster.transforms.inputs.sources import Source
from facecluster.transforms.photos.decode import DecodePhotos
from facecluster.transforms.photos.read import read_task
from facecluster.transforms.photos.shards import ReadTask, make_read_tasks, split_into_shards
from facecluster.transforms.photos.write import WriteShards
from facecluster.transforms.records import Face, Failure, Photo, Shard
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.files import all_files, delete_files, list_files, write_bytes
from facecluster.transforms.tables.parquet_files import read_table

PEOPLE_LABELS = "people"  # instead of labels: the people that a run found
MANIFEST = "crops.json"
# The parts that any input is cut into at least, so that all workers have their share; below the
# second number a file of its own is not worth it. Not by the number of workers, as the embed job
# does it: who goes on with a job on another machine must find its shards.
LEAST_SHARDS, LEAST_PHOTOS_PER_SHARD = 64, 16


@dataclass(frozen=True)
class Wanted:
    """What is wanted of one photo.

    Attributes:
      uri: of the photo.
      names: what its crops are called, PERSON/NAME; one for each of `faces`, where they are given.
      faces: the faces to cut; empty where they are still to be detected.
      photo_id: of the photo when its faces were found.
      failure: why there is nothing to cut.
    """

    uri: str
    names: tuple[str, ...]
    faces: tuple[Face, ...] = ()
    photo_id: str | None = None
    failure: Failure | None = None


def plan_photos(uris: Sequence[str], labels: str, form: str) -> list[Wanted]:
    """One crop of each photo that is labelled with one person.

    Args:
      uris: the photos.
      labels: "folder" or a CSV file, as in `evaluate_clustering`.
      form: of the crops, as in CropOptions.

    Returns:
      The photos that are labelled with one person, sorted by URI.

    Raises:
      InputError: labels that cannot be read or fit none of the photos.
      JobError: the labels are a run's people.
    """
    if labels == PEOPLE_LABELS:
        raise JobError("--labels people are those of a run: give --run in place of --input")
    people, _ = labelled_people(labels, {uri: uri for uri in uris})
    return _renamed(
        Wanted(uri, (crop_name(people[uri][0], uri, form),))
        for uri in sorted(people)
        if len(people[uri]) == 1
    )


def plan_run(run: RunDirectory, labels: str, form: str) -> list[Wanted]:
    """The crops of a run's faces, whose boxes the run knows.

    Args:
      run: a run, with assignments where `labels` is "people".
      labels: "people" (every assigned face, once, under its person_id), or "folder" or a CSV file
        (the largest central face of each photo labelled with one person).
      form: of the crops, as in CropOptions.

    Returns:
      The photos of those faces, sorted by URI; with labels that are not the run's own also the
      labelled photos without a face, as failures.

    Raises:
      InputError: labels that cannot be read or fit none of the photos; no assignments, or
        older than the faces.
    """
    photos, _ = run.read_shards("photos", ["photo_id", "uri", "width", "height"])
    faces, _ = run.read_shards(
        "faces", ["face_id", "photo_id", "box", "landmarks", "detection_score"]
    )
    photo_ids = dict(zip(photos["uri"].to_pylist(), photos["photo_id"].to_pylist(), strict=True))
    if labels == PEOPLE_LABELS:
        wanted = _assigned_faces(run, photo_ids, faces, form)
    else:
        wanted = _labelled_faces(run, labels, photos, photo_ids, faces, form)
    return _renamed(wanted)


@dataclass(frozen=True)
class CropsJob:
    """What a crops job works on.

    Attributes:
      output: the folder of the crops.
      options: how faces become crops.
      detector: finds the faces; None where the plan gives them.
      beam_arguments: options for Beam, as on its command line.
    """

    output: str
    options: CropOptions
    detector: SavedModel | None = None
    beam_arguments: Sequence[str] = ()

    def __call__(
        self, plan: Sequence[Wanted], watch: Callable[[Callable[[], int], int], Any]
    ) -> dict:
        """Cuts the crops that the folder does not hold yet.

        Args:
          plan: the photos and what is wanted of each, as `plan_photos` or `plan_run` gives it.
          watch: given a function that counts the photos done so far and their total, returns a
            context manager that shows progress while the job runs.

        Returns:
          What crops.json holds: options, state, counts, seconds.

        Raises:
          JobError: nothing is wanted, the folder holds something else, or Beam failed.
        """
        if not plan:
            raise JobError("no face belongs to a known person: there is nothing to cut")
        started = time.monotonic()
        settings = self._settings(plan)
        self._check_settings(settings)
        self._write_manifest({"state": "running", "options": settings})

        shards = self._shards(plan)
        done = self._complete_shards()
        todo = [(shard, sources) for shard, sources in shards if shard.name not in done]
        if todo:
            self._remove_temporary_files()
            sizes = {shard.name: shard.n_photos for shard, _ in todo}
            n_photos = sum(sizes.values())
            execution = choose_execution(self.beam_arguments, n_photos)
            tasks = make_read_tasks(todo)
            with watch(lambda: self._photos_done(sizes), n_photos):
                run_pipeline(
                    execution,
                    lambda pipeline: self._build(pipeline, tasks, plan, execution.threads),
                )
        entry = {
            "state": "done",
            "options": settings,
            "counts": self._counts(plan),
            "seconds": round(time.monotonic() - started, 1),
        }
        self._write_manifest(entry)
        return entry

    def _build(self, pipeline, tasks, plan, threads):
        options = self.options
        of_uri = {wanted.uri: wanted for wanted in plan}
        of_tasks = [[of_uri[source.uri] for _, part in task for source in part] for task in tasks]
        decoded = (
            pipeline
            | "Tasks" >> beam.Create(list(zip(tasks, of_tasks, strict=True)))
            | "Spread" >> beam.Reshuffle()
            | "Read photos" >> beam.FlatMapTuple(partial(read_wanted, options.limits().max_bytes))
            # The steps that are shared say Photo, for all that a LabelledPhoto stays one.
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

    def _settings(self, plan: Sequence[Wanted]) -> dict[str, Any]:
        """What makes crops what they are; a folder holds crops of one kind."""
        options = self.options
        if options.crop_margin >= options.crop_size:
            raise JobError(
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
        return settings | {"plan_sha256": _sha256(plan)}

    def _check_settings(self, settings: dict[str, Any]) -> None:
        path = self._path(MANIFEST)
        if not FileSystems.exists(path):
            files = all_files(self.output)
            found = next((f for f in files if not f.endswith((".log", ".lock", ".tmp"))), None)
            if found:
                raise JobError(
                    f"{self.output} holds files that are no crops of ours, such as {found}: take "
                    "an output folder that is empty or not there yet"
                )
            return
        with FileSystems.open(path) as file:
            content = file.read()
        try:
            before = json.loads(content)["options"]
        except (ValueError, KeyError, TypeError) as error:
            raise JobError(f"{path} is damaged, take another output folder: {error}") from error
        check_settings(before, settings, self.output, ignored=("plan_sha256",))
        if before != settings:
            raise JobError(
                f"{self.output} holds the crops of other photos, or of other people in them: take "
                "another output folder"
            )

    def _shards(self, plan: Sequence[Wanted]) -> list[tuple[Shard, tuple[Source, ...]]]:
        even = -(-len(plan) // LEAST_SHARDS)
        size = min(self.options.photos_per_shard, max(even, LEAST_PHOTOS_PER_SHARD))
        failures = {wanted.uri: wanted.failure for wanted in plan}
        located = {
            source.uri: source._replace(failure=failures[source.uri] or source.failure)
            for source in locate_photos(list(failures))
        }
        # In the order of their names, which does not change when a container is packed anew.
        shards = split_into_shards([Source(uri) for uri in sorted(located)], size)
        return [(shard, tuple(located[uri] for uri, *_ in part)) for shard, part in shards]

    def _counts(self, plan: Sequence[Wanted]) -> dict[str, int]:
        files = list_files(self._path(MARKER_TABLE))
        failures, _ = read_table(files, ["uri", "error"], schema.FAILURES)
        failed = set(failures["uri"].to_pylist())
        names = [name for wanted in plan if wanted.uri not in failed for name in wanted.names]
        n_without_face = failures["error"].to_pylist().count(NO_FACE.error)
        return {
            "photos": len(plan),
            "crops": len(names),
            "people": len({name.partition("/")[0] for name in names}),
            "without_a_face": n_without_face,
            "failures": len(failures) - n_without_face,
        }

    def _complete_shards(self) -> set[str]:
        return {PurePosixPath(path).stem for path in list_files(self._path(MARKER_TABLE))}

    def _photos_done(self, sizes: dict[str, int]) -> int:
        return sum(sizes.get(name, 0) for name in self._complete_shards())

    def _remove_temporary_files(self) -> None:
        """Deletes what a killed job was writing; readers pass over it, but it takes room."""
        delete_files([path for path in all_files(self.output) if TEMPORARY_ENDING.search(path)])

    def _write_manifest(self, entry: dict[str, Any]) -> None:
        text = json.dumps(entry, indent=2, sort_keys=True) + "\n"
        write_bytes(self._path(MANIFEST), text.encode())

    def _path(self, *names: str) -> str:
        return FileSystems.join(self.output, *names)


def format_crops(entry: dict[str, Any]) -> str:
    """The counts and seconds of a crops job, one line each."""
    counts = {name.replace("_", " "): f"{n:,}" for name, n in entry["counts"].items()}
    width = max(map(len, counts.values()))
    lines = [f"{name:16}{number:>{width}}" for name, number in counts.items()]
    return "\n".join([*lines, f"{'time':16}{entry['seconds']:,} s"])


def read_wanted(
    max_bytes: int, task: ReadTask, wanted: Sequence[Wanted]
) -> Iterator[LabelledPhoto]:
    """The photos of a task (see `make_read_tasks`) with their bytes and what is wanted."""
    of_uri = {photo.uri: photo for photo in wanted}
    for photo in read_task(task, max_bytes):
        its = of_uri[photo.uri]
        yield LabelledPhoto(
            photo.uri, photo.shard, content=photo.content, photo_id=photo.photo_id,
            faces=its.faces, failure=photo.failure, names=its.names, known_as=its.photo_id,
        )  # fmt: skip


def _assigned_faces(run, photo_ids: dict[str, str], faces: pa.Table, form: str) -> list[Wanted]:
    """All faces that have a person, photo by photo."""
    uri_of: dict[str, str] = {}  # of copies of a photo, the first
    for uri in sorted(photo_ids):
        uri_of.setdefault(photo_ids[uri], uri)
    people = assigned_people(run, read_assignments(run), faces["face_id"]).to_pylist()
    rows: dict[str, dict[str, int]] = {}  # {photo_id: {face_id: row}}; copies of a photo share one
    for row, (face_id, photo_id) in enumerate(
        zip(faces["face_id"].to_pylist(), faces["photo_id"].to_pylist(), strict=True)
    ):
        if people[row] is not None:
            rows.setdefault(photo_id, {}).setdefault(face_id, row)
    face_at = _face_at(faces)
    wanted = []
    for photo_id, uri in sorted(uri_of.items(), key=lambda pair: pair[1]):
        of_photo = sorted(rows.get(photo_id, {}).items())
        indices = [int(face_id.rpartition("-")[2]) for face_id, _ in of_photo]
        if len(of_photo) == 1:
            indices = [None]
        names = tuple(
            crop_name(people[row], uri, form, index)
            for (_, row), index in zip(of_photo, indices, strict=True)
        )
        if names:
            wanted.append(Wanted(uri, names, tuple(face_at(row) for _, row in of_photo), photo_id))
    return wanted


def _labelled_faces(run, labels, photos, photo_ids, faces: pa.Table, form: str) -> list[Wanted]:
    """The labelled face of each photo; a photo that the run failed on is wanted, and fails here."""
    failures, _ = run.read_shards("failures", schema.FAILURES.names)
    failed = {row.pop("uri"): Failure(**row) for row in failures.to_pylist()}
    people, _ = labelled_people(labels, {**{uri: uri for uri in failed}, **photo_ids})
    row_of = labelled_faces(photos, faces)
    face_at = _face_at(faces)
    wanted = []
    for uri in sorted(people):
        if len(people[uri]) != 1:
            continue
        names = (crop_name(people[uri][0], uri, form),)
        if uri in row_of:
            wanted.append(Wanted(uri, names, (face_at(row_of[uri]),), photo_ids[uri]))
        else:
            wanted.append(Wanted(uri, names, failure=failed.get(uri, NO_FACE)))
    return wanted


def _face_at(faces: pa.Table) -> Callable[[int], Face]:
    """Rows of a faces table as faces."""
    boxes, landmarks = (
        faces[column].combine_chunks().flatten().to_numpy() for column in ("box", "landmarks")
    )
    boxes, landmarks = boxes.reshape(-1, 4), landmarks.reshape(-1, 5, 2)
    scores = faces["detection_score"].to_numpy()
    # Copies, as a row that is pickled must not take the whole table along.
    return lambda row: Face(boxes[row].copy(), landmarks[row].copy(), float(scores[row]))


def _renamed(wanted: Iterable[Wanted]) -> list[Wanted]:
    """The same with names of which no two are alike."""
    wanted = list(wanted)
    names = iter(unique_names([name for photo in wanted for name in photo.names]))
    return [replace(photo, names=tuple(next(names) for _ in photo.names)) for photo in wanted]


def _sha256(plan: Sequence[Wanted]) -> str:
    """Tells plans apart: by photos, names and boxes."""
    digest = hashlib.sha256()
    for photo in plan:
        boxes = [face.box.tolist() for face in photo.faces]
        digest.update(json.dumps([photo.uri, photo.names, photo.photo_id, boxes]).encode())
    return digest.hexdigest()
