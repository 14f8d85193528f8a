"""Merges clusters of faces whose mean vectors are near.

HDBSCAN links clusters by single faces, so a person whose photos form two dense groups stays two
clusters. The mean of a group's vectors represents the person better than any single face: variation
between photos (light, pose, expression) averages out.
"""

from collections.abc import Callable, Iterable

import numpy as np

from facecluster.transforms.grouping.cannot_links import TOLERANCE, count_common_photos
from facecluster.transforms.grouping.group_sums import group_sums
from facecluster.transforms.grouping.hdbscan_labels import NOISE, Labels
from facecluster.transforms.grouping.neighbors import row_slices
from facecluster.transforms.grouping.spanning_forest import Edges
from facecluster.transforms.tables.codec import unit_rows

# The squared distance between the means of two large groups that just count as one person, as a
# fraction of that between two single faces. Tuned with max_distance, on half of LFW's people.
FRACTION_BETWEEN_MEANS = 0.75

# Reads a collection's embeddings in parts: the numbers of its faces or a slice, (m, d) embeddings.
Embeddings = Callable[[], Iterable[tuple[np.ndarray | slice, np.ndarray]]]


def merge_clusters(
    labels: Labels,
    embeddings: Embeddings,
    forest: Edges,
    photos: np.ndarray,
    max_distance: float,
    min_cluster_size: int,
) -> Labels:
    """Merges clusters and noise faces, nearest first, while their means are near enough.

    Two groups of a and b faces are merged within max_distance * sqrt(f + (1 - f) (1/a + 1/b) / 2),
    where f is FRACTION_BETWEEN_MEANS: single faces within max_distance, large groups within 0.87 of
    it. In each round, pairs that are each other's nearest are merged.

    Args:
      labels: of n faces.
      embeddings: reads their embeddings.
      forest: pairs of groups that one of its edges connects are candidates.
      photos: (n,) int64, as `find_cannot_links` gives them; groups that have too many photos in
        common are not merged, see cannot_links.py.
      max_distance: Euclidean, between unit vectors; 0 merges nothing.
      min_cluster_size: smaller groups are noise.

    Returns:
      Labels. The probability of a face that was noise is 1 - d / max_distance, where d is the
      weight of the nearest edge to a face in its new group.
    """
    group = labels.labels.copy()
    noise = np.flatnonzero(group == NOISE)
    group[noise] = group.max(initial=NOISE) + 1 + np.arange(len(noise))
    across = group[forest.i] != group[forest.j]
    if max_distance > 0 and across.any():
        ends = group[np.stack([forest.i[across], forest.j[across]])]
        group = _merge(group, ends, embeddings, photos, max_distance)
    return _make_labels(labels, group, forest, max_distance, min_cluster_size)


def _merge(
    group: np.ndarray,
    ends: np.ndarray,
    embeddings: Embeddings,
    photos: np.ndarray,
    max_distance: float,
) -> np.ndarray:
    """(n,) the group of each face after merging; `ends` are the candidate pairs, flattened."""
    # Only groups with an edge to another can be merged; they are renumbered.
    candidates, ends = np.unique(ends, return_inverse=True)
    number = np.full(group.max() + 1, -1)
    number[candidates] = np.arange(len(candidates))
    candidate = number[group]
    sums = group_sums(embeddings(), candidate, len(candidates))
    faces = np.flatnonzero(candidate >= 0)
    candidate = candidate[faces]
    size = np.bincount(candidate).astype(np.float64)
    merged = np.arange(len(candidates))  # the candidate that each has been merged into
    a, b = ends.reshape(2, -1)
    while True:
        a, b = np.unique(np.sort(np.stack([merged[a], merged[b]]), axis=0), axis=1)
        a, b = a[a != b], b[a != b]
        nearness = _distances(sums, a, b) / _limits(size, a, b, max_distance)
        near = np.flatnonzero(nearness < 1)
        common = count_common_photos(merged[candidate], photos[faces], a[near], b[near])
        near = near[common <= TOLERANCE * np.minimum(size[a[near]], size[b[near]])]
        first, second = _mutual_nearest(a[near], b[near], nearness[near], len(size))
        if not len(first):
            break
        sums[first] += sums[second]
        size[first] += size[second]
        into = np.arange(len(size))
        into[second] = first
        merged = into[merged]
    group = group.copy()
    group[faces] = candidates[merged[candidate]]
    return group


def _distances(sums, a, b):
    """(m,) Euclidean distances between the directions of sums a and b."""
    distances = np.empty(len(a), np.float32)
    for s in row_slices(len(a)):
        distances[s] = np.linalg.norm(unit_rows(sums[a[s]]) - unit_rows(sums[b[s]]), axis=1)
    return distances


def _limits(size, a, b, max_distance):
    singles = (1 / size[a] + 1 / size[b]) / 2
    return max_distance * np.sqrt(FRACTION_BETWEEN_MEANS + (1 - FRACTION_BETWEEN_MEANS) * singles)


def _mutual_nearest(a, b, nearness, n):
    """The pairs (a, b) that are each other's nearest; of equally near ones, the first."""
    order = np.lexsort((b, a, nearness))
    a, b = a[order], b[order]
    rank = np.arange(len(a))
    best = np.full(n, len(a))
    np.minimum.at(best, a, rank)
    np.minimum.at(best, b, rank)
    mutual = (best[a] == rank) & (best[b] == rank)
    return a[mutual], b[mutual]


def _make_labels(labels, group, forest, max_distance, min_cluster_size):
    """Groups as labels without gaps; groups that are too small are noise."""
    _, group, counts = np.unique(group, return_inverse=True, return_counts=True)
    is_person = counts[group] >= max(min_cluster_size, 2)
    new = np.full(len(group), NOISE, np.int64)
    new[is_person] = np.unique(group[is_person], return_inverse=True)[1]
    probabilities = np.where(is_person, labels.probabilities, 0.0)
    was_noise = is_person & (labels.labels == NOISE)
    nearest = np.full(len(group), np.inf)
    inside = group[forest.i] == group[forest.j]
    for end in (forest.i[inside], forest.j[inside]):
        np.minimum.at(nearest, end, forest.weight[inside])
    # A face that was merged as part of a group may have no edge to its new group: inf.
    closeness = 1 - np.minimum(nearest, max_distance) / max(max_distance, 1e-9)
    return Labels(new, np.where(was_noise, closeness, probabilities))
