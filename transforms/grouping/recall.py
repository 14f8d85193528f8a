"""How many of the true nearest neighbours a search has found, measured on some of the faces."""

from collections.abc import Iterable

import numpy as np

from facecluster.transforms.grouping.neighbors import Neighbors, blocks, first_of_copies, knn
from facecluster.transforms.tables.codec import unit_rows

RECALL_FACES = 1000  # the first, compared with all


def recall(neighbors: Neighbors, stored: np.ndarray, k: int, max_distance: float) -> float:
    """The share of true k nearest neighbours, of the first faces, that the graph holds.

    See `share_found`.
    """
    queries = unit_rows(stored[:RECALL_FACES])
    parts = (
        nearest_in(queries, stored[s], np.arange(s.start, s.stop), k) for s in blocks(len(stored))
    )
    rows = neighbors.rows()
    touches = (rows < RECALL_FACES) | (neighbors.ids < RECALL_FACES)
    first = first_of_copies(neighbors)
    return share_found(parts, rows[touches], neighbors.ids[touches], first, k, max_distance)


def nearest_in(queries: np.ndarray, stored: np.ndarray, numbers: np.ndarray, k: int):
    """(m, k + 1) squared distances, inf where there are fewer, and numbers of each query's nearest.

    Args:
      queries: (m, d) float32 unit vectors.
      stored: (n, d) embeddings, of the faces `numbers`.
    """
    size = min(k + 1, len(stored))
    near, found = knn(queries, unit_rows(stored), size)
    missing = ((0, 0), (0, k + 1 - size))
    return (
        np.pad(near, missing, constant_values=np.inf),
        np.pad(numbers[found], missing, constant_values=-1),
    )


def share_found(
    parts: Iterable[tuple[np.ndarray, np.ndarray]],
    faces: np.ndarray,
    ids: np.ndarray,
    first: np.ndarray,
    k: int,
    max_distance: float,
) -> float:
    """The share of the true neighbours of faces 0, 1, ... that are among edges of a graph.

    In either direction, since edges count in both; of those nearer than max_distance. 1 where there
    are none.

    Args:
      parts: as `nearest_in` gives them, of parts that make up the collection.
      faces, ids: the edges that touch those faces.
      first: (n,) the first of each face's copies: copies are joined by way of it.
    """
    near, found = (np.hstack(part) for part in zip(*parts, strict=True))
    order = np.argsort(near, axis=1, kind="stable")[:, : k + 1]
    near, found = (np.take_along_axis(part, order, axis=1) for part in (near, found))
    row, column = np.nonzero((near < max_distance**2) & (found != np.arange(len(near))[:, None]))
    a, b = first[row], first[found[row, column]]
    there = (a == b) | np.isin(_pairs(a, b, len(first)), _pairs(faces, ids, len(first)))
    return float(there.mean()) if len(there) else 1.0


def _pairs(a: np.ndarray, b: np.ndarray, n: int) -> np.ndarray:
    """One number for an unordered pair."""
    return np.minimum(a, b) * n + np.maximum(a, b)
