"""Where Beam pipelines run: on this machine's cores unless the user names a runner."""

import argparse
import contextlib
import io
import os
import re
import shlex
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner, create_runner

from facecluster.errors import JobError, UsageError
from facecluster.transforms.cores import usable_cores

# Below this many photos the start of worker processes costs more than they save.
PHOTOS_WORTH_PROCESSES = 400


SECONDS_BETWEEN_LOOKS = 1.0  # at a running pipeline
# A worker that is gone makes no sentence if Beam has one of its own within this time.
SECONDS_FOR_BEAMS_OWN_ERROR = 10.0
KILLED = re.compile(r"return code -\d+$")  # by a signal
WORKER_THREAD = "run_worker"  # Beam's name for a thread that waits for a worker process to end


class WorkerError(JobError):
    """A worker process ended before its work did."""


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
      UsageError: the arguments name a runner that cannot be had, or make no sense.
    """
    arguments = list(beam_arguments)
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
        raise UsageError(f"--direct_num_workers={n_workers} is less than 0, which takes all cores")
    n_workers = n_workers or cores
    mode = mode or ("multi_processing" if n_workers > 1 else "in_memory")
    arguments += [f"--direct_running_mode={mode}", f"--direct_num_workers={n_workers}"]
    # One process of many threads would leave the cores idle between its TensorFlow calls.
    threads = max(1, cores // n_workers) if mode == "multi_processing" else 0
    return Execution(LocalRunner(), PipelineOptions(arguments), n_workers, threads)


class LocalRunner(FnApiRunner):
    """Beam's local runner, whose worker processes end when this process does (see worker.py)."""

    def run_via_runner_api(self, pipeline_proto, options):
        words = [sys.executable, "-m", "facecluster.pipeline.beam.worker", str(os.getpid())]
        command = "exec " + shlex.join(words)  # without a shell between, the parent would be it
        for environment in pipeline_proto.components.environments.values():
            if environment.urn == python_urns.SUBPROCESS_SDK:
                environment.payload = command.encode()
        return super().run_via_runner_api(pipeline_proto, options)


def run_pipeline(pipeline: beam.Pipeline, check: Callable[[], None] = lambda: None) -> None:
    """Runs a pipeline to its end.

    Beam's local runner waits for ever for a worker process that was killed. So the pipeline runs in
    a thread, and who calls this looks after its workers.

    Args:
      check: called every second; what it raises ends the job.

    Raises:
      WorkerError: a worker process was lost.
      Exception: what Beam raised.
    """
    results, errors = [], []

    def run() -> None:
        try:
            results.append(pipeline.run())
            results[0].wait_until_finish()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="pipeline", daemon=True)
    with _lost_workers() as lost:
        try:
            thread.start()
            while thread.is_alive():
                thread.join(SECONDS_BETWEEN_LOOKS)
                check()
                if lost:
                    thread.join(SECONDS_FOR_BEAMS_OWN_ERROR)
                    break
        except BaseException:
            if results and thread.is_alive():  # on a cluster, where it would go on without us
                results[0].cancel()
            raise
    killed = [said for said in lost if KILLED.search(said)]
    if thread.is_alive() or (errors and killed):  # Beam's error is that it was disconnected
        raise WorkerError(
            f"a worker process ended in the middle of its work ({(killed or lost)[0]}); it may "
            "have been killed for want of memory: the same command goes on, with fewer processes "
            "if --direct_num_workers says so"
        )
    if errors:
        raise errors[0]


@contextlib.contextmanager
def _lost_workers() -> Iterator[list[str]]:
    """A list that fills with what Beam's threads say of worker processes that did not end well."""
    lost: list[str] = []
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if args.thread is not None and args.thread.name == WORKER_THREAD:
            lost.append(str(args.exc_value))
        before(args)

    threading.excepthook = hook
    try:
        yield lost
    finally:
        threading.excepthook = before


def known_beam_options(arguments: Sequence[str]) -> dict:
    """What Beam understands of the arguments, as far as it differs from Beam's defaults.

    Raises:
      UsageError: Beam does not know one of them, and no runner is named that might; or one has a
        value that Beam refuses.
    """
    refusal = io.StringIO()
    try:
        with contextlib.redirect_stderr(refusal):  # or Beam prints the usage of all its options
            options = PipelineOptions(list(arguments))
            known = options.get_all_options()
            given = options.get_all_options(drop_default=True, retain_unknown_options=True)
    except SystemExit as error:
        raise UsageError(refusal.getvalue().rpartition("error: ")[2].strip()) from error
    strange = _values_of_nothing(arguments)
    strange += [_as_typed(name, arguments) for name in given if name not in known]
    if strange and not given.get("runner"):
        raise UsageError(f"unknown argument {strange[0]}: neither facecluster nor Beam has it")
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
