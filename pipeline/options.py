"""The options of all jobs; the command line is generated from these fields."""

import argparse
from dataclasses import dataclass, replace

from facecluster.pipeline.failure_limit import FailureLimit
from facecluster.transforms.option_fields import at_least, between, option
from facecluster.transforms.photos.limits import DecodeLimits
from facecluster.transforms.tables.codec_names import CODECS


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
    forget_removed: bool = option(
        False, "remove from the run the photos that are no longer in its folders and containers "
        "(default: they stay, and the summary counts them)", type=bool,
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
        1600, "photos with a longer side than this are searched on a copy reduced to it, px; a "
        "panorama's longer side counts as twice the shorter one; faces are cut from the full photo",
        type=at_least(100),
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
        "folder", "folder: PERSON/NAME.png files; tar: WebDataset shards; tfrecord: shards of "
        "tf.Example", choices=("folder", "tar", "tfrecord"),
    )  # fmt: skip
    labels: str | None = option(
        None, "who a face is. folder: the largest central face of a photo is the person that the "
        "photo's folder is named after; FILE.csv: likewise, by columns photo,person; people: as "
        "the run grouped them, without unassigned faces (default: people with --run, else folder)",
    )  # fmt: skip
    # The defaults are the published training alignment (davidsandberg/facenet, guide on training).
    # Its validation uses 160 and 32.
    crop_size: int = option(182, "width and height of a crop, px", type=at_least(16))
    crop_margin: int = option(
        44, "px of the crop around the face's box, both sides together", type=at_least(0)
    )


@dataclass(frozen=True)
class TrainOptions:
    """How a network is trained.

    The defaults are those of the published training (davidsandberg/facenet, its guides) where it
    has them, except images_per_person; the learning rate is its initial one.
    """

    name: str = option("trained", "the model's name on its card")
    loss: str = option(
        "softmax", "softmax: classifies the people of the training set; triplet: separates people "
        "by a margin", choices=("softmax", "triplet"),
    )  # fmt: skip
    backbone: str | None = option(
        None, "train a linear head on this frozen model, without augmentation (default: train a "
        "new network)",
    )  # fmt: skip
    start_from: str | None = option(
        None, "continue to train all weights of this model, with batch normalization folded "
        "(default: train a new network)",
    )  # fmt: skip
    compatible_with: str | None = option(
        None, "make vectors that can be compared with this model's, by harmonic triplets "
        "(default: none)",
    )  # fmt: skip
    embedding_size: int | None = option(
        None, "dimensions of an embedding (default: those of the model it starts from or is "
        "compatible with; else 128 for a head, 512 for a network)", type=at_least(2),
    )  # fmt: skip
    input_size: int = option(160, "of a new network, px", type=at_least(75))
    width: float = option(
        1.0, "of a new network: fraction of the published number of filters", type=between(0.01, 4)
    )
    standardization: str = option(
        "fixed", "of a new network's pixels. fixed: (x - 127.5) / 128; per-image: by the mean and "
        "standard deviation of each crop", choices=("fixed", "per-image"),
    )  # fmt: skip
    crop_margin: int | None = option(
        None, "px of the network's input around the face's box, both sides together (default: that "
        "of the model it starts from; else as in crops.json of the crops; else 32 of 160 px)",
        type=at_least(0),
    )  # fmt: skip
    epochs: int = option(150, "epochs to train, at most", type=at_least(1))
    steps_per_epoch: int = option(
        1000, "steps between two checkpoints, and two validations", type=at_least(1)
    )
    batch_size: int = option(90, "for softmax: crops in a batch", type=at_least(2))
    people_per_batch: int = option(45, "for triplets: people in a batch", type=at_least(2))
    images_per_person: int = option(
        4, "for triplets: crops of each person in a batch; the published training has up to 40",
        type=at_least(2),
    )  # fmt: skip
    triplet_margin: float = option(
        0.2, "for triplets: squared distance by which to separate people", type=between(0, 4)
    )
    mining: str = option(
        "semi-hard", "for triplets: how to select them from a batch", choices=("semi-hard",
        "batch-hard", "batch-all"),
    )  # fmt: skip
    center_loss_factor: float = option(
        0.0, "for softmax: weight of the center loss", type=at_least(0, float)
    )
    norm_loss_factor: float = option(
        5e-4, "for softmax: weight of the 1-norm of the vectors before normalization",
        type=at_least(0, float),
    )  # fmt: skip
    weight_decay: float = option(
        5e-4, "weight of half the sum of squares of all kernels", type=at_least(0, float)
    )
    dropout: float = option(
        0.2, "fraction of the features before the embedding that a step drops; not used with "
        "--start-from", type=between(0, 0.99),
    )  # fmt: skip
    optimizer: str = option(
        "adam", "with the published settings", choices=("adam", "adagrad", "momentum", "rmsprop")
    )
    learning_rate: float = option(0.05, "constant learning rate", type=at_least(0, float))
    learning_rate_schedule: str | None = option(
        None, "file with lines of `epoch: rate`, instead of --learning-rate; rate -1 ends the "
        "training (default: none)",
    )  # fmt: skip
    flip: bool = option(False, "mirror half of the crops", type=bool)
    random_crop: bool = option(False, "use a random window of a larger crop", type=bool)
    rotation: float = option(0.0, "rotate crops by up to this many degrees", type=between(0, 180))
    color: float = option(
        0.0, "change brightness, contrast and saturation by up to this fraction",
        type=between(0, 1),
    )  # fmt: skip
    min_images_per_person: int = option(2, "leave out people with fewer crops", type=at_least(1))
    filter_with: str | None = option(
        None, "leave out crops that are far from their person's center by this model: the farthest "
        "often show someone else (default: keep all)",
    )  # fmt: skip
    filter_percentile: float = option(
        98.0, "with --filter-with: percentage of crops to keep", type=between(1, 100)
    )
    validation_fraction: float = option(
        0.05, "fraction of the people to hold out from the training and validate on",
        type=between(0, 0.9),
    )  # fmt: skip
    validation_crops: str | None = option(
        None, "validate on these crops instead, with --validation-pairs (default: on the people "
        "held out)",
    )  # fmt: skip
    validation_pairs: str | None = option(
        None, "LFW pairs file for --validation-crops (default: random pairs of the people held out)"
    )
    mixed_precision: bool = option(
        False, "half-precision arithmetic with float32 weights; for GPUs", type=bool
    )
    deterministic: bool = option(
        False, "give exactly the same weights in every run on the same machine; slower", type=bool
    )
    seed: int = option(
        0, "random seed of weights, batches and augmentation", type=between(0, 2**32 - 1, int)
    )


@dataclass(frozen=True)
class WorkerOptions:
    """Where faces are grouped."""

    distribute: bool = option(
        False, "group on Beam's workers, none of which holds all faces; otherwise in memory, which "
        "is faster on one machine", type=bool,
    )  # fmt: skip
    worker_memory: int = option(
        2048, "with --distribute: the memory of a worker, MiB", type=at_least(64)
    )
