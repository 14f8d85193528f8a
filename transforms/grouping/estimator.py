"""FaceClusterer: grouping as a scikit-learn estimator, for embeddings from any source."""

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_consistent_length, column_or_1d, validate_data

from facecluster.transforms.grouping.group_faces import group_faces
from facecluster.transforms.grouping.neighbors import hash_rows
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.similarity.cohort import Cohort
from facecluster.transforms.tables.codec import row_slices


class FaceClusterer(ClusterMixin, BaseEstimator):
    """Groups face embeddings into people.

    The algorithm is that of ``facecluster cluster``. Similarities are normalized by what is usual
    in the collection. Edges of the graph of nearest neighbors are weighed by the similarity of
    their two faces, by the neighbors that these share and by the number of their neighbors.
    HDBSCAN* on the minimum spanning forest gives groups, and groups of one person are merged.

    No distance has to be chosen. The defaults expect embeddings of which the cosine tells people
    apart, in any dimension and centered or not, and a collection of more than a few people: how
    alike two different people are is estimated from pairs of faces, most of which must show
    different people. With a cohort of the embedding space, a collection may have few people, and
    faces that are similar to everybody are recognized. Only the directions of vectors matter.
    Memory grows with the number of faces times ``n_neighbors``, not with its square.

    Labels do not depend on the order of the rows. Some steps use a sample of the faces (k-means for
    the cells, the similarities of impostors); it is chosen by a hash of each row's values. Only
    which of several exactly equal rows stands for all of them is decided by the order of the rows.

    Parameters
    ----------
    n_neighbors : int
        Nearest neighbors searched for each face, at least 2.
    min_cluster_size : int
        Fewest photos that make a person, where copies and bursts count as one; 1 labels every
        face that is not a zero vector.
    wrong_share : float
        The share of grouped faces that may be with the wrong person, from 0.001 to 0.5: a smaller
        one rather splits people, a larger one rather merges them.
    ignore_photos : bool
        Let two faces in one photo be the same person; see ``photos`` of `fit`.
    probes : int
        With more than 50,000 faces, each face is compared with the faces in this many of 4 sqrt(n)
        cells. 0: in all cells, which is exact and slow.
    cohort : Cohort, optional
        Typical faces of other people, for embeddings of facecluster's models; see
        ``SavedModel.cohort``. None: the collection's own statistics are used.

    Attributes
    ----------
    labels_ : (n_samples,) int64 array
        The person of each face, numbered from 0; -1 for a face that is not assigned to a person.
    probabilities_ : (n_samples,) float64 array
        The probability that each face shows its person, in [0, 1]; 0 for unassigned faces.
    impostor_median_, impostor_width_ : float
        Median and standard deviation of the normalized similarities of different people.
    singles_ : float
        Estimated share of faces whose person has no other photo.
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
    >>> random = np.random.default_rng(0)
    >>> people = random.normal(size=(20, 64)).repeat(4, axis=0)  # 20 people of 4 faces each
    >>> faces = people + 0.5 * random.normal(size=people.shape)
    >>> labels = FaceClusterer().fit_predict(faces)
    >>> len(set(labels[:4])), len(set(labels))
    (1, 20)
    """

    def __init__(
        self,
        *,
        n_neighbors: int = ClusterOptions.n_neighbors,
        min_cluster_size: int = ClusterOptions.min_cluster_size,
        wrong_share: float = ClusterOptions.wrong_share,
        ignore_photos: bool = ClusterOptions.ignore_photos,
        probes: int = ClusterOptions.probes,
        cohort: Cohort | None = None,
    ):
        self.n_neighbors = n_neighbors
        self.min_cluster_size = min_cluster_size
        self.wrong_share = wrong_share
        self.ignore_photos = ignore_photos
        self.probes = probes
        self.cohort = cohort

    def fit(self, X: ArrayLike, y: None = None, photos: ArrayLike | None = None) -> "FaceClusterer":
        """Groups faces.

        Parameters
        ----------
        X : (n_samples, n_features) array-like
            An embedding per row, of any length. int8, float16 and float32 arrays are used as they
            are, others are converted to float32. A row of zeros has no direction: its label is -1,
            and other rows are grouped as without it.
        y : ignored
        photos : (n_samples,) array-like, optional
            The photo that each face is in, as numbers or strings. Two faces in one photo are two
            people, unless they are so similar that they must be one, as in a mirror, or the photo
            looks like a collage. None: each face is in a photo of its own.

        Raises
        ------
        ValueError
            X is not a finite array of two dimensions, `photos` has another length, a parameter is
            out of range, or the cohort has other dimensions than X.
        TypeError
            A parameter has another type.
        """
        options = self._options()
        vectors = _scaled(validate_data(self, X, dtype=(np.float32, np.float16, np.int8)))
        if self.cohort and self.cohort.vectors.shape[1] != vectors.shape[1]:
            raise ValueError(
                f"X has {vectors.shape[1]} features, the cohort has "
                f"{self.cohort.vectors.shape[1]}: use the cohort of the model that made X"
            )
        n = len(vectors)
        if photos is None:
            photo_numbers = np.arange(n)
        else:
            check_consistent_length(vectors, photos)
            photo_numbers = np.unique(column_or_1d(photos), return_inverse=True)[1]
        order = np.argsort(hash_rows(vectors), kind="stable")
        grouping = group_faces(vectors[order], photo_numbers[order], options, self.cohort)
        self.labels_ = np.empty(n, np.int64)
        self.labels_[order] = grouping.labels.labels
        self.probabilities_ = np.empty(n)
        self.probabilities_[order] = grouping.labels.probabilities
        self.impostor_median_ = grouping.diagnostics["impostor_median"]
        self.impostor_width_ = grouping.diagnostics["impostor_width"]
        self.singles_ = grouping.diagnostics["singles"]
        return self

    def fit_predict(
        self, X: ArrayLike, y: None = None, photos: ArrayLike | None = None
    ) -> np.ndarray:
        """Groups faces and returns ``labels_``; see `fit`."""
        return self.fit(X, photos=photos).labels_

    def _options(self) -> ClusterOptions:
        """The parameters as ClusterOptions, in the ranges that the command line accepts."""
        for name, least in (("n_neighbors", 2), ("min_cluster_size", 1), ("probes", 0)):
            check_scalar(getattr(self, name), name, (int, np.integer), min_val=least)
        numbers = (int, float, np.number)
        check_scalar(self.wrong_share, "wrong_share", numbers, min_val=0.001, max_val=0.5)
        parameters = self.get_params(deep=False)
        del parameters["cohort"]
        return ClusterOptions(**parameters)


def _scaled(X: np.ndarray) -> np.ndarray:
    """X with vectors whose squared length can be computed in float32, zero vectors as they are."""
    lengths = np.concatenate(
        [np.linalg.norm(X[s].astype(np.float64), axis=1) for s in row_slices(len(X))]
    )
    lengths[lengths == 0] = 1
    if lengths.min() < 1e-9 or lengths.max() > 1e9:
        X = (X / lengths[:, None]).astype(np.float32)
    return X
