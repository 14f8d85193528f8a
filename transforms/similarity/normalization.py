"""Makes the similarities of a collection's faces comparable with each other.

The cosine of two embeddings means different things in different collections, and for different
faces of one: in photos of poor quality, strangers are as similar as relatives are elsewhere. Two
corrections are applied to each face. The mean of the collection around the face is subtracted from
its vector, which removes what the faces have in common without being one person: blur, color,
resolution. Then half of each face's cohort score (cohort.py) is subtracted from the cosine.
"""

from dataclasses import dataclass, replace

import numpy as np

from facecluster.transforms.cores import map_in_threads
from facecluster.transforms.similarity.cohort import Cohort
from facecluster.transforms.similarity.impostors import Impostors, fit_impostors
from facecluster.transforms.similarity.shots import first_of_shots, one_shot_distance
from facecluster.transforms.tables.codec import row_slices, unit_rows

SAMPLE_FACES = 2048
# The mean around a face weighs each face of the sample with exp(CONCENTRATION * cosine).
CONCENTRATION = 3.0
# Pairs that are more similar than this fraction of `Cohort.same_person` show one person, by and
# large: they do not count for means, nor as impostors. If they are more than half of all pairs, the
# collection has too few people to learn from.
ONE_PERSON_FROM = 0.7
MOST_PAIRS_OF_ONE_PERSON = 0.5
# A person with more than this share of the sample's faces counts for means as if it were this.
MOST_OF_ONE_PERSON = 0.05
MIN_STRANGERS = 15  # pairs of different people, to tell how similar they are; six people have these
# The similarity of two photos of one person is typically this many deviations of impostors above
# their median; pairs that are SAME_PERSON_DEVIATIONS above it show one person in all likelihood.
TYPICAL_DEVIATIONS = 5.3
SAME_PERSON_DEVIATIONS = 4.2
# Without a cohort, a median cosine above this means that most pairs show one person: in the default
# model's 128-byte vectors, the median of strangers is .21 even in crops of 64 px.
STRANGERS_BELOW = 0.4
MIN_PAIRS = 10  # of one person, to tell from the sample what is typical of them
# Rows of one matrix product, always filled up to this number: the bits of a row of a product do not
# depend on the rows beside it then.
BATCH_ROWS = 512


