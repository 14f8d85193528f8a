"""Beam counters and timings of the steps, shown by every runner and read from a job's result.

All are in the namespace `facecluster`. Outside a Beam worker nothing is reported.

| counter | counts |
|---|---|
| `photos_read` | photos whose bytes were read |
| `photos_decoded` | photos whose pixels were decoded |
| `photos_failed_<step>` | photos that failed in a step: read, decode, detect, align, embed |
| `faces_found` | faces that were detected |
| `faces_embedded` | faces that have an embedding |

The distributions `<stage>_milliseconds` (read, decode, detect, align, embed, write) hold the time
of each photo, batch or shard that a stage handled.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

Item = TypeVar("Item")

NAMESPACE = "facecluster"


def count(name: str, n: int = 1) -> None:
    """Adds n to a counter."""
    _counter(name).inc(n)


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """Adds the milliseconds that its block takes to a stage's distribution, also if it raises.

    The block must not contain a `yield`, which would add the time of all later steps: a generator
    is timed by `timed_items`.
    """
    start = time.perf_counter()
    try:
        yield
    finally:
        _add_time(stage, time.perf_counter() - start)


def timed_items(stage: str, items: Iterable[Item]) -> Iterator[Item]:
    """Yields the items, and adds the milliseconds that each took to a stage's distribution."""
    start = time.perf_counter()
    for item in items:
        _add_time(stage, time.perf_counter() - start)
        yield item
        start = time.perf_counter()


def _add_time(stage: str, seconds: float) -> None:
    _distribution(f"{stage}_milliseconds").update(round(1000 * seconds))


# Beam takes more than a second to import. The steps are used without it, too.
@cache
def _counter(name: str):
    from apache_beam.metrics.metric import Metrics

    return Metrics.counter(NAMESPACE, name)


@cache
def _distribution(name: str):
    from apache_beam.metrics.metric import Metrics

    return Metrics.distribution(NAMESPACE, name)
