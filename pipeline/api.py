"""The jobs as functions: what each command of `facecluster` calls, and what a program can call.

from facecluster import ClusterOptions, run

pictures = run("Pictures", "runs/pictures", cluster_options=ClusterOptions(min_cluster_size=3))
pictures.people.to_pandas()
"""

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from apache_beam.io.filesystems import FileSystems

from facecluster.errors import InputError, JobError, UsageError
from facecluster.model_export.face_model import find_embedder, find_model
from facecluster.model_export.validation.pairs import read_pairs
from facecluster.pipeline.beam.runner import known_beam_options
from facecluster.pipeline.cropping.manifest import CropsManifest
from facecluster.pipeline.cropping.requests import (
    PEOPLE_LABELS,
    request_photo_crops,
    request_run_crops,
)
from facecluster.pipeline.evaluation.labels import FOLDER_LABELS
from facecluster.pipeline.failure_limit import FailureLimit
from facecluster.pipeline.jobs.cluster import cluster_run
from facecluster.pipeline.jobs.crops import CropsJob
from facecluster.pipeline.jobs.embed import EmbedJob
from facecluster.pipeline.jobs.evaluate import (
    evaluate_clustering,
    evaluate_verification,
    find_pair_images,
)
from facecluster.pipeline.options import CropOptions, EmbedOptions, WorkerOptions
from facecluster.pipeline.report.report import write_report
from facecluster.pipeline.run.directory import RunDirectory
from facecluster.pipeline.run.lock import run_lock
from facecluster.pipeline.run.results import Run
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.inputs.listing import (
    Listing,
    absolute_uri,
    list_photos,
    with_versions,
)
from facecluster.transforms.inputs.paths import Paths, path_list
from facecluster.transforms.inputs.sources import Source
from facecluster.transforms.tables.reasons import format_reasons


