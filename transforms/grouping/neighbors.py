"""Finds each face's nearest neighbors, cell by cell, with FAISS.

An inverted file (Sivic and Zisserman 2003; faiss's IndexIVF), processed cell by cell instead of
query by query. Each face is assigned to the cell of its nearest centroid and probes the cells of
its `probes` nearest centroids, its own included. The faces assigned to a cell are compared with all
faces that probe it. These are the comparisons that IndexIVF makes, but as matrix products, and each
cell is an independent task that needs only the faces that probe it.
"""

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import faiss
import numpy as np
from scipy.sparse import csc_matrix, csr_matrix

from facecluster.transforms.cores import map_in_threads
from facecluster.transforms.tables.codec import row_slices, unit_rows

# Comparing every face with every other takes seconds up to this number.
EXACT_UP_TO = 50_000
# With 4 sqrt(n) cells, assigning faces to cells costs about as much as searching the cells.
CELLS_PER_ROOT = 4
TRAINING_FACES_PER_CELL, TRAINING_ROUNDS = 32, 5
# Longer vectors are searched by their first principal components; the distances of the neighbors
# found are computed from the whole vectors.
SEARCH_DIMENSIONS = 128


@dataclass(frozen=True, eq=False)
class Neighbors:
    """A neighbor graph over n faces: rows in compressed form, each row's nearest neighbor first.

    A face is never its own neighbor. Of faces with exactly equal vectors, the one with the lowest
    number stands for all: it is the only neighbor of each of the others, at distance 0.

    Attributes:
      starts: (n + 1,) int64, where each face's row begins in the other two.
      ids: (m,) int64, the neighbors.
      distances: (m,) float32, Euclidean between unit vectors.
      is_cut: (n,) bool, rows that may lack further neighbors because they are full.
    """

    starts: np.ndarray
    ids: np.ndarray
    distances: np.ndarray
    is_cut: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows(self) -> np.ndarray:
        """(m,) int64, the face that each entry is a neighbor of."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))


@dataclass(frozen=True, eq=False)
class Cells:
    """A partition of the embedding space.

    Attributes:
      centroids: (n_cells, r) float32.
      basis: (d, r) float32, orthonormal; vectors are searched as x @ basis. None: unchanged.
      probes: the number of cells that a face probes.
    """

    centroids: np.ndarray
    basis: np.ndarray | None
    probes: int

    @property
    def is_exact(self) -> bool:
        """Whether every face is compared with every other, by whole vectors."""
        return self.basis is None and self.probes == len(self.centroids)

    def reduced(self, vectors: np.ndarray) -> np.ndarray:
        """(n, d) float32 unit vectors as searched, (n, r); this increases no distance."""
        return vectors if self.basis is None else vectors @ self.basis

    def probed_by(self, vectors: np.ndarray) -> np.ndarray:
        """(n, probes) int32, the cells that each of (n, d) unit vectors probes.

        The first of them is the cell that it is assigned to.
        """
        if len(self.centroids) == 1:
            return np.zeros((len(vectors), 1), np.int32)
        _, cells = knn(self.reduced(vectors), self.centroids, self.probes)
        return cells.astype(np.int32)


def fit_cells(sample: np.ndarray, n: int, probes: int, exact_up_to: int = EXACT_UP_TO) -> Cells:
    """Fits cells for n faces to a sample of them, by k-means.

    Args:
      sample: (m, d) embeddings of faces drawn at random; `training_size(n)` are enough.
      n: number of faces.
      probes: cells that a face probes, of 4 sqrt(n); 0: all.
      exact_up_to: collections of at most this many faces are one cell.
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
    assert kmeans.centroids is not None
    return Cells(kmeans.centroids, basis, min(probes or n_cells, n_cells))


def training_size(n: int) -> int:
    """The number of faces in the sample for `fit_cells`, of n faces."""
    return min(n, CELLS_PER_ROOT * math.isqrt(n) * TRAINING_FACES_PER_CELL)


