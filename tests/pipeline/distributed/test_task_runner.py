"""Tasks run once each, on as many processes as the collection is worth."""

import os
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pytest
from threadpoolctl import threadpool_info

from facecluster.pipeline.beam import runner
from facecluster.pipeline.distributed.task_runner import FACES_WORTH_PROCESSES, TaskRunner
from facecluster.pipeline.distributed.work_folder import WorkFolder

FEW, MANY = 100, FACES_WORTH_PROCESSES


@dataclass(frozen=True)
class Square:
    """A task that writes the square of its name; like all tasks, it can be pickled."""

    work: WorkFolder
    fails_at: str = ""

    def __call__(self, name):
        if name == self.fails_at:
            raise ValueError(f"cannot square {name}")
        count = len(self.work.names(f"calls/{name}"))
        self.work.write(f"calls/{name}", str(count))
        self.work.write("squares", name, square=np.array(int(name) ** 2))


def test_tasks_are_done_once(tmp_path):
    work = WorkFolder(str(tmp_path))
    names = [str(number) for number in range(7)]
    TaskRunner(work, [], FEW).run_tasks("squares", Square(work), names[:3])
    TaskRunner(work, [], FEW).run_tasks("squares", Square(work), names)
    TaskRunner(work, [], FEW).run_tasks("squares", Square(work), names)
    TaskRunner(work, [], FEW).run_tasks("squares", Square(work), [])
    assert work.names("squares") == names
    assert [int(file["square"]) for file in work.read_all("squares", names)] == [
        0, 1, 4, 9, 16, 25, 36,
    ]  # fmt: skip
    assert [work.names(f"calls/{name}") for name in names] == [["0"]] * 7


def test_a_task_that_fails_is_done_again(tmp_path):
    work = WorkFolder(str(tmp_path))
    names = ["3", "4", "5"]
    with pytest.raises(Exception, match="cannot square 4"):
        TaskRunner(work, [], FEW).run_tasks("squares", Square(work, fails_at="4"), names)
    assert "4" not in work.names("squares")
    TaskRunner(work, [], FEW).run_tasks("squares", Square(work), names)
    assert work.names("squares") == names


def test_files_that_a_pipeline_has_not_written_are_an_error(tmp_path):
    """A runner may end a cancelled job without an error."""
    work = WorkFolder(str(tmp_path))
    work.write("a", "x")
    to_build = []

    def build(pipeline, missing, n_threads):
        to_build.extend(missing)
        _ = pipeline | beam.Create(missing)

    with pytest.raises(RuntimeError, match="2 of 3 tasks were not done"):
        TaskRunner(work, [], FEW).run_pipeline("a", build, ["x", "y", "z"])
    assert to_build == ["y", "z"]


# ---- processes and threads ----


@dataclass(frozen=True)
class RecordProcess:
    """A task that writes its process's id and the number of threads that its libraries may use."""

    work: WorkFolder

    def __call__(self, name):
        import faiss  # noqa: F401  its thread pools are what is limited

        n_threads = max(pool["num_threads"] for pool in threadpool_info())
        self.work.write("processes", name, pid=np.array(os.getpid()), threads=np.array(n_threads))


def processes_of(work, n_faces, beam_arguments=()):
    """{process id: the threads that its libraries may use} of eight tasks."""
    names = [str(number) for number in range(8)]
    TaskRunner(work, beam_arguments, n_faces).run_tasks("processes", RecordProcess(work), names)
    files = work.read_all("processes", names)
    return {int(file["pid"]): int(file["threads"]) for file in files}


def test_a_large_collection_is_grouped_by_a_process_per_core(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "usable_cores", lambda: 2)
    processes = processes_of(WorkFolder(str(tmp_path)), MANY)
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert set(processes.values()) == {1}  # two processes of two threads each would be too many


def test_a_small_collection_is_grouped_in_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "usable_cores", lambda: 2)
    assert processes_of(WorkFolder(str(tmp_path)), FEW).keys() == {os.getpid()}


def test_the_number_of_processes_can_be_chosen(tmp_path):
    work = WorkFolder(str(tmp_path))
    assert processes_of(work, MANY, ["--direct_num_workers=1"]).keys() == {os.getpid()}
