"""Counters and timings arrive in the result of a Beam pipeline."""

import subprocess
import sys
from types import SimpleNamespace

import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from facecluster.transforms import metrics
from facecluster.transforms.metrics import NAMESPACE, count, timed, timed_items


class Clock:
    """A clock that stands still unless it is moved."""

    seconds = 0.0


def work(seconds: float) -> None:
    Clock.seconds += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(metrics, "time", SimpleNamespace(perf_counter=lambda: Clock.seconds))


def handle(n: int):
    count("photos_read")
    count("faces_found", n)
    with timed("detect"):
        work(0.02 * n)
    work(5)
    yield n


def handle_and_fail(n: int):
    try:
        with timed("decode"):
            work(0.03)
            raise ValueError(n)
    except ValueError:
        yield n


def generate(n: int):
    for i in range(n):
        work(0.04)
        yield i
    work(7)


def generate_timed(n: int):
    for i in timed_items("read", generate(n)):
        work(5)  # in the steps after it
        yield i


def metrics_of(function, elements) -> tuple[dict, dict]:
    """{name: value} of the counters and of the distributions of a pipeline's result."""
    pipeline = beam.Pipeline(FnApiRunner())
    _ = pipeline | beam.Create(elements) | beam.FlatMap(function)
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    return tuple(
        {metric.key.metric.name: metric.committed for metric in found[kind]}
        for kind in ("counters", "distributions")
    )


def test_counters_add_up_over_elements():
    counters, _ = metrics_of(handle, [1, 2, 4])
    assert counters == {"photos_read": 3, "faces_found": 7}


def test_a_timing_has_one_entry_per_block_and_no_other_time():
    _, distributions = metrics_of(handle, [1, 2, 4])
    assert distributions.keys() == {"detect_milliseconds"}
    timing = distributions["detect_milliseconds"]
    assert (timing.count, timing.min, timing.max, timing.sum) == (3, 20, 80, 140)


def test_a_block_that_raises_is_timed():
    counters, distributions = metrics_of(handle_and_fail, [1, 2])
    assert counters == {}
    timing = distributions["decode_milliseconds"]
    assert (timing.count, timing.sum) == (2, 60)


def test_a_generator_is_timed_item_by_item_without_its_consumers():
    _, distributions = metrics_of(generate_timed, [3, 0])
    timing = distributions["read_milliseconds"]
    assert (timing.count, timing.min, timing.max) == (3, 40, 40)


def test_outside_a_pipeline_nothing_is_reported():
    assert list(handle(3)) == [3]
    assert list(generate_timed(2)) == [0, 1]
    with pytest.raises(KeyError), timed("detect"):
        raise KeyError


def test_importing_it_does_not_import_beam():
    program = (
        "import sys; import facecluster.transforms.metrics; assert 'apache_beam' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
