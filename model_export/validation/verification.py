"""Verification of face pairs, same person or not, by the protocol of Labeled Faces in the Wild.

    pairs = read_pairs("pairs.txt")
    scores = verify(embeddings1, embeddings2, pairs.is_same, pairs.folds)

The figures are those that the published TensorFlow FaceNet reports (davidsandberg/facenet,
src/validate_on_lfw.py with the functions it calls in src/lfw.py and src/facenet.py).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from apache_beam.io.filesystems import FileSystems
from scipy.optimize import brentq
from sklearn.metrics import auc

from facecluster.errors import InputError

# Distances that are tried as thresholds, whatever the metric (src/lfw.py, evaluate); the squared
# distance of two unit vectors is at most 4.
ACCURACY_THRESHOLDS = np.arange(0, 4, 0.01)
VAL_THRESHOLDS = np.arange(0, 4, 0.001)
FAR_TARGET = 1e-3  # the false accept rate at which VAL is reported
N_FOLDS_VIEW1 = 10  # a View 1 file names no folds; View 2 has ten


@dataclass(frozen=True)
class Pairs:
    """n pairs of images, in the order of the file.

    first, second: n image names each, relative and without extension: `Name/Name_0001`.
    is_same: (n,) bool, whether a pair shows one person.
    folds: (n,) int, the cross-validation fold of each pair, from 0.
    """

    first: list[str]
    second: list[str]
    is_same: np.ndarray
    folds: np.ndarray


@dataclass(frozen=True)
class Verification:
    """How well distances tell same from different; all but threshold are in [0, 1].

    accuracy, accuracy_std: mean and standard deviation over the folds of the share of pairs judged
      right, at the threshold that is best on the other folds.
    val, val_std: the same of the validation rate, the share of matched pairs accepted, at the
      threshold whose false accept rate on the other folds is FAR_TARGET.
    far: mean over the folds of the false accept rate that this threshold had.
    auc: area under the mean ROC curve.
    eer: the error rate where false accepts and false rejects are equally frequent.
    threshold: mean of the folds' best thresholds for accuracy, a distance of the metric that was
      used: by default a squared Euclidean one.
    """

    accuracy: float
    accuracy_std: float
    val: float
    val_std: float
    far: float
    auc: float
    eer: float
    threshold: float


def read_pairs(path: str) -> Pairs:
    """Reads an LFW pairs file, fields separated by tabs or by spaces.

    View 2 (pairs.txt) starts with the number of folds and n, then holds n matched and n mismatched
    pairs fold by fold: the official folds. View 1 (pairsDevTrain.txt, pairsDevTest.txt) starts with
    n alone, then holds n matched and n mismatched pairs: each half is cut into ten runs of equal
    length, so that every fold has the same share of both. A matched pair is `name i j`, a
    mismatched one `name1 i name2 j`.

    Raises:
      InputError: the file is not there, or a line is not what its place asks for.
    """
    rows = [(number, _fields(line)) for number, line in numbered_lines(path, "LFW's pairs.txt")]
    n_folds, n_each, is_view1 = _header(path, rows)
    is_same = np.tile(np.repeat([True, False], n_each), n_folds)
    folds = np.repeat(np.arange(n_folds), 2 * n_each)
    if is_view1:
        folds = np.tile(np.arange(n_each) * N_FOLDS_VIEW1 // n_each, 2)
    pairs = rows[1:]
    if len(pairs) != len(is_same):
        raise InputError(
            f"{path} has {len(pairs)} pairs where its first line announces {len(is_same)}: "
            "is the file complete?"
        )
    stems = [
        _pair(path, number, fields, same)
        for (number, fields), same in zip(pairs, is_same, strict=True)
    ]
    return Pairs([a for a, _ in stems], [b for _, b in stems], is_same, folds)


def numbered_lines(path: str, example: str) -> list[tuple[int, str]]:
    """(line number from 1, line) of every line that is not blank.

    Raises:
      InputError: the file is not there; the message tells to give a file such as `example`.
    """
    if not FileSystems.exists(path):
        raise InputError(f"{path} is not there: give a pairs file such as {example}")
    with FileSystems.open(path) as file:
        lines = file.read().decode("utf-8-sig", errors="replace").splitlines()
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def verify(
    embeddings1: np.ndarray,
    embeddings2: np.ndarray,
    is_same: np.ndarray,
    folds: np.ndarray,
    metric: str = "euclidean",
    subtract_mean: bool = False,
) -> Verification:
    """Scores n pairs of faces by cross-validation over their folds.

    With contiguous folds of equal size this is the published KFold(10, shuffle=False), and metric
    and subtract_mean are its options --distance_metric and --subtract_mean. For its option
    --use_flipped_images a face is its embedding and that of its mirrored crop, concatenated: 2d
    numbers, not of unit length. Distances are then over the whole concatenation.

    Args:
      embeddings1, embeddings2: (n, d) unit vectors, the two faces of each pair.
      is_same: (n,) bool, whether the pair shows one person.
      folds: (n,) int, the fold of each pair; two folds at least.
      metric: "euclidean", the squared Euclidean distance (published metric 0), or "cosine", the
        angle between the vectors as a share of 180 degrees (published metric 1).
      subtract_mean: subtract the mean of all embeddings of a fold's training folds from those of
        all pairs first. It turns angles; a Euclidean distance stays what it was.

    Raises:
      ValueError: the arrays differ in length, there is only one fold, a fold has no matched or no
        mismatched pair, or the metric is not known.
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

    def centred_distances(train: np.ndarray) -> np.ndarray:
        mean = np.mean(np.concatenate([first[train], second[train]]), axis=0)
        return _distances(first - mean, second - mean, metric)

    if subtract_mean:
        return _cross_validate(centred_distances, is_same, folds)
    return verify_distances(_distances(first, second, metric), is_same, folds)


