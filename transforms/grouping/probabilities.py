"""How likely each face shows its person.

The probability is a logistic function of two numbers, fitted to labeled collections: how many of
the collection's people are expected to be as similar to the face as the other faces of its person
are, and how many these are. docs/results.md shows how well it is calibrated.
"""

import numpy as np
from scipy.special import expit

from facecluster.transforms.grouping.hdbscan_labels import NOISE
from facecluster.transforms.grouping.merge_groups import Vectors, log_expected_groups
from facecluster.transforms.similarity.group_sums import group_sums
from facecluster.transforms.similarity.normalization import Normalization, similarities
from facecluster.transforms.tables.codec import row_slices, unit_rows

# Coefficients of the logarithm of the expected number of people, of the logarithm of the number of
# faces, and the constant. Fitted to the development collections.
EXPECTED, SIZE, CONSTANT = -0.42, 0.1, -0.24


def assignment_probabilities(
    labels: np.ndarray, vectors: Vectors, scores: np.ndarray, normalization: Normalization
) -> np.ndarray:
    """(n,) float64 in [0, 1]: the probability that a face shows the person of its label.

    More exactly, that another face with the label, chosen at random, shows the same person. 1 for
    the only face of a label, 0 for noise.

    Args:
      labels: (n,) int64 from 0 without gaps, -1 for noise.
      vectors: reads the normalized vectors.
      scores: (n,) float32, the cohort scores.
      normalization: of the collection.
    """
    n_people = labels.max(initial=NOISE) + 1
    probabilities = (labels != NOISE).astype(np.float64)
    if not n_people:
        return probabilities
    sums = group_sums(vectors(), labels, n_people)
    size = np.bincount(labels[labels != NOISE], minlength=n_people)
    person_scores = normalization.mean_scores(sums)
    for faces, part in vectors():
        numbers = np.arange(len(labels))[faces]
        for s in row_slices(len(numbers)):
            chosen = np.flatnonzero((labels[numbers[s]] != NOISE) & (size[labels[numbers[s]]] > 1))
            face = numbers[s][chosen]
            person = labels[face]
            own = unit_rows(part[s][chosen])
            others = unit_rows(sums[person] - own)
            cosine = np.einsum("ij,ij->i", own, others)
            similarity = similarities(cosine, scores[face], person_scores[person])
            expected = log_expected_groups(similarity, max(n_people, 2), normalization.impostors)
            ratio = EXPECTED * expected + SIZE * np.log(size[person]) + CONSTANT
            probabilities[face] = expit(ratio)
    return probabilities
