"""What each command of `facecluster` does: calls the jobs and prints what came of them."""

import argparse
import contextlib
import logging
import sys
import tempfile

from apache_beam.io.filesystems import FileSystems

from facecluster.errors import FaceclusterError, InputError, UsageError
from facecluster.model_export.validation.pairs import read_pairs
from facecluster.pipeline.beam.runner import known_beam_options
from facecluster.pipeline.cli import model_commands
from facecluster.pipeline.cli.progress import Progress
from facecluster.pipeline.cli.sample_photos import fetch_sample_photos
from facecluster.pipeline.cli.summary import format_summary
from facecluster.pipeline.jobs.cluster import cluster_run
from facecluster.pipeline.jobs.crops import (
    PEOPLE_LABELS,
    CropsJob,
    format_crops,
    plan_photos,
    plan_run,
)
from facecluster.pipeline.jobs.embed import EmbedJob
from facecluster.pipeline.jobs.evaluate import (
    FOLDER_LABELS,
    evaluate_clustering,
    evaluate_verification,
    format_scores,
    pair_image_paths,
)
from facecluster.pipeline.options import CropOptions, EmbedOptions, WorkerOptions
from facecluster.pipeline.report.report import write_report
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.pipeline.run.lock import run_lock
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.inputs.listing import Listing, absolute, list_photos
from facecluster.transforms.inputs.sources import Source
from facecluster.transforms.option_fields import from_arguments

logger = logging.getLogger(__name__)

FAILED = 1  # exit code


