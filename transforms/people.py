"""Cluster labels into the people and assignments tables."""

import itertools
from collections.abc import Mapping, Sequence, Set

import numpy as np
import pyarrow as pa

from facecluster.transforms import schema
from facecluster.transforms.hdbscan_labels import NOISE, Labels


def name_people(
    labels: np.ndarray, face_ids: Sequence[str], previous: Mapping[str, str]
) -> list[str]:
    """Person ids for clusters, stable when a collection is grouped again.

    A cluster takes over the id of the earlier person it shares most faces with, each id going to
    one cluster; a new cluster is named after the first of its faces. No id passes to a cluster that
    shares no face with the person who had it.

    Args:
      labels: (n,) cluster numbers from 0 without gaps, -1 for noise.
      face_ids: the n faces.
      previous: person ids that faces had before.

    Returns:
      The person id of each cluster number.
    """
    members: dict[int, list[str]] = {}
    shared: dict[tuple[int, str], int] = {}
    for label, face_id in zip(labels.tolist(), face_ids, strict=True):
        if label == NOISE:
            continue
        members.setdefault(label, []).append(face_id)
        if face_id in previous:
            key = (label, previous[face_id])
            shared[key] = shared.get(key, 0) + 1
    names: dict[int, str] = {}
    kept: set[str] = set()
    for (label, name), _ in sorted(shared.items(), key=lambda item: (-item[1], item[0][1])):
        if label not in names and name not in kept:
            names[label] = name
            kept.add(name)
    taken = set(previous.values())
    for label in sorted(members.keys() - names.keys()):
        names[label] = _new_name(min(members[label]), taken)
        taken.add(names[label])
    return [names[label] for label in range(len(members))]


def people_tables(
    labels: Labels,
    vectors: np.ndarray,
    face_ids: Sequence[str],
    photo_ids: Sequence[str],
    previous: Mapping[str, str],
) -> tuple[pa.Table, pa.Table]:
    """The people, largest first, and every face's assignment.

    Args:
      labels: of n faces.
      vectors: (n, d) float32 unit vectors.
      face_ids, photo_ids: of the n faces.
      previous: person ids that faces had before, see `name_people`.

    Returns:
      (people, assignments), see schema.py.
    """
    numbers = labels.labels
    names = name_people(numbers, face_ids, previous)
    assigned = np.flatnonzero(numbers != NOISE)
    centres = np.zeros((len(names), vectors.shape[1]), np.float32)
    np.add.at(centres, numbers[assigned], vectors[assigned])
    centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
    distances = np.full(len(numbers), np.nan, np.float32)
    distances[assigned] = np.linalg.norm(vectors[assigned] - centres[numbers[assigned]], axis=1)

    by_person = assigned[np.lexsort((distances[assigned], numbers[assigned]))]
    starts = np.searchsorted(numbers[by_person], np.arange(len(names) + 1))
    people = [
        {
            "person_id": name,
            "size": int(stop - start),
            "n_photos": len({photo_ids[face] for face in by_person[start:stop]}),
            "representative_face_id": face_ids[by_person[start]],
        }
        for name, start, stop in zip(names, starts[:-1], starts[1:], strict=True)
    ]
    people.sort(key=lambda person: (-person["size"], person["person_id"]))
    assignments = {
        "face_id": pa.array(face_ids, pa.string()),
        "photo_id": pa.array(photo_ids, pa.string()),
        "person_id": pa.array([names[n] if n != NOISE else None for n in numbers], pa.string()),
        "probability": pa.array(labels.probabilities, pa.float32()),
        "distance": pa.array(distances, pa.float32(), from_pandas=True),
    }
    return (
        pa.Table.from_pylist(people, schema=schema.stamped(schema.PEOPLE)),
        pa.table(assignments, schema=schema.stamped(schema.ASSIGNMENTS)),
    )


def _new_name(face_id: str, taken: Set[str]) -> str:
    """After a face; with a number where a person of that name lives on without it."""
    name = f"person-{face_id[:12]}{face_id[64:]}"
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([name], numbered) if name not in taken)
