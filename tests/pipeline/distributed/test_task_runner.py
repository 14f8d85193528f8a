"""Tasks run once each, on as many processes as the collection is worth."""

import os
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pytest
from threadpoolctl import threadpool_info

from facecluster.pipeline.beam import runner
from facecluster.pipeline.distributed import task_runner
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


def processes_of(work, n_faces, beam_arguments=(), n_tasks=8):
    """{process id: the threads that its libraries may use} of the processes that run tasks."""
    names = [str(number) for number in range(n_tasks)]
    TaskRunner(work, beam_arguments, n_faces).run_tasks("processes", RecordProcess(work), names)
    files = work.read_all("processes", names)
    return {int(file["pid"]): int(file["threads"]) for file in files}


@pytest.fixture
def cores(monkeypatch):
    """Sets the number of cores that may be used."""

    def use(n_cores):
        for module in (runner, task_runner):
            monkeypatch.setattr(module, "usable_cores", lambda: n_cores)

    return use


@pytest.mark.parametrize(("n_cores", "n_tasks", "n_threads"), [(2, 8, 1), (4, 2, 2)])
def test_a_large_collection_is_grouped_by_all_cores(tmp_path, cores, n_cores, n_tasks, n_threads):
    """In as many processes as there are cores or tasks, which share the cores."""
    cores(n_cores)
    processes = processes_of(WorkFolder(str(tmp_path)), MANY, n_tasks=n_tasks)
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert max(processes.values()) <= n_threads


@pytest.mark.parametrize(("n_faces", "n_tasks"), [(FEW, 8), (MANY, 1)])
def test_a_small_collection_or_a_single_task_needs_no_processes(tmp_path, cores, n_faces, n_tasks):
    cores(2)
    processes = processes_of(WorkFolder(str(tmp_path)), n_faces, n_tasks=n_tasks)
    assert processes.keys() == {os.getpid()}


@pytest.mark.parametrize("argument", ["--direct_num_workers=1", "--direct_running_mode=in_memory"])
def test_the_user_can_choose_another_number_of_processes(tmp_path, cores, argument):
    cores(2)
    processes = processes_of(WorkFolder(str(tmp_path)), MANY, [argument])
    assert processes.keys() == {os.getpid()}
