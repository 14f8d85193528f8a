"""Measures how the time and memory of listing photos grow with their number; both should be linear.

    python benchmarks/listing.py [--n 10000 100000]

Lists n empty files in folders of 1,000, and a tar and a TFRecord file with n photos of one byte
each. The baselines are os.walk, and tarfile's list of names.
"""

import argparse
import io
import os
import tarfile
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from facecluster.transforms.inputs.listing import list_photos
from facecluster.transforms.inputs.tfrecord import make_record

FILES_PER_FOLDER = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--n", type=int, nargs="+", default=[10_000, 100_000], help="numbers of photos"
    )
    arguments = parser.parse_args()
    print(
        f"{'':20} {'seconds':>8} {'baseline':>8} {'ratio':>6} {'us/photo':>9} {'bytes/photo':>12}"
    )
    for n in arguments.n:
        with tempfile.TemporaryDirectory() as temporary:
            forms = {
                "files": (make_files, lambda path: list(os.walk(path))),
                "tar": (make_tar, list_names_in_tar),
                "tfrecord": (make_tfrecord, None),
            }
            for form, (make, baseline) in forms.items():
                path = str(make(Path(temporary), n))
                measure(f"{n:,} in {form}", path, n, baseline)


def make_files(folder: Path, n: int) -> Path:
    for start in range(0, n, FILES_PER_FOLDER):
        part = folder / "files" / f"{start // FILES_PER_FOLDER:05d}"
        part.mkdir(parents=True)
        for number in range(start, min(start + FILES_PER_FOLDER, n)):
            (part / f"{number:08d}.jpg").touch()
    return folder / "files"


def make_tar(folder: Path, n: int) -> Path:
    with tarfile.open(folder / "photos.tar", "w") as tar:
        for number in range(n):
            info = tarfile.TarInfo(f"{number:08d}.jpg")
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    return folder / "photos.tar"


def make_tfrecord(folder: Path, n: int) -> Path:
    with open(folder / "photos.tfrecord", "wb") as file:
        file.writelines([make_record({"image/encoded": b"x"})] * n)
    return folder / "photos.tfrecord"


def list_names_in_tar(path: str) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


def measure(name: str, path: str, n: int, baseline: Callable[[str], list] | None) -> None:
    """Prints a row of the table."""
    seconds = measure_seconds(lambda: list_photos([path]))
    baseline_seconds = measure_seconds(lambda: baseline(path)) if baseline else None
    tracemalloc.start()  # in a call of its own, because tracing takes time
    assert len(list_photos([path]).sources) == n
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    comparison = " " * 15
    if baseline_seconds:
        comparison = f"{baseline_seconds:8.2f} {seconds / baseline_seconds:6.1f}"
    print(f"{name:20} {seconds:8.2f} {comparison} {1e6 * seconds / n:9.1f} {peak / n:12.0f}")


def measure_seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
