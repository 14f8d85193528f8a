"""The minimum spanning forest of a graph of faces.

HDBSCAN* (Campello et al. 2015, section 3) needs only the minimum spanning forest of a graph. The
forest of a union of edge sets is the forest of the union of their forests, so it can be built from
parts.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

# Of edges of equal reachability, the one of the smaller distance comes first. Distances are at most
# 2, and two different float32 reachabilities differ by a factor of at least 1 + 6e-8, so the order
# of edges of different reachability does not change.
TIE_BREAK = 2e-8


@dataclass(frozen=True, eq=False)
class Edges:
    """A weighted graph: (m,) int64 ends i and j, (m,) float64 weight."""

    i: np.ndarray
    j: np.ndarray
    weight: np.ndarray

    def part(self, chosen: np.ndarray) -> "Edges":
        return Edges(self.i[chosen], self.j[chosen], self.weight[chosen])


NO_EDGES = Edges(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


def minimum_spanning_forest(edges: Edges) -> Edges:
    """The minimum spanning forest of a graph.

    Args:
      edges: in any order, with repetitions, in one direction or both.
    """
    faces, ends = np.unique(np.stack([edges.i, edges.j]), return_inverse=True)
    ends = np.sort(ends.reshape(2, -1), axis=0)
    order = np.lexsort((edges.weight, ends[1], ends[0]))
    (low, high), weight = ends[:, order], edges.weight[order]
    first = np.ones(len(order), bool)  # a sparse matrix would add up repeated edges
    first[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    shape = (len(faces), len(faces))
    graph = csr_matrix((weight[first], (low[first], high[first])), shape)
    forest = minimum_spanning_tree(graph, overwrite=True).tocoo()
    return Edges(faces[forest.row], faces[forest.col], forest.data)


def component_labels(edges: Edges, n: int) -> np.ndarray:
    """(n,) int32: the connected component of each of n faces, numbered from 0 without gaps."""
    ones = np.ones(len(edges.i), np.int8)
    graph = coo_matrix((ones, (edges.i, edges.j)), shape=(n, n))
    return connected_components(graph, directed=False)[1]


class CombineForests(beam.CombineFn):
    """Combines edges into their minimum spanning forest.

    The forest of a union is the forest of the union of forests, so an accumulator may at any time
    drop the edges that are not in its forest. It does so when it holds twice the edges that it kept
    the last time, and at least `buffer`. So it never holds more than max(buffer, 2 (faces - 1))
    edges and one input.
    """

    def __init__(self, buffer: int):
        self.buffer = buffer

    def create_accumulator(self) -> tuple[Edges, int]:
        return NO_EDGES, 0

    def add_input(self, accumulator: tuple[Edges, int], edges: Edges) -> tuple[Edges, int]:
        held, kept = accumulator
        held = concatenate_edges([held, edges])
        if len(held.i) >= max(self.buffer, 2 * kept):
            held = minimum_spanning_forest(held)
            kept = len(held.i)
        return held, kept

    def merge_accumulators(self, accumulators: Iterable[tuple[Edges, int]]) -> tuple[Edges, int]:
        merged = self.create_accumulator()
        for held, _ in accumulators:
            merged = self.add_input(merged, held)
        return merged

    def compact(self, accumulator: tuple[Edges, int]) -> tuple[Edges, int]:
        held = minimum_spanning_forest(accumulator[0])
        return held, len(held.i)

    def extract_output(self, accumulator: tuple[Edges, int]) -> Edges:
        return minimum_spanning_forest(accumulator[0])


def concatenate_edges(parts: Iterable[Edges]) -> Edges:
    """The edges of several graphs as one."""
    parts = list(parts)
    return Edges(
        *(np.concatenate([getattr(p, end) for p in parts]) for end in ("i", "j", "weight"))
    )
