"""Refuses training options that contradict each other or would have no effect."""

from collections.abc import Callable
from typing import Any

from facecluster.errors import UsageError
from facecluster.pipeline.options import TrainOptions

NEW_NETWORK_OPTIONS = ("input_size", "width", "standardization")
AUGMENTATION_OPTIONS = ("flip", "random_crop", "rotation", "color")
# (reason, condition, options that have no effect under this condition). They are refused, because
# the user expects something from them.
WITHOUT_EFFECT: tuple[tuple[str, Callable[[TrainOptions], Any], tuple[str, ...]], ...] = (
    (
        "with --loss softmax",
        lambda options: options.loss == "softmax",
        ("people_per_batch", "images_per_person", "triplet_margin", "mining"),
    ),
    (
        "with --loss triplet",
        lambda options: options.loss == "triplet",
        ("batch_size", "center_loss_factor", "norm_loss_factor"),
    ),
    (
        "with --backbone, whose model is frozen and sees each crop once, without augmentation",
        lambda options: options.backbone,
        (*NEW_NETWORK_OPTIONS, *AUGMENTATION_OPTIONS, "mixed_precision"),
    ),
    (
        "with --start-from, whose model determines it",
        lambda options: options.start_from,
        NEW_NETWORK_OPTIONS,
    ),
    ("with --start-from", lambda options: options.start_from, ("dropout",)),
    ("without --filter-with", lambda options: not options.filter_with, ("filter_percentile",)),
    (
        "with --validation-crops",
        lambda options: options.validation_crops and options.validation_fraction,
        ("validation_fraction",),
    ),
    (
        "with --learning-rate-schedule",
        lambda options: options.learning_rate_schedule,
        ("learning_rate",),
    ),
)


def check_train_options(options: TrainOptions) -> None:
    """Raises UsageError if options contradict each other, or one has no effect."""
    if options.backbone and options.start_from:
        raise UsageError("--backbone freezes a model and --start-from trains it: give one of them")
    if options.compatible_with and options.loss != "triplet":
        raise UsageError("--compatible-with needs triplets: add --loss triplet")
    if bool(options.validation_crops) != bool(options.validation_pairs):
        raise UsageError("--validation-crops and --validation-pairs go together: give both")
    for reason, condition, names in WITHOUT_EFFECT:
        for name in names:
            is_given = getattr(options, name) != getattr(TrainOptions, name)
            if is_given and condition(options):
                raise UsageError(f"--{name.replace('_', '-')} has no effect {reason}: leave it out")