class Progress(Protocol):
    """How a job reports its progress."""

    def say(self, text: str) -> None:
        """Called when the job starts something new, described by `text`."""

    def watch(
        self, count: Callable[[], int], total: int, doing: str | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """A context in which `count()` of `total` photos are done at any time.

        Args:
          doing: what is done with them, if it is not what the job is for.
        """
        ...


class NoProgress:
    """Reports nothing."""

    def say(self, text: str) -> None:
        pass

    def watch(
        self, count: Callable[[], int], total: int, doing: str | None = None
    ) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def run(
    inputs: Paths,
    output: str | os.PathLike[str],
    embed_options: EmbedOptions | None = None,
    cluster_options: ClusterOptions | None = None,
    *,
    exclude: str | Sequence[str] = (),
    workers: WorkerOptions | None = None,
    overwrite: bool = False,
    forget_removed: bool = False,
    max_failures: FailureLimit | int | str | None = None,
    beam_arguments: Sequence[str] = (),
    progress: Progress | None = None,
) -> Run:
    """Finds, embeds and groups the faces of photos, and writes a report.

    The same as `embed` and then `cluster`; see there for arguments and errors.

    Raises:
      JobError: also if no photo could be read.
    """
    with _locked(output, creates_run=True) as directory:
        _embed(directory, inputs, exclude, embed_options, overwrite, forget_removed, max_failures,
               beam_arguments, progress)  # fmt: skip
        check_any_photo(directory)
        _cluster(directory, cluster_options, workers, beam_arguments, progress)
        return Run(directory.root)


def embed(
    inputs: Paths,
    output: str | os.PathLike[str],
    options: EmbedOptions | None = None,
    *,
    exclude: str | Sequence[str] = (),
    overwrite: bool = False,
    forget_removed: bool = False,
    max_failures: FailureLimit | int | str | None = None,
    beam_arguments: Sequence[str] = (),
    progress: Progress | None = None,
) -> Run:
    """Finds and embeds the faces of the photos that a run does not hold yet, or that have changed.

    A job that was stopped goes on where it was; new photos are added to the run. A photo whose size
    or time is another is read again, and embedded again if its bytes are others.

    Args:
      inputs: folders, files or globs of photos; tar, TFRecord and Parquet files that hold them;
        lists that name them; OUTPUT/failures to retry what failed. See docs/inputs.md.
      output: the run's folder; created if it does not exist.
      options: how faces are found and embedded.
      exclude: patterns of files and folders below the inputs to pass over, with the meaning that
        they have in a .gitignore file.
      overwrite: start again: first delete what facecluster wrote into the folder.
      forget_removed: remove from the run the photos that are no longer in its folders and
        containers; by default they stay.
      max_failures: stop with an error when more inputs than this cannot be used: a number, or a
        percentage such as "5%". None for no limit.
      beam_arguments: options for Beam, such as "--direct_num_workers=8".
      progress: where to report progress; by default nowhere.

    Raises:
      InputError: an input does not exist, there are no photos in the inputs, or all photos of an
        input folder would be forgotten.
      UsageError: the folder is not a run and holds other files, Beam does not know an option, or a
        pattern cannot be used.
      ModelError: the model or the detector is not on this machine; see `load_model`.
      RunLockedError: another job works in the folder.
      TooManyFailures: more inputs failed than max_failures allows.
      JobError: the run was made with other settings, or Beam failed.
    """
    with _locked(output, creates_run=True) as directory:
        _embed(directory, inputs, exclude, options, overwrite, forget_removed, max_failures,
               beam_arguments, progress)  # fmt: skip
        return Run(directory.root)


def cluster(
    output: str | os.PathLike[str],
    options: ClusterOptions | None = None,
    *,
    workers: WorkerOptions | None = None,
    beam_arguments: Sequence[str] = (),
    progress: Progress | None = None,
) -> Run:
    """Groups the faces of a run into people, and writes a report.

    People keep their ids when a run is grouped again, as far as they have faces in common.

    Args:
      output: the run's folder.
      options: how faces become people.
      workers: whether to group on Beam's workers; by default in memory.
      beam_arguments: options for Beam, where it groups.
      progress: where to report progress; by default nowhere.

    Raises:
      UsageError: the run holds no faces, or options contradict each other.
      RunLockedError: another job works in the folder.
      TableError: a table is damaged.
      JobError: Beam failed.
    """
    with _locked(output, creates_run=False) as directory:
        if beam_arguments and not (workers and workers.distribute):
            raise UsageError(f"{beam_arguments[0]} is for Beam: add --distribute")
        _cluster(directory, options, workers, beam_arguments, progress)
        return Run(directory.root)


def crops(
    output: str | os.PathLike[str],
    options: CropOptions | None = None,
    *,
    inputs: Paths = (),
    exclude: str | Sequence[str] = (),
    of_run: str | os.PathLike[str] | None = None,
    beam_arguments: Sequence[str] = (),
    progress: Progress | None = None,
) -> CropsManifest:
    """Cuts aligned face crops of known people out of photos, to train and validate networks on.

    Args:
      output: the crops' folder.
      options: size, margin and file format of the crops, and how photos are labeled.
      exclude: patterns of files and folders below the inputs to pass over, as for `embed`.
      inputs: labeled photos, as for `embed`; or else
      of_run: a run, whose faces are cut out of its photos and labeled with its people.
      beam_arguments: options for Beam.
      progress: where to report progress; by default nowhere.

    Returns:
      The content of crops.json: counts, seconds, options.

    Raises:
      InputError: the labels cannot be read or match no photo.
      UsageError: the folder holds other files, or a crop has no room beside its margin.
      JobError: the folder holds crops made with other settings, or Beam failed.
    """
    options = options or CropOptions()
    if bool(of_run) == bool(path_list(inputs)):
        raise UsageError("crops are cut either of inputs or of a run: give one of them")
    if of_run and exclude:
        raise UsageError("--exclude is for the files of inputs: leave it out with a run")
    with _locked(output, creates_run=True, check_other_files=False) as directory:
        known_beam_options(beam_arguments)
        detector = None
        if of_run:
            run_directory = open_directory(of_run)
            requests = request_run_crops(
                run_directory, options.labels or PEOPLE_LABELS, options.form
            )
        else:
            uris = list_photos(path_list(inputs), exclude=path_list(exclude)).uris
            requests = request_photo_crops(uris, options.labels or FOLDER_LABELS, options.form)
            detector = find_model(options.detector)
        job = CropsJob(directory.root, options, detector, beam_arguments)
        return job(requests, (progress or NoProgress()).watch)


def evaluate_people(run: str | os.PathLike[str], labels: str) -> dict[str, Any]:
    """Scores a run's people against labels: BCubed, pairwise and NMI.

    Args:
      run: the run's folder.
      labels: "folder" if each photo shows the person its folder is named after; else a CSV file
        with the columns photo and person.

    Raises:
      InputError: the labels cannot be read or fit no photo, or the run has no people.
    """
    with _locked(run, creates_run=False) as directory:
        return evaluate_clustering(directory, labels)


def evaluate_pairs(
    images: str | os.PathLike[str],
    pairs: str | os.PathLike[str],
    run: str | os.PathLike[str] | None = None,
    options: EmbedOptions | None = None,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Scores the model by LFW's verification protocol on pairs of photos.

    Args:
      images: folder of Name/Name_0001.jpg.
      pairs: pairs.txt, pairsDevTrain.txt or a file of that format.
      run: a run to keep the faces in, and to take them from; by default a temporary one.
      options: how faces are found and embedded.
      progress: where to report progress; by default nowhere.

    Raises:
      InputError: the pairs file cannot be read, or images that it names do not exist.
    """
    images, pairs = os.fspath(images), os.fspath(pairs)
    photos = find_pair_images(images, read_pairs(pairs))
    listing = Listing(tuple(with_versions(map(Source, photos))))
    with contextlib.ExitStack() as stack:
        folder = run or stack.enter_context(tempfile.TemporaryDirectory())
        directory = stack.enter_context(_locked(folder, creates_run=True))
        _embed_job(directory, options)(listing, (progress or NoProgress()).watch)
        return evaluate_verification(directory, images, pairs)


def check_any_photo(directory: RunDirectory) -> None:
    """Raises JobError if no photo of a run could be read."""
    embed = directory.manifest().embed
    if embed and embed.counts and embed.counts.photos == 0:
        raise JobError(
            f"none of the {embed.counts.failures:,} photos could be read "
            f"({format_reasons(embed.counts.failure_reasons)}): see {directory.path('failures')}"
        )


def open_directory(path: str | os.PathLike[str]) -> RunDirectory:
    """The folder as a run directory, whether or not it is one yet.

    Raises:
      UsageError: the library for the scheme of its path is not installed.
    """
    path = os.fspath(path)
    try:
        FileSystems.get_filesystem(path)
    except ValueError as error:
        raise UsageError(f"{path}: {error}") from error
    return RunDirectory(path)


@contextlib.contextmanager
def _locked(path: str | os.PathLike[str], creates_run: bool, check_other_files: bool = True):
    """Holds the lock of a run's folder.

    A folder that is not a run is not written to unless the job creates one.
    """
    directory = open_directory(path)
    if creates_run and check_other_files:
        directory.check_output_folder()
    is_locked = creates_run or directory.is_run()
    with run_lock(directory.root) if is_locked else contextlib.nullcontext():
        yield directory


def _embed(
    directory,
    inputs,
    exclude,
    options,
    overwrite,
    forget_removed,
    max_failures,
    beam_arguments,
    progress,
) -> None:
    known_beam_options(beam_arguments)
    names = path_list(inputs)
    retry_failures = _names_failures(directory, names)
    listing = (
        _failed_inputs(directory, names, overwrite)
        if retry_failures
        else list_photos(names, exclude=path_list(exclude))
    )
    progress = progress or NoProgress()
    for pattern in listing.unused_excludes:
        progress.say(f"--exclude {pattern} has no effect: patterns are relative to each input")
    job = _embed_job(
        directory, options, max_failures, retry_failures, beam_arguments, forget_removed
    )
    if overwrite:
        directory.remove_everything()
    job(listing, progress.watch)


def _embed_job(
    directory,
    options,
    max_failures=None,
    retry_failures=False,
    beam_arguments=(),
    forget_removed=False,
) -> EmbedJob:
    options = options or EmbedOptions()
    if max_failures is not None and not isinstance(max_failures, FailureLimit):
        try:
            max_failures = FailureLimit.parse(str(max_failures))
        except ValueError as error:
            raise UsageError(f"max_failures: {error}") from error
    return EmbedJob(
        directory,
        find_embedder(options.model),
        find_model(options.detector),
        options,
        beam_arguments,
        max_failures,
        retry_failures,
        forget_removed,
    )


def _cluster(directory, options, workers, beam_arguments, progress) -> None:
    known_beam_options(beam_arguments)
    say = (progress or NoProgress()).say
    cluster_run(directory, options or ClusterOptions(), say, workers, beam_arguments)
    write_report(directory)


def _names_failures(directory: RunDirectory, names: Sequence[str]) -> bool:
    """Whether an input is the failures table of the run itself."""
    failures = absolute_uri(directory.path("failures"))
    return any(f"{absolute_uri(name)}/".startswith(f"{failures}/") for name in names)


def _failed_inputs(directory: RunDirectory, names: Sequence[str], overwrite: bool) -> Listing:
    """The inputs that failed in a run; there may be none."""
    if len(names) > 1:
        raise InputError(f"{directory.path('failures')} is tried again by itself: name no other")
    if overwrite:
        raise InputError("--overwrite would delete the failures that are to be tried again")
    if not directory.is_run():
        raise InputError(f"{directory.path('failures')} does not exist: {directory.root} is no run")
    n_failures = directory.count_rows("failures")
    return list_photos(names) if n_failures else Listing(())
