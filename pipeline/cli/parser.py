"""The parser of the `facecluster` command line: its commands, their options and their help."""

from importlib.metadata import version

from facecluster.pipeline.cli.argument_parser import ArgumentParser
from facecluster.pipeline.options import (
    CropOptions,
    DetectionOptions,
    EmbedOptions,
    RunOptions,
    TrainOptions,
    WorkerOptions,
)
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.option_fields import add_options, at_least


def make_parser() -> ArgumentParser:
    """Makes the parser.

    Its arguments have the name of the command in `command`, None if none is given; the parser that
    has parsed them last in `parser`; and whether the command `makes_run` (creates its output
    folder).
    """
    parser = ArgumentParser(
        prog="facecluster",
        description="Groups the faces of a photo collection into people.",
        epilog="`run`, `embed`, `crops` and `cluster --distribute` pass options that they do not "
        "know to Apache Beam, such as --direct_num_workers=8.",
    )
    parser.add_argument("--version", action="version", version=version("facecluster"))
    parser.set_defaults(command=None, parser=parser)
    commands = parser.add_subparsers(metavar="COMMAND")
    _add_run_commands(commands)
    _add_evaluate_commands(commands)
    _add_model_commands(commands)
    _add_command(
        commands, "sample-photos", "download a few photos to try it on, and print their folder"
    )
    return parser


def _add_run_commands(commands) -> None:
    command = _add_command(commands, "run", "find people in photos: embed, cluster and report")
    _add_input(command)
    _add_exclude(command)
    _add_output(command)
    add_options(command, RunOptions)
    add_options(command, EmbedOptions)
    add_options(command, ClusterOptions)
    add_options(command, WorkerOptions)

    command = _add_command(commands, "embed", "find and embed the faces of photos")
    _add_input(command)
    _add_exclude(command)
    _add_output(command)
    add_options(command, RunOptions)
    add_options(command, EmbedOptions)

    command = _add_command(commands, "cluster", "group the faces of a run into people")
    _add_output(command)
    add_options(command, ClusterOptions)
    add_options(command, WorkerOptions)

    command = _add_command(
        commands, "crops", "cut aligned faces from labeled photos or from the photos of a run"
    )
    source = command.add_mutually_exclusive_group(required=True)
    _add_input(source, required=False)
    source.add_argument("--run", help="the folder of a run whose faces are cut from its photos")
    _add_exclude(command)
    command.add_argument("--output", required=True, metavar="DIR", help="the folder for the crops")
    add_options(command, CropOptions)


def _add_evaluate_commands(commands) -> None:
    evaluate = commands.add_parser("evaluate", help="score a run or a model against labels")
    evaluate.set_defaults(parser=evaluate)
    kinds = evaluate.add_subparsers(metavar="KIND")

    command = _add_command(kinds, "evaluate clustering", "score the people of a run against labels")
    command.add_argument("--run", required=True, help="the run's folder")
    command.add_argument(
        "--labels", required=True, metavar="folder|FILE.csv",
        help="`folder`: a photo shows the person that its folder is named after; or a CSV file of "
        "photo,person",
    )  # fmt: skip

    command = _add_command(
        kinds, "evaluate verification", "score a model on pairs of photos by LFW's protocol"
    )
    command.add_argument("--images", required=True, help="the folder of Name/Name_0001.jpg")
    command.add_argument(
        "--pairs", required=True, help="pairs.txt, pairsDevTrain.txt or a file like them"
    )
    command.add_argument("--run", help="keep the faces in this run, and reuse those in it")
    add_options(command, EmbedOptions)


