"""Other ways to group faces, as published, to set beside ours.

Each is a function of the faces' (n, d) float32 unit vectors that returns a function from a setting
to (n,) labels, of which -1 is noise; what settings share is computed once. Distances are Euclidean,
sqrt(2 - 2 cos), unless said otherwise, and every search is exact. METHODS, at the end, has the
settings that are tried.
"""

import itertools
import tempfile
from collections.abc import Callable
from functools import cache

import faiss
import hdbscan
import numpy as np
from infomap import run as run_infomap
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_matrix, triu
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist
from sklearn.cluster import DBSCAN

NOISE = -1
LARGEST_EPS = 1.1  # DBSCAN puts nearly all faces into one group long before
WHISPERS = 20  # rounds over all faces
INFOMAP_NEIGHBORS = 50
INFOMAP_TRIALS = 20  # the shortest code of these counts

Clustering = Callable[..., np.ndarray]


def facenet_dbscan(vectors: np.ndarray) -> Clustering:
    """The script of facenet that sorts a folder of faces (davidsandberg/facenet, its
    contributed/cluster.py).

    It is scikit-learn's DBSCAN on the matrix of Euclidean distances with min_samples 1: the
    connected components of the graph of faces nearer than eps. Its own eps is 1.0.

    Setting: eps, the largest distance that joins two faces, LARGEST_EPS at most.
    """
    cluster = dbscan(vectors)
    return lambda eps: cluster(eps, min_samples=1)


def dbscan(vectors: np.ndarray) -> Clustering:
    """scikit-learn's DBSCAN (Ester et al. 1996).

    Setting: eps, the largest distance between neighbours, LARGEST_EPS at most; min_samples, the
    neighbours that a core face has, itself among them.
    """
    cosines = cosines_above(vectors, 1 - LARGEST_EPS**2 / 2)
    distances = cosines.copy()
    distances.data = np.sqrt(np.maximum(2 - 2 * cosines.data, 0))
    return lambda eps, min_samples: (
        DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit(distances).labels_
    )


def chinese_whispers(vectors: np.ndarray) -> Clustering:
    """facenet's other script (davidsandberg/facenet, its contributed/clustering.py): Chinese
    whispers (Biemann 2006).

    Faces of a cosine above the threshold are joined by an edge of that weight. Twenty times over,
    in random order, each face takes the label for which its neighbours' weights add up to most,
    the earlier neighbour's where two are equal. A face without neighbours is left out. Its own
    threshold is 0.55.

    Setting: threshold, of the cosine.
    """

    def cluster(threshold: float) -> np.ndarray:
        graph = cosines_above(vectors, threshold)
        graph.setdiag(0)
        graph.eliminate_zeros()
        graph.sort_indices()
        neighbors = [part.tolist() for part in np.split(graph.indices, graph.indptr[1:-1])]
        weights = [part.tolist() for part in np.split(graph.data, graph.indptr[1:-1])]
        joined = np.flatnonzero(np.diff(graph.indptr))
        labels = list(range(len(vectors)))
        generator = np.random.default_rng(0)
        for _ in range(WHISPERS):
            before = labels.copy()
            for face in generator.permutation(joined).tolist():
                heard: dict[int, float] = {}
                for neighbor, weight in zip(neighbors[face], weights[face], strict=True):
                    label = labels[neighbor]
                    heard[label] = heard.get(label, 0.0) + weight
                labels[face] = max(heard, key=heard.__getitem__)
            if labels == before:  # and so it would stay
                break
        labels = np.array(labels)
        labels[np.diff(graph.indptr) == 0] = NOISE
        return labels

    return cluster


def average_linkage(vectors: np.ndarray) -> Clustering:
    """Average-linkage agglomerative clustering (UPGMA, Sokal and Michener 1958), as in SciPy and
    scikit-learn.

    Setting: metric, euclidean or cosine (1 - cos); threshold, the largest mean distance between
    the faces of two groups that are merged.
    """

    @cache
    def tree(metric: str) -> np.ndarray:
        return linkage(pdist(vectors, metric), "average")

    return lambda metric, threshold: fcluster(tree(metric), threshold, "distance")


def plain_hdbscan(vectors: np.ndarray) -> Clustering:
    """The hdbscan package (McInnes, Healy and Astels 2017), groups of two faces and more.

    Setting: min_samples, the neighbours that make a face dense, itself not among them; epsilon,
    the distance below which groups are not divided (Malzer and Baum 2020); method, how groups are
    taken from the tree, eom or leaf.
    """
    cache = tempfile.TemporaryDirectory()  # of the tree, which is the same for every epsilon

    def cluster(min_samples: int, epsilon: float, method: str) -> np.ndarray:
        return hdbscan.HDBSCAN(
            min_cluster_size=2, min_samples=min_samples, cluster_selection_epsilon=epsilon,
            cluster_selection_method=method, memory=cache.name,
        ).fit_predict(vectors)  # fmt: skip

    return cluster


