"""Shots: photos that are one piece of evidence, such as a burst, a photo and its copies.

Fifteen frames of one second say no more about who somebody is than one of them. Faces of one shot
are told by their vectors, which are nearer than those of two photos ever are; a small thumbnail,
whose vector differs more, by its photo being a near-duplicate. One face of each shot, the first,
stands for all of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

# Two photos nearer than this are one shot: a burst, a copy, another size. The fraction of
# `same_person` that is missing from a cosine of 1.
ONE_SHOT = 0.11

Pairs = tuple[np.ndarray, np.ndarray]  # (m,) int64, faces


@dataclass(frozen=True, eq=False)
class Shots:
    """The shots of n faces.

    Attributes:
      first: (n,) int64, as `first_of_shots` gives them; only the first faces have neighbors.
      seen: (n,) int64, the same, where frames that only the second search found count as well.
      photos: (n,) int64, the photo of each face.
      originals: (n,) int64, the photo that it is a near-duplicate of, or the photo.
    """

    first: np.ndarray
    seen: np.ndarray
    photos: np.ndarray
    originals: np.ndarray


def one_shot_distance(same_person: float) -> float:
    """The Euclidean distance of normalized vectors below which two photos are one shot.

    Args:
      same_person: the typical normalized similarity of two photos of one person.
    """
    return float(np.sqrt(2 * ONE_SHOT * max(same_person, 0)))


def find_one_shot_pairs(
    faces: np.ndarray, ids: np.ndarray, distances: np.ndarray, same_person: float
) -> Pairs:
    """The edges (faces, ids, distances), (m,) each, that are so short that both ends are one shot.

    Equal vectors are at distance 0.

    Args:
      same_person: see `one_shot_distance`.
    """
    near = (distances == 0) | (distances < one_shot_distance(same_person))
    return faces[near], ids[near]


def join_pairs(parts: Iterable[Pairs]) -> Pairs:
    """The pairs of all parts; there is at least one part."""
    first, second = zip(*parts, strict=True)
    return np.concatenate(first), np.concatenate(second)


def first_of_shots(faces: np.ndarray, others: np.ndarray, n: int) -> np.ndarray:
    """(n,) int64: the first face, the lowest-numbered, of each face's shot.

    Args:
      faces, others: (m,) int64, pairs of faces of one shot.
      n: number of faces.
    """
    graph = coo_matrix((np.ones(len(faces), np.int8), (faces, others)), shape=(n, n))
    shot = connected_components(graph, directed=False)[1]
    return np.unique(shot, return_index=True)[1][shot]


def match_near_duplicates(
    faces: np.ndarray, others: np.ndarray, similarity: np.ndarray, photos: np.ndarray
) -> Pairs:
    """The pairs of faces that show one person in two near-duplicates of a photo.

    Of two photos, each face is matched with the one that is most similar in the other, if that is
    so both ways: twins stay apart.

    Args:
      faces, others: (m,) int64, pairs of faces in near-duplicate photos that are as similar as only
        one person's are, in one direction or both.
      similarity: (m,) of the pairs.
      photos: (n,) the photo of each face.
    """
    in_two_photos = photos[faces] != photos[others]
    faces, others, similarity = (x[in_two_photos] for x in (faces, others, similarity))
    faces, others = np.concatenate([faces, others]), np.concatenate([others, faces])
    similarity = np.concatenate([similarity, similarity])
    order = np.lexsort((others, -similarity, photos[others], faces))
    faces, others = faces[order], others[order]
    is_best = np.ones(len(faces), bool)
    is_best[1:] = (np.diff(faces) != 0) | (np.diff(photos[others]) != 0)
    pairs = np.stack([faces[is_best], others[is_best]])
    n = len(photos)
    is_mutual = np.isin(pairs[0] * n + pairs[1], pairs[1] * n + pairs[0])
    return pairs[0, is_mutual], pairs[1, is_mutual]


def count_photos(
    labels: np.ndarray,
    shots: np.ndarray,
    appearances: np.ndarray,
    photos: np.ndarray,
    originals: np.ndarray,
) -> np.ndarray:
    """(n_labels,) int64: the photos of each label, of which those of one shot count once.

    The number of shots or of appearances, whichever is less. In near-duplicates, the appearances in
    the one that has most count.

    Args:
      labels: (n,) int64 from 0.
      shots: (n,) int64, the shot of each face.
      appearances: (n,) int64, the same for faces that show somebody twice in one photo (a mirror).
        In a collage, each face counts.
      photos: (n,) int64, the photo of each face.
      originals: (n,) int64, the photo that it is a near-duplicate of, or the photo.
    """
    n_labels = labels.max(initial=-1) + 1
    n_shots = np.bincount(labels[_first_rows(labels, shots)], minlength=n_labels)
    rows = _first_rows(labels, originals, photos, appearances)
    in_photo, counts = _count_runs(labels[rows], originals[rows], photos[rows])
    rows = rows[in_photo]
    in_original = _count_runs(labels[rows], originals[rows])[0]
    most = np.maximum.reduceat(counts, in_original) if len(counts) else counts
    n_seen = np.bincount(labels[rows[in_original]], most, n_labels).astype(np.int64)
    return np.minimum(n_shots, n_seen)


def count_originals(labels: np.ndarray, originals: np.ndarray) -> np.ndarray:
    """(n_labels,) int64: the photos of each label; a collage is one, near-duplicates are one.

    Args:
      labels, originals: (n,) int64, as in `count_photos`.
    """
    return np.bincount(labels[_first_rows(labels, originals)])


def _first_rows(*columns: np.ndarray) -> np.ndarray:
    """The rows that differ from all before them, sorted by the columns."""
    order = np.lexsort(columns[::-1])
    return order[_count_runs(*(column[order] for column in columns))[0]]


def _count_runs(*columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(starts, lengths) of the runs of equal rows."""
    n = len(columns[0])
    differs = np.zeros(max(n - 1, 0), bool)
    for column in columns:
        differs |= column[1:] != column[:-1]
    starts = np.concatenate([np.arange(min(n, 1)), 1 + np.flatnonzero(differs)])
    return starts, np.diff(starts, append=n)
