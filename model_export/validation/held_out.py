"""Held-out validation: people excluded from a training, and pairs of their faces."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from facecluster.errors import InputError
from facecluster.model_export.crops import Crops
from facecluster.model_export.validation.calibration import validation_rate
from facecluster.model_export.validation.pairs import ImagePairs
from facecluster.model_export.validation.verification import verify

N_FOLDS = 10
MAX_PAIRS_PER_PERSON = 20  # so that a person with many photos does not dominate the score
MAX_CROPS_FOR_ALL_PAIRS = 5_000


def hold_out_people(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Selects the faces of a random fraction of the people.

    Args:
      labels: (n,) int, the person of each face, 0 to m - 1.

    Returns:
      (n,) bool, whether a face is held out.
    """
    n_people = int(labels.max()) + 1
    chosen = np.random.default_rng(seed).permutation(n_people)[: round(fraction * n_people)]
    return np.isin(labels, chosen)


def sample_pairs(labels: np.ndarray, names: tuple[str, ...], seed: int) -> ImagePairs | None:
    """Samples as many mismatched as matched pairs of n faces, in ten folds.

    A person contributes at most MAX_PAIRS_PER_PERSON matched pairs.

    Args:
      labels: (n,) int, the person of each face.
      names: of the n faces.

    Returns:
      The pairs; None if there are too few for ten folds.
    """
    random = np.random.default_rng(seed)
    matched = []
    for person in np.unique(labels):
        faces = np.flatnonzero(labels == person)
        first, second = np.triu_indices(len(faces), 1)
        some = random.permutation(len(first))[:MAX_PAIRS_PER_PERSON]
        matched.append(np.stack([faces[first[some]], faces[second[some]]], axis=1))
    matched = np.concatenate(matched)
    n_pairs = len(matched)
    if n_pairs < N_FOLDS or len(np.unique(labels)) < 2:
        return None
    random.shuffle(matched)
    mismatched = np.empty((0, 2), np.int64)
    while len(mismatched) < n_pairs:
        pairs = random.integers(0, len(labels), (2 * n_pairs, 2))
        different = pairs[labels[pairs[:, 0]] != labels[pairs[:, 1]]]
        mismatched = np.concatenate([mismatched, different])[:n_pairs]
    both = np.concatenate([matched, mismatched])
    return ImagePairs(
        [names[i] for i in both[:, 0]],
        [names[i] for i in both[:, 1]],
        np.repeat([True, False], n_pairs),
        np.tile(np.arange(n_pairs) * N_FOLDS // n_pairs, 2),
    )


@dataclass(frozen=True)
class HeldOut:
    """Crops that are not trained on, and pairs of them to verify."""

    crops: Crops
    pairs: ImagePairs

    @cached_property
    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        row_of = {name: row for row, name in enumerate(self.crops.names)}
        missing = sorted({*self.pairs.first, *self.pairs.second} - row_of.keys())
        if missing:
            raise InputError(
                f"{len(missing)} crops that the pairs name do not exist, first {missing[0]}"
            )
        first, second = (
            np.array([row_of[name] for name in names])
            for names in (self.pairs.first, self.pairs.second)
        )
        return first, second

    def score(self, vectors: np.ndarray) -> dict[str, float]:
        """Scores the (n, d) vectors of the crops.

        Returns:
          accuracy and auc of the pairs, by LFW's protocol; validation_rate, the VAL at a false
          accept rate of 0.001 over all pairs of the first MAX_CROPS_FOR_ALL_PAIRS crops.

        Raises:
          InputError: a pair names a crop that does not exist.
          ValueError: there are too few pairs or crops, see `verify` and `validation_rate`.
        """
        first, second = self._rows
        found = verify(vectors[first], vectors[second], self.pairs.is_same, self.pairs.folds)
        some = slice(MAX_CROPS_FOR_ALL_PAIRS)
        return {
            "accuracy": found.accuracy,
            "validation_rate": validation_rate(
                vectors[some], vectors[some], self.crops.labels[some]
            ),
            "auc": found.auc,
        }
