"""A pipeline ends with its metrics or with one line, whatever happens to its workers."""

import os
import signal
import subprocess
import sys
import time

import apache_beam as beam
import pytest

from facecluster.errors import JobError, UsageError
from facecluster.pipeline.beam import run
from facecluster.pipeline.beam.run import (
    JobMetrics,
    WorkerError,
    error_line,
    job_metrics,
    run_pipeline,
)
from facecluster.pipeline.beam.runner import choose_execution

ONE_PROCESS, TWO_PROCESSES = ["--direct_num_workers=1"], ["--direct_num_workers=2"]
SECONDS_BEFORE_HANGING = 120  # what takes longer is taken for a job that hangs


def run_map(function, arguments=TWO_PROCESSES, n=4, **keywords) -> JobMetrics:
    """Calls a function with each of n numbers on Beam's workers."""

    def build(pipeline: beam.Pipeline) -> None:
        _ = pipeline | beam.Create(range(n)) | beam.Reshuffle() | beam.Map(function)

    return run_pipeline(choose_execution(arguments, 1), build, **keywords)


def wait_until(condition) -> None:
    deadline = time.monotonic() + SECONDS_BEFORE_HANGING
    while not condition():
        assert time.monotonic() < deadline, "it hangs"
        time.sleep(0.05)


# ---- errors ----


# Beam's threads end with errors when a worker does.
ends_threads = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@ends_threads
def test_a_killed_worker_ends_the_job_with_a_sentence():
    def kill_itself(number):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerError, match="return code -9"):
        run_map(kill_itself)


@ends_threads
def test_a_worker_that_does_not_start_ends_the_job_too(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setattr(run, "SECONDS_FOR_BEAM_ERROR", 1.0)
    with pytest.raises(WorkerError, match="return code 1"):
        run_map(str)


@ends_threads
@pytest.mark.parametrize("arguments", [ONE_PROCESS, TWO_PROCESSES])
def test_an_error_on_a_worker_becomes_one_line(arguments):
    def fail(number):
        raise ValueError(f"no {number}\nof these")

    with pytest.raises(JobError, match=r"^(ValueError: )?no \d of these$"):
        run_map(fail, arguments)


def test_an_error_of_facecluster_on_a_worker_becomes_a_job_error():
    def fail(number):
        raise UsageError("not this way")

    with pytest.raises(JobError, match=r"^not this way$"):
        run_map(fail, ONE_PROCESS)


def test_an_error_in_building_becomes_one_line():
    def build(pipeline):
        _ = pipeline | "Twice" >> beam.Create([1]) | "Twice" >> beam.Create([2])

    with pytest.raises(JobError) as failed:
        run_pipeline(choose_execution(ONE_PROCESS, 1), build)
    assert "Twice" in str(failed.value)
    assert "\n" not in str(failed.value)


def test_options_that_a_runner_lacks_become_one_line():
    execution = choose_execution(["--runner=DataflowRunner"], 1)
    with pytest.raises(JobError, match="project") as failed:
        run_pipeline(execution, lambda pipeline: None)
    assert "\n" not in str(failed.value)


def test_errors_of_facecluster_are_raised_as_they_are():
    def build(pipeline):
        raise UsageError("not this way")

    with pytest.raises(UsageError, match="not this way"):
        run_pipeline(choose_execution(ONE_PROCESS, 1), build)


TRACEBACK = """Error processing instruction bundle_3. Original traceback is
Traceback (most recent call last):
  File "worker.py", line 1, in process
    return function(element)
OSError: disk full

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "common.py", line 1448, in apache_beam.runners.common.DoFnRunner.process
{message}
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "ValueError"),
        (" \n ", "ValueError"),
        ("no such runner", "no such runner"),
        ("two\nlines", "two lines"),
        (TRACEBACK.format(message="KeyError: 'a' [while running 'Decode']"), "KeyError: 'a'"),
        (
            TRACEBACK.format(message="OSError: a\nb [while running 'A'] [while running 'B/C']\n"),
            "OSError: a b",
        ),
    ],
)
def test_error_lines(text, line):
    assert error_line(ValueError(text)) == line
    assert error_line(JobError(line)) == line


# ---- ending a job ----


def test_a_job_can_be_ended_while_it_runs(tmp_path):
    started, released, ended = (str(tmp_path / name) for name in ("started", "released", "ended"))

    def wait_for_release(number):
        import os
        import time

        open(started, "w").close()
        while not os.path.exists(released):
            time.sleep(0.05)
        open(ended, "w").close()

    def check():
        if os.path.exists(started):
            raise KeyError("enough")

    try:
        with pytest.raises(JobError, match="enough"):
            run_map(wait_for_release, ONE_PROCESS, n=1, check=check)
        assert not os.path.exists(ended)
    finally:
        open(released, "w").close()
    wait_until(lambda: os.path.exists(ended))


def test_a_check_may_raise_an_error_of_facecluster():
    class TooMany(JobError):
        pass

    def check():
        raise TooMany("enough")

    with pytest.raises(TooMany, match="enough"):
        run_map(str, ONE_PROCESS, check=check)


JOB = """
import sys
import apache_beam as beam
from facecluster.pipeline.beam.run import run_pipeline
from facecluster.pipeline.beam.runner import choose_execution

def wait(number, folder=sys.argv[1]):
    import os, time
    open(os.path.join(folder, str(os.getpid())), "w").close()
    time.sleep(600)

def build(pipeline):
    _ = pipeline | beam.Create(range(4)) | beam.Reshuffle() | beam.Map(wait)

run_pipeline(choose_execution(["--direct_num_workers=2"], 1), build)
"""


def test_workers_end_with_a_job_that_is_killed(tmp_path):
    job = subprocess.Popen([sys.executable, "-c", JOB, str(tmp_path)], stderr=subprocess.DEVNULL)

    def have_both_started() -> bool:
        assert job.poll() is None
        return len(os.listdir(tmp_path)) == 2

    wait_until(have_both_started)
    job.send_signal(signal.SIGKILL)
    job.wait()
    workers = [int(name) for name in os.listdir(tmp_path)]
    wait_until(lambda: not any(map(is_running, workers)))


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


# ---- metrics ----


def count_and_time(number):
    import time

    from facecluster.transforms.metrics import count, timed

    with timed("decode"):
        time.sleep(0.002)
    count("photos_read")
    count("faces_found", number)


@pytest.mark.parametrize("arguments", [ONE_PROCESS, TWO_PROCESSES, ["--runner=DirectRunner"]])
def test_metrics_of_all_workers_and_steps_are_added_up(arguments):
    def build(pipeline: beam.Pipeline) -> None:
        numbers = pipeline | beam.Create(range(50)) | beam.Reshuffle()
        _ = numbers | "One" >> beam.Map(count_and_time)
        _ = numbers | "Other" >> beam.Map(count_and_time)

    metrics = run_pipeline(choose_execution(arguments, 1), build)
    assert metrics.counters == {"photos_read": 100, "faces_found": 2 * sum(range(50))}
    assert metrics.stage_milliseconds.keys() == {"decode"}
    assert metrics.stage_milliseconds["decode"] >= 2 * 100


def test_a_pipeline_without_metrics_has_none():
    assert run_map(str, ONE_PROCESS) == JobMetrics()


def test_a_runner_that_reports_no_metrics_is_no_error():
    class Result:
        def metrics(self):
            raise NotImplementedError

    assert job_metrics(Result()) == JobMetrics()
