"""Arrays that the tasks of a job leave for each other, on any Beam file system."""

import io
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystems import FileSystems

from facecluster.pipeline.beam.run import run_pipeline
from facecluster.pipeline.beam.runner import choose_execution
from facecluster.transforms.tables.files import delete_folder, list_files, write_bytes

READERS = 16  # files read at a time: on a bucket most of the time is waiting
# numpy parses the heads of arrays by `ast`, which Python 3.11 sometimes fails at in several threads
# at once: SystemError "AST constructor recursion depth mismatch".
PARSING = threading.Lock()


@dataclass(frozen=True)
class WorkFolder:
    """A folder of .npz files, in folders of their own by kind; each is whole or not there."""

    root: str

    def begin(self, mark: str) -> None:
        """Empties the folder, unless it is one that was begun with the same mark."""
        if self.names("mark") != [mark]:
            self.remove()
            self.write("mark", mark)

    def path(self, *names: str) -> str:
        return FileSystems.join(self.root, *names)

    def write(self, kind: str, name: str, **arrays: np.ndarray) -> None:
        content = io.BytesIO()
        np.savez(content, **arrays)
        write_bytes(self.path(kind, f"{name}.npz"), content.getvalue())

    def read(self, kind: str, name: str) -> dict[str, np.ndarray]:
        with FileSystems.open(self.path(kind, f"{name}.npz")) as file:
            content = io.BytesIO(file.read())
        with PARSING, np.load(content) as arrays:
            return dict(arrays)

    def names(self, kind: str) -> list[str]:
        """What there is of a kind, sorted."""
        paths = list_files(self.path(kind), ".npz")
        return [FileSystems.split(path)[1].removesuffix(".npz") for path in paths]

    def read_all(self, kind: str, names: Sequence[str]) -> list[dict[str, np.ndarray]]:
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(lambda name: self.read(kind, name), names))

    def together(self, kind: str, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Several files of a kind, end to end."""
        parts = self.read_all(kind, names)
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def remove(self) -> None:
        """Removes it all; the mark first, or what a killed removal leaves would be gone on with."""
        delete_folder(self.path("mark"))
        delete_folder(self.root)


def run_tasks(
    work: WorkFolder,
    kind: str,
    task: Callable[[str], None],
    names: Sequence[str],
    beam_arguments: Sequence[str],
) -> None:
    """Calls `task` for each name on Beam's workers, but for those whose file is there.

    Args:
      work: where a task writes its file, as its last act.
      kind: of that file.
      task: can be pickled.
      names: what the tasks are called with; their files are named so.
      beam_arguments: options for Beam, as on its command line.
    """

    def spread(pipeline: beam.Pipeline, todo: list[str]) -> None:
        _ = (
            pipeline
            | "Names" >> beam.Create(todo)
            | "Spread" >> beam.Reshuffle()
            | "Do" >> beam.Map(task)
        )

    run_steps(work, kind, spread, names, beam_arguments)


def run_steps(
    work: WorkFolder,
    kind: str,
    build: Callable[[beam.Pipeline, list[str]], None],
    names: Sequence[str],
    beam_arguments: Sequence[str],
) -> None:
    """Runs a pipeline that writes files, if any of them is missing.

    Args:
      work: where the files are written.
      kind, names: of the files.
      build: puts steps that write the files of these names into the pipeline.
      beam_arguments: options for Beam, as on its command line.
    """
    done = set(work.names(kind))
    todo = [name for name in names if name not in done]
    if not todo:
        return
    execution = choose_execution(beam_arguments, 0)
    run_pipeline(execution, lambda pipeline: build(pipeline, todo))
    missing = set(names) - set(work.names(kind))
    if missing:  # a runner may end a cancelled job without an error
        raise RuntimeError(f"{len(missing)} of {len(names)} tasks were not done")
