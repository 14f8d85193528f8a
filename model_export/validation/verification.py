"""Verification of face pairs, same person or not, by the protocol of Labeled Faces in the Wild.

    pairs = read_pairs("pairs.txt")
    scores = verify(embeddings1, embeddings2, pairs.is_same, pairs.folds)

The scores are those that the published TensorFlow FaceNet reports (davidsandberg/facenet,
src/validate_on_lfw.py with the functions it calls in src/lfw.py and src/facenet.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from sklearn.metrics import auc

# Distances tried as thresholds, for either metric (src/lfw.py, evaluate). The squared distance of
# two unit vectors is at most 4.
ACCURACY_THRESHOLDS = np.arange(0, 4, 0.01)
VAL_THRESHOLDS = np.arange(0, 4, 0.001)
FAR_TARGET = 1e-3  # the false accept rate at which VAL is reported


@dataclass(frozen=True)
class Verification:
    """Scores of a verification; all but the threshold are in [0, 1].

    Attributes:
      accuracy, accuracy_std: mean and standard deviation over the folds of the fraction of pairs
        classified correctly, at the threshold that is best on the other folds.
      val, val_std: the same for the validation rate, the fraction of matched pairs accepted, at the
        threshold whose false accept rate on the other folds is FAR_TARGET.
      far: mean over the folds of the false accept rate at that threshold.
      auc: area under the mean ROC curve.
      eer: equal error rate, where false accepts and false rejects are equally frequent.
      threshold: mean over the folds of the best threshold for accuracy, in the units of the metric:
        by default a squared Euclidean distance.
    """

    accuracy: float
    accuracy_std: float
    val: float
    val_std: float
    far: float
    auc: float
    eer: float
    threshold: float


def verify(
    embeddings1: np.ndarray,
    embeddings2: np.ndarray,
    is_same: np.ndarray,
    folds: np.ndarray,
    metric: str = "euclidean",
    subtract_mean: bool = False,
) -> Verification:
    """Scores n pairs of faces by cross-validation over their folds.

    With contiguous folds of equal size this is the published KFold(10, shuffle=False); metric and
    subtract_mean are its options --distance_metric and --subtract_mean. For its option
    --use_flipped_images, pass each face's embedding concatenated with that of its mirrored crop: 2d
    numbers, not of unit length. Distances are then computed over the concatenation.

    Args:
      embeddings1, embeddings2: (n, d) unit vectors, the two faces of each pair.
      is_same: (n,) bool, whether the pair shows one person.
      folds: (n,) int, the fold of each pair; at least two folds.
      metric: "euclidean", the squared Euclidean distance (published metric 0), or "cosine", the
        angle between the vectors as a fraction of 180 degrees (published metric 1).
      subtract_mean: first subtract the mean of the training folds' embeddings from all embeddings.
        This changes angles but not Euclidean distances.

    Raises:
      ValueError: the arrays differ in length, there is only one fold, a fold has no matched or no
        mismatched pair, or the metric is unknown.
    """
    is_same, folds = np.asarray(is_same, bool), np.asarray(folds)
    if embeddings1.shape != embeddings2.shape or not (
        len(embeddings1) == len(is_same) == len(folds)
    ):
        raise ValueError(
            f"embeddings of shapes {embeddings1.shape} and {embeddings2.shape}, {len(is_same)} "
            f"pairs and {len(folds)} fold numbers: all must have one row per pair"
        )
    first, second = embeddings1.astype(np.float64), embeddings2.astype(np.float64)

    def centered_distances(train: np.ndarray) -> np.ndarray:
        mean = np.mean(np.concatenate([first[train], second[train]]), axis=0)
        return _distances(first - mean, second - mean, metric)

    if subtract_mean:
        return _cross_validate(centered_distances, is_same, folds)
    return verify_distances(_distances(first, second, metric), is_same, folds)


def verify_distances(distances: np.ndarray, is_same: np.ndarray, folds: np.ndarray) -> Verification:
    """Like `verify`, for pairs with known distances.

    Args:
      distances: (n,), smaller for more similar pairs. Thresholds are tried from 0 up to 4, in steps
        of 0.01 for the accuracy and 0.001 for VAL.
      is_same: (n,) bool, whether the pair shows one person.
      folds: (n,) int, the fold of each pair; at least two folds.

    Raises:
      ValueError: the arrays differ in length, there is only one fold, or a fold has no matched or
        no mismatched pair.
    """
    distances, is_same, folds = np.asarray(distances), np.asarray(is_same, bool), np.asarray(folds)
    if not (len(distances) == len(is_same) == len(folds)):
        raise ValueError(
            f"{len(distances)} distances, {len(is_same)} pairs and {len(folds)} fold numbers: all "
            "must have one row per pair"
        )
    return _cross_validate(lambda train: distances, is_same, folds)


def _cross_validate(
    distances_of: Callable[[np.ndarray], np.ndarray], is_same: np.ndarray, folds: np.ndarray
) -> Verification:
    """The protocol; distances_of maps the training pairs, (n,) bool, to (n,) distances."""
    _check_folds(is_same, folds)
    best, accuracies, vals, fars, curves = [], [], [], [], []
    for fold in np.unique(folds):
        test, train = folds == fold, folds != fold
        distances = distances_of(train)
        best.append(_best_threshold(distances[train], is_same[train]))
        accuracies.append(np.mean((distances[test] < best[-1]) == is_same[test]))
        strict = _threshold_at_far(distances[train], is_same[train])
        val, far = _accept_rates(distances[test], is_same[test], np.array([strict]))
        vals.append(val[0])
        fars.append(far[0])
        curves.append(_accept_rates(distances[test], is_same[test], ACCURACY_THRESHOLDS))
    # Vectors longer than one can be farther apart than the last threshold. The curve still has to
    # end where every pair is accepted.
    true_accept, false_accept = np.append(np.mean(curves, axis=0), np.ones((2, 1)), axis=1)
    return Verification(
        accuracy=float(np.mean(accuracies)),
        accuracy_std=float(np.std(accuracies)),
        val=float(np.mean(vals)),
        val_std=float(np.std(vals)),
        far=float(np.mean(fars)),
        auc=float(auc(false_accept, true_accept)),
        eer=float(brentq(lambda x: 1 - x - np.interp(x, false_accept, true_accept), 0, 1)),
        threshold=float(np.mean(best)),
    )


def _distances(first: np.ndarray, second: np.ndarray, metric: str) -> np.ndarray:
    """(n,) float64, the distances between (n, d) and (n, d) vectors (src/facenet.py, distance)."""
    if metric == "euclidean":
        return np.sum(np.square(first - second), axis=1)
    if metric == "cosine":
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        # A vector of length 0 has no direction; it counts as orthogonal to all others.
        cosines = np.sum(first * second, axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
        # Rounding can give a cosine above 1, where arccos is undefined. (The published code does
        # not clip, and counts such a pair as different people.)
        return np.arccos(np.clip(cosines, -1, 1)) / np.pi
    raise ValueError(f"unknown metric {metric!r}: choose euclidean or cosine")


def _count_accepted(
    distances: np.ndarray, is_same: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(t,) int each, the numbers of matched and mismatched pairs nearer than each threshold."""
    matched, mismatched = np.sort(distances[is_same]), np.sort(distances[~is_same])
    return np.searchsorted(matched, thresholds), np.searchsorted(mismatched, thresholds)