def _add_model_commands(commands) -> None:
    model = commands.add_parser("model", help="fetch, import, export, train and validate networks")
    model.set_defaults(parser=model)
    actions = model.add_subparsers(metavar="ACTION")

    _add_command(actions, "model list", "list the known models and their folders")

    command = _add_command(actions, "model fetch", "download and export known models")
    command.add_argument("names", nargs="*", metavar="NAME", help="default: all known models")

    command = _add_command(actions, "model import", "convert published FaceNet weights to a model")
    command.add_argument(
        "weights", help="frozen graph (.pb), TensorFlow 1 checkpoint (folder, prefix, .meta or "
        ".index), Keras (.h5, .keras) or facenet-pytorch state dict (.pt)",
    )  # fmt: skip
    _add_model_output(command)
    command.add_argument("--name", help="name on the model card (default: the folder's name)")
    command.add_argument(
        "--standardization", choices=("fixed", "per-image"), default="fixed",
        help="of pixels. fixed: (x - 127.5) / 128, used by models from 2018 on; per-image: by mean "
        "and standard deviation, used by earlier ones (default: %(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--margin", type=at_least(0), default=32, metavar="PX",
        help="margin around the face's box in a crop, px of the input (default: %(default)s)",
    )  # fmt: skip
    command.add_argument("--source", help="origin of the weights (default: the file's name)")
    command.add_argument("--license", default="unknown", help="of the weights, for the model card")

    command = _add_command(
        actions, "model export", "export a model again, in full or half precision"
    )
    command.add_argument("model", help="name or folder")
    _add_model_output(command)
    command.add_argument(
        "--float16", action="store_true", help="half-precision weights and arithmetic, for GPUs"
    )

    command = _add_command(actions, "model train", "train a network, or a linear head, on crops")
    command.add_argument(
        "--crops", required=True, nargs="+", metavar="CROPS",
        help="folders of PERSON/NAME.png, tar or TFRecord shards as `facecluster crops` writes "
        "them, or globs",
    )  # fmt: skip
    command.add_argument(
        "--output", required=True, metavar="DIR",
        help="folder of the training; the same command continues from its last checkpoint",
    )  # fmt: skip
    add_options(command, TrainOptions)

    command = _add_command(
        actions, "model validate", "score a model by LFW's or YouTube Faces' protocol"
    )
    command.add_argument("model", help="name or folder")
    protocol = command.add_mutually_exclusive_group(required=True)
    protocol.add_argument("--pairs", metavar="FILE", help="LFW's pairs.txt or a file like it")
    protocol.add_argument("--splits", metavar="FILE", help="YouTube Faces' splits.txt")
    command.add_argument(
        "--images", metavar="DIR", help="photos in PERSON/, or video frames in PERSON/VIDEO/"
    )
    command.add_argument(
        "--crops", metavar="DIR",
        help="folder to keep the crops of the images in; without --images, crops to use",
    )  # fmt: skip
    command.add_argument(
        "--flip", action="store_true",
        help="with --pairs: compare the mirror images of the crops as well",
    )  # fmt: skip
    command.add_argument(
        "--subtract-mean", action="store_true",
        help="with --pairs: subtract the mean vector first; matters with cosine",
    )  # fmt: skip
    command.add_argument(
        "--metric", choices=("euclidean", "cosine"), default="euclidean",
        help="with --pairs: the distance between vectors (default: %(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--write-card", action="store_true",
        help="write the scores and, with --pairs, the calibration into the model card, and fit the "
        "model's cohort",
    )  # fmt: skip
    add_options(command, DetectionOptions)

    command = _add_command(actions, "model card", "print a model card")
    command.add_argument("model", help="name or folder")

    command = _add_command(
        actions, "model fit-codec", "fit the 128-byte codec to the faces of a run"
    )
    command.add_argument("model", help="name or folder; codec.npz is written into the folder")
    command.add_argument("--run", required=True, help="a run made with --codec float32")


def _add_command(commands, name: str, help: str) -> ArgumentParser:
    command = commands.add_parser(
        name.split()[-1],
        help=help,
        description=help[0].upper() + help[1:] + ".",
        allow_abbrev=False,
    )
    command.add_argument("-v", "--verbose", action="store_true", help="show all log messages")
    makes_run = name in ("run", "embed", "crops")
    command.passes_to_beam = makes_run or name == "cluster"
    command.set_defaults(command=name, makes_run=makes_run, parser=command)
    return command


def _add_input(command, required: bool = True) -> None:
    command.add_argument(
        "--input", required=required, nargs="+", metavar="PHOTOS",
        help="folders (with all subfolders), files or globs of photos; tar (.tar, .tar.gz, .tgz), "
        "TFRecord or Parquet files that contain photos; lists of photos (.txt, .csv, .parquet); "
        "RUN/failures, to retry failed inputs",
    )  # fmt: skip


def _add_exclude(command: ArgumentParser) -> None:
    command.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN",
        help="pass over files and folders below the inputs, as a .gitignore file in each input "
        "would; may be repeated: --exclude '*.png' --exclude '!keep/*.png'",
    )  # fmt: skip


def _add_output(command: ArgumentParser) -> None:
    command.add_argument("--output", required=True, metavar="RUN", help="the run's folder")


def _add_model_output(command: ArgumentParser) -> None:
    # Not named `output`, whose folder gets the log file: a model's folder holds only the model.
    command.add_argument(
        "--output", required=True, metavar="DIR", dest="model_folder", help="the model's folder"
    )
