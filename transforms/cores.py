"""The cores that this process may use, and threads on them."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_threads(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    initializer: Callable[[], object] = lambda: None,
) -> Iterator[Result]:
    """The function's results in order, computed by one thread per core.

    Meanwhile, matrix products use one thread each. `initializer` is called in each thread.
    """
    pool = ThreadPoolExecutor(usable_cores(), initializer=initializer)
    with threadpool_limits(1), pool:
        yield from pool.map(function, items)
