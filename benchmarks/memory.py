"""Measures the embed job's peak memory for few and for many photos; it should be the same.

    python benchmarks/memory.py --photos FOLDER [--n 2000 8000]

Four times a second, adds up the resident memory of the command and all its worker processes, from
/proc (Linux only). Memory that processes share counts once for each.
"""

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

from facecluster.model_export.weights import zoo
from facecluster.pipeline.options import EmbedOptions

POLL_SECONDS = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", required=True, type=Path, help="a folder of JPEG files")
    parser.add_argument("--n", type=int, nargs="+", default=[2000, 8000], help="numbers of photos")
    arguments = parser.parse_args()
    for model in (EmbedOptions.detector, EmbedOptions.model):
        zoo.fetch(model)
    paths = sorted(path for path in arguments.photos.rglob("*") if path.suffix.lower() == ".jpg")
    first = None
    for n in arguments.n:
        with tempfile.TemporaryDirectory() as temporary:
            photos = Path(temporary, "photos")
            photos.mkdir()
            for i in range(n):
                (photos / f"{i}.jpg").symlink_to(paths[i % len(paths)].resolve())
            run = f"{temporary}/run"
            peak = measure_peak(["facecluster", "embed", "--input", str(photos), "--output", run])
            first = first or peak
            print(f"{n:8,} photos {peak / 2**20:8.0f} MiB peak, {peak / first:.2f} of the first")


def measure_peak(command: list[str]) -> int:
    """Runs a command; returns the peak memory of it and its descendants together, in bytes."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(read_resident(pid) for pid in list_descendants(process.pid)))
        time.sleep(POLL_SECONDS)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit code {process.returncode}")
    return peak


def list_descendants(root: int) -> set[int]:
    """The process `root` and all its descendants."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_text()
            except OSError:  # it has ended
                continue
            parents[int(entry)] = int(stat.rpartition(")")[2].split()[1])
    found, grew = {root}, True
    while grew:
        children = {pid for pid, parent in parents.items() if parent in found}
        grew = not children <= found
        found |= children
    return found


def read_resident(pid: int) -> int:
    """Resident memory of a process in bytes; 0 if it has ended."""
    try:
        n_pages = int(Path("/proc", str(pid), "statm").read_text().split()[1])
    except OSError:
        return 0
    return n_pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
