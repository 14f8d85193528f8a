"""Calibration of distances: false accept and validation rates over all pairs of labeled faces.

    table = calibration_table(embeddings, labels)
    distance = distance_at_far(table, 1e-6)

LFW's protocol uses 6,000 pairs and so resolves rates down to about 0.001. Grouping compares every
face of a collection with every other one, so rates of one in a million matter. All pairs of ten
thousand labeled faces, about 50 million, resolve them.
"""

from collections.abc import Sequence

import numpy as np

# Euclidean distances d = sqrt(2 - 2 cos) of unit vectors: 0.30, 0.35, ... 1.40.
DISTANCES = np.arange(30, 141, 5) / 100


def calibration_table(
    embeddings: np.ndarray,
    labels: Sequence | np.ndarray,
    distances: Sequence[float] | np.ndarray = DISTANCES,
    block_rows: int = 512,
) -> list[dict[str, float]]:
    """Measures the rates of `Verification` over all pairs of n labeled faces.

    Args:
      embeddings: (n, d) unit vectors.
      labels: (n,) the person of each face.
      distances: the thresholds, Euclidean distances in ascending order.
      block_rows: faces that are compared with all others at a time. Memory is about 6 bytes x
        block_rows x n, 30 MB for 10,000 faces.

    Returns:
      One row per distance, suitable for JSON: distance; far, the fraction of the pairs of different
      people that are nearer; val, the fraction of the pairs of one person that are nearer;
      n_different and n_same, the numbers of these pairs. Rates have four significant digits.

    Raises:
      ValueError: labels and embeddings differ in length, or there are no matched or no mismatched
        pairs.
    """
    vectors = np.asarray(embeddings, np.float32)
    _, people = np.unique(np.asarray(labels), return_inverse=True)
    if len(people) != len(vectors):
        raise ValueError(f"{len(vectors)} embeddings and {len(people)} labels: give one label each")
    n_same, n_different = _count_pairs(people)
    # Python floats, because comparing with a NumPy double would convert every cosine to double.
    cosines = (1 - np.square(distances) / 2).tolist()
    nearer, nearer_same = np.zeros(len(cosines), np.int64), np.zeros(len(cosines), np.int64)
    for start in range(0, len(vectors), block_rows):
        block = slice(start, start + block_rows)
        cosine = vectors[block] @ vectors[start:].T
        cosine[np.tril_indices(len(cosine))] = -np.inf  # the face itself, and pairs counted before
        cosine_same = cosine[people[block, None] == people[start:]]
        nearer += [np.count_nonzero(cosine > threshold) for threshold in cosines]
        nearer_same += [np.count_nonzero(cosine_same > threshold) for threshold in cosines]
    return [
        {
            "distance": float(distance),
            "far": _round_rate(far),
            "val": _round_rate(val),
            "n_different": n_different,
            "n_same": n_same,
        }
        for distance, far, val in zip(
            distances, (nearer - nearer_same) / n_different, nearer_same / n_same, strict=True
        )
    ]


def distance_at_far(table: Sequence[dict[str, float]], far: float) -> float:
    """The Euclidean distance at which the false accept rate is `far`.

    Between two rows of a `calibration_table`, the logarithm of the rate is interpolated linearly in
    the distance: in the relevant range, rates grow by a factor from row to row.

    Raises:
      ValueError: the rate is outside the table; rows without a false accept do not count.
    """
    rows = [row for row in table if row["far"] > 0]
    if not rows or not rows[0]["far"] <= far <= rows[-1]["far"]:
        known = f"goes from {rows[0]['far']} to {rows[-1]['far']}" if rows else "is always 0"
        raise ValueError(
            f"a false accept rate of {far} is not in the table, where it {known}: choose one in "
            "that range, or measure more faces or other distances"
        )
    rates = np.log([row["far"] for row in rows])
    return float(np.interp(np.log(far), rates, [row["distance"] for row in rows]))


def validation_rate(
    first: np.ndarray, second: np.ndarray, labels: Sequence | np.ndarray, far: float = 1e-3
) -> float:
    """VAL at a false accept rate, over all pairs of n labeled faces.

    Memory is 10 bytes x n^2, 250 MB for 5,000 faces.

    Args:
      first, second: (n, d) unit vectors of the same faces; of each pair, one face is taken from
        `first` and the other from `second`. They may come from two models with comparable vectors
        (arXiv 1503.03832, appendix on harmonic embeddings); otherwise pass the same array twice.
      labels: (n,) the person of each face.
      far: the fraction of the pairs of different people that are accepted, below 1; the number of
        pairs is rounded down.

    Returns:
      The fraction of the pairs of one person that are nearer than the nearest pair of different
      people that is not accepted.

    Raises:
      ValueError: there are no matched or no mismatched pairs.
    """
    _, people = np.unique(np.asarray(labels), return_inverse=True)
    _count_pairs(people)
    cosines = np.asarray(first, np.float32) @ np.asarray(second, np.float32).T
    same = people[:, None] == people[None, :]
    different = cosines[~same]
    n_accepted = int(far * len(different))
    different.partition(len(different) - n_accepted - 1)
    threshold = different[-n_accepted - 1]
    np.fill_diagonal(same, False)
    return float(np.mean(cosines[same] > threshold))


def _count_pairs(people: np.ndarray) -> tuple[int, int]:
    """(matched pairs, mismatched pairs) of faces with (n,) int people from 0."""
    sizes = np.bincount(people)
    n_same = int(np.sum(sizes * (sizes - 1) // 2))
    n_different = len(people) * (len(people) - 1) // 2 - n_same
    if not n_same or not n_different:
        lacks = "are of different people" if not n_same else "are of one person"
        raise ValueError(
            f"all {len(people)} faces {lacks}: calibration needs pairs of one person and pairs of "
            "two"
        )
    return n_same, n_different


def _round_rate(rate: float) -> float:
    return float(f"{rate:.4g}")
