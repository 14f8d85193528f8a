"""HDBSCAN* over a spanning forest.

Campello, Moulavi, Zimek and Sander, "Hierarchical Density Estimates for Data Clustering,
Visualization, and Outlier Detection" (2015). The tree routines are those of the packages hdbscan
and scikit-learn. Their public estimators do not accept a graph that is not connected, so this
module calls the private functions behind them, and is the only one that does. It connects the trees
of the forest into one in a way that does not affect which clusters are selected. The tests compare
the result with both public estimators.
"""

from dataclasses import dataclass

import numpy as np
from hdbscan._hdbscan_tree import compute_stability, condense_tree, get_clusters
from sklearn.cluster._hdbscan._linkage import MST_edge_dtype, make_single_linkage

from facecluster.transforms.grouping.spanning_forest import Edges, component_labels

NOISE = -1


@dataclass(frozen=True, eq=False)
class Labels:
    """A clustering of n faces.

    Attributes:
      labels: (n,) int64, cluster numbers from 0; -1 for noise.
      probabilities: (n,) float64 membership strength in [0, 1]; 0 for noise.
    """

    labels: np.ndarray
    probabilities: np.ndarray


def forest_labels(forest: Edges, n: int, min_cluster_size: int, max_distance: float) -> Labels:
    """Selects HDBSCAN*'s excess-of-mass clusters from a spanning forest.

    Args:
      forest: as `minimum_spanning_forest` gives it.
      n: number of faces.
      min_cluster_size: smaller components and branches are noise.
      max_distance: all edges of the forest are shorter; components count as this far apart.
    """
    result = Labels(np.full(n, NOISE, np.int64), np.zeros(n))
    component = component_labels(forest, n)
    large = np.bincount(component) >= min_cluster_size
    faces = np.flatnonzero(large[component])
    if len(faces) == 0:
        return result
    number = np.full(n, -1, np.int64)
    number[faces] = np.arange(len(faces))
    kept = large[component[forest.i]]
    _, first_faces = np.unique(component[faces], return_index=True)
    inside = Edges(number[forest.i[kept]], number[forest.j[kept]], forest.weight[kept])
    tree = _connect(inside, first_faces, len(faces), min_cluster_size, max_distance)
    labels, probabilities = (
        part[: len(faces)] for part in _select_clusters(tree, min_cluster_size)
    )
    clustered = labels != NOISE
    # The sibling that `_connect` may add leaves a gap in the numbers.
    _, labels[clustered] = np.unique(labels[clustered], return_inverse=True)
    result.labels[faces], result.probabilities[faces] = labels, probabilities
    return result


def separate_noise(labels: Labels) -> Labels:
    """Makes each noise face a cluster of its own."""
    noise = np.flatnonzero(labels.labels == NOISE)
    new, probabilities = labels.labels.copy(), labels.probabilities.copy()
    new[noise] = labels.labels.max(initial=NOISE) + 1 + np.arange(len(noise))
    probabilities[noise] = 1
    return Labels(new, probabilities)


def _connect(
    forest: Edges, first_faces: np.ndarray, n: int, min_cluster_size: int, max_distance: float
) -> Edges:
    """Connects the components into one tree, in pairs, at just above max_distance.

    At a larger distance, each component would look dense compared with the gap around it, and
    excess of mass would select it as a whole instead of the people in it. At the largest weight in
    the forest, one more photo of two impostors could change the groups of all others. Connecting
    the components in pairs keeps the tree shallow.

    HDBSCAN never selects the root. A single component would be the root, so it gets a sibling of
    min_cluster_size additional points, numbered from n, whose labels are dropped.
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


def _select_clusters(tree: Edges, min_cluster_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(labels, probabilities) of the points of a spanning tree."""
    order = np.argsort(tree.weight, kind="stable")
    edges: np.ndarray = np.empty(len(order), dtype=MST_edge_dtype)
    edges["current_node"], edges["next_node"] = tree.i[order], tree.j[order]
    edges["distance"] = tree.weight[order]
    merges = make_single_linkage(edges)
    fields = ("left_node", "right_node", "value", "cluster_size")
    linkage = np.column_stack([merges[field] for field in fields]).astype(np.float64)
    condensed = condense_tree(linkage, min_cluster_size)
    stability = compute_stability(condensed)
    labels, probabilities, _ = get_clusters(condensed, stability, "eom", False, False, 0.0, 0)
    return labels, probabilities
