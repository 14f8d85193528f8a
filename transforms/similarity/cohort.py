"""A cohort: typical faces of other people, with which a model's similarities are normalized.

Some faces are similar to everybody: blurred or plain ones, for example. A face's cohort score says
how similar it is to the most similar members of a fixed cohort, none of whom it shows. Subtracting
it makes similarities comparable. This is the adaptive symmetric normalization (s-norm) of speaker
recognition (Matejka et al. 2017, "Analysis of Score Normalization in Multilingual Speaker
Recognition"), without the division by the deviation. The score depends on the face alone.
"""

from dataclasses import dataclass

import numpy as np

NEAREST = 10  # the most similar members count
WEIGHT = 0.6


@dataclass(frozen=True, eq=False)
class Cohort:
    """The cohort of one embedding space.

    Attributes:
      vectors: (m, d) float32 unit vectors, m at least NEAREST.
      level: the mean similarity of a face to its NEAREST most similar members.
      same_person: the median normalized similarity of two photos of one person.
    """

    vectors: np.ndarray
    level: float
    same_person: float

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """(n,) float32: the scores of (n, d) unit vectors, 0 for an average face."""
        return (WEIGHT * (nearest_means(vectors, self.vectors) - self.level)).astype(np.float32)


def nearest_means(vectors: np.ndarray, members: np.ndarray) -> np.ndarray:
    """(n,) the mean cosine of each of (n, d) unit vectors with its NEAREST of (m, d) members."""
    cosines = vectors @ members.T
    return np.partition(cosines, -NEAREST, axis=1)[:, -NEAREST:].mean(axis=1)
