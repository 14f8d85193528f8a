"""The scores of `facecluster evaluate` and `facecluster model validate` as text."""

from typing import Any

DESCRIPTIONS = {
    "bcubed_precision": "BCubed precision: fraction of a face's group that is the same person",
    "bcubed_recall": "BCubed recall: fraction of a person's faces in the face's group",
    "bcubed_f": "BCubed F",
    "pairwise_precision": "Pairwise precision: fraction of grouped pairs that are one person",
    "pairwise_recall": "Pairwise recall: fraction of pairs of one person that are grouped",
    "pairwise_f": "Pairwise F",
    "nmi": "Normalized mutual information",
    "n_people_true": "People by the labels",
    "n_people_found": "People found among the scored faces",
    "fraction_unassigned": "Fraction of scored faces left unassigned",
    "coverage": "Coverage: labeled photos in which a face was found",
    "n_photos_labeled": "Photos labeled with one person",
    "n_photos_scored": "Photos scored, by their largest central face",
    "n_photos_several_people": "Photos not scored: labeled with several people",
    "n_photos_unlabeled": "Photos not scored: in the run but without a label",
    "n_labels_unmatched": "Labels not used: their photo is not in the run",
    "accuracy": "Accuracy: pairs classified correctly, mean over the folds",
    "accuracy_std": "Accuracy, standard deviation over the folds",
    "val": "Validation rate: matched pairs accepted at a FAR of 0.001",
    "val_std": "Validation rate, standard deviation over the folds",
    "far": "False accept rate (FAR) measured at that threshold",
    "auc": "Area under the ROC curve",
    "eer": "Equal error rate: false accepts as frequent as false rejects",
    "threshold": "Squared distance below which a pair counts as the same",
    "n_pairs": "Pairs in the file",
    "n_pairs_skipped": "Pairs skipped: a photo is missing or has no face",
    "cohort_level": "Cohort: mean similarity of a face to the nearest members",
    "cohort_same_person": "Cohort: normalized similarity of two photos of a person, median",
}


def format_scores(scores: dict[str, Any]) -> str:
    """The scores as aligned text, one described score per line."""
    lines = [(DESCRIPTIONS.get(name, name), _format_value(value)) for name, value in scores.items()]
    left = max((len(description) for description, _ in lines), default=0)
    right = max((len(value) for _, value in lines), default=0)
    return "\n".join(f"{description:<{left}}  {value:>{right}}" for description, value in lines)


def _format_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
