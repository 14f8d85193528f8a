"""The options of all jobs; the command line is generated from these fields."""

import argparse
from dataclasses import dataclass, replace

from facecluster.pipeline.failure_limit import FailureLimit
from facecluster.transforms.option_fields import at_least, between, option
from facecluster.transforms.photos.limits import DecodeLimits
from facecluster.transforms.tables.codec import CODECS


def failure_limit(text: str) -> FailureLimit:
    """Parses a FailureLimit, with the error class that argparse expects."""
    try:
        return FailureLimit.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


failure_limit.__name__ = "number"


@dataclass(frozen=True)
class RunOptions:
    """How an existing run and failures are handled."""

    overwrite: bool = option(
        False, "start again: first delete the files that facecluster wrote into the run's folder",
        type=bool,
    )  # fmt: skip
    max_failures: FailureLimit | None = option(  # noqa: RUF009
        None, "stop with an error, before faces are grouped, if more inputs than this cannot be "
        "used; a number, or a percentage of all inputs such as 5%% (default: no limit)",
        type=failure_limit,
    )  # fmt: skip


@dataclass(frozen=True)
class DecodingOptions:
    """Limits on photos; a photo over a limit becomes a failure."""

    max_photo_size: int = option(100, "larger files are not read, MiB", type=between(1, 2000, int))
    max_photo_pixels: int = option(  # Pillow holds at most 2 GiB in one image
        200_000_000, "photos with more pixels are not decoded", type=between(1, 500_000_000, int)
    )
    max_photo_seconds: float = option(
        60.0,
        "a photo is given up if decoding it takes longer, s; it is tried twice",
        type=between(0.1, 86_400),
    )

    def limits(self) -> DecodeLimits:
        """The limits as the decoder takes them."""
        return DecodeLimits(
            self.max_photo_size << 20, self.max_photo_pixels, self.max_photo_seconds
        )


@dataclass(frozen=True)
class DetectionOptions(DecodingOptions):
    """How faces are detected."""

    detector: str = option(
        "mtcnn", "the face detector: a name from `facecluster model list` or a model's folder, "
        "which workers on other machines must be able to read",
    )  # fmt: skip
    min_face_size: int = option(
        20, "smallest face to search for, px; larger in proportion on photos that are reduced",
        type=at_least(12),
    )  # fmt: skip
    detection_size: int = option(
        1600, "photos with a longer side than this are searched on a copy reduced to it, px; faces "
        "are cut from the full photo", type=at_least(100),
    )  # fmt: skip
    photos_per_shard: int = option(
        256,
        "largest number of photos in one output file, which is also a unit of work",
        type=at_least(1),
    )


@dataclass(frozen=True)
class EmbedOptions(DetectionOptions):
    """How faces are embedded."""

    model: str = option(
        "facenet-casia-webface",
        "the embedding model: a name from `facecluster model list`, or a folder with saved_model/ "
        "and model_card.json",
    )
    jpeg_size: int | None = option(
        None, "let the JPEG decoder halve large photos as often as the longer side stays at least "
        "this long, px: faster, but small faces are less sharp (default: decode in full)",
        type=at_least(100),
    )  # fmt: skip
    codec: str | None = option(
        None, "how embeddings are stored (default: pca128, 128 bytes, if the model has it, else "
        "float32)", choices=CODECS,
    )  # fmt: skip

    def limits(self) -> DecodeLimits:
        return replace(super().limits(), jpeg_size=self.jpeg_size)


@dataclass(frozen=True)
class CropOptions(DetectionOptions):
    """How faces become aligned crops."""

    form: str = option(
        "folder", "PERSON/NAME.png in a folder, or shards: WebDataset tars, TFRecords of "
        "tf.Example", choices=("folder", "tar", "tfrecord"),
    )  # fmt: skip
    labels: str | None = option(
        None, "whose a face is. folder: the largest central face of a photo is the person its "
        "folder is named after; FILE.csv of photo,person: likewise; people: as a run grouped "
        "them, unassigned faces left out; default: people with --run, else folder",
    )  # fmt: skip
    # The published training alignment; its validation takes 160 and 32 (davidsandberg/facenet,
    # its guides on training and on validating on LFW).
    crop_size: int = option(182, "width and height of a crop, px", type=at_least(16))
    crop_margin: int = option(
        44, "surroundings of the face's box, both sides together, px of the crop", type=at_least(0)
    )


