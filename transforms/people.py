"""Cluster labels into the people and assignments tables."""

import itertools
from collections.abc import Set

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facecluster.transforms import schema
from facecluster.transforms.codec import unit_rows
from facecluster.transforms.group_sums import group_sums
from facecluster.transforms.hdbscan_labels import NOISE, Labels
from facecluster.transforms.neighbors import blocks


def name_people(
    labels: np.ndarray, face_ids: pa.Array, previous: pa.Array, taken: Set[str] = frozenset()
) -> pa.Array:
    """Person ids for clusters, stable when a collection is grouped again.

    A cluster takes over the id of the earlier person it shares most faces with, each id going to
    one cluster; a new cluster is named after the first of its faces. No id passes to a cluster that
    shares no face with the person who had it.

    Args:
      labels: (n,) cluster numbers from 0 without gaps, -1 for noise.
      face_ids: the n faces, ascending.
      previous: the person id that each face had before, null for none.
      taken: ids of people who may have no face here any more; new people get others.

    Returns:
      The person id of each cluster number.
    """
    had = pc.dictionary_encode(previous)
    before = had.dictionary.to_pylist()
    codes = had.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    both = (labels != NOISE) & (codes >= 0)
    pairs, counts = np.unique(np.stack([labels[both], codes[both]]), axis=1, return_counts=True)
    names: dict[int, str] = {}
    kept: set[str] = set()
    shared = zip(counts.tolist(), pairs[0].tolist(), pairs[1].tolist(), strict=True)
    for _, label, code in sorted(shared, key=lambda pair: (-pair[0], before[pair[2]], pair[1])):
        if label not in names and before[code] not in kept:
            names[label] = before[code]
            kept.add(before[code])
    taken = taken | set(before)
    numbers, first = np.unique(labels, return_index=True)
    for label, face in zip(numbers.tolist(), face_ids.take(first).to_pylist(), strict=True):
        if label != NOISE and label not in names:
            names[label] = _new_name(face, taken)
            taken.add(names[label])
    return pa.array([names[label] for label in range(len(names))], pa.string())


def people_tables(
    labels: Labels,
    stored: np.ndarray,
    face_ids: pa.Array,
    photo_ids: pa.Array,
    repeated: np.ndarray,
    names: pa.Array,
) -> tuple[pa.Table, pa.Table]:
    """The people, largest first, and the assignment of every face that was grouped.

    Args:
      labels: of n faces.
      stored: (n, d) embeddings.
      face_ids, photo_ids: of the n faces.
      repeated: (n,) bool, faces whose photo shows them twice.
      names: the person id of each cluster number.

    Returns:
      (people, assignments), see schema.py.
    """
    numbers = labels.labels
    assigned = np.flatnonzero(numbers != NOISE)
    size = np.bincount(numbers[assigned], minlength=len(names))
    sums = group_sums([(slice(None), stored)], numbers, len(names))
    centres = unit_rows(sums)
    distances = np.full(len(numbers), np.nan, np.float32)
    for s in blocks(len(assigned)):
        away = unit_rows(stored[assigned[s]]) - centres[numbers[assigned[s]]]
        distances[assigned[s]] = np.linalg.norm(away, axis=1)

    by_person = assigned[np.lexsort((distances[assigned], numbers[assigned]))]
    first = by_person[np.searchsorted(numbers[by_person], np.arange(len(names)))]
    photo = pc.dictionary_encode(photo_ids).indices.to_numpy(zero_copy_only=False)
    shown = np.unique(np.stack([numbers[assigned], photo[assigned].astype(np.int64)]), axis=1)
    people = pa.table(
        {
            "person_id": names,
            "size": pa.array(size, pa.int32()),
            "n_photos": pa.array(np.bincount(shown[0], minlength=len(names)), pa.int32()),
            "representative_face_id": face_ids.take(first),
            "spread": pa.array(_spread(np.linalg.norm(sums, axis=1), size), pa.float32()),
        },
        schema=schema.stamped(schema.PEOPLE),
    )
    assignments = {
        "face_id": face_ids,
        "photo_id": photo_ids,
        "person_id": names.take(pa.array(numbers, mask=numbers == NOISE)),
        "probability": pa.array(labels.probabilities, pa.float32()),
        "distance": pa.array(distances, pa.float32(), from_pandas=True),
        "repeated_in_photo": pa.array(repeated),
        "left_out": pa.nulls(len(numbers), pa.string()),
    }
    return (
        people.sort_by([("size", "descending"), ("person_id", "ascending")]),
        pa.table(assignments, schema=schema.stamped(schema.ASSIGNMENTS)),
    )


def with_left_out(assignments: pa.Table, faces: pa.Table, reasons: pa.Array) -> pa.Table:
    """Assignments with the rows of faces that were not grouped, by face_id.

    Args:
      assignments: as `people_tables` gives them.
      faces: columns face_id and photo_id of the n faces that were not.
      reasons: (n,) strings, why.
    """
    if not len(faces):
        return assignments
    n = len(faces)
    columns = {
        "face_id": faces["face_id"],
        "photo_id": faces["photo_id"],
        "person_id": pa.nulls(n, pa.string()),
        "probability": pa.array(np.zeros(n, np.float32)),
        "distance": pa.nulls(n, pa.float32()),
        "repeated_in_photo": pa.array(np.zeros(n, bool)),
        "left_out": reasons,
    }
    rows = pa.table(columns, schema=assignments.schema)
    return pa.concat_tables([assignments, rows]).sort_by("face_id").combine_chunks()


def _spread(lengths: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Root of the mean squared distance of two faces, from the length of the sum of size vectors.

    The squared length is the sum of all cosines, that of each vector with itself included.
    """
    pairs = size * (size - 1.0)
    cosine = (lengths**2 - size) / np.maximum(pairs, 1)
    return np.where(pairs > 0, np.sqrt(np.maximum(2 - 2 * cosine, 0)), 0)


def _new_name(face_id: str, taken: Set[str]) -> str:
    """After a face; with a number where a person of that name lives on without it."""
    name = f"person-{face_id[:12]}{face_id[64:]}"
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([name], numbered) if name not in taken)
