"""The faces table into people: neighbours, spanning forest, HDBSCAN, noise attached."""

import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facecluster.pipeline.options import ClusterOptions
from facecluster.pipeline.run_directory import RunDirectory
from facecluster.transforms.codec import decode
from facecluster.transforms.hdbscan_labels import (
    Labels,
    attach_noise,
    forest_labels,
    pair_noise,
    separate_noise,
)
from facecluster.transforms.neighbors import Neighbors, nearest_neighbors
from facecluster.transforms.people import people_tables
from facecluster.transforms.spanning_forest import minimum_spanning_forest, mutual_reachability


class ClusterError(Exception):
    """A run that holds nothing to cluster."""


def cluster_run(
    run: RunDirectory, options: ClusterOptions, progress: Callable[[str], None]
) -> dict:
    """Groups a run's faces and writes its people and assignments tables.

    Args:
      run: holds the faces table; person ids of an earlier grouping in it are kept where they fit.
      options: how faces become people.
      progress: told in a few words what is being done.

    Returns:
      The step's manifest entry: counts, seconds, options.

    Raises:
      ClusterError: the run holds no faces table.
      TableError: the table is damaged, or mixes models.
    """
    started = time.monotonic()
    if not run.complete_shards():
        raise ClusterError(f"{run.root} holds no faces: run `facecluster embed` into it first")
    progress("reading faces")
    faces, _ = run.read_shards("faces", ["face_id", "photo_id", "embedding"])
    faces = _each_once(faces)
    vectors = decode(faces["embedding"])
    progress(f"finding neighbours of {len(faces):,} faces")
    neighbors = nearest_neighbors(vectors, options.n_neighbors)
    progress(f"grouping {len(faces):,} faces")
    labels = cluster_faces(neighbors, options)
    people, assignments = people_tables(
        labels, vectors, faces["face_id"].to_pylist(), faces["photo_id"].to_pylist(), _names(run)
    )
    run.write("assignments", assignments)
    run.write("people", people)
    entry = {
        "state": "done",
        "options": asdict(options),
        "seconds": round(time.monotonic() - started, 1),
        "counts": {
            "faces": len(faces),
            "people": len(people),
            "unassigned": assignments["person_id"].null_count,
            "largest_person": pc.max(people["size"]).as_py() or 0,
        },
    }
    run.update_manifest("cluster", entry)
    return entry


def cluster_faces(neighbors: Neighbors, options: ClusterOptions) -> Labels:
    """A k-nearest-neighbour graph into people."""
    n = len(neighbors.ids)
    edges = mutual_reachability(
        neighbors, options.min_samples, options.min_distance, options.max_distance
    )
    forest = minimum_spanning_forest(edges, n)
    labels = forest_labels(forest, n, max(options.min_cluster_size, 2), options.max_distance)
    labels = attach_noise(labels, neighbors, options.attach_distance)
    if options.min_cluster_size <= 2:
        labels = pair_noise(labels, neighbors, options.pair_distance)
    if options.min_cluster_size == 1:
        labels = separate_noise(labels)
    return labels


def _each_once(faces: pa.Table) -> pa.Table:
    """Without the repetitions that the same photo under several names brings."""
    _, first = np.unique(faces["face_id"].to_numpy(zero_copy_only=False), return_index=True)
    return faces.take(first)  # sorted by face_id, so that labels do not depend on the order


def _names(run: RunDirectory) -> dict[str, str]:
    if not run.exists("assignments"):
        return {}
    before = run.read("assignments")
    pairs = zip(before["face_id"].to_pylist(), before["person_id"].to_pylist(), strict=True)
    return {face_id: person_id for face_id, person_id in pairs if person_id}
