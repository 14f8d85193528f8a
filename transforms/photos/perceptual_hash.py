"""Perceptual hash of a photo: 64 bits that hardly change when it is saved again or made smaller.

It is pHash: the signs of the lowest frequencies of the discrete cosine transform relative to their
median (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010), in the
variant of the imagehash package, which keeps the mean and the first seven frequencies of each axis.
"""

import numpy as np
from PIL import Image

# As published: px of the small gray image, and frequencies of each axis.
SIDE, N_FREQUENCIES = 32, 8
# A coefficient nearer to the median is noise: 4 is the amplitude of a wave of a quarter of a gray
# level, several times the error of saving as JPEG.
MIN_COEFFICIENT = 4
# Images with fewer coefficients above the noise cannot be told apart. LFW's photos have at least
# 56; a plain sky, a ramp or noise have about 10, the moon has 21.
MIN_CLEAR_BITS = 32


def _cosines() -> np.ndarray:
    """(N_FREQUENCIES, SIDE): the first rows of the orthonormal DCT-II."""
    frequency, place = np.ogrid[:N_FREQUENCIES, :SIDE]
    rows = np.cos(np.pi * frequency * (2 * place + 1) / (2 * SIDE)) * np.sqrt(2 / SIDE)
    rows[0] /= np.sqrt(2)
    return rows


COSINES = _cosines()


def perceptual_hash(image: Image.Image) -> int | None:
    """Computes the perceptual hash of a photo.

    Args:
      image: RGB and upright, of any size.

    Returns:
      64 bits as a signed integer, of which 32 are set, so that two hashes differ in an even number
      of bits; None if the image has too little structure.
    """
    # The reducing gap makes this six times as fast; it is a tenth of the time to decode a large
    # photo.
    small = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=3).convert("L")
    coefficients = COSINES @ np.asarray(small, np.float64) @ COSINES.T
    above_median = coefficients - np.median(coefficients)
    if np.count_nonzero(abs(above_median) > MIN_COEFFICIENT) < MIN_CLEAR_BITS:
        return None
    return int(np.packbits(above_median > 0).view(">i8")[0])
