"""Where Beam pipelines run: on this machine's cores unless the user names a runner."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner, create_runner

# Below this many photos the start of worker processes costs more than they save.
PHOTOS_WORTH_PROCESSES = 400


class OptionError(Exception):
    """A command-line option that neither facecluster nor Beam knows."""


@dataclass(frozen=True)
class Execution:
    """A runner with its options.

    Attributes:
      n_workers: how many processes share the work on this machine; 1 where a cluster does it.
      threads: of each process for TensorFlow; 0 leaves it to TensorFlow.
    """

    runner: PipelineRunner
    options: PipelineOptions
    n_workers: int
    threads: int


def choose_execution(beam_arguments: Sequence[str], n_photos: int) -> Execution:
    """The user's runner if the Beam arguments name one; else this machine with all its cores."""
    arguments = list(beam_arguments)
    given = known_beam_options(arguments)
    cores = _cores()
    if given.get("runner"):
        options = PipelineOptions(arguments)
        return Execution(create_runner(given["runner"]), options, n_workers=1, threads=0)
    n_workers = given.get("direct_num_workers") or cores
    if "direct_num_workers" not in given and n_photos < PHOTOS_WORTH_PROCESSES:
        n_workers = 1
    mode = given.get("direct_running_mode") or (
        "multi_processing" if n_workers > 1 else "in_memory"
    )
    arguments += [f"--direct_running_mode={mode}", f"--direct_num_workers={n_workers}"]
    # One process of many threads would leave the cores idle between its TensorFlow calls.
    threads = max(1, cores // n_workers) if mode == "multi_processing" else 0
    return Execution(FnApiRunner(), PipelineOptions(arguments), n_workers, threads)


def known_beam_options(arguments: Sequence[str]) -> dict:
    """What Beam understands of the arguments.

    Raises:
      OptionError: Beam does not know one of them, and no runner is named that might.
    """
    options = PipelineOptions(list(arguments))
    known = options.get_all_options()
    given = options.get_all_options(drop_default=True, retain_unknown_options=True)
    strange = [f"--{name}" for name in given if name not in known]
    if arguments and not arguments[0].startswith("--"):
        strange.insert(0, arguments[0])
    if strange and not given.get("runner"):
        raise OptionError(f"unknown argument {strange[0]}: neither facecluster nor Beam has it")
    return given


def _cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
