"""FaceClusterer: grouping as a scikit-learn estimator, for embeddings from any source."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_consistent_length, column_or_1d, validate_data

from facecluster.transforms.grouping.group_faces import group_faces
from facecluster.transforms.grouping.neighbors import hash_rows
from facecluster.transforms.grouping.options import ClusterOptions

MAX_DISTANCE = 2.0  # between unit vectors


class FaceClusterer(ClusterMixin, BaseEstimator):
    """Groups face embeddings into people.

    The algorithm is that of ``facecluster cluster``: a graph of nearest neighbors, HDBSCAN* on its
    minimum spanning forest of mutual reachability, and merging of clusters with near means. Only
    the directions of vectors matter. Distances are Euclidean between unit vectors, sqrt(2 - 2 cos);
    the defaults are tuned for FaceNet embeddings. Memory grows with the number of faces times
    ``n_neighbors``, not with its square.

    Labels do not depend on the order of the rows. Some steps use a sample of the faces (k-means for
    the cells, the distribution of distances); it is chosen by a hash of each row's values. Only
    which of several exactly equal rows stands for all of them is decided by the order of the rows.

    Parameters
    ----------
    n_neighbors : int
        Nearest neighbors searched for each face, at least 2.
    min_cluster_size : int
        Fewest faces that make a person; 1 labels every face.
    min_samples : int
        A face's core distance is the distance to its neighbor of this rank, the face itself not
        counted. At most ``n_neighbors``.
    min_distance : float
        Smaller distances count as this one, so that bursts of photos do not become people of their
        own. Above 0.
    max_distance : float
        Faces farther apart than this are never linked directly.
    chance_neighbors : float
        Reduces ``max_distance`` until a face is expected to have this many faces of other people
        within it. 0: do not reduce it.
    merge_distance : float
        Clusters and single faces whose mean vectors are within this distance are merged; the larger
        they are, the smaller the distance must be. 0: do not merge.
    ignore_photos : bool
        Let two faces in one photo be the same person; see ``photos`` of `fit`.
    probes : int
        With more than 50,000 faces, each face is compared with the faces in this many of 4 sqrt(n)
        cells. 0: in all cells, which is exact and slow.

    Attributes
    ----------
    labels_ : (n_samples,) int64 array
        The person of each face, numbered from 0; -1 for a face that is not assigned to a person.
    probabilities_ : (n_samples,) float64 array
        How firmly each face belongs to its person, in [0, 1]; 0 for unassigned faces.
    max_distance_ : float
        ``max_distance`` after the reduction by ``chance_neighbors``.
    n_features_in_ : int
        Dimensions of the vectors.

    References
    ----------
    Campello, Moulavi, Zimek and Sander, "Hierarchical Density Estimates for Data Clustering,
    Visualization, and Outlier Detection" (2015).

    Examples
    --------
    >>> import numpy as np
    >>> from facecluster import FaceClusterer
    >>> people = np.eye(3).repeat(4, axis=0)  # 3 people of 4 faces each
    >>> noise = np.random.default_rng(0).normal(size=(12, 3)) * 0.05
    >>> labels = FaceClusterer(chance_neighbors=0).fit_predict(people + noise)
    >>> len(set(labels[:4])), len(set(labels))
    (1, 3)
    """

    def __init__(
        self,
        *,
        n_neighbors: int = ClusterOptions.n_neighbors,
        min_cluster_size: int = ClusterOptions.min_cluster_size,
        min_samples: int = ClusterOptions.min_samples,
        min_distance: float = ClusterOptions.min_distance,
        max_distance: float = ClusterOptions.max_distance,
        chance_neighbors: float = ClusterOptions.chance_neighbors,
        merge_distance: float = ClusterOptions.merge_distance,
        ignore_photos: bool = ClusterOptions.ignore_photos,
        probes: int = ClusterOptions.probes,
    ):
        self.n_neighbors = n_neighbors
        self.min_cluster_size = min_cluster_size
        self.min_samples = min_samples
        self.min_distance = min_distance
        self.max_distance = max_distance
        self.chance_neighbors = chance_neighbors
        self.merge_distance = merge_distance
        self.ignore_photos = ignore_photos
        self.probes = probes

    def fit(self, X: ArrayLike, y: None = None, photos: ArrayLike | None = None) -> "FaceClusterer":
        """Groups faces.

        Parameters
        ----------
        X : (n_samples, n_features) array-like
            An embedding per row, of any length above 0. int8, float16 and float32 arrays are used
            as they are, others are converted to float32.
        y : ignored
        photos : (n_samples,) array-like, optional
            The photo that each face is in, as numbers or strings. Two faces in one photo are two
            people, unless they are so near that they must be one: a mirror, a collage. None: each
            face is in a photo of its own.

        Raises
        ------
        ValueError
            X is not a finite array of two dimensions without zero vectors, `photos` has another
            length, or a parameter is out of range.
        TypeError
            A parameter has another type.
        """
        options = self._options()
        vectors = _scaled(validate_data(self, X, dtype=(np.float32, np.float16, np.int8)))
        n = len(vectors)
        if photos is None:
            photo_numbers = np.arange(n)
        else:
            check_consistent_length(vectors, photos)
            photo_numbers = np.unique(column_or_1d(photos), return_inverse=True)[1]
        order = np.argsort(hash_rows(vectors), kind="stable")
        grouping = group_faces(vectors[order], photo_numbers[order], options)
        self.labels_ = np.empty(n, np.int64)
        self.labels_[order] = grouping.labels.labels
        self.probabilities_ = np.empty(n)
        self.probabilities_[order] = grouping.labels.probabilities
        self.max_distance_ = grouping.diagnostics["max_distance"]
        return self

    def fit_predict(
        self, X: ArrayLike, y: None = None, photos: ArrayLike | None = None
    ) -> np.ndarray:
        """Groups faces and returns ``labels_``; see `fit`."""
        return self.fit(X, photos=photos).labels_

    def _options(self) -> ClusterOptions:
        """The parameters as ClusterOptions, in the ranges that the command line accepts."""
        for name, least in (("n_neighbors", 2), ("min_cluster_size", 1), ("min_samples", 1),
                            ("probes", 0)):  # fmt: skip
            check_scalar(getattr(self, name), name, (int, np.integer), min_val=least)
        for name, least in (("min_distance", 0.01), ("max_distance", 0), ("merge_distance", 0)):
            value = check_scalar(getattr(self, name), name, (int, float, np.number), min_val=least)
            check_scalar(value, name, (int, float, np.number), max_val=MAX_DISTANCE)
        check_scalar(self.chance_neighbors, "chance_neighbors", (int, float, np.number), min_val=0)
        if self.min_samples > self.n_neighbors:
            raise ValueError(
                f"min_samples={self.min_samples} is more than n_neighbors={self.n_neighbors}: no "
                "face has that many neighbors"
            )
        return ClusterOptions(**self.get_params())


def _scaled(X: np.ndarray) -> np.ndarray:
    """X with vectors whose squared length can be computed in float32.

    Raises:
      ValueError: a row is the zero vector.
    """
    lengths = np.concatenate(
        [np.linalg.norm(X[s].astype(np.float64), axis=1) for s in row_slices(len(X))]
    )
    zero = np.flatnonzero(lengths == 0)
    if len(zero):
        raise ValueError(
            f"row {zero[0]} of X is the zero vector (one of {len(zero)}): it has no direction, so "
            "it cannot be compared with other faces; leave such rows out"
        )
    if lengths.min() < 1e-9 or lengths.max() > 1e9:
        X = (X / lengths[:, None]).astype(np.float32)
    return X