def infomap(vectors: np.ndarray) -> Clustering:
    """Infomap (Rosvall and Bergstrom 2008) on the graph of nearest neighbours, two levels.

    Two faces are joined, with their cosine as weight, where either is among the other's
    INFOMAP_NEIGHBORS nearest and the cosine is above the threshold.

    Setting: threshold, of the cosine.
    """
    cosines, ids = nearest(vectors, INFOMAP_NEIGHBORS)
    rows = np.repeat(np.arange(len(ids)), ids.shape[1])
    graph = csr_matrix((cosines.ravel(), (rows, ids.ravel())), (len(ids), len(ids)))
    graph = graph.maximum(graph.T)

    def cluster(threshold: float) -> np.ndarray:
        edges = triu(graph.multiply(graph > threshold))
        links = np.column_stack([edges.row, edges.col, edges.data])
        found = run_infomap(links, two_level=True, seed=1, num_trials=INFOMAP_TRIALS, silent=True)
        labels = np.full(len(vectors), NOISE)
        for face, label in found.modules().items():
            labels[face] = label
        return labels

    return cluster


def rank_order(vectors: np.ndarray) -> Clustering:
    """Approximate rank-order clustering (Otto, Wang and Jain 2016, arXiv 1604.00989).

    With O_a(b) the place of b in a's list of k nearest faces and d(a, b) the number of the first
    O_a(b) faces in a's list that are not in b's, the distance of a and b is
    (d(a, b) + d(b, a)) / min(O_a(b), O_b(a)). Faces are compared that are in each other's list,
    and all pairs below the threshold are merged, transitively, once.

    Setting: k, which is 200 in the paper; threshold, of that distance.
    """

    @cache
    def distances(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        n, (_, ids) = len(vectors), nearest(vectors, k)
        listed = np.eye(n, dtype=bool)
        np.put_along_axis(listed, ids, True, axis=1)
        place, missing = np.zeros((n, n), np.int16), np.zeros((n, n), np.int16)  # O and d
        for a, own in enumerate(ids):
            place[a, own] = np.arange(1, len(own) + 1)
            absent = ~listed[own[:, None], own]  # [j, i]: the i-th of a's list is not in the j-th's
            missing[a, own] = np.tril(absent).sum(axis=1)
        a, b = np.nonzero((place > 0) & (place.T > 0))
        return a, b, (missing[a, b] + missing[b, a]) / np.minimum(place[a, b], place[b, a])

    def cluster(k: int, threshold: float) -> np.ndarray:
        a, b, distance = distances(k)
        near = distance < threshold
        graph = csr_matrix((np.ones(near.sum()), (a[near], b[near])), (len(vectors),) * 2)
        return connected_components(graph, directed=False)[1]

    return cluster


def nearest(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and ids, (n, k) each, of every face's k nearest others, nearest first; fewer columns
    where there are not k others."""
    k = min(k, len(vectors) - 1)
    cosines, ids = faiss.knn(vectors, vectors, k + 1, metric=faiss.METRIC_INNER_PRODUCT)
    others = ids != np.arange(len(ids))[:, None]
    others[others.all(axis=1), -1] = False  # copies of a face may have pushed it off its own list
    return cosines[others].reshape(-1, k), ids[others].reshape(-1, k)


def cosines_above(vectors: np.ndarray, threshold: float) -> csr_matrix:
    """The (n, n) sparse matrix of the cosines above a threshold, a face with itself included."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    starts, cosines, ids = index.range_search(vectors, threshold)
    return csr_matrix((cosines, ids, starts.astype(np.int64)), (len(vectors), len(vectors)))


def each(**values) -> list[dict]:
    """All settings that combine these values."""
    return [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]


def steps(first: float, last: float, step: float) -> list[float]:
    return np.arange(first, last + step / 2, step).round(4).tolist()


# Name: (method, settings). Finer than the differences that matter, and wide enough that no method
# is best at an end.
METHODS: dict[str, tuple[Callable[[np.ndarray], Clustering], list[dict]]] = {
    "facenet DBSCAN": (facenet_dbscan, each(eps=steps(0.6, 1.08, 0.01))),
    "facenet Chinese whispers": (chinese_whispers, each(threshold=steps(0.5, 0.8, 0.01))),
    "scikit-learn DBSCAN": (dbscan, each(eps=steps(0.6, 1.08, 0.01), min_samples=[1, 2, 3])),
    "average linkage": (
        average_linkage,
        each(metric=["euclidean"], threshold=steps(0.7, 1.2, 0.01))
        + each(metric=["cosine"], threshold=steps(0.25, 0.7, 0.01)),
    ),
    "hdbscan": (
        plain_hdbscan,
        each(min_samples=[1, 2, 3], epsilon=[0.0, *steps(0.6, 0.9, 0.02)], method=["eom", "leaf"]),
    ),
    "Infomap": (infomap, each(threshold=steps(0.5, 0.8, 0.01))),
    "approximate rank-order": (
        rank_order,
        each(k=[10, 15, 20, 25, 30, 40, 200], threshold=steps(0.05, 1.5, 0.05)),
    ),
}
