"""Beam arguments choose where a job runs, and wrong ones are refused with a sentence."""

import os

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DirectOptions, StandardOptions
from apache_beam.runners.direct.direct_runner import SwitchingDirectRunner
from apache_beam.runners.portability.flink_runner import FlinkRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from facecluster.errors import UsageError
from facecluster.pipeline.beam import runner
from facecluster.pipeline.beam.runner import (
    PHOTO_WORKER_BYTES,
    PHOTOS_WORTH_PROCESSES,
    choose_execution,
    known_beam_options,
)

FEW, MANY = PHOTOS_WORTH_PROCESSES - 1, PHOTOS_WORTH_PROCESSES
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def local(execution) -> tuple[str, int]:
    options = execution.options.view_as(DirectOptions)
    return options.direct_running_mode, options.direct_num_workers


def test_few_photos_run_in_this_process():
    execution = choose_execution([], FEW)
    assert isinstance(execution.runner, FnApiRunner)
    assert local(execution) == ("in_memory", 1)
    assert (execution.n_workers, execution.threads) == (1, 0)


@pytest.mark.skipif(CORES < 2, reason="one core is one process")
def test_many_photos_run_on_all_cores(memory):
    execution = choose_execution([], MANY)
    assert isinstance(execution.runner, FnApiRunner)
    assert local(execution) == ("multi_processing", CORES)
    assert (execution.n_workers, execution.threads) == (CORES, 1)