def verify_distances(distances: np.ndarray, is_same: np.ndarray, folds: np.ndarray) -> Verification:
    """`verify` for pairs of anything whose distances are known.

    Args:
      distances: (n,), the smaller the more alike. Thresholds are tried from 0 up to 4, in steps of
        0.01 for the accuracy and 0.001 for VAL.
      is_same: (n,) bool, whether the pair shows one person.
      folds: (n,) int, the fold of each pair; two folds at least.

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
    """The protocol, with distances_of: (n,) bool, the training pairs -> (n,) distances."""
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
    # Vectors longer than one can be farther apart than the last threshold; the curve still ends
    # where every pair is accepted.
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
    """(n,) float64: the distances of (n, d) and (n, d) vectors (src/facenet.py, distance)."""
    if metric == "euclidean":
        return np.sum(np.square(first - second), axis=1)
    if metric == "cosine":
        lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
        # A vector of length 0 has no direction: it is put at a right angle to all others.
        cosines = np.sum(first * second, axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)
        # Rounding can push equal directions past 1, where arccos is not defined. (The published
        # code leaves it at that, and takes such a pair for two people.)
        return np.arccos(np.clip(cosines, -1, 1)) / np.pi
    raise ValueError(f"there is no metric {metric!r}: choose euclidean or cosine")


def _accepted(
    distances: np.ndarray, is_same: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(t,) int each: how many matched and how many mismatched pairs are nearer than a threshold."""
    matched, mismatched = np.sort(distances[is_same]), np.sort(distances[~is_same])
    return np.searchsorted(matched, thresholds), np.searchsorted(mismatched, thresholds)


def _accept_rates(
    distances: np.ndarray, is_same: np.ndarray, thresholds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(t,) each: the shares of matched and of mismatched pairs that are nearer."""
    true_accepts, false_accepts = _accepted(distances, is_same, thresholds)
    return true_accepts / np.sum(is_same), false_accepts / np.sum(~is_same)


def _best_threshold(distances: np.ndarray, is_same: np.ndarray) -> float:
    """The first threshold at which most pairs are judged right."""
    true_accepts, false_accepts = _accepted(distances, is_same, ACCURACY_THRESHOLDS)
    return float(ACCURACY_THRESHOLDS[np.argmax(true_accepts - false_accepts)])


def _threshold_at_far(distances: np.ndarray, is_same: np.ndarray) -> float:
    """The threshold with a false accept rate of FAR_TARGET, 0 when none reaches it.

    Linear between the two neighbouring thresholds whose rates enclose the target, as published
    (src/facenet.py, calculate_val, with interp1d of kind slinear).
    """
    _, false_accept = _accept_rates(distances, is_same, VAL_THRESHOLDS)
    if false_accept[-1] < FAR_TARGET:
        return 0.0
    return float(np.interp(FAR_TARGET, false_accept, VAL_THRESHOLDS))


def _check_folds(is_same: np.ndarray, folds: np.ndarray) -> None:
    if len(np.unique(folds)) < 2:
        raise ValueError("all pairs are in one fold: cross-validation needs two at least")
    for fold in np.unique(folds):
        for kind, name in ((is_same, "matched"), (~is_same, "mismatched")):
            if not np.any(kind & (folds == fold)):
                raise ValueError(
                    f"fold {fold + 1} has no {name} pair to score: give more pairs, or find out "
                    "why the photos of its pairs have no face"
                )


def _fields(line: str) -> list[str]:
    """A line's fields; with tabs between them a name may hold spaces."""
    return [field.strip() for field in line.split("\t")] if "\t" in line else line.split()


def _header(path: str, rows: list[tuple[int, list[str]]]) -> tuple[int, int, bool]:
    """(folds, pairs of each kind in a fold, whether the file has the View 1 form)."""
    number, fields = rows[0] if rows else (1, [])
    numbers = [int(field) for field in fields if field.isdecimal()]
    if len(fields) not in (1, 2) or len(numbers) != len(fields) or 0 in numbers:
        raise InputError(
            f"{path} line {number}: an LFW pairs file starts with the number of folds and of pairs "
            f"in each (`10 300`) or the number of pairs (`1100`), not {' '.join(fields)!r}"
        )
    is_view1 = len(numbers) == 1
    n_folds, n_each = [1, *numbers] if is_view1 else numbers
    if is_view1 and n_each < N_FOLDS_VIEW1:
        raise InputError(
            f"{path} line {number}: {n_each} pairs of each kind do not fill {N_FOLDS_VIEW1} folds: "
            f"give at least {N_FOLDS_VIEW1}, or name the folds (`2 {max(n_each // 2, 1)}`)"
        )
    return n_folds, n_each, is_view1


def _pair(path: str, number: int, fields: list[str], same: bool) -> tuple[str, str]:
    """The two images that a line names."""
    if same and len(fields) == 3:
        name1, index1, name2, index2 = fields[0], fields[1], fields[0], fields[2]
    elif not same and len(fields) == 4:
        name1, index1, name2, index2 = fields
    else:
        name1 = index1 = name2 = index2 = ""
    if not (name1 and name2 and index1.isdecimal() and index2.isdecimal()):
        wanted = "a matched pair (`name i j`)" if same else "a mismatched one (`name1 i name2 j`)"
        raise InputError(f"{path} line {number}: expected {wanted}, found {' '.join(fields)!r}")
    return _stem(name1, index1), _stem(name2, index2)


def _stem(name: str, index: str) -> str:
    return f"{name}/{name}_{int(index):04d}"
