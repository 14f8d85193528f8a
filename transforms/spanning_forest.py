"""The minimum spanning forest of the faces' mutual reachability graph.

HDBSCAN* (Campello et al. 2015, section 3) needs of a graph only its minimum spanning forest, and
the forest of a union of edges is the forest of the union of their forests: so it can be built
from parts.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import minimum_spanning_tree

from facecluster.transforms.neighbors import Neighbors

# Among equal reachability the nearer pair joins first. Distances are at most 2, and two different
# float32 reachabilities are at least 6e-8 of them apart: no other order changes.
TIE_BREAK = 2e-8


@dataclass(frozen=True)
class Edges:
    """A weighted graph: (m,) int64 ends i and j, (m,) float64 weight."""

    i: np.ndarray
    j: np.ndarray
    weight: np.ndarray


def mutual_reachability(
    neighbors: Neighbors, min_samples: int, min_distance: float, max_distance: float
) -> Edges:
    """The edges of the neighbour graph, weighted with mutual reachability distance.

    max(core(i), core(j), d(i, j)), where core is the distance to the min_samples-th neighbour, the
    face itself not counted.

    Args:
      neighbors: the graph.
      min_samples: at least 1; a graph of fewer neighbours counts its last.
      min_distance: above 0; smaller distances count as this. Without it copies of a photo would be
        infinitely dense, and a burst of photos of one person a cluster apart from the others.
      max_distance: edges of this reachability and more are left out.

    Returns:
      The edges of reachability below max_distance, each direction that the graph has.
    """
    k = neighbors.ids.shape[1]
    if k == 0:
        return Edges(*(np.empty(0, kind) for kind in (np.int64, np.int64, np.float64)))
    distances = np.maximum(neighbors.distances, np.float32(min_distance))
    core = distances[:, min(min_samples, k) - 1]
    i, rank = np.nonzero(distances < max_distance)  # a missing neighbour is infinitely far
    j, distance = neighbors.ids[i, rank], distances[i, rank]
    weight = np.maximum(np.maximum(core[i], core[j]), distance)
    near = weight < max_distance
    weight, distance = weight[near].astype(np.float64), distance[near].astype(np.float64)
    weight *= 1 + TIE_BREAK * distance
    return Edges(i[near], j[near], weight)


def minimum_spanning_forest(edges: Edges, n: int) -> Edges:
    """The lightest edges that connect what `edges` connect.

    Args:
      edges: in any order, with repetitions and either or both directions.
      n: number of faces; ends are below it.
    """
    low, high = np.minimum(edges.i, edges.j), np.maximum(edges.i, edges.j)
    order = np.lexsort((edges.weight, high, low))
    low, high, weight = low[order], high[order], edges.weight[order]
    first = np.ones(len(order), bool)  # a sparse matrix would add repeated edges up
    first[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    graph = csr_matrix((weight[first], (low[first], high[first])), shape=(n, n))
    forest = minimum_spanning_tree(graph, overwrite=True).tocoo()
    return Edges(forest.row.astype(np.int64), forest.col.astype(np.int64), forest.data)
