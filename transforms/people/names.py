"""Person ids that last when a collection is grouped again."""

import itertools
from collections.abc import Set

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facecluster.transforms.grouping.hdbscan_labels import NOISE


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


def _new_name(face_id: str, taken: Set[str]) -> str:
    """After a face; with a number where a person of that name lives on without it."""
    name = f"person-{face_id[:12]}{face_id[64:]}"
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([name], numbered) if name not in taken)