@dataclass(frozen=True)
class TrainOptions:
    """How a network is trained.

    Numbers are those of the published training (davidsandberg/facenet, its guides), where it has
    them, but for images_per_person; the learning rate is the one that it begins with.
    """

    name: str = option("trained", "what the model card calls the model")
    loss: str = option(
        "softmax", "softmax: tells the training set's people apart; triplet: keeps people apart by "
        "a margin", choices=("softmax", "triplet"),
    )  # fmt: skip
    trunk: str | None = option(
        None, "train a linear head on this frozen model, which takes no augmentation "
        "(default: a new network)",
    )  # fmt: skip
    start_from: str | None = option(
        None, "train all weights of this model on, its batch normalisation folded (default: a new "
        "network)",
    )  # fmt: skip
    compatible_with: str | None = option(
        None, "make vectors that can be compared with this model's, by harmonic triplets "
        "(default: with no other model's)",
    )  # fmt: skip
    embedding_size: int | None = option(
        None, "dimensions of an embedding (default: as the model it starts from or is compatible "
        "with; else 128 for a head, 512 for a network)", type=at_least(2),
    )  # fmt: skip
    input_size: int = option(160, "of a new network, px", type=at_least(75))
    width: float = option(
        1.0, "of a new network: share of the published number of filters", type=between(0.01, 4)
    )
    standardization: str = option(
        "fixed", "of a new network's pixels: (x - 127.5) / 128, or each crop by its own mean and "
        "standard deviation", choices=("fixed", "per-image"),
    )  # fmt: skip
    crop_margin: int | None = option(
        None, "surroundings of the face's box that the network will see, both sides together, px "
        "of its input (default: as the model it starts from has it; else as crops.json of the "
        "crops tells; else 32 of 160 px)", type=at_least(0),
    )  # fmt: skip
    epochs: int = option(150, "when training ends, at the latest", type=at_least(1))
    steps_per_epoch: int = option(
        1000, "steps between two checkpoints, and two validations", type=at_least(1)
    )
    batch_size: int = option(90, "crops in a step, for softmax", type=at_least(2))
    people_per_batch: int = option(45, "people in a step, for triplets", type=at_least(2))
    images_per_person: int = option(
        4, "crops of each of them; the published training has up to 40", type=at_least(2)
    )
    margin: float = option(
        0.2, "of triplets: squared distance by which people are kept apart", type=between(0, 4)
    )
    mining: str = option(
        "semi-hard", "which triplets of a batch count", choices=("semi-hard", "batch-hard",
        "batch-all"),
    )  # fmt: skip
    center_loss_factor: float = option(
        0.0, "for softmax: weight of the distance to the person's centre", type=at_least(0, float)
    )
    norm_loss_factor: float = option(
        5e-4, "for softmax: weight of the 1-norm of the vectors before normalisation",
        type=at_least(0, float),
    )  # fmt: skip
    weight_decay: float = option(
        5e-4, "weight of half the sum of squares of all kernels", type=at_least(0, float)
    )
    dropout: float = option(
        0.2, "share of the features before the embedding that a step leaves out; none with "
        "--start-from", type=between(0, 0.99),
    )  # fmt: skip
    optimizer: str = option(
        "adam", "with the published settings", choices=("adam", "adagrad", "momentum", "rmsprop")
    )
    learning_rate: float = option(0.05, "the same all the time", type=at_least(0, float))
    learning_rate_schedule: str | None = option(
        None, "file with lines of `epoch: rate`, in place of --learning-rate; rate -1 ends the "
        "training (default: none)",
    )  # fmt: skip
    flip: bool = option(False, "mirror half of the crops", type=bool)
    random_crop: bool = option(False, "take any window out of a larger crop", type=bool)
    rotation: float = option(0.0, "turn crops by up to so many degrees", type=between(0, 180))
    colour: float = option(
        0.0, "change brightness, contrast and saturation by up to this share", type=between(0, 1)
    )
    min_images_per_person: int = option(2, "people with fewer crops are left out", type=at_least(1))
    filter_with: str | None = option(
        None, "leave out crops that this model puts far from their person's centre: the farthest "
        "are often someone else (default: keep all)",
    )  # fmt: skip
    filter_percentile: float = option(
        98.0, "with --filter-with: the share of crops kept, percent", type=between(1, 100)
    )
    validation_share: float = option(
        0.05, "people kept out of the training to validate on", type=between(0, 0.9)
    )
    validation_crops: str | None = option(
        None, "validate on these crops instead, with --validation-pairs (default: on the people "
        "kept out)",
    )  # fmt: skip
    validation_pairs: str | None = option(None, "an LFW pairs file (default: drawn at random)")
    mixed_precision: bool = option(
        False, "half-precision arithmetic, float32 weights; for GPUs", type=bool
    )
    deterministic: bool = option(
        False, "the same weights bit by bit from every run on the same machine; slower", type=bool
    )
    seed: int = option(
        0, "of weights, batches and augmentation", type=between(0, 2**32 - 1, int)
    )  # fmt: skip


@dataclass(frozen=True)
class WorkerOptions:
    """Where faces are grouped."""

    distribute: bool = option(
        False, "group on Beam's workers, none of which holds all faces; otherwise in memory, which "
        "is faster up to about ten million faces", type=bool,
    )  # fmt: skip
    worker_memory: int = option(
        2048, "with --distribute: the memory of a worker, MiB", type=at_least(64)
    )
