"""The recall of a neighbor search: the fraction of true nearest neighbors that it found."""

from collections.abc import Iterable

import numpy as np

from facecluster.transforms.grouping.neighbors import (
    Neighbors,
    knn,
    row_slices,
)
from facecluster.transforms.tables.codec import unit_rows

RECALL_FACES = 1000  # the first faces, each compared with all others


def measure_recall(
    neighbors: Neighbors, stored: np.ndarray, shots: np.ndarray, k: int, max_distance: float
) -> float:
    """The fraction of the first faces' true k nearest neighbors that the graph holds.

    See `recall_of_edges`.
    """
    queries = unit_rows(stored[:RECALL_FACES])
    parts = (
        find_nearest(queries, stored[s], np.arange(s.start, s.stop), k)
        for s in row_slices(len(stored))
    )
    rows = neighbors.rows()
    touches = (rows < RECALL_FACES) | (neighbors.ids < RECALL_FACES)
    return recall_of_edges(parts, rows[touches], neighbors.ids[touches], shots, k, max_distance)


def find_nearest(
    queries: np.ndarray, stored: np.ndarray, numbers: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Each query's nearest faces among some of the faces, by comparing it with all of them.

    Args:
      queries: (m, d) float32 unit vectors.
      stored: (n, d) embeddings.
      numbers: (n,) int64, the numbers of their faces.
      k: neighbors of each query, besides the query itself.

    Returns:
      (squared_distances, numbers): (m, k + 1), filled up with inf and -1 where there are fewer.
    """
    size = min(k + 1, len(stored))
    near, found = knn(queries, unit_rows(stored), size)
    missing = ((0, 0), (0, k + 1 - size))
    return (
        np.pad(near, missing, constant_values=np.inf),
        np.pad(numbers[found], missing, constant_values=-1),
    )


def recall_of_edges(
    parts: Iterable[tuple[np.ndarray, np.ndarray]],
    faces: np.ndarray,
    ids: np.ndarray,
    shots: np.ndarray,
    k: int,
    max_distance: float,
) -> float:
    """The fraction of the true neighbors of faces 0, 1, ... that are among the edges of a graph.

    Edges count in both directions; only neighbors nearer than max_distance count. 1 if there are
    none.

    Args:
      parts: the results of `find_nearest` for parts that make up the collection.
      faces, ids: the edges that touch those faces.
      shots: (n,) int64, the shot of each face: edges stand for all faces of two shots.
      k: neighbors of each face.
      max_distance: Euclidean, between unit vectors.
    """
    near, found = (np.hstack(part) for part in zip(*parts, strict=True))
    order = np.argsort(near, axis=1, kind="stable")[:, : k + 1]
    near, found = (np.take_along_axis(part, order, axis=1) for part in (near, found))
    row, column = np.nonzero((near < max_distance**2) & (found != np.arange(len(near))[:, None]))
    a, b = shots[row], shots[found[row, column]]
    n = len(shots)
    held = _pair_numbers(shots[faces], shots[ids], n)
    is_held = (a == b) | np.isin(_pair_numbers(a, b, n), held)
    return float(is_held.mean()) if len(is_held) else 1.0


def _pair_numbers(a: np.ndarray, b: np.ndarray, n: int) -> np.ndarray:
    """One number for each unordered pair."""
    return np.minimum(a, b) * n + np.maximum(a, b)