def call(arguments: argparse.Namespace) -> int:
    """Runs the function that the command line names; its errors become a sentence.

    Returns:
      The exit code.
    """
    try:
        with _lock_of(arguments):
            return COMMANDS[arguments.command](arguments)
    except BrokenPipeError:  # an OSError, but nothing that failed
        raise
    except (FaceclusterError, OSError) as error:
        logger.error("failed", exc_info=True)  # the terminal gets the sentence, the log this
        print(f"facecluster: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, FaceclusterError) else FAILED


def _lock_of(arguments: argparse.Namespace) -> contextlib.AbstractContextManager:
    """The lock of the folder that a command writes into, if it is a run or becomes one."""
    is_training = arguments.command.startswith("model ")
    folder = getattr(arguments, "output", None) or getattr(arguments, "run", None)
    if not folder or is_training:
        return contextlib.nullcontext()
    directory = _run_directory(folder)
    if arguments.command in ("run", "embed", "evaluate verification"):
        directory.check_foreign()
    elif not arguments.makes_run and not directory.is_run():
        return contextlib.nullcontext()  # the command says what it misses
    return run_lock(directory.root)


def run(arguments: argparse.Namespace) -> int:
    """Photos to people to a report."""
    return embed(arguments) or cluster(arguments)


def embed(arguments: argparse.Namespace) -> int:
    """Photos to faces."""
    known_beam_options(arguments.beam_arguments)
    directory = _embed(arguments, _list_inputs(arguments))
    counts = directory.manifest().embed.counts
    if arguments.command == "embed":
        print(format_summary(directory.manifest()))
    if counts.photos == 0:
        print(f"facecluster: none of the {counts.failures} photos could be read; "
              f"{directory.path('failures')} says why", file=sys.stderr)  # fmt: skip
        return FAILED
    return 0


def cluster(arguments: argparse.Namespace) -> int:
    """Faces to people to a report."""
    known_beam_options(arguments.beam_arguments)
    if arguments.command == "cluster" and arguments.beam_arguments and not arguments.distribute:
        raise UsageError(f"{arguments.beam_arguments[0]} is for Beam: add --distribute")
    directory = _run_directory(arguments.output)
    cluster_run(
        directory,
        from_arguments(ClusterOptions, arguments),
        Progress().say,
        from_arguments(WorkerOptions, arguments),
        arguments.beam_arguments,
    )
    page = write_report(directory)
    print(format_summary(directory.manifest()))
    print(f"report        {page}")
    return 0


def crops(arguments: argparse.Namespace) -> int:
    """Faces of known people to aligned crops."""
    known_beam_options(arguments.beam_arguments)
    options = from_arguments(CropOptions, arguments)
    output = _run_directory(arguments.output).root
    if arguments.run:
        run = _run_directory(arguments.run)
        plan, detector = plan_run(run, options.labels or PEOPLE_LABELS, options.form), None
    else:
        uris = list_photos(arguments.input).uris
        plan = plan_photos(uris, options.labels or FOLDER_LABELS, options.form)
        detector = model_commands.find_model(options.detector)
    entry = CropsJob(output, options, detector, arguments.beam_arguments)(
        plan, Progress("cropping photos").watch
    )
    print(format_crops(entry))
    if not entry["counts"]["crops"]:
        print(f"facecluster: none of the {len(plan)} photos gave a crop; "
              f"{FileSystems.join(output, 'failures')} says why", file=sys.stderr)  # fmt: skip
        return FAILED
    return 0


def evaluate_people(arguments: argparse.Namespace) -> int:
    """A run's people against labels."""
    print(format_scores(evaluate_clustering(_run_directory(arguments.run), arguments.labels)))
    return 0


def evaluate_pairs(arguments: argparse.Namespace) -> int:
    """LFW's verification protocol."""
    photos = pair_image_paths(arguments.images, read_pairs(arguments.pairs))
    with contextlib.ExitStack() as stack:
        arguments.output = arguments.run or stack.enter_context(tempfile.TemporaryDirectory())
        directory = _embed(arguments, Listing(tuple(map(Source, photos)), n_other_files=0))
        print(format_scores(evaluate_verification(directory, arguments.images, arguments.pairs)))
    return 0


def show_sample_photos(arguments: argparse.Namespace) -> int:
    print(fetch_sample_photos())
    return 0


def _list_inputs(arguments: argparse.Namespace) -> Listing:
    """The inputs of a command; RUN/failures is what failed in that run, and may be nothing."""
    directory = _run_directory(arguments.output)
    if not _is_retry(arguments):
        return list_photos(arguments.input)
    if len(arguments.input) > 1:
        raise InputError(f"{directory.path('failures')} is tried again by itself: name no other")
    if arguments.overwrite:
        raise InputError("--overwrite would delete the failures that are to be tried again")
    if not directory.is_run():
        raise InputError(f"{directory.path('failures')} does not exist: {directory.root} is no run")
    n_failures = directory.count_rows("failures")
    return list_photos(arguments.input) if n_failures else Listing((), n_other_files=0)


def _is_retry(arguments: argparse.Namespace) -> bool:
    """Whether the inputs are the failures of the run that they go to."""
    failures = absolute(_run_directory(arguments.output).path("failures"))
    inputs = getattr(arguments, "input", None) or ()
    return any(f"{absolute(name)}/".startswith(f"{failures}/") for name in inputs)


def _embed(arguments: argparse.Namespace, listing: Listing) -> RunDirectory:
    directory = _run_directory(arguments.output)
    options = from_arguments(EmbedOptions, arguments)
    job = EmbedJob(
        directory,
        model_commands.find_embedder(options.model),
        model_commands.find_model(options.detector),
        options,
        arguments.beam_arguments,
        getattr(arguments, "max_failures", None),
        _is_retry(arguments),
    )
    if getattr(arguments, "overwrite", False):
        directory.remove_everything()
    job(listing, Progress().watch)
    return directory


def _run_directory(path: str) -> RunDirectory:
    try:
        FileSystems.get_filesystem(path)
    except ValueError as error:  # its scheme's library is not installed
        raise UsageError(f"{path}: {error}") from error
    return RunDirectory(path)


COMMANDS = {
    "run": run,
    "embed": embed,
    "cluster": cluster,
    "crops": crops,
    "evaluate clustering": evaluate_people,
    "evaluate verification": evaluate_pairs,
    **model_commands.COMMANDS,
    "sample-photos": show_sample_photos,
}
