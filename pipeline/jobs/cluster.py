"""The faces table into people, in memory or on workers."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facecluster.errors import UsageError
from facecluster.pipeline.distributed.grouping import group_run
from facecluster.pipeline.options import WorkerOptions
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.pipeline.run.manifest import ClusterCounts, ClusterDiagnostics, ClusterEntry
from facecluster.transforms.grouping.face_filter import FILTER_COLUMNS, left_out
from facecluster.transforms.grouping.grouping import group_faces
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.people.checks import summary_of, together
from facecluster.transforms.people.names import name_people
from facecluster.transforms.people.tables import people_tables, with_left_out
from facecluster.transforms.tables.codec import stored_vectors
from facecluster.transforms.tables.distinct import distinct_rows


def cluster_run(
    run: RunDirectory,
    options: ClusterOptions,
    progress: Callable[[str], None],
    workers: WorkerOptions | None = None,
    beam_arguments: Sequence[str] = (),
) -> ClusterEntry:
    """Groups a run's faces and writes its people and assignments tables.

    Args:
      run: holds the faces table; person ids of an earlier grouping in it are kept where they fit.
      options: how faces become people.
      progress: told in a few words what is being done.
      workers: whether on Beam's workers, see distributed_grouping.py, or here, in memory (None).
      beam_arguments: options for Beam, as on its command line.

    Returns:
      The step's manifest entry.

    Raises:
      UsageError: the run holds no faces table, or the options exclude each other.
      JobError: Beam failed.
      TableError: the table is damaged, or mixes models.
    """
    entry = ClusterEntry.start(options=asdict(options))
    if not run.complete_shards():
        raise UsageError(f"{run.root} holds no faces: run `facecluster embed` into it first")
    if options.min_samples > options.n_neighbors:
        raise UsageError(
            f"--min-samples {options.min_samples} is more than --n-neighbors "
            f"{options.n_neighbors}: no face would have so many"
        )
    if workers and workers.distribute:
        said = group_run(run, options, workers.worker_memory, beam_arguments, progress)
    else:
        said = _in_memory(run, options, progress)
    entry = entry.finish(
        counts=ClusterCounts(**said["counts"]),
        diagnostics=ClusterDiagnostics(**said["diagnostics"]),
    )
    run.update_manifest(entry)
    return entry


def _in_memory(
    run: RunDirectory, options: ClusterOptions, progress: Callable[[str], None]
) -> dict[str, Any]:
    progress("reading faces")
    columns = ["face_id", "photo_id", "embedding", *FILTER_COLUMNS]
    faces = distinct_rows(run.read_shards("faces", columns)[0], "face_id")
    faces = faces.sort_by("face_id").combine_chunks()
    reasons = left_out(faces, options)
    others = faces.select(["face_id", "photo_id"]).filter(reasons.is_valid())
    faces = faces.filter(reasons.is_null()).combine_chunks()
    stored = stored_vectors(faces["embedding"])
    face_ids, photo_ids = (faces[name].combine_chunks() for name in ("face_id", "photo_id"))
    photos = pc.dictionary_encode(photo_ids).indices.to_numpy(zero_copy_only=False)
    grouping = group_faces(stored, photos.astype(np.int64), options, progress)
    progress(f"writing people of {len(faces):,} faces")
    names = name_people(grouping.labels.labels, face_ids, *_previous(run, face_ids))
    people, assignments = people_tables(
        grouping.labels, stored, face_ids, photo_ids, grouping.repeated, names
    )
    assignments = with_left_out(assignments, others, reasons.drop_null())
    run.write("assignments", assignments)
    run.write("people", people)
    said = together([summary_of(people, assignments)])
    said["diagnostics"] |= grouping.diagnostics
    return said


def _previous(run: RunDirectory, face_ids: pa.Array) -> tuple[pa.Array, set[str]]:
    """The person id that each face had before, null for none; and all ids that there were."""
    if not run.exists("assignments"):
        return pa.nulls(len(face_ids), pa.string()), set()
    before = run.read("assignments", ["face_id", "person_id"]).combine_chunks()
    people = before["person_id"]
    rows = pc.index_in(face_ids, before["face_id"])
    return people.take(rows).combine_chunks(), set(people.unique().drop_null().to_pylist())
