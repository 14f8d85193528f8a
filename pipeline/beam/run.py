"""Runs a Beam pipeline to its end, watches its worker processes and describes its errors."""

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import apache_beam as beam
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.runners.runner import PipelineResult

from facecluster.errors import FaceclusterError, JobError
from facecluster.pipeline.beam.runner import Execution
from facecluster.transforms.metrics import NAMESPACE

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_CHECKS = 1.0  # of a running pipeline
SECONDS_FOR_BEAM_ERROR = 10.0  # how long Beam may take to raise its own error for a lost worker
KILLED = re.compile(r"return code -\d+$")  # by a signal
WORKER_THREAD = "run_worker"  # Beam's name for a thread that waits for a worker process to end
MILLISECONDS = "_milliseconds"


class WorkerError(JobError):
    """A worker process ended before its work did."""


@dataclass(frozen=True)
class JobMetrics:
    """The metrics of a finished pipeline that `transforms/metrics.py` names, of all its workers.

    Attributes:
      counters: value by name.
      stage_milliseconds: time by stage, added up over all processes and threads.
    """

    counters: dict[str, int] = field(default_factory=dict)
    stage_milliseconds: dict[str, int] = field(default_factory=dict)


def run_pipeline(
    execution: Execution,
    build: Callable[[beam.Pipeline], None],
    check: Callable[[], None] = lambda: None,
) -> JobMetrics:
    """Builds a pipeline and runs it to its end.

    Beam's local runner waits forever for a worker process that was killed. So the pipeline runs in
    a thread, and the calling thread watches its workers.

    Args:
      execution: where it runs.
      build: adds the steps to the pipeline.
      check: called every second; an error that it raises ends the job.

    Raises:
      WorkerError: a worker process was lost.
      FaceclusterError: `build` or `check` raised it.
      JobError: a step failed, or Beam did; the message is one line.
    """
    try:
        pipeline = beam.Pipeline(execution.runner, execution.options)
        build(pipeline)
        return job_metrics(_run_watched(pipeline, check))
    except FaceclusterError:
        raise
    except Exception as error:
        raise JobError(error_line(error)) from error


def error_line(error: BaseException) -> str:
    """An error in one line, without the tracebacks and step names that Beam puts into its text."""
    text = re.sub(r"\[while running '[^']*'\]", "", str(error))
    between_frames = re.split(r"^  .*$", text, flags=re.MULTILINE)  # a traceback's are indented
    messages = [" ".join(part.split()) for part in between_frames if part.strip()]
    return messages[-1] if messages else type(error).__name__


def job_metrics(result: PipelineResult) -> JobMetrics:
    """The metrics of a pipeline's result; none where its runner does not report them."""
    counters: dict[str, int] = {}
    stages: dict[str, int] = {}
    try:
        found = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    except Exception:
        logger.warning("the runner reports no metrics", exc_info=True)
        return JobMetrics()
    for metric in found["counters"]:  # one for each step that updates it
        name = metric.key.metric.name
        counters[name] = counters.get(name, 0) + metric.result
    for metric in found["distributions"]:
        stage = metric.key.metric.name.removesuffix(MILLISECONDS)
        stages[stage] = stages.get(stage, 0) + metric.result.sum
    return JobMetrics(counters, stages)


def _run_watched(pipeline: beam.Pipeline, check: Callable[[], None]) -> PipelineResult:
    results: list[PipelineResult] = []
    errors: list[BaseException] = []

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
                thread.join(SECONDS_BETWEEN_CHECKS)
                check()
                if lost:
                    thread.join(SECONDS_FOR_BEAM_ERROR)
                    break
        except BaseException:
            if results and thread.is_alive():  # on a cluster, where it would continue
                results[0].cancel()
            raise
    killed = [message for message in lost if KILLED.search(message)]
    # Beam's own error for a killed worker is a lost connection, which does not say why.
    if thread.is_alive() or (errors and killed):
        raise WorkerError(
            f"a worker process ended in the middle of its work ({(killed or lost)[0]}), perhaps "
            "because memory ran out: run the same command again to continue, with fewer processes "
            "(--direct_num_workers) if memory is short"
        )
    if errors:
        raise JobError(error_line(errors[0])) from errors[0]
    return results[0]


@contextlib.contextmanager
def _lost_workers() -> Iterator[list[str]]:
    """A list that receives the errors of Beam's threads whose worker process failed."""
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
