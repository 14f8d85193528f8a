"""Measures work by function calls and memory, which unlike seconds do not depend on the load."""

import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def count_calls(function: Callable[..., Result], *arguments) -> tuple[Result, Counter]:
    """Calls a function; returns its result and the number of calls, of Python and C, by name.

    Only calls in the current thread are counted.
    """
    counts: Counter = Counter()

    def profile(frame, event, argument):
        if event == "call":
            counts[frame.f_code.co_name] += 1
        elif event == "c_call":
            counts[argument.__name__] += 1

    sys.setprofile(profile)
    try:
        result = function(*arguments)
    finally:
        sys.setprofile(None)
    return result, counts


def measure_peak_memory(function: Callable[..., Result], *arguments) -> tuple[Result, int]:
    """Calls a function three times; returns its result and the peak of allocated bytes.

    The peak is the lowest of the three, since other threads of the process allocate memory, too.
    """
    peaks = []
    for _ in range(3):
        tracemalloc.start()
        try:
            result = function(*arguments)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    return result, min(peaks)
