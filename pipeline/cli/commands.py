"""The commands on photos: each calls a function of the public API and prints its result."""

import argparse
from collections.abc import Sequence

from apache_beam.io.filesystems import FileSystems

from facecluster.errors import JobError
from facecluster.pipeline import api
from facecluster.pipeline.cli.progress import Progress
from facecluster.pipeline.cli.score_table import format_scores
from facecluster.pipeline.cli.summary import format_summary
from facecluster.pipeline.jobs.crops import format_crops
from facecluster.pipeline.options import CropOptions, EmbedOptions, WorkerOptions
from facecluster.pipeline.run.results import Run
from facecluster.transforms.grouping.options import ClusterOptions
from facecluster.transforms.option_fields import from_arguments


def run(arguments: argparse.Namespace) -> int:
    """Photos to people and a report."""
    _print_people(
        api.run(
            arguments.input,
            arguments.output,
            from_arguments(EmbedOptions, arguments),
            from_arguments(ClusterOptions, arguments),
            exclude=arguments.exclude,
            workers=from_arguments(WorkerOptions, arguments),
            overwrite=arguments.overwrite,
            forget_removed=arguments.forget_removed,
            max_failures=arguments.max_failures,
            beam_arguments=arguments.beam_arguments,
            progress=Progress(),
        ),
        steps=["embed", "cluster"],
    )
    return 0


def embed(arguments: argparse.Namespace) -> int:
    """Photos to faces."""
    run = api.embed(
        arguments.input,
        arguments.output,
        from_arguments(EmbedOptions, arguments),
        exclude=arguments.exclude,
        overwrite=arguments.overwrite,
        forget_removed=arguments.forget_removed,
        max_failures=arguments.max_failures,
        beam_arguments=arguments.beam_arguments,
        progress=Progress(),
    )
    print(format_summary(run.directory.manifest(), steps=["embed"]))
    api.check_any_photo(run.directory)
    return 0


def cluster(arguments: argparse.Namespace) -> int:
    """Faces to people and a report."""
    _print_people(
        api.cluster(
            arguments.output,
            from_arguments(ClusterOptions, arguments),
            workers=from_arguments(WorkerOptions, arguments),
            beam_arguments=arguments.beam_arguments,
            progress=Progress(),
        ),
        steps=["cluster"],
    )
    return 0


def crops(arguments: argparse.Namespace) -> int:
    """Faces of known people to aligned crops."""
    manifest = api.crops(
        arguments.output,
        from_arguments(CropOptions, arguments),
        inputs=arguments.input or (),
        exclude=arguments.exclude,
        of_run=arguments.run,
        beam_arguments=arguments.beam_arguments,
        progress=Progress("cropping photos"),
    )
    print(format_crops(manifest))
    if not manifest.counts["crops"]:
        failures = FileSystems.join(arguments.output, "failures")
        raise JobError(
            f"none of the {manifest.counts['photos']} photos gave a crop; {failures} says why"
        )
    return 0


def evaluate_clustering(arguments: argparse.Namespace) -> int:
    """A run's people against labels."""
    print(format_scores(api.evaluate_people(arguments.run, arguments.labels)))
    return 0


def evaluate_verification(arguments: argparse.Namespace) -> int:
    """LFW's verification protocol."""
    scores = api.evaluate_pairs(
        arguments.images,
        arguments.pairs,
        arguments.run,
        from_arguments(EmbedOptions, arguments),
        progress=Progress(),
    )
    print(format_scores(scores))
    return 0


def _print_people(run: Run, steps: Sequence[str]) -> None:
    manifest = run.directory.manifest()
    named = manifest.cluster and manifest.cluster.diagnostics
    uris = run.directory.find_uris(named.collage_photos) if named else {}
    print(format_summary(manifest, steps, uris))
    print(f"report        {run.report}")
