"""Counters and timings arrive in the result of a Beam pipeline."""

import subprocess
import sys
import time

import apache_beam as beam
import pytest
from apache_beam.metrics import MetricsFilter

from facecluster.transforms.metrics import NAMESPACE, count, timed


def handle(n: int) -> int:
    count("photos_read")
    count("faces_found", n)
    with timed("detect"):
        time.sleep(0.02)
    return n


def handle_and_fail(n: int) -> int:
    try:
        with timed("decode"):
            raise ValueError(n)
    except ValueError:
        return n


def metrics_of(function, elements) -> tuple[dict, dict]:
    """{name: value} of the counters and of the distributions of a pipeline's result."""
    with beam.Pipeline("DirectRunner") as pipeline:
        _ = pipeline | beam.Create(elements) | beam.Map(function)
    found = pipeline.result.metrics().query(MetricsFilter().with_namespace(NAMESPACE))
    return tuple(
        {metric.key.metric.name: metric.committed for metric in found[kind]}
        for kind in ("counters", "distributions")
    )


def test_counters_add_up_over_elements():
    counters, _ = metrics_of(handle, [1, 2, 4])
    assert counters == {"photos_read": 3, "faces_found": 7}


def test_a_timing_has_one_entry_per_block():
    _, distributions = metrics_of(handle, [1, 2, 4])
    assert distributions.keys() == {"detect_milliseconds"}
    timing = distributions["detect_milliseconds"]
    assert timing.count == 3
    assert timing.min >= 20
    assert timing.sum >= 60


def test_a_block_that_raises_is_timed():
    counters, distributions = metrics_of(handle_and_fail, [1, 2])
    assert counters == {}
    assert distributions["decode_milliseconds"].count == 2


def test_outside_of_a_pipeline_nothing_happens():
    assert handle(3) == 3
    with pytest.raises(KeyError), timed("detect"):
        raise KeyError


def test_importing_it_does_not_import_beam():
    program = (
        "import sys; import facecluster.transforms.metrics; assert 'apache_beam' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
