"""Chooses where a Beam pipeline runs: on this machine's cores unless the user names a runner."""

import argparse
import contextlib
import io
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner, create_runner

from facecluster.errors import UsageError
from facecluster.pipeline.beam.option_names import stray_values, with_beam_names
from facecluster.transforms.cores import available_memory, usable_cores

logger = logging.getLogger(__name__)

# With fewer photos, starting worker processes takes longer than they save.
PHOTOS_WORTH_PROCESSES = 400
# What a worker process that embeds photos needs with its decoder. On LFW it was 1.2 GiB; larger
# photos need more.
PHOTO_WORKER_BYTES = 3 << 29


@dataclass(frozen=True)
class Execution:
    """A runner with its options.

    Attributes:
      n_workers: number of processes on this machine; 1 if a cluster does the work.
      threads: TensorFlow threads of each process; 0 for TensorFlow's own choice.
    """

    runner: PipelineRunner
    options: PipelineOptions
    n_workers: int
    threads: int


def choose_execution(
    beam_arguments: Sequence[str],
    n_photos: int,
    n_tasks: int | None = None,
    worker_bytes: int = PHOTO_WORKER_BYTES,
) -> Execution:
    """The runner that the Beam arguments name, otherwise this machine with all its cores.

    On this machine there are never more processes than tasks, nor than memory has room for, however
    many the Beam arguments ask for; that some are left out is logged.

    Args:
      beam_arguments: options for Beam, as on its command line.
      n_photos: photos in the job; with few, a job on this machine runs in this process unless the
        Beam arguments say otherwise.
      n_tasks: parts of the job that processes can work on at the same time, None for many.
      worker_bytes: memory that a process needs.

    Raises:
      UsageError: the runner is not installed, or an argument is unknown or has a wrong value.
    """
    arguments = with_beam_names(beam_arguments)
    given = known_beam_options(arguments)
    if given.get("runner"):
        try:
            runner = create_runner(given["runner"])
        except (ValueError, ImportError, AttributeError) as error:
            raise UsageError(f"--runner={given['runner']}: {error}") from error
        return Execution(runner, PipelineOptions(arguments), n_workers=1, threads=0)
    cores = usable_cores()
    local = _local_options(arguments)
    mode, n_workers = local.direct_running_mode, local.direct_num_workers
    if n_workers is None:
        worth_it = n_photos >= PHOTOS_WORTH_PROCESSES and mode != "in_memory"
        n_workers = cores if worth_it else 1
    elif n_workers < 0:
        raise UsageError(f"--direct_num_workers={n_workers} is negative: 0 takes all cores")
    n_workers = n_workers or cores
    if n_tasks is not None:
        n_workers = _lower(n_workers, n_tasks, f"the parts of the work are {n_tasks:,}")
    memory = available_memory()
    if memory is not None and mode in (None, "multi_processing"):
        n_workers = _lower(
            n_workers,
            memory // worker_bytes,
            f"{memory >> 20:,} MiB are available and each needs {worker_bytes >> 20:,} MiB",
        )
    mode = mode or ("multi_processing" if n_workers > 1 else "in_memory")
    arguments += [f"--direct_running_mode={mode}", f"--direct_num_workers={n_workers}"]
    # A single process with many threads leaves the cores idle between its TensorFlow calls.
    threads = max(1, cores // n_workers) if mode == "multi_processing" else 0
    return Execution(LocalRunner(), PipelineOptions(arguments), n_workers, threads)


def _lower(n_workers: int, most: int, why: str) -> int:
    """The number of workers, at most `most` but at least 1; logs if it is lowered."""
    most = max(1, most)
    if n_workers > most:
        logger.warning("workers are %d, not %d: %s", most, n_workers, why)
    return min(n_workers, most)


class LocalRunner(FnApiRunner):
    """Beam's local runner, whose worker processes end when this process does (see worker.py)."""

    def run_via_runner_api(self, pipeline_proto, options):
        words = [sys.executable, "-m", "facecluster.pipeline.beam.worker", str(os.getpid())]
        command = "exec " + shlex.join(words)  # exec: the worker's parent must not be a shell
        for environment in pipeline_proto.components.environments.values():
            if environment.urn == python_urns.SUBPROCESS_SDK:
                environment.payload = command.encode()
        return super().run_via_runner_api(pipeline_proto, options)


def known_beam_options(arguments: Sequence[str]) -> dict:
    """Parses Beam's arguments.

    Returns:
      The options that differ from Beam's defaults.

    Raises:
      UsageError: Beam refuses a value, or does not know an argument and no runner is named that
        might know it.
    """
    arguments, message = with_beam_names(arguments), io.StringIO()
    try:
        with contextlib.redirect_stderr(message):  # Beam prints the usage of all its options
            options = PipelineOptions(arguments)
            known = options.get_all_options()
            given = options.get_all_options(drop_default=True, retain_unknown_options=True)
    except SystemExit as error:
        refused = message.getvalue().rpartition("error: ")[2].strip()
        raise UsageError(refused.removeprefix("argument ")) from error
    unknown = stray_values(arguments)
    unknown += [_as_typed(name, arguments) for name in given if name not in known]
    if unknown and not given.get("runner"):
        raise UsageError(f"unknown argument {unknown[0]}: neither facecluster nor Beam has it")
    return given


def _local_options(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a local run, None if not given, which Beam's own parser does not show."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--direct_num_workers", type=int)
    parser.add_argument("--direct_running_mode")
    return parser.parse_known_args(arguments)[0]


def _as_typed(name: str, arguments: Sequence[str]) -> str:
    """An option as the user typed it, from Beam's name for it, which has underscores."""
    typed = (argument.partition("=")[0] for argument in arguments)
    return next((t for t in typed if t.lstrip("-").replace("-", "_") == name), f"--{name}")
