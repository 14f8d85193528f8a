"""Fits the cohort of an embedding space to labeled faces (see transforms/similarity/cohort.py)."""

from dataclasses import replace

import faiss
import numpy as np

from facecluster.errors import InputError
from facecluster.transforms.similarity.cohort import Cohort, nearest_means
from facecluster.transforms.similarity.normalization import fit_normalization, similarities
from facecluster.transforms.tables.codec import quantize, row_slices, unit_rows

MEMBERS = 192
MIN_PEOPLE = 20
ROUNDS = 20  # of k-means
MAX_PAIRS_PER_PERSON = 30  # so that no person has more weight than one with 8 or 9 photos
BOOTSTRAP_ROUNDS = 2


def fit_cohort(vectors: np.ndarray, people: np.ndarray) -> Cohort:
    """Fits a cohort; the result does not depend on the order of the faces.

    Its vectors are the people's means, of many people the centers of groups of similar ones. They
    are rounded as they are stored.

    Args:
      vectors: (n, d) float32 unit vectors of faces.
      people: (n,) the person of each face, of any type that can be sorted.

    Raises:
      InputError: there are fewer than MIN_PEOPLE people, or nobody has two faces.
    """
    names, labels = np.unique(people, return_inverse=True)
    if len(names) < MIN_PEOPLE:
        raise InputError(
            f"a cohort takes the faces of at least {MIN_PEOPLE} people, and there are "
            f"{len(names)}: give more crops"
        )
    order = sorted(range(len(labels)), key=lambda row: (labels[row], vectors[row].tobytes()))
    vectors, labels = vectors[order], labels[order]
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    random = np.random.default_rng(0)
    first, second = _choose_pairs(starts, np.append(starts[1:], len(labels)), random)
    if not len(first):
        raise InputError("a cohort takes two faces of at least one person: give more crops")
    members = unit_rows(quantize(_fit_members(vectors, starts)))
    level = np.concatenate([nearest_means(vectors[s], members) for s in row_slices(len(vectors))])
    same_person = np.median(np.einsum("ij,ij->i", vectors[first], vectors[second]))
    cohort = Cohort(members, float(level.mean()), float(same_person))
    sample = vectors[random.permutation(len(vectors))]
    for _ in range(BOOTSTRAP_ROUNDS):  # normalization depends on same_person itself
        normalized, scores = fit_normalization(sample, cohort).apply(vectors)
        normalized = unit_rows(normalized)
        cosines = np.einsum("ij,ij->i", normalized[first], normalized[second])
        similar = similarities(cosines, scores[first], scores[second])
        cohort = replace(cohort, same_person=float(np.median(similar)))
    return cohort


def _fit_members(vectors: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """(m, d) float32 unit vectors, m at most MEMBERS.

    Args:
      vectors: (n, d), person by person.
      starts: (p,) the first face of each person.
    """
    means = unit_rows(np.add.reduceat(vectors, starts, axis=0, dtype=np.float64))
    if len(means) <= MEMBERS:
        return means
    kmeans = faiss.Kmeans(
        means.shape[1], MEMBERS, niter=ROUNDS, seed=1, spherical=True, min_points_per_centroid=1
    )
    kmeans.train(means)
    assert kmeans.centroids is not None
    return unit_rows(kmeans.centroids)


def _choose_pairs(
    starts: np.ndarray, ends: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of pairs of faces of one person, at most MAX_PAIRS_PER_PERSON of each."""
    chosen = []
    for start, end in zip(starts, ends, strict=True):
        pairs = np.stack(np.triu_indices(end - start, 1)) + start
        if pairs.shape[1] > MAX_PAIRS_PER_PERSON:
            pairs = pairs[:, random.choice(pairs.shape[1], MAX_PAIRS_PER_PERSON, replace=False)]
        chosen.append(pairs)
    first, second = np.concatenate(chosen, axis=1)
    return first, second
