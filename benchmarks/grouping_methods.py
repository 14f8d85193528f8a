"""Published methods to group faces, with which grouping.py compares facecluster.

Each method is a function of the faces' (n, d) float32 unit vectors that returns a function from a
setting to (n,) labels, where -1 is noise; what all settings have in common is computed once.
Distances are Euclidean, sqrt(2 - 2 cos), unless stated otherwise, and every search is exact.
METHODS, at the end, has the settings that are tried.
"""

import itertools
import tempfile
from collections.abc import Callable
from functools import cache

import faiss
import hdbscan
import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_matrix, triu
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist
from sklearn.cluster import DBSCAN
from sklearn.neighbors import sort_graph_by_row_values

NOISE = -1
MAX_EPS = 1.1  # with much smaller ones, DBSCAN puts nearly all faces into one cluster
CHINESE_WHISPERS_ROUNDS = 20  # over all faces
INFOMAP_TRIALS = 5  # of which the one with the shortest code counts

Clustering = Callable[..., np.ndarray]


def facenet_dbscan(vectors: np.ndarray) -> Clustering:
    """DBSCAN as in davidsandberg/facenet, contributed/cluster.py.

    scikit-learn's DBSCAN on the matrix of Euclidean distances with min_samples 1: the connected
    components of the graph of faces nearer than eps. The script's default eps is 1.0.

    Setting: eps, the largest distance that links two faces, at most MAX_EPS.
    """
    cluster = dbscan(vectors)
    return lambda eps: cluster(eps, min_samples=1)


def dbscan(vectors: np.ndarray) -> Clustering:
    """scikit-learn's DBSCAN (Ester et al. 1996).

    Setting: eps, the largest distance between neighbors, at most MAX_EPS; min_samples, the number
    of neighbors that makes a face a core face, itself included.
    """
    cosines = cosines_above(vectors, 1 - MAX_EPS**2 / 2)
    cosines.data = np.sqrt(np.maximum(2 - 2 * cosines.data, 0))
    distances = sort_graph_by_row_values(cosines, warn_when_not_sorted=False)

    def cluster(eps: float, min_samples: int) -> np.ndarray:
        near = distances.data <= eps  # DBSCAN is slow with many larger distances
        starts = np.concatenate([[0], np.cumsum(near)])[distances.indptr]
        graph = csr_matrix((distances.data[near], distances.indices[near], starts), distances.shape)
        return DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit(graph).labels_

    return cluster


def chinese_whispers(vectors: np.ndarray) -> Clustering:
    """Chinese whispers (Biemann 2006) as in davidsandberg/facenet, contributed/clustering.py.

    Two faces whose cosine is above the threshold are linked by an edge of that weight. In 20
    rounds, in random order, each face takes the label with the largest sum of its neighbors'
    weights; of equal sums, the one of the earlier neighbor. A face without neighbors is noise. The
    script's default threshold is 0.55.

    Setting: threshold, of the cosine.
    """

    def cluster(threshold: float) -> np.ndarray:
        graph = cosines_above(vectors, threshold)
        graph.setdiag(0)
        graph.eliminate_zeros()
        graph.sort_indices()
        neighbors = np.split(graph.indices, graph.indptr[1:-1])
        weights = np.split(graph.data, graph.indptr[1:-1])
        linked = np.flatnonzero(np.diff(graph.indptr))
        labels = np.arange(len(vectors))
        random = np.random.default_rng(0)
        for _ in range(CHINESE_WHISPERS_ROUNDS):
            before = labels.copy()
            for face in random.permutation(linked):
                found = labels[neighbors[face]]
                sums = np.bincount(found, weights[face])
                labels[face] = found[sums[found].argmax()]
            if (labels == before).all():  # converged
                break
        labels[np.diff(graph.indptr) == 0] = NOISE
        return labels

    return cluster


