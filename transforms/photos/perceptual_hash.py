"""A photo's perceptual hash: 64 bits that stay alike when it is saved again or made smaller.

pHash: the signs of the lowest frequencies of the discrete cosine transform, about their median
(Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010), in the variant
of the imagehash package, which keeps the mean and the first seven frequencies each way.
"""

import numpy as np
from PIL import Image

SIDE, N_FREQUENCIES = 32, 8  # px of the small grey image; of each direction. As published.
# A coefficient this near the median is noise: 4 is a wave of a quarter of a grey level, several
# times what saving as JPEG leaves there. LFW's photos have 56 clear bits and more, a plain sky,
# a ramp or noise about 10, the moon 21: so few tell nothing apart.
CLEAR_COEFFICIENT, LEAST_CLEAR_BITS = 4, 32


def _cosines() -> np.ndarray:
    """(N_FREQUENCIES, SIDE): the first rows of the orthonormal DCT-II."""
    frequency, place = np.ogrid[:N_FREQUENCIES, :SIDE]
    rows = np.cos(np.pi * frequency * (2 * place + 1) / (2 * SIDE)) * np.sqrt(2 / SIDE)
    rows[0] /= np.sqrt(2)
    return rows


COSINES = _cosines()


def perceptual_hash(image: Image.Image) -> int | None:
    """Hashes what a photo shows.

    Args:
      image: RGB and upright, of any size.

    Returns:
      64 bits as a signed integer, of which 32 are set, so that two hashes differ in an even number
      of bits; None for a picture with too little structure to be known again.
    """
    # Reducing first takes a sixth of the time, which for a large photo is its decoding's tenth.
    small = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3).convert("L")
    coefficients = COSINES @ np.asarray(small, np.float64) @ COSINES.T
    above_median = coefficients - np.median(coefficients)
    if np.count_nonzero(abs(above_median) > CLEAR_COEFFICIENT) < LEAST_CLEAR_BITS:
        return None
    return int(np.packbits(above_median > 0).view(">i8")[0])