@dataclass(frozen=True, eq=False)
class Normalization:
    """What the normalization of one collection was fitted to.

    Attributes:
      sample: (m, d) float32 unit vectors of faces drawn at random, one of each shot; m may be 0.
      excluded_from: cosines above this do not count for the mean around a face.
      cohort: of the embedding space, if the model has one.
      impostors: the distribution of normalized similarities.
      same_person: the typical normalized similarity of two photos of one person.
      few_people: whether so few pairs of the sample show different people, or so many one person,
        that impostors are the model's typical ones.
      distinct: the share of the faces drawn that are the first of their shot.
    """

    sample: np.ndarray
    excluded_from: float
    cohort: Cohort | None
    impostors: Impostors
    same_person: float
    few_people: bool = False
    distinct: float = 1.0

    def apply(self, stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Normalizes faces.

        Args:
          stored: (n, d) embeddings of any numeric type, vectors of any length above 0.

        Returns:
          (vectors, scores): (n, d) float16, whose cosines are the similarities before the cohort
          scores are subtracted, and the (n,) float32 cohort scores; see `similarities`. The result
          for a face does not depend on the other faces.
        """
        return _normalize(stored, self.sample, self.excluded_from, self.cohort)

    def mean_scores(self, sums: np.ndarray) -> np.ndarray:
        """(g,) float32, the cohort scores of mean faces.

        Args:
          sums: (g, d), the sum of the normalized unit vectors of each group of faces.
        """
        scores = np.zeros(len(sums), np.float32)
        if self.cohort:
            for s in row_slices(len(sums)):
                scores[s] = self.cohort.scores(unit_rows(sums[s]))
        return scores


def similarities(cosines: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The normalized similarities of pairs of faces.

    Args:
      cosines: (m,) of their normalized vectors.
      first, second: (m,) their cohort scores.
    """
    return cosines - (first + second) / 2


def fit_normalization(stored: np.ndarray, cohort: Cohort | None) -> Normalization:
    """Fits the normalization to a collection.

    Of the frames of a shot, one counts: it is fitted a second time, without the other frames that
    the first fit tells.

    Args:
      stored: (m, d) embeddings of faces drawn at random; the first SAMPLE_FACES are used.
      cohort: of the embedding space. None: similarities are not corrected for the single face, and
        what is typical of one person is estimated from the sample.
    """
    sample = unit_rows(stored[:SAMPLE_FACES])
    fitted = _fit_normalization(sample, cohort)
    is_first = _is_first_of_shot(sample, fitted)
    if is_first.all():
        return fitted
    return replace(_fit_normalization(sample[is_first], cohort), distinct=float(is_first.mean()))


def _is_first_of_shot(sample: np.ndarray, normalization: Normalization) -> np.ndarray:
    """(m,) bool: which of (m, d) unit vectors are the first faces of their shots."""
    vectors = unit_rows(normalization.apply(sample)[0])
    cosine = 1 - one_shot_distance(normalization.same_person) ** 2 / 2
    faces, others = np.nonzero(np.triu(vectors @ vectors.T > cosine, 1))
    first = first_of_shots(faces, others, len(sample))
    return first == np.arange(len(sample))


def _fit_normalization(sample: np.ndarray, cohort: Cohort | None) -> Normalization:
    """Fits the normalization to (m, d) unit vectors of faces, each of another shot."""
    if len(sample) < 2:
        same_person = cohort.same_person if cohort else 0.7
        typical = Impostors(0.0, same_person / TYPICAL_DEVIATIONS)
        return Normalization(sample, 1.0, cohort, typical, same_person, few_people=True)
    pairs = np.triu_indices(len(sample), 1)
    if cohort:
        excluded_from = ONE_PERSON_FROM * cohort.same_person
    else:
        cosines = fit_impostors((sample @ sample.T)[pairs])
        if cosines.median > STRANGERS_BELOW:
            impostors = Impostors(0.0, cosines.median / TYPICAL_DEVIATIONS)
            return Normalization(sample[:0], 1.0, None, impostors, cosines.median, True)
        excluded_from = cosines.median + ONE_PERSON_FROM * SAME_PERSON_DEVIATIONS * cosines.width
    vectors, scores = _normalize(sample, sample, excluded_from, cohort)
    vectors = unit_rows(vectors)
    similar = similarities(vectors @ vectors.T, scores[:, None], scores)
    if cohort:
        same_person = cohort.same_person
        impostors, few_people = _fit_among_few_people(similar[pairs], same_person)
    else:
        impostors, few_people = fit_impostors(similar[pairs]), False
        same_person = _typical_of_one_person(similar, impostors)
    return Normalization(sample, excluded_from, cohort, impostors, same_person, few_people)


def _fit_among_few_people(similar: np.ndarray, same_person: float) -> tuple[Impostors, bool]:
    """Fits impostors to pairs of which many may show one person; and whether too few show two."""
    different = similar[similar < ONE_PERSON_FROM * same_person]
    fewest = max(MIN_STRANGERS, (1 - MOST_PAIRS_OF_ONE_PERSON) * len(similar))
    if len(different) < fewest:
        return Impostors(0.0, same_person / TYPICAL_DEVIATIONS), True
    return fit_impostors(different), False


def _typical_of_one_person(similar: np.ndarray, impostors: Impostors) -> float:
    """Estimates the typical similarity of one person from the pairs that are most similar."""
    np.fill_diagonal(similar, -np.inf)
    nearest = similar.max(axis=1)
    nearest = nearest[impostors.deviations(nearest) > SAME_PERSON_DEVIATIONS]
    if len(nearest) >= MIN_PAIRS:
        return float(np.median(nearest))
    return min(impostors.median + TYPICAL_DEVIATIONS * impostors.width, 0.9)


def _normalize(
    stored: np.ndarray, sample: np.ndarray, excluded_from: float, cohort: Cohort | None
) -> tuple[np.ndarray, np.ndarray]:
    n, d = stored.shape
    vectors, scores = np.empty((n, d), np.float16), np.zeros(n, np.float32)
    weights = _person_weights(sample, excluded_from)

    def normalize(part: slice) -> None:
        batch = np.zeros((BATCH_ROWS, d), np.float32)
        rows = unit_rows(stored[part])
        batch[: len(rows)] = rows
        if len(sample) > 1:
            batch -= _means_around(batch, sample, weights, excluded_from)
        vectors[part] = unit_rows(batch[: len(rows)])
        if cohort:
            batch[: len(rows)] = rows
            scores[part] = cohort.scores(batch)[: len(rows)]

    for _ in map_in_threads(normalize, row_slices(n, BATCH_ROWS)):
        pass
    return vectors, scores


def _person_weights(sample: np.ndarray, excluded_from: float) -> np.ndarray:
    """(m,) float32: how much each face of (m, d) counts for the means around others.

    Less where more than MOST_OF_ONE_PERSON of the sample may show the same person. In an album of
    one person, all strangers would otherwise be moved away from that person, toward each other.
    """
    sizes = [np.sum(sample[s] @ sample.T >= excluded_from, axis=1) for s in row_slices(len(sample))]
    most = max(MOST_OF_ONE_PERSON * len(sample), 1.0)
    return np.minimum(most / np.maximum(np.concatenate([*sizes, []]), 1), 1).astype(np.float32)


def _means_around(
    vectors: np.ndarray, sample: np.ndarray, person_weights: np.ndarray, excluded_from: float
) -> np.ndarray:
    """(n, d) the mean of the sample around each of (n, d) unit vectors."""
    cosines = vectors @ sample.T
    counts = cosines < excluded_from
    weights = np.exp(np.multiply(cosines, CONCENTRATION, out=cosines), out=cosines)
    weights *= counts
    weights *= person_weights
    total = weights.sum(axis=1, keepdims=True)
    # Where most of the sample may show the same person, what remains says little about the rest.
    share = counts.mean(axis=1, dtype=np.float32)[:, None]
    return (weights @ sample) * (np.minimum(2 * share, 1) / np.maximum(total, 1e-9))
