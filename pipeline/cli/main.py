"""The `facecluster` command line: parses it, sets up the terminal, calls the command."""

import argparse
import contextlib
import importlib
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import NoReturn

from facecluster.pipeline.cli.quiet import noise_to_file
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

WRONG_USE, STOPPED = 2, 130  # exit codes; 130 is what a program that Ctrl-C ended gives


def script() -> NoReturn:
    """The console command: `main`, then out at once.

    Threads of Beam's may still be in C++ code. Python before 3.14 ends such threads, on its own way
    out, by unwinding code that must not unwind, which aborts a process that had succeeded
    (python/cpython#87135).
    """
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it, `head` say, has had enough
        code = 0
    sys.stderr.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
      The exit code: 0 done, 1 it failed, 2 the command line asks for something impossible.
    """
    parser = _parser()
    arguments, arguments.beam_arguments = parser.parse_known_args(argv)
    if arguments.beam_arguments and not arguments.uses_beam:
        parser.error(f"unknown argument {arguments.beam_arguments[0]}")
    try:
        with contextlib.ExitStack() as stack:
            if arguments.verbose:
                logging.basicConfig(level=logging.INFO)
            else:
                stack.enter_context(noise_to_file(_log_file(arguments)))
            # Not at the top: help need not wait for Beam, nor Beam's greetings be seen.
            commands = importlib.import_module("facecluster.pipeline.cli.commands")
            return commands.call(arguments)
    except _NotWritable as error:
        print(f"facecluster: {error}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return STOPPED


class _NotWritable(Exception):
    pass


def _log_file(arguments: argparse.Namespace) -> str:
    """In the run's folder where that is a local one, else among the temporary files."""
    folder = getattr(arguments, "output", None)
    if not folder or "://" in folder or not (arguments.makes_run or os.path.isdir(folder)):
        folder = tempfile.gettempdir()
    path = os.path.join(folder, "facecluster.log")
    try:
        os.makedirs(folder, exist_ok=True)
        with open(path, "a"):
            return path
    except OSError as error:
        raise _NotWritable(f"cannot write to {folder}: {error.strerror}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="facecluster",
        description="Groups the faces of a photo collection into people.",
        epilog="`run`, `embed`, `cluster` and `crops` hand options they do not know to Apache "
        "Beam, as in --runner=DataflowRunner --project=... or --direct_num_workers=8.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = _command(commands, "run", "photos to people and a report, all in one")
    _add_input(command)
    _add_output(command)
    add_options(command, RunOptions)
    add_options(command, EmbedOptions)
    add_options(command, ClusterOptions)
    add_options(command, WorkerOptions)

    command = _command(commands, "embed", "only photos to faces")
    _add_input(command)
    _add_output(command)
    add_options(command, RunOptions)
    add_options(command, EmbedOptions)

    command = _command(commands, "cluster", "only faces to people, in a run there is")
    _add_output(command)
    add_options(command, ClusterOptions)
    add_options(command, WorkerOptions)

    command = _command(commands, "crops", "aligned face crops of labelled photos, or of a run")
    source = command.add_mutually_exclusive_group(required=True)
    _add_input(source, required=False)
    source.add_argument("--run", help="the folder of a run, whose faces are cut from its photos")
    command.add_argument("--output", required=True, metavar="DIR", help="the crops' folder")
    add_options(command, CropOptions)

    evaluate = commands.add_parser("evaluate", help="score a run, or a model, against labels")
    kinds = evaluate.add_subparsers(required=True, metavar="WHAT")
    command = _command(kinds, "evaluate clustering", "a run's people against labels")
    command.add_argument("--run", required=True, help="the run's folder")
    command.add_argument(
        "--labels", required=True, metavar="folder|FILE.csv",
        help="`folder`: a photo shows the person its folder is named after; or a CSV of "
        "photo,person",
    )  # fmt: skip
    command = _command(kinds, "evaluate verification", "LFW's protocol on pairs of photos")
    command.add_argument("--images", required=True, help="folder of Name/Name_0001.jpg")
    command.add_argument("--pairs", required=True, help="pairs.txt, pairsDevTrain.txt or alike")
    command.add_argument("--run", help="keep the faces in this run's folder, and use those there")
    add_options(command, EmbedOptions)

    _add_model_commands(commands)
    _command(commands, "sample-photos",
             "download a few photos to try this on, print their folder")  # fmt: skip
    return parser


def _add_model_commands(commands) -> None:
    model = commands.add_parser("model", help="the networks: fetch, import, train, validate them")
    actions = model.add_subparsers(required=True, metavar="ACTION")

    _command(actions, "model list", "the known models and where they are")

    command = _command(actions, "model fetch", "download and export models")
    command.add_argument("names", nargs="*", metavar="NAME", help="default: all of the list")

    command = _command(actions, "model import", "make a model of published FaceNet weights")
    command.add_argument(
        "weights", help="frozen graph (.pb), TensorFlow 1 checkpoint (folder, prefix, .meta or "
        ".index), Keras (.h5, .keras) or facenet-pytorch state dict (.pt)",
    )  # fmt: skip
    _add_model_output(command)
    command.add_argument("--name", help="what its card calls it (default: the folder's name)")
    command.add_argument(
        "--standardization", choices=("fixed", "per-image"), default="fixed",
        help="of pixels: (x - 127.5) / 128, as the models of 2018 were trained; per-image, as "
        "earlier ones were (default: %(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--margin", type=at_least(0), default=32, metavar="PX",
        help="surroundings of the face's box in a crop of its input size (default: %(default)s)",
    )  # fmt: skip
    command.add_argument("--source", help="where the weights are from (default: the file's name)")
    command.add_argument("--license", default="unknown", help="of the weights, for the card")

    command = _command(actions, "model export", "export a model anew, in full or half precision")
    command.add_argument("model", help="name or folder")
    _add_model_output(command)
    command.add_argument(
        "--float16", action="store_true", help="half floats for weights and arithmetic, for GPUs"
    )

    command = _command(actions, "model train", "train a network or a head on crops")
    command.add_argument(
        "--crops", required=True, nargs="+", metavar="CROPS",
        help="folders of PERSON/NAME.png, tar or TFRecord shards, as `facecluster crops` writes "
        "them, or globs",
    )  # fmt: skip
    command.add_argument(
        "--output", required=True, metavar="DIR",
        help="the training's folder; the same command goes on with what is in it",
    )  # fmt: skip
    add_options(command, TrainOptions)

    command = _command(actions, "model validate", "a model by LFW's or YouTube Faces' protocol")
    command.add_argument("model", help="name or folder")
    protocol = command.add_mutually_exclusive_group(required=True)
    protocol.add_argument("--pairs", metavar="FILE", help="LFW's pairs.txt or alike")
    protocol.add_argument("--splits", metavar="FILE", help="YouTube Faces' splits.txt")
    command.add_argument(
        "--images", metavar="DIR", help="photos in PERSON/, or frames in PERSON/VIDEO/"
    )
    command.add_argument(
        "--crops", metavar="DIR", help="keep the crops of the images here; without --images, use "
        "the crops that are here",
    )  # fmt: skip
    command.add_argument(
        "--flip", action="store_true",
        help="with --pairs: compare the mirror images of the crops too",
    )  # fmt: skip
    command.add_argument(
        "--subtract-mean", action="store_true",
        help="with --pairs: centre vectors first; matters with cosine",
    )  # fmt: skip
    command.add_argument(
        "--metric", choices=("euclidean", "cosine"), default="euclidean",
        help="with --pairs: distance of vectors (default: %(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--write-card", action="store_true",
        help="keep scores and, with --pairs, calibration in the model's card",
    )  # fmt: skip
    add_options(command, DetectionOptions)

    command = _command(actions, "model card", "print a model's card")
    command.add_argument("model", help="name or folder")

    command = _command(actions, "model fit-codec", "fit the 128-byte codec to a run's faces")
    command.add_argument("model", help="name or folder; codec.npz is written into it")
    command.add_argument("--run", required=True, help="a run made with --codec float32")


def _add_model_output(command: argparse.ArgumentParser) -> None:
    # By a name of its own: in a folder called `output` the log is kept, and this holds a model.
    command.add_argument(
        "--output", required=True, metavar="DIR", dest="model_folder", help="the model's folder"
    )


def _command(commands, name, help) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name.split()[-1],
        help=help,
        description=help[0].upper() + help[1:] + ".",
        allow_abbrev=False,
    )
    command.add_argument("-v", "--verbose", action="store_true", help="show all logs")
    makes_run = name in ("run", "embed", "crops")
    uses_beam = makes_run or name == "cluster"
    command.set_defaults(command=name, makes_run=makes_run, uses_beam=uses_beam)
    return command


def _add_input(command, required: bool = True) -> None:
    command.add_argument(
        "--input", required=required, nargs="+", metavar="PHOTOS",
        help="folders (with all subfolders), files or globs of photos; tars (.tar, .tar.gz, .tgz), "
        "TFRecord and Parquet files that hold them; lists that name them (.txt, .csv, .parquet); "
        "RUN/failures, to try again what failed; local, gs:// or s3://",
    )  # fmt: skip


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument("--output", required=True, metavar="RUN", help="the run's folder")
