"""Each face's nearest faces: the collection is cut into cells and searched cell by cell, by FAISS.

An inverted file (Sivic and Zisserman 2003; faiss's IndexIVF) turned inside out. Each face lives in
the cell of its nearest centroid and visits those of its next nearest; a cell's residents are
compared with all its visitors at once. That is the same comparisons as probing the cells face by
face, but as products of matrices, and a cell is a task that needs nothing but its own visitors.
"""

import functools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import faiss
import numpy as np
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from facecluster.transforms.cores import usable_cores
from facecluster.transforms.tables.codec import unit_rows

# Up to here comparing every face with every other takes seconds.
EXACT_UP_TO = 50_000
CELLS_PER_ROOT = 4  # 4 sqrt(n) cells: assigning faces to cells costs about what searching them does
TRAINING_FACES_PER_CELL, TRAINING_ROUNDS = 32, 5
# Longer vectors are searched by their first principal components and measured in full.
SEARCH_DIMENSIONS = 128


@dataclass(frozen=True)
class Neighbors:
    """A neighbour graph over n faces, each row's nearest first, never the face itself.

    A face whose vector another face has too is a copy: the copy of the lowest number stands for all
    of them, and each other has it as its only neighbour, at distance 0.

    Attributes:
      starts: (n + 1,) int64, where each face's row begins in the other two.
      ids: (m,) int64, the neighbours.
      distances: (m,) float32, Euclidean between unit vectors.
    """

    starts: np.ndarray
    ids: np.ndarray
    distances: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows(self) -> np.ndarray:
        """(m,) int64, the face whose neighbour each entry is."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))


@dataclass(frozen=True)
class Cells:
    """A partition of the space of faces.

    Attributes:
      centroids: (n_cells, r) float32.
      basis: (d, r) float32, orthonormal; vectors are searched as x @ basis. None: as they are.
      probes: how many cells a face visits.
    """

    centroids: np.ndarray
    basis: np.ndarray | None
    probes: int

    @property
    def miss_nothing(self) -> bool:
        """Whether every face meets every other, in the whole space."""
        return self.basis is None and self.probes == len(self.centroids)

    def reduced(self, vectors: np.ndarray) -> np.ndarray:
        """(n, d) float32 unit vectors as they are searched, (n, r): no two are farther apart."""
        return vectors if self.basis is None else vectors @ self.basis

    def visited_by(self, vectors: np.ndarray) -> np.ndarray:
        """(n, probes) int32, the cells that each of (n, d) unit vectors visits; it lives in the
        first."""
        if len(self.centroids) == 1:
            return np.zeros((len(vectors), 1), np.int32)
        _, cells = knn(self.reduced(vectors), self.centroids, self.probes)
        return cells.astype(np.int32)


def fit_cells(sample: np.ndarray, n: int, probes: int, exact_up_to: int = EXACT_UP_TO) -> Cells:
    """Cells for n faces by k-means of a sample of them.

    Args:
      sample: (m, d) stored embeddings of faces drawn at random; `training_size(n)` are enough.
      n: number of faces.
      probes: cells that a face visits, of 4 sqrt(n); 0 visits all.
      exact_up_to: so many faces are one cell.
    """
    points = unit_rows(sample)
    basis = None
    if points.shape[1] > SEARCH_DIMENSIONS:
        _, axes = np.linalg.eigh(points.T.astype(np.float64) @ points)  # ascending
        basis = np.ascontiguousarray(axes[:, ::-1][:, :SEARCH_DIMENSIONS], np.float32)
        points = points @ basis
    if n <= exact_up_to:
        return Cells(np.zeros((1, 1), np.float32), basis, probes=1)
    n_cells = min(CELLS_PER_ROOT * math.isqrt(n), len(points))
    kmeans = faiss.Kmeans(
        points.shape[1], n_cells, niter=TRAINING_ROUNDS, seed=1, min_points_per_centroid=1,
        max_points_per_centroid=TRAINING_FACES_PER_CELL,
    )  # fmt: skip
    kmeans.train(points)
    return Cells(kmeans.centroids, basis, min(probes or n_cells, n_cells))


def training_size(n: int) -> int:
    """How many of n faces `fit_cells` wants to see."""
    return min(n, CELLS_PER_ROOT * math.isqrt(n) * TRAINING_FACES_PER_CELL)


def search_cell(
    residents: np.ndarray,
    visitors: np.ndarray,
    cells: Cells,
    k: int,
    max_distance: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nearest visitors of a cell to each of its residents.

    Args:
      residents: (m,) int64, which of the visitors live here.
      visitors: (v, d) stored embeddings, in the order of the faces' numbers.
      cells: for the space to search in.
      k: nearest visitors found for each resident, other than itself and copies.
      max_distance: those this far away and farther are left out.

    Returns:
      (resident, visitor, distance): row numbers in `residents` and `visitors`, (p,) int64, and
      float32, by resident and then by distance. A copy has one neighbour, see `Neighbors`.
    """
    if not len(residents):  # nor, then, perhaps, any visitor
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    stands_for = first_copies(visitors)
    originals = np.flatnonzero(stands_for == np.arange(len(visitors)))
    vectors = unit_rows(visitors[originals])
    place = np.empty(len(visitors), np.int64)  # of an original among the originals
    place[originals] = np.arange(len(originals))
    is_copy = stands_for[residents] != residents
    searching = np.flatnonzero(~is_copy)
    own = place[residents[searching]]
    points = cells.reduced(vectors)
    near, found = knn(points[own], points, min(k + 1, len(originals)))
    row, column = np.nonzero(near < max_distance**2 + 1e-6)
    hit = found[row, column]
    other = hit != own[row]
    row, hit = row[other], hit[other]
    # Measured anew: whole vectors, the same number from either side and in any company.
    distance = np.empty(len(row), np.float32)
    for s in blocks(len(row)):
        distance[s] = np.linalg.norm(vectors[own[row[s]]] - vectors[hit[s]], axis=1)
    # Only copies are at 0: vectors of one direction and different lengths are not.
    distance = np.maximum(distance, np.finfo(np.float32).tiny)
    kept = distance < max_distance
    row, hit, distance = row[kept], hit[kept], distance[kept]
    copies = np.flatnonzero(is_copy)
    row = np.concatenate([searching[row], copies])
    hit = np.concatenate([originals[hit], stands_for[residents[copies]]])
    distance = np.concatenate([distance, np.zeros(len(copies), np.float32)])
    order = np.lexsort((hit, distance, row))
    row, hit, distance = row[order], hit[order], distance[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    kept = rank < k
    return row[kept], hit[kept], distance[kept].astype(np.float32)


def first_copies(stored: np.ndarray) -> np.ndarray:
    """(n,) int64: for each row of (n, d), the first row that is equal to it."""
    stored = np.ascontiguousarray(stored)
    words = np.pad(stored.view(np.uint8), ((0, 0), (0, -stored.nbytes // len(stored) % 8)))
    words = words.view(np.uint64)
    words ^= words >> np.uint64(32)  # or a difference in the last bytes only would often be lost
    factors = np.random.default_rng(0).integers(1, 2**63, words.shape[1], np.uint64)
    keys = (words * (factors | np.uint64(1))).sum(axis=1, dtype=np.uint64)  # wraps around
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    stands_for = first[group]
    same = (stored == stored[stands_for]).all(axis=1)
    return np.where(same, stands_for, np.arange(len(stored)))


def nearest_neighbors(
    stored: np.ndarray,
    cells: Cells,
    k: int,
    max_distance: float,
    progress: Callable[[float], None] = lambda share: None,
) -> Neighbors:
    """Finds the k nearest other faces of each face, in memory.

    Args:
      stored: (n, d) embeddings, of any numeric type and length of vector.
      cells: as `fit_cells` made them for these faces.
      k: neighbours of each; fewer when there are not that many near enough.
      max_distance: faces this far apart and farther are no neighbours.
      progress: told the share of faces done.
    """
    n = len(stored)
    if n == 0:
        return Neighbors(np.zeros(1, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    visited = np.concatenate([cells.visited_by(unit_rows(stored[s])) for s in blocks(n)])
    at = np.arange(0, visited.size + 1, visited.shape[1])
    shape = (n, len(cells.centroids))
    visits = csr_matrix((np.ones(visited.size, np.int8), visited.ravel(), at), shape).tocsc()
    lives_in = visited[:, 0].copy()
    del visited
    done = 0

    def search(cell: int):
        faces = visits.indices[visits.indptr[cell] : visits.indptr[cell + 1]]
        residents = np.flatnonzero(lives_in[faces] == cell)
        row, hit, distance = search_cell(residents, stored[faces], cells, k, max_distance)
        return faces[residents[row]], faces[hit], distance, len(residents)

    found = []
    for *edges, n_residents in _in_threads(search, len(cells.centroids)):
        found.append(edges)
        done += n_residents
        progress(done / n)
    return by_face(n, *(np.concatenate(part) for part in zip(*found, strict=True)))


def by_face(n: int, rows: np.ndarray, ids: np.ndarray, distances: np.ndarray) -> Neighbors:
    """A graph out of (face, neighbour, distance) in any order but that within a face's."""
    order = np.argsort(rows, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))])
    return Neighbors(starts, ids[order].astype(np.int64), distances[order])


def first_of_copies(neighbors: Neighbors) -> np.ndarray:
    """(n,) int64: for each face the lowest that has the same vector, itself where none has."""
    first = np.arange(len(neighbors))
    copies = neighbors.distances == 0
    first[neighbors.rows()[copies]] = neighbors.ids[copies]
    return first


def blocks(n: int, size: int = 65536) -> list[slice]:
    """Slices that cover n rows."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def knn(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances and numbers of the k nearest vectors, on a GPU if FAISS finds one."""
    if faiss.get_num_gpus():
        return faiss.knn_gpu(_gpu(), queries, vectors, k)
    return faiss.knn(queries, vectors, k)


@functools.cache
def _gpu():
    return faiss.StandardGpuResources()


def _in_threads(function: Callable, n: int) -> Iterator:
    """function(0), function(1), ... with a thread a core, in order.

    Cells are small: a thread a cell keeps cores busier than FAISS's own threads, which do better
    where there is one cell, or a GPU.
    """
    if n == 1 or faiss.get_num_gpus():
        yield from map(function, range(n))
        return
    pool = ThreadPoolExecutor(usable_cores(), initializer=faiss.omp_set_num_threads, initargs=(1,))
    with threadpool_limits(1), pool:
        yield from pool.map(function, range(n))
