"""The distance within which a face is expected to have a given number of impostors.

Impostors are faces of other people. The larger the collection, the more of them look alike: at a
distance that accepts one impostor pair in a hundred thousand, a face has no such neighbor among ten
thousand faces and ten among a million.
"""

import math

import numpy as np
from scipy.special import ndtri

# The upper tail of impostors' cosines is longer than that of a normal distribution fitted to their
# lower half, by this factor. Measured with the default model on half of LFW's people, from 1e-2 to
# 1e-5 of all pairs.
TAIL = 1.16
LOWER_QUANTILE = 0.1
SAMPLE_FACES = 4096
# If more than this fraction of pairs is as near as two faces of one person, the collection consists
# of a few people: the distribution of impostors cannot be estimated from it, and that of half of
# LFW is used instead.
FEW_PEOPLE_FRACTION, SAME_PERSON_DISTANCE = 0.02, 0.9
LFW_MEDIAN, LFW_WIDTH = 0.0, 0.135


def chance_distance(sample: np.ndarray, n: int, per_face: float) -> float:
    """Estimates the distance within which a face has `per_face` impostors among n faces.

    The cosines of all pairs in the sample are a mixture of impostor pairs and same-person pairs.
    The lower half consists of impostor pairs only. A normal distribution is fitted to it (its
    center at the median, its width from the lower decile) and its upper tail extrapolated.

    Args:
      sample: (m, d) float32 unit vectors of faces drawn at random, m at least 2.
      n: faces in the collection.
      per_face: expected number of impostors, above 0.

    Returns:
      A Euclidean distance between unit vectors, in [0, 2].
    """
    if len(sample) < 2:
        return 2.0
    cosines = (sample @ sample.T)[np.triu_indices(len(sample), 1)]
    median, lower = np.quantile(cosines, [0.5, LOWER_QUANTILE])
    width = (median - lower) / -ndtri(LOWER_QUANTILE)
    if np.mean(cosines > 1 - SAME_PERSON_DISTANCE**2 / 2) > FEW_PEOPLE_FRACTION:
        median, width = LFW_MEDIAN, LFW_WIDTH
    fraction = min(per_face / max(n - 1, 1), 0.5)
    cosine = min(median - TAIL * width * ndtri(fraction), 1.0)
    return math.sqrt(2 - 2 * cosine)
