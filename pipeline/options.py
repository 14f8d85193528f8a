"""Every option once: its name, default, unit and help; the command line is made from these."""

import argparse
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

from facecluster.transforms.codec import CODECS

Options = TypeVar("Options")


def option(default: Any, help: str, *, type: Callable = str, choices=None) -> Any:
    """A field that is also a command-line option; `type` checks and converts its text."""
    return field(default=default, metadata={"help": help, "type": type, "choices": choices})


def at_least(least: float, kind: Callable = int) -> Callable[[str], Any]:
    """Reads a number and refuses what is below `least`."""

    def read(text: str):
        value = kind(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return value

    read.__name__ = kind.__name__
    return read


def between(least: float, most: float) -> Callable[[str], float]:
    """Reads a number and refuses what is outside [least, most]."""

    def read(text: str):
        value = float(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least} and {most}")
        return value

    read.__name__ = "float"
    return read


@dataclass(frozen=True)
class DetectionOptions:
    """How faces are found."""

    detector: str = option(
        "mtcnn", "the face detector, a name or folder as of a model; workers on other machines "
        "must reach the folder",
    )  # fmt: skip
    min_face_size: int = option(
        20, "smallest face searched for, px; grows with the reduction of large photos",
        type=at_least(12),
    )  # fmt: skip
    detection_size: int = option(
        1600, "photos whose longer side is larger are searched on a copy reduced to this, px; "
        "faces are cut from the full photo", type=at_least(100),
    )  # fmt: skip
    photos_per_shard: int = option(
        256, "photos in one output file, and in one unit of work, at most", type=at_least(1)
    )


@dataclass(frozen=True)
class EmbedOptions(DetectionOptions):
    """How photos become faces."""

    model: str = option(
        "facenet-casia-webface",
        "the embedding model: a name that `facecluster model list` knows, or a folder with "
        "saved_model/ and model_card.json",
    )
    codec: str | None = option(
        None, "how an embedding is stored; default: pca128 (128 bytes) where the model has it, "
        "else float32", choices=CODECS,
    )  # fmt: skip


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
class ClusterOptions:
    """How faces become people. Distances are Euclidean between unit vectors: sqrt(2 - 2 cos)."""

    n_neighbors: int = option(64, "nearest neighbours searched for each face", type=at_least(2))
    min_cluster_size: int = option(
        2, "faces that make a person, at least; 1 leaves no face unassigned", type=at_least(1)
    )
    min_samples: int = option(
        1,
        "neighbours that a face must have within a distance to count as dense there, not "
        "counting itself",
        type=at_least(1),
    )
    min_distance: float = option(
        0.65,
        "faces nearer than this count as this far apart, so that copies of a photo and bursts do "
        "not become people of their own",
        type=between(0.01, 2),
    )
    max_distance: float = option(
        0.9, "faces farther apart than this never join directly", type=between(0, 2)
    )
    attach_distance: float = option(
        0.82, "an unassigned face joins the person of its nearest face within this; 0: never",
        type=between(0, 2),
    )  # fmt: skip
    pair_distance: float = option(
        0.88, "two unassigned faces that are each other's nearest within this become a person; "
        "0: never", type=between(0, 2),
    )  # fmt: skip


def add_options(parser: argparse.ArgumentParser, options: type) -> None:
    """Adds a command-line option for every field of an options class."""
    group = parser.add_argument_group((options.__doc__ or "").split(".")[0])
    for item in fields(options):
        assert item.default is not MISSING
        shown = "" if item.default is None else " (default: %(default)s)"
        group.add_argument(
            "--" + item.name.replace("_", "-"),
            default=item.default,
            type=item.metadata["type"],
            choices=item.metadata["choices"],
            metavar=None if item.metadata["choices"] else item.metadata["type"].__name__.upper(),
            help=item.metadata["help"] + shown,
        )


def from_arguments(options: type[Options], arguments: argparse.Namespace) -> Options:
    """The options object with the values that the command line gave."""
    return options(**{item.name: getattr(arguments, item.name) for item in fields(options)})