def _accept_rates(
    distances: np.ndarray, is_same: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(t,) each, the fractions of matched and mismatched pairs nearer than each threshold."""
    true_accepts, false_accepts = _count_accepted(distances, is_same, thresholds)
    return true_accepts / np.sum(is_same), false_accepts / np.sum(~is_same)


def _best_threshold(distances: np.ndarray, is_same: np.ndarray) -> float:
    """The lowest threshold that classifies the most pairs correctly."""
    true_accepts, false_accepts = _count_accepted(distances, is_same, ACCURACY_THRESHOLDS)
    return float(ACCURACY_THRESHOLDS[np.argmax(true_accepts - false_accepts)])


def _threshold_at_far(distances: np.ndarray, is_same: np.ndarray) -> float:
    """The threshold with a false accept rate of FAR_TARGET; 0 if no threshold reaches it.

    Interpolated linearly between the two thresholds whose rates enclose the target, as published
    (src/facenet.py, calculate_val, with interp1d of kind slinear).
    """
    _, false_accept = _accept_rates(distances, is_same, VAL_THRESHOLDS)
    if false_accept[-1] < FAR_TARGET:
        return 0.0
    return float(np.interp(FAR_TARGET, false_accept, VAL_THRESHOLDS))


def _check_folds(is_same: np.ndarray, folds: np.ndarray) -> None:
    if len(np.unique(folds)) < 2:
        raise ValueError("all pairs are in one fold: cross-validation needs at least two")
    for fold in np.unique(folds):
        for kind, name in ((is_same, "matched"), (~is_same, "mismatched")):
            if not np.any(kind & (folds == fold)):
                raise ValueError(
                    f"fold {fold + 1} has no {name} pair to score: give more pairs, or check why "
                    "no face was found in the photos of its pairs"
                )
