"""Builds the people and assignments tables from cluster labels."""

import numpy as np
import pyarrow as pa

from facecluster.transforms.grouping.hdbscan_labels import NOISE, Labels
from facecluster.transforms.similarity.group_sums import group_sums
from facecluster.transforms.tables import schema
from facecluster.transforms.tables.codec import row_slices, unit_rows


def make_people_tables(
    labels: Labels,
    stored: np.ndarray,
    face_ids: pa.Array,
    photo_ids: pa.Array,
    repeated: np.ndarray,
    names: pa.Array,
    n_photos: np.ndarray,
) -> tuple[pa.Table, pa.Table]:
    """Builds the table of people, largest first, and the assignments of the grouped faces.

    Args:
      labels: of n faces.
      stored: (n, d) embeddings.
      face_ids, photo_ids: (n,) string.
      repeated: (n,) bool, see `Grouping`.
      names: (n_people,) string, the person id of each cluster.
      n_photos: (n_people,) int64, see `Grouping`.

    Returns:
      (people, assignments), see schema.py.
    """
    numbers = labels.labels
    assigned = np.flatnonzero(numbers != NOISE)
    size = np.bincount(numbers[assigned], minlength=len(names))
    right = np.bincount(numbers[assigned], labels.probabilities[assigned], len(names))
    sums = group_sums([(slice(None), stored)], numbers, len(names))
    centers = unit_rows(sums)
    distances = np.full(len(numbers), np.nan, np.float32)
    for s in row_slices(len(assigned)):
        difference = unit_rows(stored[assigned[s]]) - centers[numbers[assigned[s]]]
        distances[assigned[s]] = np.linalg.norm(difference, axis=1)

    by_person = assigned[np.lexsort((distances[assigned], numbers[assigned]))]
    first = by_person[np.searchsorted(numbers[by_person], np.arange(len(names)))]
    people = pa.table(
        {
            "person_id": names,
            "size": pa.array(size, pa.int32()),
            "n_photos": pa.array(n_photos, pa.int32()),
            "representative_face_id": face_ids.take(first),
            "confidence": pa.array(right / np.maximum(size, 1), pa.float32()),
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


def add_left_out_faces(assignments: pa.Table, faces: pa.Table, reasons: pa.Array) -> pa.Table:
    """Adds the faces that were not grouped to the assignments, and sorts these by face_id.

    Args:
      assignments: as `make_people_tables` makes them.
      faces: columns face_id and photo_id of the n faces that were not grouped.
      reasons: (n,) string, as `find_left_out_reasons` gives them.
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
    """The root mean square distance between two of a person's faces.

    Args:
      lengths: (n_people,) the length of the sum of each person's unit vectors. Its square is the
        sum of the cosines of all pairs, those of each vector with itself included.
      size: (n_people,) the number of these vectors.
    """
    pairs = size * (size - 1.0)
    cosine = (lengths**2 - size) / np.maximum(pairs, 1)
    return np.where(pairs > 0, np.sqrt(np.maximum(2 - 2 * cosine, 0)), 0)
