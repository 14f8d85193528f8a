"""Clustering metrics: BCubed, pairwise and NMI scores of a grouping against the true people."""

from typing import Any

import numpy as np
from sklearn.metrics import normalized_mutual_info_score

NOISE = -1  # the label of an unassigned face, as in scikit-learn and hdbscan


def clustering_scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """All scores of one grouping, as plain Python numbers.

    Args:
      truth: (n,) label of the true person of each face, of any sortable type.
      predicted: (n,) int, the found person of each face; -1 is noise, and each noise face counts
        as a person of its own.

    Returns:
      bcubed_precision, bcubed_recall, bcubed_f, pairwise_precision, pairwise_recall, pairwise_f
      and nmi, all in [0, 1] with 1 the best; n_people_true; n_people_found (without noise);
      fraction_unassigned, the fraction of faces that are noise.

    Raises:
      ValueError: no faces, arrays of different shape, or a predicted label below -1.
    """
    true_codes, found_codes = _codes(truth, predicted)
    bcubed_scores = bcubed(truth, predicted)
    pairwise_scores = pairwise(truth, predicted)
    predicted = np.asarray(predicted)
    return {
        **_named("bcubed", bcubed_scores),
        **_named("pairwise", pairwise_scores),
        "nmi": float(normalized_mutual_info_score(true_codes, found_codes)),
        "n_people_true": int(true_codes.max()) + 1,
        "n_people_found": len(np.unique(predicted[predicted != NOISE])),
        "fraction_unassigned": float(np.mean(predicted == NOISE)),
    }


def bcubed(truth: np.ndarray, predicted: np.ndarray) -> tuple[float, float, float]:
    """BCubed (precision, recall, F), averaged over faces.

    A face's precision is the fraction of its group that is the same true person, its recall the
    fraction of that person's faces that are in the group; a face counts in its own group. F is the
    harmonic mean of the two means (Bagga and Baldwin 1998; Amigo et al. 2009, section 4).

    Args: see `clustering_scores`.
    """
    counts, true_sizes, found_sizes, rows, columns = _contingency(truth, predicted)
    n_faces = counts.sum()
    squared = counts.astype(np.float64) ** 2
    precision = float(np.sum(squared / found_sizes[columns]) / n_faces)
    recall = float(np.sum(squared / true_sizes[rows]) / n_faces)
    return precision, recall, _f_score(precision, recall)


def pairwise(truth: np.ndarray, predicted: np.ndarray) -> tuple[float, float, float]:
    """Pairwise (precision, recall, F) over all unordered pairs of two faces.

    Precision is the fraction of pairs in one group that are one true person, recall the fraction
    of pairs of one true person that are in one group. A fraction of zero pairs counts as 1.

    Args: see `clustering_scores`.
    """
    counts, true_sizes, found_sizes, _, _ = _contingency(truth, predicted)
    n_correct = _count_pairs(counts)
    n_found, n_true = _count_pairs(found_sizes), _count_pairs(true_sizes)
    precision = n_correct / n_found if n_found else 1.0
    recall = n_correct / n_true if n_true else 1.0
    return precision, recall, _f_score(precision, recall)


def _contingency(truth: np.ndarray, predicted: np.ndarray):
    """The sparse contingency table of true people against found people.

    Returns:
      (counts, true_sizes, found_sizes, rows, columns): counts (m,) are the faces in each cell that
      is not empty, rows and columns (m,) its indices into true_sizes (faces of each true person)
      and found_sizes (faces of each found person). All int64.
    """
    true_codes, found_codes = _codes(truth, predicted)
    true_sizes, found_sizes = np.bincount(true_codes), np.bincount(found_codes)
    cells, counts = np.unique(true_codes * len(found_sizes) + found_codes, return_counts=True)
    rows, columns = np.divmod(cells, len(found_sizes))
    return counts, true_sizes, found_sizes, rows, columns


def _codes(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both labelings as int64 codes 0, 1, 2, ... without gaps; each noise face has its own code."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.ndim != 1 or truth.shape != predicted.shape:
        raise ValueError(
            f"true labels of shape {truth.shape} and predicted labels of shape {predicted.shape}: "
            "give two one-dimensional arrays of the same length"
        )
    if not len(truth):
        raise ValueError("there are no labels to score")
    if predicted.min() < NOISE:
        raise ValueError(
            f"predicted label {predicted.min()}: people are numbered from 0 and noise is {NOISE}"
        )
    noise = predicted == NOISE
    people, found_codes = np.unique(predicted[~noise], return_inverse=True)
    codes = np.empty(len(predicted), np.int64)
    codes[~noise] = found_codes
    codes[noise] = len(people) + np.arange(np.count_nonzero(noise))
    return np.unique(truth, return_inverse=True)[1].astype(np.int64), codes


def _count_pairs(sizes: np.ndarray) -> int:
    """The number of unordered pairs within groups of these sizes."""
    return int(np.sum(sizes * (sizes - 1) // 2))


def _f_score(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _named(measure: str, scores: tuple[float, float, float]) -> dict[str, float]:
    return {
        f"{measure}_{name}": score
        for name, score in zip(("precision", "recall", "f"), scores, strict=True)
    }