def average_linkage(vectors: np.ndarray) -> Clustering:
    """Average-linkage agglomerative clustering (UPGMA, Sokal and Michener 1958), by SciPy.

    Setting: metric, euclidean or cosine (1 - cos); threshold, the largest mean distance between
    the faces of two clusters that are merged.
    """

    @cache
    def tree(metric: str) -> np.ndarray:
        return linkage(pdist(vectors, metric), "average")

    return lambda metric, threshold: fcluster(tree(metric), threshold, "distance")


def plain_hdbscan(vectors: np.ndarray) -> Clustering:
    """The hdbscan package (McInnes, Healy and Astels 2017), by its algorithm on all distances.

    Setting: min_cluster_size, the fewest faces of a cluster; min_samples, the rank of the neighbor
    that defines a face's core distance, the face itself not counted; epsilon, the distance below
    which clusters are not divided (Malzer and Baum 2020); method, how clusters are selected from
    the tree, eom or leaf.
    """
    cache = tempfile.TemporaryDirectory()  # for the tree, which many settings have in common
    doubles = vectors.astype(np.float64)  # required

    def cluster(min_cluster_size: int, min_samples: int, epsilon: float, method: str) -> np.ndarray:
        return hdbscan.HDBSCAN(
            min_cluster_size=min_cluster_size, min_samples=min_samples, algorithm="generic",
            cluster_selection_epsilon=epsilon, cluster_selection_method=method, memory=cache.name,
        ).fit_predict(doubles)  # fmt: skip

    return cluster


def infomap(vectors: np.ndarray) -> Clustering:
    """Infomap (Rosvall and Bergstrom 2008) on the graph of nearest neighbors, with two levels.

    Two faces are linked, with their cosine as weight, if one is among the other's k nearest and
    the cosine is above the threshold.

    Setting: k; threshold, of the cosine.
    """
    from infomap import run as run_infomap  # an optional dependency

    @cache
    def link_nearest(k: int) -> csr_matrix:
        cosines, ids = find_nearest(vectors, k)
        rows = np.repeat(np.arange(len(ids)), ids.shape[1])
        graph = csr_matrix((cosines.ravel(), (rows, ids.ravel())), (len(ids), len(ids)))
        return triu(graph.maximum(graph.T), 1, "csr")

    def cluster(k: int, threshold: float) -> np.ndarray:
        graph = link_nearest(k)
        edges = graph.multiply(graph > threshold).tocoo()
        labels = np.full(len(vectors), NOISE)
        if not edges.nnz:
            return labels
        links = list(zip(*map(np.ndarray.tolist, (edges.row, edges.col, edges.data)), strict=True))
        modules = run_infomap(links, two_level=True, seed=1, num_trials=INFOMAP_TRIALS, silent=True)
        for face, label in modules.modules().items():
            labels[face] = label
        return labels

    return cluster


