"""Groups the faces of a run into people, in memory or on workers."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facecluster.errors import UsageError
from facecluster.pipeline.distributed.group_on_workers import group_on_workers
from facecluster.pipeline.options import WorkerOptions
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.pipeline.run.manifest import ClusterCounts, ClusterDiagnostics, ClusterEntry
from facecluster.transforms.grouping.face_filter import FILTER_COLUMNS, find_left_out_reasons
from facecluster.transforms.grouping.group_faces import group_faces
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.people.names import name_people
from facecluster.transforms.people.summary import MOST_NAMED, combine_summaries, summarize_people
from facecluster.transforms.people.tables import add_left_out_faces, make_people_tables
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
      progress: called with a short description of the current step.
      workers: whether to group on Beam's workers (see group_on_workers.py); None: in memory.
      beam_arguments: options for Beam, as on its command line.

    Returns:
      The step's manifest entry.

    Raises:
      UsageError: the run holds no faces table.
      JobError: Beam or one of its tasks failed.
      TableError: the table is damaged, or mixes models.
    """
    entry = ClusterEntry.start(options=asdict(options))
    if not run.complete_shards():
        raise UsageError(f"{run.root} holds no faces: run `facecluster embed` into it first")
    if workers and workers.distribute:
        summary = group_on_workers(run, options, workers.worker_memory, beam_arguments, progress)
    else:
        summary = _group_in_memory(run, options, progress)
    entry = entry.finish(
        counts=ClusterCounts(**summary["counts"]),
        diagnostics=ClusterDiagnostics(**summary["diagnostics"]),
    )
    run.update_manifest(entry)
    return entry


def _group_in_memory(
    run: RunDirectory, options: ClusterOptions, progress: Callable[[str], None]
) -> dict[str, Any]:
    progress("reading faces")
    columns = ["face_id", "photo_id", *FILTER_COLUMNS]
    faces = distinct_rows(run.read_shards("faces", columns)[0], "face_id")
    faces = faces.sort_by("face_id").combine_chunks()
    reasons = find_left_out_reasons(faces, options)
    others = faces.select(["face_id", "photo_id"]).filter(reasons.is_valid())
    faces = faces.filter(reasons.is_null()).combine_chunks()
    stored = stored_vectors(faces["embedding"])
    face_ids, photo_ids = (faces[name].combine_chunks() for name in ("face_id", "photo_id"))
    encoded = pc.dictionary_encode(photo_ids)
    originals = run.find_originals(photo_ids).dictionary_encode()
    photos, originals = (
        column.indices.to_numpy(zero_copy_only=False).astype(np.int64)
        for column in (encoded, originals)
    )
    grouping = group_faces(stored, photos, options, run.read_cohort(), progress, originals)
    progress(f"writing people of {len(faces):,} faces")
    names = name_people(grouping.labels.labels, face_ids, _previous_people(run, face_ids))
    people, assignments = make_people_tables(
        grouping.labels,
        stored,
        face_ids,
        photo_ids,
        grouping.repeated,
        names,
        grouping.n_photos,
    )
    assignments = add_left_out_faces(assignments, others, reasons.drop_null())
    run.write("assignments", assignments)
    run.write("people", people)
    summary = combine_summaries([summarize_people(people, assignments)])
    collages = encoded.dictionary.take(pa.array(grouping.collages)).to_pylist()
    summary["diagnostics"] |= grouping.diagnostics
    summary["diagnostics"]["collage_photos"] = sorted(collages)[:MOST_NAMED]
    return summary


def _previous_people(run: RunDirectory, face_ids: pa.Array) -> pa.DictionaryArray:
    """(n,) dictionary-encoded string: the person that each face had, null for none.

    The dictionary holds all people of the earlier grouping.
    """
    if not run.exists("assignments"):
        return pa.nulls(len(face_ids), pa.string()).dictionary_encode()
    earlier = run.read("assignments", ["face_id", "person_id"]).combine_chunks()
    rows = pc.index_in(face_ids, value_set=earlier["face_id"])
    return earlier["person_id"].combine_chunks().dictionary_encode().take(rows)
