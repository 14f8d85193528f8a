"""The similarities of impostors, which are faces of different people, in a collection."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

LOWER_QUANTILE = 0.1
# The upper tail of impostors' similarities is longer than that of the normal distribution fitted to
# their lower half, by this factor. Chosen on the development collections, see docs/results.md.
TAIL = 1.12


@dataclass(frozen=True)
class Impostors:
    """The distribution of the similarity of two faces of different people.

    A normal distribution whose upper tail is TAIL times as long.
    """

    median: float
    width: float

    def deviations(self, similarity: np.ndarray) -> np.ndarray:
        """How many standard deviations similarities are above the median."""
        return (similarity - self.median) / self.width

    def probability(self, similarity: np.ndarray) -> np.ndarray:
        """The probability that two different people are at least this similar."""
        return ndtr(-self.deviations(similarity) / TAIL)

    def similarity_at(self, probability: float) -> float:
        """The similarity that a pair of different people reaches with this probability."""
        return float(self.median - TAIL * self.width * ndtri(probability))


def fit_impostors(similarities: np.ndarray) -> Impostors:
    """Fits the distribution to the similarities of random pairs of faces.

    They are a mixture of pairs of different people and pairs of one person. As long as these are a
    minority, the lower half consists of pairs of different people, and only that half is used.

    Args:
      similarities: (m,) of pairs drawn at random, m at least 1.
    """
    median, lower = np.quantile(similarities, [0.5, LOWER_QUANTILE])
    width = (median - lower) / -ndtri(LOWER_QUANTILE)
    return Impostors(float(median), max(float(width), 1e-6))