def rank_order(vectors: np.ndarray) -> Clustering:
    """Approximate rank-order clustering (Otto, Wang and Jain 2016, arXiv 1604.00989).

    Let O_a(b) be the rank of b in the list of a's k nearest faces, and d(a, b) the number of faces
    among the first O_a(b) in a's list that are not in b's list. The distance of a and b is
    (d(a, b) + d(b, a)) / min(O_a(b), O_b(a)). It is computed for faces that are in each other's
    list. The clusters are the connected components of the pairs below the threshold.

    Setting: k, 200 in the paper; threshold, of that distance.
    """

    @cache
    def distances(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n, (_, ids) = len(vectors), find_nearest(vectors, k)
        listed = np.eye(n, dtype=bool)
        np.put_along_axis(listed, ids, True, axis=1)
        rank, missing = np.zeros((n, n), np.int16), np.zeros((n, n), np.int16)  # O and d
        ranks = np.arange(1, ids.shape[1] + 1)
        not_after = np.tri(ids.shape[1], dtype=bool)  # [j, i]: a's i-th is not after a's j-th
        for a, own in enumerate(ids):
            rank[a, own] = ranks
            absent = ~listed.take(own[:, None] * n + own)  # its i-th is not in its j-th's list
            missing[a, own] = np.count_nonzero(absent & not_after, axis=1)
        a, b = np.nonzero((rank > 0) & (rank.T > 0))
        return a, b, (missing[a, b] + missing[b, a]) / np.minimum(rank[a, b], rank[b, a])

    def cluster(k: int, threshold: float) -> np.ndarray:
        a, b, distance = distances(k)
        near = distance < threshold
        graph = csr_matrix((np.ones(near.sum()), (a[near], b[near])), (len(vectors),) * 2)
        return connected_components(graph, directed=False)[1]

    return cluster


def find_nearest(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and ids, (n, min(k, n - 1)) each, of each face's k nearest others, nearest first."""
    k = min(k, len(vectors) - 1)
    cosines, ids = faiss.knn(vectors, vectors, k + 1, metric=faiss.METRIC_INNER_PRODUCT)
    others = ids != np.arange(len(ids))[:, None]
    others[others.all(axis=1), -1] = False  # equal vectors may have displaced the face
    return cosines[others].reshape(-1, k), ids[others].reshape(-1, k)


def cosines_above(vectors: np.ndarray, threshold: float) -> csr_matrix:
    """The (n, n) sparse matrix of the cosines above a threshold, diagonal included."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    starts, cosines, ids = index.range_search(vectors, threshold)
    return csr_matrix((cosines, ids, starts.astype(np.int64)), (len(vectors), len(vectors)))


def make_grid(**values) -> list[dict]:
    """All combinations of these values."""
    return [
        dict(zip(values, combination, strict=True))
        for combination in itertools.product(*values.values())
    ]


def make_range(first: float, last: float, step: float) -> list[float]:
    """Values from the first to the last, both included."""
    return np.arange(first, last + step / 2, step).round(4).tolist()


# Name: (method, settings). The best setting for a collection is inside its grid, except where the
# end is a limit of the method or groups all or none: for one person, or strangers.
METHODS: dict[str, tuple[Callable[[np.ndarray], Clustering], list[dict]]] = {
    "average linkage": (
        average_linkage,
        make_grid(metric=["euclidean"], threshold=make_range(0.5, 1.4, 0.01))
        + make_grid(metric=["cosine"], threshold=make_range(0.2, 0.98, 0.01)),
    ),
    "Infomap": (
        infomap,
        make_grid(k=[50], threshold=make_range(0.3, 0.88, 0.02))
        + make_grid(k=[200], threshold=make_range(0.35, 0.65, 0.05)),
    ),
    "Chinese whispers": (chinese_whispers, make_grid(threshold=make_range(0.25, 0.85, 0.01))),
    "facenet DBSCAN": (facenet_dbscan, make_grid(eps=make_range(0.4, MAX_EPS, 0.01))),
    "DBSCAN": (
        dbscan,
        make_grid(min_samples=[1], eps=make_range(0.4, MAX_EPS, 0.01))  # 2 has the same scores
        + make_grid(min_samples=[3, 5, 10, 20], eps=make_range(0.4, MAX_EPS, 0.02)),
    ),
    "hdbscan": (
        plain_hdbscan,
        make_grid(
            min_cluster_size=[2],
            min_samples=[1, 2, 3, 5, 20, 40],
            epsilon=[0.0, *make_range(0.6, 0.94, 0.02)],
            method=["eom", "leaf"],
        )
        + make_grid(
            min_cluster_size=[3, 5, 20, 40],
            min_samples=[1, 2, 5, 20, 40],
            epsilon=[0.0, *make_range(0.55, 0.8, 0.05)],
            method=["eom", "leaf"],
        ),
    ),
    "rank-order": (
        rank_order,
        make_grid(
            k=[5, 7, 8, 9, 10, 12, 15, 20, 30, 50, 70, 100, 200, 400, 500],
            threshold=[0.01, 0.02, 0.03, *make_range(0.05, 1.5, 0.05)],
        ),
    ),
}
