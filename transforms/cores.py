"""The cores and the memory that this process may use, and threads on the cores."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory that may still be used; None where the system does not tell: only Linux does.

    In a container this can be less than the machine has left: what counts is the least of what the
    machine has available and what each control group of this process leaves up to its limit, where
    pages of files that can be dropped are free.

    Args:
      root: the folder of proc/ and sys/.
    """
    try:
        machine = _read_table(root / "proc" / "meminfo")["MemAvailable"] << 10
    except (OSError, KeyError, ValueError):
        return None
    return max(0, min([machine, *_left_by_groups(root)]))


def _left_by_groups(root: Path) -> Iterator[int]:
    """What each control group that this process is in leaves, of version 1 and of version 2."""
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        limit_name, usage_name, droppable_name = names
        group = PurePosixPath(path.lstrip("/"))
        for folder in (mount / part for part in (group, *group.parents)):
            # In a container the path may be that on the host, of which only the top is visible.
            with contextlib.suppress(OSError, KeyError, ValueError):  # "max" is no number: no limit
                limit = int((folder / limit_name).read_text())
                usage = int((folder / usage_name).read_text())
                yield limit - usage + _read_table(folder / "memory.stat")[droppable_name]


def _read_table(path: Path) -> dict[str, int]:
    """The numbers of a file with lines such as `MemFree:  123 kB`, by name."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1}


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
