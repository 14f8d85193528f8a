"""Where Beam pipelines run: on this machine's cores unless the user names a runner."""

import argparse
import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner, create_runner

from facecluster.transforms.cores import usable_cores

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
    """The user's runner if the Beam arguments name one; else this machine with all its cores.

    Raises:
      OptionError: the arguments name a runner that cannot be had, or make no sense.
    """
    arguments = list(beam_arguments)
    given = known_beam_options(arguments)
    if given.get("runner"):
        try:
            runner = create_runner(given["runner"])
        except (ValueError, ImportError, AttributeError) as error:
            raise OptionError(f"--runner={given['runner']}: {error}") from error
        return Execution(runner, PipelineOptions(arguments), n_workers=1, threads=0)
    cores = usable_cores()
    local = _local_options(arguments)
    mode, n_workers = local.direct_running_mode, local.direct_num_workers
    if n_workers is None:
        worth_it = n_photos >= PHOTOS_WORTH_PROCESSES and mode != "in_memory"
        n_workers = cores if worth_it else 1
    elif n_workers < 0:
        raise OptionError(f"--direct_num_workers={n_workers} is less than 0, which takes all cores")
    n_workers = n_workers or cores
    mode = mode or ("multi_processing" if n_workers > 1 else "in_memory")
    arguments += [f"--direct_running_mode={mode}", f"--direct_num_workers={n_workers}"]
    # One process of many threads would leave the cores idle between its TensorFlow calls.
    threads = max(1, cores // n_workers) if mode == "multi_processing" else 0
    return Execution(FnApiRunner(), PipelineOptions(arguments), n_workers, threads)


def known_beam_options(arguments: Sequence[str]) -> dict:
    """What Beam understands of the arguments, as far as it differs from Beam's defaults.

    Raises:
      OptionError: Beam does not know one of them, and no runner is named that might; or one has a
        value that Beam refuses.
    """
    refusal = io.StringIO()
    try:
        with contextlib.redirect_stderr(refusal):  # or Beam prints the usage of all its options
            options = PipelineOptions(list(arguments))
            known = options.get_all_options()
            given = options.get_all_options(drop_default=True, retain_unknown_options=True)
    except SystemExit as error:
        raise OptionError(refusal.getvalue().rpartition("error: ")[2].strip()) from error
    strange = _values_of_nothing(arguments)
    strange += [_as_typed(name, arguments) for name in given if name not in known]
    if strange and not given.get("runner"):
        raise OptionError(f"unknown argument {strange[0]}: neither facecluster nor Beam has it")
    return given


def _local_options(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a local run, None where not given; Beam does not tell that from a default."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--direct_num_workers", type=int)
    parser.add_argument("--direct_running_mode")
    return parser.parse_known_args(arguments)[0]


def _as_typed(name: str, arguments: Sequence[str]) -> str:
    """An option of Beam's name for it, in which dashes are underscores."""
    typed = (argument.partition("=")[0] for argument in arguments)
    return next((t for t in typed if t.lstrip("-").replace("-", "_") == name), f"--{name}")


def _values_of_nothing(arguments: Sequence[str]) -> list[str]:
    """Arguments that are neither an option nor stand behind one; Beam would drop them silently."""
    before = ["", *arguments]
    return [
        argument
        for previous, argument in zip(before, arguments, strict=False)
        if not argument.startswith("-") and ("=" in previous or not previous.startswith("-"))
    ]
