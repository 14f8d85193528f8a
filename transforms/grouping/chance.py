"""How far apart two faces may be before strangers are expected among a face's neighbours.

The more faces, the more strangers look alike: at a distance that lets in one pair of strangers in a
hundred thousand, a face has no such neighbour among ten thousand faces and ten among a million.
"""

import math

import numpy as np
from scipy.special import ndtri

# Strangers' cosines: their tail reaches farther than a normal distribution's of the same lower
# half. Measured with the default model on half of LFW's people, from 1e-2 to 1e-5 of all pairs.
TAIL = 1.16
LOWER = 0.1
SAMPLE_FACES = 4096
# Where more than this share of pairs are as near as the same person's, a few people fill the
# collection: how strangers look cannot be seen in it, and is taken from that half of LFW instead.
FEW_PEOPLE, SAME_PERSON = 0.02, 0.9
USUAL_MEDIAN, USUAL_WIDTH = 0.0, 0.135


def chance_distance(sample: np.ndarray, n: int, per_face: float) -> float:
    """The distance within which a face has `per_face` strangers among n, as far as can be told.

    The cosines of all pairs of the sample are a mixture of strangers and of same people. Only
    strangers are in the lower half, so their distribution is taken from there: centre at the
    median, width from the lower tenth, extrapolated as a normal distribution's tail.

    Args:
      sample: (m, d) float32 unit vectors of faces drawn at random, m at least 2.
      n: faces in the collection.
      per_face: expected number of strangers, above 0.

    Returns:
      A Euclidean distance between unit vectors, in [0, 2].
    """
    if len(sample) < 2:
        return 2.0
    cosines = (sample @ sample.T)[np.triu_indices(len(sample), 1)]
    median, lower = np.quantile(cosines, [0.5, LOWER])
    width = (median - lower) / -ndtri(LOWER)
    if np.mean(cosines > 1 - SAME_PERSON**2 / 2) > FEW_PEOPLE:
        median, width = USUAL_MEDIAN, USUAL_WIDTH
    share = min(per_face / max(n - 1, 1), 0.5)
    cosine = min(median - TAIL * width * ndtri(share), 1.0)
    return math.sqrt(2 - 2 * cosine)
