"""HDBSCAN* over a spanning forest, then people for the faces it left alone.

Campello, Moulavi, Zimek and Sander, "Hierarchical Density Estimates for Data Clustering,
Visualization, and Outlier Detection" (2015). The tree routines are those of the packages hdbscan
and scikit-learn, which both refuse a graph that is not connected; this file makes one tree of the
forest in a way that leaves their selection undisturbed.
"""

from dataclasses import dataclass

import numpy as np
from hdbscan._hdbscan_tree import compute_stability, condense_tree, get_clusters
from sklearn.cluster._hdbscan._linkage import MST_edge_dtype, make_single_linkage

from facecluster.transforms.grouping.spanning_forest import Edges, components

NOISE = -1


@dataclass(frozen=True)
class Labels:
    """A clustering of n faces.

    Attributes:
      labels: (n,) int64, cluster numbers from 0; -1 for noise.
      probabilities: (n,) float64 membership strength in [0, 1]; 0 for noise.
    """

    labels: np.ndarray
    probabilities: np.ndarray


def forest_labels(forest: Edges, n: int, min_cluster_size: int, max_distance: float) -> Labels:
    """HDBSCAN*'s excess-of-mass clusters of a mutual reachability forest.

    Args:
      forest: as `minimum_spanning_forest` gives it.
      n: number of faces.
      min_cluster_size: smaller components and branches are noise.
      max_distance: what `mutual_reachability` was given; components count as this far apart.
    """
    result = Labels(np.full(n, NOISE, np.int64), np.zeros(n))
    component = components(forest, n)
    large = np.bincount(component) >= min_cluster_size
    faces = np.flatnonzero(large[component])
    if len(faces) == 0:
        return result
    number = np.full(n, -1, np.int64)
    number[faces] = np.arange(len(faces))
    kept = large[component[forest.i]]
    _, first_faces = np.unique(component[faces], return_index=True)
    inside = Edges(number[forest.i[kept]], number[forest.j[kept]], forest.weight[kept])
    tree = _joined(inside, first_faces, len(faces), min_cluster_size, max_distance)
    labels, probabilities = (part[: len(faces)] for part in _select(tree, min_cluster_size))
    clustered = labels != NOISE
    _, labels[clustered] = np.unique(labels[clustered], return_inverse=True)  # see _joined: a gap
    result.labels[faces], result.probabilities[faces] = labels, probabilities
    return result


def separate_noise(labels: Labels) -> Labels:
    """Makes every noise face a cluster of its own."""
    noise = np.flatnonzero(labels.labels == NOISE)
    new, probabilities = labels.labels.copy(), labels.probabilities.copy()
    new[noise] = labels.labels.max(initial=NOISE) + 1 + np.arange(len(noise))
    probabilities[noise] = 1
    return Labels(new, probabilities)


def _joined(
    forest: Edges, first_faces: np.ndarray, n: int, min_cluster_size: int, max_distance: float
) -> Edges:
    """One tree of all components, joined just above max_distance; in pairs, so it is not deep.

    Joined farther away, every component would look dense beside the gap around it, and excess of
    mass would prefer it whole to the people in it. Joined at the largest weight that there happens
    to be, two strangers in one more photo could regroup everybody else.

    HDBSCAN never selects the root. A component alone would be the root, so it gets a sibling of
    min_cluster_size faces, numbered from n, that are nobody's.
    """
    i, j, weight = [forest.i], [forest.j], [forest.weight]
    if len(first_faces) == 1:
        sibling = np.arange(n, n + min_cluster_size)
        i.append(sibling[:-1])
        j.append(sibling[1:])
        weight.append(np.full(min_cluster_size - 1, max_distance))
        first_faces = np.append(first_faces, n)
    apart = max_distance * (1 + 1e-6)
    while len(first_faces) > 1:
        even = len(first_faces) // 2 * 2
        left, right = first_faces[:even:2], first_faces[1:even:2]
        i.append(left)
        j.append(right)
        weight.append(np.full(len(left), apart))
        first_faces = np.concatenate([left, first_faces[even:]])
    return Edges(np.concatenate(i), np.concatenate(j), np.concatenate(weight))


def _select(tree: Edges, min_cluster_size: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(tree.weight, kind="stable")
    edges = np.empty(len(order), dtype=MST_edge_dtype)
    edges["current_node"], edges["next_node"] = tree.i[order], tree.j[order]
    edges["distance"] = tree.weight[order]
    merges = make_single_linkage(edges)
    fields = ("left_node", "right_node", "value", "cluster_size")
    linkage = np.column_stack([merges[field] for field in fields]).astype(np.float64)
    condensed = condense_tree(linkage, min_cluster_size)
    stability = compute_stability(condensed)
    labels, probabilities, _ = get_clusters(condensed, stability, "eom", False, False, 0.0, 0)
    return labels, probabilities
