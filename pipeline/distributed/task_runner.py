"""Runs the tasks of a job on Beam's workers, those that are not done yet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import apache_beam as beam
from threadpoolctl import threadpool_limits

from facecluster.pipeline.beam.option_names import with_beam_names
from facecluster.pipeline.beam.run import run_pipeline
from facecluster.pipeline.beam.runner import choose_execution
from facecluster.pipeline.distributed.work_folder import WorkFolder
from facecluster.transforms.cores import usable_cores

# With fewer faces, starting worker processes on this machine costs more than it saves: each of the
# job's nine pipelines starts its own, in some three seconds, and most of the minute or two that a
# million faces take (docs/results.md) is spent in FAISS, which uses all cores in one process too.
FACES_WORTH_PROCESSES = 1_000_000
# Options with which the user decides where tasks run.
EXECUTION_OPTIONS = ("--runner", "--direct_num_workers", "--direct_running_mode")


@dataclass(frozen=True)
class TaskRunner:
    """Runs tasks that each write one file, except for those whose file exists.

    Attributes:
      work: the folder that the files are written to.
      beam_arguments: options for Beam, as on its command line.
      n_faces: faces in the collection. Unless the Beam arguments say otherwise, tasks of a large
        collection run in one worker process per core of this machine, at most one per task; those
        of a small one run in this process.
      worker_bytes: memory that a worker process needs.
    """

    work: WorkFolder
    beam_arguments: Sequence[str]
    n_faces: int
    worker_bytes: int = 2 << 30

    def run_tasks(self, kind: str, task: Callable[[str], None], names: Sequence[str]) -> None:
        """Calls `task` with each name.

        Args:
          kind: of the file that a task writes as its last action, under the name it is called with.
          task: can be pickled.
          names: one per task.
        """

        def build(pipeline: beam.Pipeline, missing: list[str], n_threads: int) -> None:
            _ = (
                pipeline
                | "Names" >> beam.Create(missing)
                | "Distribute" >> beam.Reshuffle()
                | "Run task" >> beam.Map(_LimitedThreads(task, n_threads))
            )

        self.run_pipeline(kind, build, names)

    def run_pipeline(
        self,
        kind: str,
        build: Callable[[beam.Pipeline, list[str], int], None],
        names: Sequence[str],
    ) -> None:
        """Runs a pipeline that writes files, if any of them is missing.

        Args:
          kind, names: of the files.
          build: called with the pipeline, the names of the missing files and the number of threads
            that each worker process may use (0: no limit); adds the steps that write these files.

        Raises:
          RuntimeError: the pipeline did not write all files.
        """
        done = set(self.work.names(kind))
        missing = [name for name in names if name not in done]
        if not missing:
            return
        execution = choose_execution(self._arguments(), 0, len(missing), self.worker_bytes)
        run_pipeline(execution, lambda pipeline: build(pipeline, missing, execution.threads))
        not_done = set(names) - set(self.work.names(kind))
        if not_done:  # a runner may end a cancelled job without an error
            raise RuntimeError(f"{len(not_done)} of {len(names)} tasks were not done")

    def _arguments(self) -> list[str]:
        """The Beam arguments, with the number of worker processes if they leave it open."""
        arguments = with_beam_names(self.beam_arguments)
        is_chosen = any(argument.startswith(EXECUTION_OPTIONS) for argument in arguments)
        if is_chosen or self.n_faces < FACES_WORTH_PROCESSES:
            return arguments
        return [*arguments, f"--direct_num_workers={usable_cores()}"]


@dataclass(frozen=True)
class _LimitedThreads:
    """A task whose libraries (FAISS, BLAS) use a limited number of threads; 0: no limit."""

    task: Callable[[str], None]
    n_threads: int

    def __call__(self, name: str) -> None:
        with threadpool_limits(self.n_threads or None):
            self.task(name)
