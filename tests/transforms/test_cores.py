"""The memory that this process may use: the least of what the machine and its groups leave."""

from pathlib import Path

import pytest

from facecluster.transforms.cores import available_memory

GIB = 1 << 30


@pytest.fixture
def system(tmp_path):
    """Writes files below a root folder, and returns the root."""

    def write(**files: str) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    write(
        **{"proc/meminfo": f"MemTotal: {32 << 20} kB\nMemAvailable: {16 << 20} kB\nHugePages: 0\n"}
    )
    return write


def test_without_groups_it_is_what_the_machine_has_available(system):
    assert available_memory(system()) == 16 * GIB


def test_a_system_that_does_not_tell_has_no_limit(tmp_path):
    assert available_memory(tmp_path) is None


def test_a_group_of_version_2_and_those_above_it_limit(system):
    root = system(**{
        "proc/self/cgroup": "0::/jobs/mine\n",
        "sys/fs/cgroup/memory.stat": "inactive_file 0\n",  # the top has no limit of its own
        "sys/fs/cgroup/jobs/memory.max": str(8 * GIB),
        "sys/fs/cgroup/jobs/memory.current": str(5 * GIB),
        "sys/fs/cgroup/jobs/memory.stat": f"anon 1\ninactive_file {GIB}\n",
        "sys/fs/cgroup/jobs/mine/memory.max": "max\n",
        "sys/fs/cgroup/jobs/mine/memory.current": "1\n",
    })  # fmt: skip
    assert available_memory(root) == 4 * GIB  # of which 1 GiB holds pages that can be dropped
    system(**{"sys/fs/cgroup/jobs/memory.max": str(2 * GIB)})
    assert available_memory(root) == 0
    system(**{"sys/fs/cgroup/jobs/memory.max": str(100 * GIB)})
    assert available_memory(root) == 16 * GIB


def test_a_group_of_version_1_limits_by_the_top_that_a_container_sees(system):
    root = system(**{
        "proc/self/cgroup": "5:cpu,cpuacct:/\n4:memory:/docker/0123\n0::/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": str(4 * GIB),
        "sys/fs/cgroup/memory/memory.usage_in_bytes": str(3 * GIB),
        "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {GIB}\n",
    })  # fmt: skip
    assert available_memory(root) == 2 * GIB


def test_here_it_is_no_more_than_the_machine_has():
    memory = available_memory()
    if memory is not None:
        total = Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]
        assert 0 < memory <= int(total) << 10
