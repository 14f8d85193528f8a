"""Peak memory of the embed job with few and with many photos: it should be the same.

    python benchmarks/memory.py --photos FOLDER [--n 2000 8000]

Counts the resident memory of the command and all its worker processes together (/proc, so Linux
only), four times a second; memory that processes share is counted in each.
"""

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--n", type=int, nargs="+", default=[2000, 8000])
    arguments = parser.parse_args()
    every = sorted(path for path in arguments.photos.rglob("*") if path.suffix.lower() == ".jpg")
    first = None
    for n in arguments.n:
        with tempfile.TemporaryDirectory() as scratch:
            photos = Path(scratch, "photos")
            photos.mkdir()
            for i in range(n):
                (photos / f"{i}.jpg").symlink_to(every[i % len(every)].resolve())
            command = ["facecluster", "embed", "--input", str(photos), "--output", f"{scratch}/run"]
            peak = peak_memory(command)
            first = first or peak
            print(f"{n:8,} photos {peak / 2**20:8.0f} MiB at most, {peak / first:.2f} of the first")


def peak_memory(command: list[str]) -> int:
    """Bytes that the command and its descendants held at once, at most."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(resident(pid) for pid in tree(process.pid)))
        time.sleep(0.25)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return peak


def tree(root: int) -> set[int]:
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                status = Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            parents[int(entry)] = int(status.rpartition(")")[2].split()[1])
    found, grown = {root}, True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in found}
        grown = not children <= found
        found |= children
    return found


def resident(pid: int) -> int:
    try:
        return int(Path("/proc", str(pid), "statm").read_text().split()[1]) * os.sysconf(
            "SC_PAGE_SIZE"
        )
    except OSError:
        return 0


if __name__ == "__main__":
    main()
