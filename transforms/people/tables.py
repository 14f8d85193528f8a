"""Cluster labels into the people and assignments tables."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facecluster.transforms.grouping.group_sums import group_sums
from facecluster.transforms.grouping.hdbscan_labels import NOISE, Labels
from facecluster.transforms.grouping.neighbors import blocks
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.codec import unit_rows


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
