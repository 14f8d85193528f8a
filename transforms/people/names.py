"""Person ids that stay the same when a collection is grouped again."""

import itertools
from collections.abc import Collection, Set

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facecluster.transforms.grouping.hdbscan_labels import NOISE


def name_people(
    labels: np.ndarray, face_ids: pa.Array, previous: pa.Array, taken: Collection[str] = ()
) -> pa.Array:
    """Chooses person ids for clusters, keeping those of an earlier grouping.

    A cluster takes the id of the earlier person with whom it shares most faces; each id goes to one
    cluster. A new cluster is named after its first face. An id never goes to a cluster that shares
    no face with the person who had it.

    Args:
      labels: (n,) cluster numbers from 0 without gaps, -1 for noise.
      face_ids: (n,) string, ascending; only the first of each cluster is used.
      previous: (n,) string, or dictionary-encoded strings: the person id that each face had
        before, null for none. New people get other ids than those in its dictionary.
      taken: further ids that new people must not get.

    Returns:
      (n_clusters,) string, the person id of each cluster.
    """
    previous = pc.dictionary_encode(previous)
    earlier = previous.dictionary.to_pylist()
    codes = previous.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    both = (labels != NOISE) & (codes >= 0)
    pairs, counts = np.unique(np.stack([labels[both], codes[both]]), axis=1, return_counts=True)
    names: dict[int, str] = {}
    kept: set[str] = set()
    shared = zip(counts.tolist(), pairs[0].tolist(), pairs[1].tolist(), strict=True)
    for _, label, code in sorted(shared, key=lambda pair: (-pair[0], earlier[pair[2]], pair[1])):
        if label not in names and earlier[code] not in kept:
            names[label] = earlier[code]
            kept.add(earlier[code])
    unavailable = {*taken, *earlier}
    numbers, first = np.unique(labels, return_index=True)
    for label, face in zip(numbers.tolist(), face_ids.take(first).to_pylist(), strict=True):
        if label != NOISE and label not in names:
            names[label] = _new_name(face, unavailable)
            unavailable.add(names[label])
    return pa.array([names[label] for label in range(len(names))], pa.string())


def _new_name(face_id: str, unavailable: Set[str]) -> str:
    """The name after a face, with a number if another person has that name already."""
    name = f"person-{face_id[:12]}{face_id[64:]}"
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([name], numbered) if name not in unavailable)