@pytest.mark.parametrize("n_photos", [1, MANY])
@pytest.mark.parametrize(
    "arguments", [["--direct_num_workers={}"], ["--direct_num_workers", "{}"]], ids=["=", " "]
)
@pytest.mark.parametrize("n_workers", [1, 2, 5])
def test_the_users_number_of_workers_is_used(arguments, n_workers, n_photos, memory):
    execution = choose_execution([text.format(n_workers) for text in arguments], n_photos)
    mode = "multi_processing" if n_workers > 1 else "in_memory"
    assert local(execution) == (mode, n_workers)
    assert execution.n_workers == n_workers
    assert execution.threads == (max(1, CORES // n_workers) if n_workers > 1 else 0)


@pytest.fixture
def memory(monkeypatch):
    """Sets the memory that is available, bytes."""

    def have(n_bytes):
        monkeypatch.setattr(runner, "available_memory", lambda: n_bytes)

    have(1 << 50)
    return have


@pytest.mark.parametrize(("n_tasks", "n_workers"), [(0, 1), (1, 1), (3, 3), (1000, 999)])
def test_there_are_no_more_processes_than_tasks(n_tasks, n_workers, memory):
    execution = choose_execution(["--direct_num_workers=999"], MANY, n_tasks)
    mode = "multi_processing" if n_workers > 1 else "in_memory"
    assert local(execution) == (mode, n_workers)
    assert execution.n_workers == n_workers


@pytest.mark.parametrize(
    ("n_bytes", "n_workers"),
    [(None, 64), (0, 1), (PHOTO_WORKER_BYTES, 1), (3 * PHOTO_WORKER_BYTES - 1, 2), (1 << 50, 64)],
)
@pytest.mark.parametrize("arguments", [[], ["--direct_num_workers=64"], ["--direct_num_workers=0"]])
def test_there_are_no_more_processes_than_memory_has_room_for(
    arguments, n_bytes, n_workers, memory, monkeypatch, caplog
):
    monkeypatch.setattr(runner, "usable_cores", lambda: 64)
    memory(n_bytes)
    assert choose_execution(arguments, MANY).n_workers == n_workers
    assert bool(caplog.messages) == (n_workers < 64)
    assert not caplog.messages or f"workers are {n_workers}, not 64" in caplog.text


def test_threads_of_one_process_share_its_memory(memory):
    memory(0)
    arguments = ["--direct_running_mode=multi_threading", "--direct_num_workers=3"]
    assert local(choose_execution(arguments, MANY)) == ("multi_threading", 3)


def test_zero_workers_mean_one_for_each_core(memory):
    assert choose_execution(["--direct_num_workers=0"], FEW).n_workers == CORES


@pytest.mark.parametrize("n_photos", [FEW, MANY])
def test_the_users_mode_is_used(n_photos):
    execution = choose_execution(["--direct_running_mode=in_memory"], n_photos)
    assert local(execution) == ("in_memory", 1)
    assert execution.threads == 0
    arguments = ["--direct_running_mode=multi_threading", "--direct_num_workers=3"]
    execution = choose_execution(arguments, n_photos)
    assert local(execution) == ("multi_threading", 3)
    assert execution.threads == 0


@pytest.mark.parametrize(
    ("name", "kind"), [("DirectRunner", SwitchingDirectRunner), ("FlinkRunner", FlinkRunner)]
)
def test_the_users_runner_gets_the_arguments_as_they_are(name, kind):
    arguments = [f"--runner={name}", "--direct_num_workers=3", "--job_name=mine"]
    execution = choose_execution(arguments, MANY)
    assert type(execution.runner) is kind
    assert execution.options.view_as(StandardOptions).runner == name
    assert execution.options.get_all_options(drop_default=True) == {
        "runner": name,
        "direct_num_workers": 3,
        "job_name": "mine",
    }
    assert (execution.n_workers, execution.threads) == (1, 0)


def test_a_runner_may_have_options_of_its_own():
    assert known_beam_options(["--runner=FlinkRunner", "--its_own=1"])["runner"] == "FlinkRunner"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--nonsense=1"], "--nonsense"),
        (["--nonsense"], "--nonsense"),
        (["--direct_num_workers=2", "--nonsense", "1"], "--nonsense"),
        (["photos"], "photos"),
        (["--direct_num_workers=2", "photos"], "photos"),
        (["--direct_num_workers", "2", "photos"], "photos"),
        (["--direct_num_worker=2"], "--direct_num_worker"),
        (["-x"], "-x"),
    ],
)
def test_unknown_arguments(arguments, named):
    with pytest.raises(UsageError, match=f"unknown argument -?{named}: neither"):
        known_beam_options(arguments)
    with pytest.raises(UsageError, match=f"unknown argument -?{named}: neither"):
        choose_execution(arguments, FEW)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--direct_num_workers=many", "--direct_num_workers: invalid int value: 'many'"),
        ("--direct_num_workers=-1", "--direct_num_workers=-1 is negative"),
        ("--direct_running_mode=fast", "--direct_running_mode: invalid choice: 'fast'"),
        ("--runner=NoSuchRunner", "--runner=NoSuchRunner: .*Valid values are"),
        ("--runner=no.such.Runner", "--runner=no.such.Runner: "),
    ],
)
def test_wrong_values(argument, sentence, capfd):
    with pytest.raises(UsageError, match=sentence) as raised:
        choose_execution([argument], FEW)
    assert "\n" not in str(raised.value)
    assert "usage" not in capfd.readouterr().err


def test_known_options_are_returned():
    assert known_beam_options([]) == {}
    assert known_beam_options(["--job_name=mine"]) == {"job_name": "mine"}


def test_a_pipeline_runs_in_this_process(tmp_path):
    assert pids_of_workers(choose_execution([], FEW), tmp_path) == {os.getpid()}


def test_a_pipeline_runs_in_two_others(tmp_path):
    pids = pids_of_workers(choose_execution(["--direct_num_workers=2"], FEW), tmp_path)
    assert len(pids) == 2
    assert os.getpid() not in pids


def pids_of_workers(execution, folder) -> set[int]:
    folder = str(folder)

    def leave_pid(number):
        import os
        import time

        time.sleep(0.05)  # so that one worker does not take all elements
        open(os.path.join(folder, str(os.getpid())), "w").close()

    pipeline = beam.Pipeline(execution.runner, execution.options)
    _ = pipeline | beam.Create(range(40)) | beam.Reshuffle() | beam.Map(leave_pid)
    pipeline.run().wait_until_finish()
    return {int(name) for name in os.listdir(folder)}