def search_cell(
    assigned: np.ndarray,
    probing: np.ndarray,
    cells: Cells,
    k: int,
    max_distance: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Finds the nearest of a cell's probing faces for each of its assigned faces.

    Args:
      assigned: (m,) int64, which of the probing faces are assigned to the cell.
      probing: (v, d) embeddings, in the order of the faces' numbers.
      cells: for the space to search in.
      k: neighbors of each assigned face, other than itself and faces with an equal vector.
      max_distance: faces at this distance and farther are left out.

    Returns:
      (row, neighbor, distance, is_cut): positions in `assigned` and in `probing`, (p,) int64, and
      float32, sorted by row and distance; and (m,) bool, see `Neighbors`. A face with the vector of
      an earlier face has that one as its only neighbor.
    """
    is_cut = np.zeros(len(assigned), bool)
    if not len(assigned):  # then there may be no probing face either
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32), is_cut
    first_equal = find_first_equal(probing)
    distinct = np.flatnonzero(first_equal == np.arange(len(probing)))
    vectors = unit_rows(probing[distinct])
    position = np.empty(len(probing), np.int64)  # of a distinct face among the distinct ones
    position[distinct] = np.arange(len(distinct))
    is_repeated = first_equal[assigned] != assigned
    searching = np.flatnonzero(~is_repeated)
    own = position[assigned[searching]]
    points = cells.reduced(vectors)
    near, found = knn(points[own], points, min(k + 1, len(distinct)))
    is_near = near < max_distance**2 + 1e-6
    if k + 1 < len(distinct):
        is_cut[searching] = is_near[:, -1]
    row, column = np.nonzero(is_near)
    hit = found[row, column]
    is_other = hit != own[row]
    row, hit = row[is_other], hit[is_other]
    # FAISS's distances depend on the batch; these are of whole vectors and the same for (a, b) and
    # (b, a), in any batch.
    distance = np.empty(len(row), np.float32)
    for s in row_slices(len(row)):
        distance[s] = np.linalg.norm(vectors[own[row[s]]] - vectors[hit[s]], axis=1)
    # Distance 0 is reserved for equal vectors; two of one direction and different lengths differ.
    distance = np.maximum(distance, np.finfo(np.float32).tiny)
    kept = distance < max_distance
    row, hit, distance = row[kept], hit[kept], distance[kept]
    repeated = np.flatnonzero(is_repeated)
    row = np.concatenate([searching[row], repeated])
    hit = np.concatenate([distinct[hit], first_equal[assigned[repeated]]])
    distance = np.concatenate([distance, np.zeros(len(repeated), np.float32)])
    order = np.lexsort((hit, distance, row))
    row, hit, distance = row[order], hit[order], distance[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    kept = rank < k
    return row[kept], hit[kept], distance[kept].astype(np.float32), is_cut


def find_first_equal(stored: np.ndarray) -> np.ndarray:
    """(n,) int64: for each row of (n, d), the first row that is equal to it."""
    _, first, group = np.unique(hash_rows(stored), return_index=True, return_inverse=True)
    first_equal = first[group]
    is_equal = (stored == stored[first_equal]).all(axis=1)
    return np.where(is_equal, first_equal, np.arange(len(stored)))


def hash_rows(stored: np.ndarray) -> np.ndarray:
    """(n,) uint64: a hash of the bytes of each row of (n, d), n at least 1."""
    stored = np.ascontiguousarray(stored)
    words = np.pad(stored.view(np.uint8), ((0, 0), (0, -stored.nbytes // len(stored) % 8)))
    words = words.view(np.uint64)
    words ^= words >> np.uint64(32)  # the products below lose differences in the highest bits
    factors = np.random.default_rng(0).integers(1, 2**63, words.shape[1], np.uint64)
    return (words * (factors | np.uint64(1))).sum(axis=1, dtype=np.uint64)  # modulo 2**64


@dataclass(frozen=True, eq=False)
class CellMembers:
    """Which of n faces probe each cell.

    Attributes:
      probing: (n, n_cells) sparse, not 0 where a face probes a cell.
      cell_of: (n,) int32, the cell that each face is assigned to.
    """

    probing: csc_matrix
    cell_of: np.ndarray


def assign_cells(stored: np.ndarray, cells: Cells) -> CellMembers:
    """Finds the cells of (n, d) embeddings, n at least 1."""
    n = len(stored)
    probed = np.concatenate([cells.probed_by(unit_rows(stored[s])) for s in row_slices(n)])
    starts = np.arange(0, probed.size + 1, probed.shape[1])
    shape = (n, len(cells.centroids))
    probing = csr_matrix((np.ones(probed.size, np.int8), probed.ravel(), starts), shape).tocsc()
    return CellMembers(probing, probed[:, 0].copy())


def nearest_neighbors(
    stored: np.ndarray,
    cells: Cells,
    k: int,
    max_distance: float,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Neighbors:
    """Finds the k nearest other faces of each face, in memory.

    Args:
      stored: (n, d) embeddings of any numeric type, vectors of any length.
      cells: as `fit_cells` made them for these faces.
      k: neighbors of each face; fewer if fewer are near enough.
      max_distance: faces at this distance and farther are no neighbors.
      progress: called with the fraction of faces that are done.
    """
    every = np.ones(len(stored), bool)
    if not len(stored):
        empty = np.empty(0, np.int64)
        return Neighbors(np.zeros(1, np.int64), empty, np.empty(0, np.float32), every)
    members = assign_cells(stored, cells)
    return search_members(stored, cells, members, k, max_distance, every, every, progress)


def search_members(
    stored: np.ndarray,
    cells: Cells,
    members: CellMembers,
    k: int,
    max_distance: float,
    searching: np.ndarray,
    among: np.ndarray,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Neighbors:
    """Finds the k nearest other faces of some faces, among some faces.

    Args:
      members: as `assign_cells` found them for these faces.
      searching, among: (n,) bool, the faces whose neighbors are searched, all of which are among
        those that may be neighbors. The rows of other faces are empty.
      stored, cells, k, max_distance, progress: see `nearest_neighbors`.
    """
    n, n_done, n_searching = len(stored), 0, np.count_nonzero(searching)
    probing = members.probing

    def search(cell: int):
        faces = probing.indices[probing.indptr[cell] : probing.indptr[cell + 1]]
        faces = faces[among[faces]]
        assigned = np.flatnonzero((members.cell_of[faces] == cell) & searching[faces])
        near = stored[faces] if len(assigned) else stored[:0]
        row, hit, distance, is_cut = search_cell(assigned, near, cells, k, max_distance)
        return faces[assigned[row]], faces[hit], distance, faces[assigned[is_cut]], len(assigned)

    found = []
    for *edges, n_assigned in _map_cells(search, len(cells.centroids)):
        found.append(edges)
        n_done += n_assigned
        progress(n_done / max(n_searching, 1))
    return neighbors_from_edges(n, *(np.concatenate(part) for part in zip(*found, strict=True)))


def neighbors_from_edges(
    n: int, rows: np.ndarray, ids: np.ndarray, distances: np.ndarray, cut: np.ndarray
) -> Neighbors:
    """The graph of edges (face, neighbor, distance), sorted within each face but not by face.

    Args:
      n: number of faces.
      rows, ids, distances: (m,) the edges.
      cut: the faces whose row may lack further neighbors.
    """
    order = np.argsort(rows, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))])
    is_cut = np.zeros(n, bool)
    is_cut[cut] = True
    return Neighbors(starts, ids[order].astype(np.int64), distances[order], is_cut)


def knn(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances and numbers of the k nearest vectors, computed on a GPU if there is one."""
    if faiss.get_num_gpus():
        return faiss.knn_gpu(_gpu(), queries, vectors, k)
    return faiss.knn(queries, vectors, k)


@functools.cache
def _gpu():
    return faiss.StandardGpuResources()


def _map_cells(function: Callable, n: int) -> Iterator:
    """function(0), function(1), ... in order.

    Cells are small: one thread per cell uses the cores better than FAISS's own threads. FAISS's
    threads are better if there is only one cell, or a GPU.
    """
    if n == 1 or faiss.get_num_gpus():
        return map(function, range(n))
    return map_in_threads(function, range(n), lambda: faiss.omp_set_num_threads(1))
