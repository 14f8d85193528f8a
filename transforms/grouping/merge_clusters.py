"""Clusters of faces whose mean faces are near become one person.

HDBSCAN's clusters are joined by single faces, so a person whose photos fall in two dense groups
stays in two. The mean of a group's faces is a better picture of the person than any one face: its
distance to another mean loses what is a photo's and not the person's.
"""

from collections.abc import Callable, Iterable

import numpy as np

from facecluster.transforms.grouping.group_sums import group_sums
from facecluster.transforms.grouping.hdbscan_labels import NOISE, Labels
from facecluster.transforms.grouping.neighbors import blocks
from facecluster.transforms.grouping.same_photo import TOLERANCE, photos_in_common
from facecluster.transforms.grouping.spanning_forest import Edges
from facecluster.transforms.tables.codec import unit_rows

# Of the squared distance between two faces that just count as one person, the share that is left
# between the means of many faces of them. Tuned with max_distance, on half of LFW's people.
SHARE_OF_MEANS = 0.75

# Reads a collection's embeddings in parts: faces (their numbers, or a slice), (m, d) as stored.
Embeddings = Callable[[], Iterable[tuple[np.ndarray | slice, np.ndarray]]]


def join_people(
    labels: Labels,
    embeddings: Embeddings,
    forest: Edges,
    photos: np.ndarray,
    max_distance: float,
    min_cluster_size: int,
) -> Labels:
    """Joins clusters and noise faces, nearest first, while their means are near enough.

    Two groups of a and b faces join within max_distance * sqrt(s + (1 - s) (1/a + 1/b) / 2), where
    s is SHARE_OF_MEANS: single faces within max_distance, large groups within 0.87 of it. In each
    round, pairs join that are each other's nearest.

    Args:
      labels: of n faces.
      embeddings: reads them.
      forest: its edges between different groups are the pairs that are looked at.
      photos: (n,) int64, the photo that keeps a face apart from others, -1 for none; groups that
        have too many in common stay apart, see same_photo.py.
      max_distance: Euclidean, between unit vectors; 0 joins nothing.
      min_cluster_size: smaller groups are noise.

    Returns:
      Labels. A face that was noise has as probability what is left of max_distance at its nearest
      face of its new group.
    """
    group = labels.labels.copy()
    noise = np.flatnonzero(group == NOISE)
    group[noise] = group.max(initial=NOISE) + 1 + np.arange(len(noise))
    across = group[forest.i] != group[forest.j]
    if max_distance > 0 and across.any():
        ends = group[np.stack([forest.i[across], forest.j[across]])]
        group = _joined(group, ends, embeddings, photos, max_distance)
    return _numbered(labels, group, forest, max_distance, min_cluster_size)


def _joined(
    group: np.ndarray,
    ends: np.ndarray,
    embeddings: Embeddings,
    photos: np.ndarray,
    max_distance: float,
) -> np.ndarray:
    # Only groups with an edge to another take part; they are numbered anew.
    taking_part, ends = np.unique(ends, return_inverse=True)
    number = np.full(group.max() + 1, -1)
    number[taking_part] = np.arange(len(taking_part))
    part = number[group]
    sums = group_sums(embeddings(), part, len(taking_part))
    faces = np.flatnonzero(part >= 0)
    part = part[faces]
    size = np.bincount(part).astype(np.float64)
    joined = np.arange(len(taking_part))  # the part that each has become
    a, b = ends.reshape(2, -1)
    while True:
        a, b = np.unique(np.sort(np.stack([joined[a], joined[b]]), axis=0), axis=1)
        a, b = a[a != b], b[a != b]
        nearness = _distances(sums, a, b) / _limits(size, a, b, max_distance)
        near = np.flatnonzero(nearness < 1)
        common = photos_in_common(joined[part], photos[faces], a[near], b[near])
        near = near[common <= TOLERANCE * np.minimum(size[a[near]], size[b[near]])]
        first, second = _each_others_nearest(a[near], b[near], nearness[near], len(size))
        if not len(first):
            break
        sums[first] += sums[second]
        size[first] += size[second]
        into = np.arange(len(size))
        into[second] = first
        joined = into[joined]
    group = group.copy()
    group[faces] = taking_part[joined[part]]
    return group


def _distances(sums, a, b):
    """(m,) Euclidean distances between the directions of two sums."""
    distances = np.empty(len(a), np.float32)
    for s in blocks(len(a)):
        distances[s] = np.linalg.norm(unit_rows(sums[a[s]]) - unit_rows(sums[b[s]]), axis=1)
    return distances


def _limits(size, a, b, max_distance):
    singles = (1 / size[a] + 1 / size[b]) / 2
    return max_distance * np.sqrt(SHARE_OF_MEANS + (1 - SHARE_OF_MEANS) * singles)


def _each_others_nearest(a, b, nearness, n):
    """The pairs (a, b) of which each is the other's nearest; of equals, the first."""
    order = np.lexsort((b, a, nearness))
    a, b = a[order], b[order]
    rank = np.arange(len(a))
    best = np.full(n, len(a))
    np.minimum.at(best, a, rank)
    np.minimum.at(best, b, rank)
    mutual = (best[a] == rank) & (best[b] == rank)
    return a[mutual], b[mutual]


def _numbered(labels, group, forest, max_distance, min_cluster_size):
    """Groups as labels without gaps, those too small as noise."""
    _, group, counts = np.unique(group, return_inverse=True, return_counts=True)
    person = counts[group] >= max(min_cluster_size, 2)
    new = np.full(len(group), NOISE, np.int64)
    new[person] = np.unique(group[person], return_inverse=True)[1]
    probabilities = np.where(person, labels.probabilities, 0.0)
    came = person & (labels.labels == NOISE)
    nearest = np.full(len(group), np.inf)
    inside = group[forest.i] == group[forest.j]
    for end in (forest.i[inside], forest.j[inside]):
        np.minimum.at(nearest, end, forest.weight[inside])
    # Brought by others of its group, a face may have no edge into it.
    left = 1 - np.minimum(nearest, max_distance) / max(max_distance, 1e-9)
    return Labels(new, np.where(came, left, probabilities))
